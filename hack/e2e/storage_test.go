package e2e

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// newRegistry returns a registry of the test's own with a base in it.
func newRegistry(t *testing.T) *testbed.Registry {
	t.Helper()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	if _, err := r.PushBase(t.Context(), "busybox"); err != nil {
		t.Fatal(err)
	}
	return r
}

const large = `
-- cairn.yaml --
project: large
configVersion: 1
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- add: /src
  to: /src
shell:
  install:
  - head -c 12000000 /dev/urandom > /large
-- src/a --
a
`

func TestAFullDiskIsToldAndDoesNoHarm(t *testing.T) {
	t.Parallel()
	p := newProject(t, large, shared.registry)
	h := newHost(t, 0)
	if err := os.Mkdir(h.cache, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Mount("tmpfs", h.cache, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := syscall.Unmount(h.cache, 0); err != nil {
			t.Error(err)
		}
	})
	res := h.startBuild(t, p, ":local").wait(t)
	message, hint := res.errorLines()
	if res.code != 6 || !strings.Contains(message, "no space left") || !strings.Contains(hint, "--cache-dir") {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	if n := strings.Count(res.stderr, "error: "); n != 1 {
		t.Errorf("%d lines tell of the error:\n%s", n, res.stderr)
	}
	layout := filepath.Join(h.cache, "stages", "large")
	checkLayout(t, layout)
	if err := syscall.Mount("tmpfs", h.cache, "tmpfs", syscall.MS_REMOUNT, "size=64m"); err != nil {
		t.Fatal(err)
	}
	if r := h.build(t, p, ":local"); r.results()["app/from"] != "cached" {
		t.Errorf("what was stored before is made again: %v", r.results())
	}
	checkLayout(t, layout)
}

func TestAStorageBelongsToOneProject(t *testing.T) {
	t.Parallel()
	first := newProject(t, large, shared.registry)
	second := newProject(t, strings.ReplaceAll(large, "project: large", "project: intruder"), shared.registry)
	storage := storageOf(t, shared.registry, "")
	newHost(t, 0).build(t, first, storage)
	before := tagsOf(t, storage)
	second.change(t, "src/a", "another\n")
	res := newHost(t, 0).startBuild(t, second, storage).wait(t)
	message, hint := res.errorLines()
	if res.code != 6 || !strings.Contains(message, `"large"`) || !strings.Contains(message, `"intruder"`) || hint == "" {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	if after := tagsOf(t, storage); !maps.EqualFunc(before, after, func(a, b []byte) bool { return string(a) == string(b) }) {
		t.Errorf("something was published: %d tags before, %d now", len(before), len(after))
	}
}

func TestTheSecondaryStorageServesALocalOne(t *testing.T) {
	t.Parallel()
	p, theirs := countingProject(t, ""), storageOf(t, shared.registry, "")
	newHost(t, 0).build(t, p, theirs)
	before := tagsOf(t, theirs)
	h := newHost(t, 1)
	r := h.build(t, p, ":local", "--secondary-storage", theirs)
	if r.EngineStarted || r.count("built", "assembled") != 0 {
		t.Errorf("something was made: %v", r.results())
	}
	if after := tagsOf(t, theirs); len(after) != len(before) {
		t.Errorf("the secondary storage had %d tags and has %d", len(before), len(after))
	}
	checkLayout(t, filepath.Join(h.cache, "stages", "counting"))
}

func TestTheSecondaryStorageIsReadAndNotWritten(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := newProject(t, strings.ReplaceAll(counting, "@VERSION@", ""), r)
	theirs, ours := storageOf(t, r, "-theirs"), storageOf(t, r, "-ours")
	first := newHost(t, 0).build(t, p, theirs)
	if err := r.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	second := newHost(t, 1).build(t, p, ours, "--secondary-storage", theirs)
	log, err := r.AccessLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	prefix := "/v2/" + repository(t) + "-theirs/"
	mounted := 0
	for _, q := range log {
		if strings.HasPrefix(q.Path, prefix) && q.Method != "GET" && q.Method != "HEAD" {
			t.Errorf("the secondary storage is written: %s %s", q.Method, q.Path)
		}
		if strings.HasPrefix(q.Path, prefix+"blobs/") && q.Method == "GET" {
			t.Logf("copied through this host: %s", q.Path)
		}
		if q.Method == "POST" && q.Status == 201 {
			mounted++
		}
	}
	if mounted == 0 {
		t.Error("no blob was mounted")
	}
	if second.EngineStarted || second.count("built", "assembled") != 0 {
		t.Errorf("something was made: %v", second.results())
	}
	for i, image := range first.Images {
		_, a, _ := strings.Cut(image.Ref, "@")
		_, b, _ := strings.Cut(second.Images[i].Ref, "@")
		if a != b {
			t.Errorf("image %s is %s and %s", image.Name, a, b)
		}
	}
	for stage, what := range countedStages() {
		if n := shared.counter.count(counted(t, what)); n != 1 {
			t.Errorf("the commands of %s ran %d times", stage, n)
		}
	}
	checkRepository(t, ours)
}

var built = regexp.MustCompile(`(?m)^app/install.*built`)

// A registry that goes away while a command runs costs the time of a retry, and
// not the command's work.
func TestWhatCouldNotBePublishedIsPublishedByTheNextBuild(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p, storage := newProject(t, slow, r), storageOf(t, r, "")
	h := newHost(t, 0)
	open := shared.counter.hold(t, counted(t, "begin"))
	b := h.startBuild(t, p, storage)
	shared.counter.await(t, counted(t, "begin"), 1)
	await(t, "the stage before is published", func() bool { return built.MatchString(b.err.String()) })
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	open()
	res := b.wait(t)
	message, hint := res.errorLines()
	if res.code != 9 || len(res.report.Kept) != 1 || !strings.Contains(message, "kept") || hint == "" {
		t.Errorf("cairn ends with %d, keeps %v:\n%s", res.code, res.report.Kept, res.stderr)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	again := h.on(1).build(t, p, storage)
	if again.EngineStarted {
		t.Error("the engine was started again")
	}
	for _, what := range []string{"install", "setup"} {
		if n := shared.counter.count(counted(t, what)); n != 1 {
			t.Errorf("the commands of %s ran %d times", what, n)
		}
	}
	checkRepository(t, storage)
}

// The registry dies at some moment of a build: nothing that was published is lost
// or broken, and the next build needs nothing but the registry.
func TestABuildCutOffFromItsRegistryIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	for _, requests := range []int{5, 20, 35, 50} {
		t.Run(fmt.Sprintf("after %d requests", requests), func(t *testing.T) {
			r := newRegistry(t)
			p, storage := newProject(t, strings.ReplaceAll(counting, "@VERSION@", ""), r), storageOf(t, r, "")
			h := newHost(t, 0)
			if err := r.ResetLog(t.Context()); err != nil {
				t.Fatal(err)
			}
			b := h.startBuild(t, p, storage)
			await(t, "the build asks the registry", func() bool { return r.Answered() >= requests })
			if err := r.Kill(); err != nil {
				t.Fatal(err)
			}
			res := b.wait(t)
			if message, hint := res.errorLines(); res.code != 6 && res.code != 9 || message == "" || hint == "" {
				t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
			}
			if (res.code == 9) != (len(res.report.Kept) > 0) {
				t.Errorf("cairn ends with %d and keeps %v", res.code, res.report.Kept)
			}
			if err := r.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			before := map[string]int{}
			for stage, what := range countedStages() {
				before[stage] = shared.counter.count(counted(t, what))
			}
			again := h.on(1).build(t, p, storage)
			for stage, what := range countedStages() {
				if ran := shared.counter.count(counted(t, what)) != before[stage]; ran && slices.Contains(res.report.Kept, digestOf(t, again, stage)) {
					t.Errorf("the commands of %s ran again although it was kept", stage)
				}
			}
			checkRepository(t, storage)
		})
	}
}

// A storage that has lost a layer, or damaged it, is to blame, and not the engine
// that asks for it.
func TestADamagedStorageIsTold(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		harm func(path string) error
	}{
		{"cut off", func(path string) error { return os.Truncate(path, 5000) }},
		{"removed", os.Remove},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p, h := newProject(t, sources, shared.registry), newHost(t, 0)
			r := h.build(t, p, ":local")
			layout := filepath.Join(h.cache, "stages", "sources")
			var m manifest
			decode(t, layoutTags(t, layout)[digestOf(t, r, "one/beforeInstall")], &m)
			layer := m.Layers[len(m.Layers)-1].Digest
			if err := tt.harm(filepath.Join(layout, "blobs", layer.Algorithm, layer.Hex)); err != nil {
				t.Fatal(err)
			}
			p.change(t, "src/a", "changed\n")
			for range 2 {
				res := h.on(1).startBuild(t, p, ":local").wait(t)
				message, hint := res.errorLines()
				// 9 where the engine has the layer from another test: the next stage
				// is made then, and kept.
				if res.code != 6 && res.code != 9 || !strings.Contains(message, layer.String()) || hint == "" {
					t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
				}
			}
		})
	}
}
