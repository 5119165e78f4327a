package e2e

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

func TestACloneElsewhereGivesTheSameDigests(t *testing.T) {
	// Not parallel: the umask belongs to the process.
	p := newProject(t, readTestdata(t, "everything.txtar"), shared.registry)
	p.link(t, "run", "app/rest/link")
	p.change(t, "notes.txt", "a second commit, which the shallow clone does not have alone\n")
	a := newHost(t, 0).build(t, p, storageOf(t, shared.registry, "-a"))

	old := syscall.Umask(0o077)
	defer syscall.Umask(old)
	clone := filepath.Join(t.TempDir(), "a longer path", "and another name")
	git(t, "clone", "--quiet", "--depth", "1", "file://"+p.dir, clone)
	age(t, clone)
	h := newHost(t, 1)
	h.env = []string{"TZ=Asia/Kathmandu", "LANG=tr_TR.UTF-8", "SOURCE_DATE_EPOCH=1", "USER=somebody"}
	b := h.build(t, &project{dir: clone}, storageOf(t, shared.registry, "-b"))

	compareStages(t, a, b)
	for stage, result := range b.results() {
		if result != "built" && result != "assembled" {
			t.Errorf("%s was %s in an empty storage", stage, result)
		}
	}
}

// A stage that begins from the registry on another engine is the same as one that
// goes on from what the engine has just made.
func TestABuildInPartsEqualsOneBuild(t *testing.T) {
	t.Parallel()
	archive := readTestdata(t, "everything.txtar")
	p := newProject(t, archive, shared.registry)
	parts := storageOf(t, shared.registry, "-parts")
	newHost(t, 0).build(t, p, parts)
	for _, f := range []string{"app/data/x", "app/setup", "www/index.html"} {
		if err := p.Append(f, "\n: changed\n"); err != nil {
			t.Fatal(err)
		}
	}
	p.commit(t)
	b := newHost(t, 1).build(t, p, parts)
	a := newHost(t, 0).build(t, p, storageOf(t, shared.registry, "-whole"))
	want := map[string]string{"app/importsAfterInstall": "cached", "app/beforeSetup": "built", "app/setup": "built", "app/source": "assembled"}
	for stage, result := range want {
		if got := b.results()[stage]; got != result {
			t.Errorf("%s is %s in the second part, want %s", stage, got, result)
		}
	}
	compareStages(t, a, b)
}

// compareStages compares all digests and, where both looked, manifests.
func compareStages(t *testing.T, a, b report) {
	t.Helper()
	if a.Root != b.Root {
		t.Errorf("the roots are %s and %s", a.Root, b.Root)
	}
	for i, image := range a.Images {
		for j, s := range image.Stages {
			other := b.Images[i].Stages[j]
			if s.Digest != other.Digest {
				t.Errorf("%s/%s has the digests %s and %s", image.Name, s.Name, s.Digest, other.Digest)
			}
			if other.Manifest == nil && other.Result == "cached" {
				continue // nobody had to look
			}
			if value(s.Manifest) != value(other.Manifest) {
				t.Errorf("%s/%s has the manifests %s and %s", image.Name, s.Name, value(s.Manifest), value(other.Manifest))
			}
		}
	}
}

func value(s *string) string {
	if s == nil {
		return "none"
	}
	return *s
}

// age gives all files of a work tree times of long ago.
func age(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.Name() == ".git" {
			return filepath.SkipDir
		}
		if d.Type()&fs.ModeSymlink != 0 {
			return nil
		}
		return os.Chtimes(path, time.Unix(1e9, 0), time.Unix(1e9, 0))
	})
	if err != nil {
		t.Fatal(err)
	}
}

// A tool that compares times must not take a changed file for older than what was
// made of its predecessor in an earlier stage.
func TestChangedFilesAreNewerThanEarlierProducts(t *testing.T) {
	t.Parallel()
	tests := []struct{ name, base, makefile, install, setup string }{
		{
			name: "make", base: "toolchain",
			makefile: "app: main.o\n\tcc -o $@ main.o\nmain.o: main.c value.h\n\tcc -c -o $@ main.c\n",
			install:  "make -C /src app",
			setup:    "make -C /src app && /src/app > /result",
		},
		{
			name: "a script that asks with -nt", base: "busybox",
			makefile: "cd /src\nif [ ! -e app ] || [ value.h -nt app ]; then sed 's/.*VALUE //' value.h > app; fi\n",
			// Busybox compares whole seconds: the earlier product must be of another one.
			install: "sh /src/Makefile && usleep 1100000",
			setup:   "sh /src/Makefile && cp /src/app /result",
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			p := newProject(t, strings.NewReplacer("BASE", tt.base, "INSTALL", tt.install, "SETUP", tt.setup).Replace(`
-- cairn.yaml --
project: times
configVersion: 1
---
image: app
from: @REGISTRY@/base/BASE:latest
git:
- add: /src
  to: /src
  stageDependencies:
    install: ["Makefile", "main.c"]
    setup: ["value.h"]
shell:
  install:
  - printf '#define VALUE 0\n' > /src/value.h
  - INSTALL
  setup:
  - SETUP
-- src/main.c --
#include <stdio.h>
#include "value.h"
int main(void) { printf("%d\n", VALUE); return 0; }
-- src/value.h --
#define VALUE 1
`), shared.registry)
			p.change(t, "src/Makefile", tt.makefile)
			storage := storageOf(t, shared.registry, "")
			expect := func(r report, want string) {
				t.Helper()
				if got := strings.TrimSpace(file(t, pull(t, r.ref(t, "app")), "/result")); got != want {
					t.Errorf("the product is made of value %s, want %s", got, want)
				}
			}
			expect(newHost(t, 0).build(t, p, storage), "1")
			p.change(t, "src/value.h", "#define VALUE 2\n")
			again := newHost(t, 1).build(t, p, storage)
			if got := again.results()["app/install"]; got != "cached" {
				t.Errorf("stage install is %s, want it from the registry", got)
			}
			expect(again, "2")
		})
	}
}
