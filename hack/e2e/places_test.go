package e2e

import (
	"archive/tar"
	"bufio"
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// pushOwnedBase stores a base in which directories have owners and modes of their own.
func pushOwnedBase(t *testing.T) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, h := range []*tar.Header{
		{Name: "var/app/", Typeflag: tar.TypeDir, Mode: 0o2750, Uid: 1000, Gid: 33},
		{Name: "var/app/data/", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000, Gid: 1000},
		{Name: "var/www", Typeflag: tar.TypeSymlink, Linkname: "app/data", Mode: 0o777},
	} {
		if err := w.WriteHeader(h); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	layer, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b.Bytes())), nil }, tarball.WithMediaType(types.OCILayer))
	if err != nil {
		t.Fatal(err)
	}
	base, err := testbed.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	img, err := mutate.AppendLayers(base, layer)
	if err != nil {
		t.Fatal(err)
	}
	ref, err := shared.registry.Push(t.Context(), "base/"+repository(t), img)
	if err != nil {
		t.Fatal(err)
	}
	return ref
}

// Mappings go through links of the base and leave what exists as it is, whether a
// command stage places their files or the last stage does.
func TestMappingsRespectWhatTheBaseHas(t *testing.T) {
	t.Parallel()
	base := pushOwnedBase(t)
	for _, tt := range []struct{ name, commands string }{
		{"assembled", ""},
		{"placed for commands", "shell:\n  setup:\n  - test -e /srv/www/a && test -e /lib/site/a && ls -l /var/www/new/a > /list\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := newProject(t, strings.NewReplacer("BASE", base, "COMMANDS", tt.commands).Replace(`
-- cairn.yaml --
project: places
configVersion: 1
---
image: app
from: BASE
git:
- {add: /files, to: /srv/www, owner: www-data}
- {add: /files, to: /lib/site}
- {add: /files, to: /tmp, owner: app}
- {add: /files, to: /var/www/new, owner: app, group: www-data}
- {add: /files, to: /var/app}
- {add: /files/a, to: /sbin/own-tool}
COMMANDS
-- files/a --
#!/bin/sh
-- files/sub/b --
b
`), shared.registry)
			ref := newHost(t, 0).build(t, p, storageOf(t, shared.registry, "")).ref(t, "app")
			want := map[string]string{
				"/srv/www":            "777 0:0 symbolic link",
				"/data/www/a":         "755 33:0 regular file",
				"/data/www/sub":       "755 33:0 directory",
				"/data/www":           "755 0:0 directory",
				"/lib":                "777 0:0 symbolic link",
				"/sbin":               "777 0:0 symbolic link",
				"/usr/lib/site/sub/b": "644 0:0 regular file",
				"/usr/sbin/own-tool":  "755 0:0 regular file",
				"/tmp":                "1777 0:0 directory",
				"/tmp/a":              "755 1000:0 regular file",
				"/var/app":            "2750 1000:33 directory",
				"/var/app/data":       "700 1000:1000 directory",
				"/var/app/data/new/a": "755 1000:33 regular file",
				"/var/www":            "777 0:0 symbolic link",
				"/var/app/a":          "755 0:0 regular file",
			}
			own, engines := readTree(t, pull(t, ref)), listByEngine(t, ref, want)
			for path, w := range want {
				if got := engines[path]; got != w {
					t.Errorf("to an engine %s is %q, want %q", path, got, w)
				}
				if got := describe(own.nodes[path[1:]]); got != w {
					t.Errorf("in the layers %s is %q, want %q", path, got, w)
				}
			}
		})
	}
}

func describe(n *inode) string {
	if n == nil {
		return "missing"
	}
	kind := map[byte]string{tar.TypeDir: "directory", tar.TypeReg: "regular file", tar.TypeSymlink: "symbolic link"}[n.kind]
	return fmt.Sprintf("%o %d:%d %s", n.mode, n.uid, n.gid, kind)
}

// listByEngine has the pinned BuildKit unpack an image and tell what a command sees in it.
func listByEngine[V any](t *testing.T, ref string, paths map[string]V) map[string]string {
	t.Helper()
	var args []string
	for p := range paths {
		args = append(args, p)
	}
	slices.Sort(args)
	got := runInEngine(t, ref, `stat -c '%n|%a %u:%g %F' `+strings.Join(args, " ")+` > /out/listing || true`)
	out := map[string]string{}
	for line := range strings.Lines(string(got)) {
		path, what, _ := strings.Cut(strings.TrimSpace(line), "|")
		out[path] = what
	}
	return out
}

// runInEngine runs a command in an image on the pinned BuildKit and returns what
// it wrote to /out/listing.
func runInEngine(t *testing.T, ref, command string) []byte {
	t.Helper()
	b, err := shared.yard()
	if err != nil {
		t.Fatal(err)
	}
	dir, out := t.TempDir(), t.TempDir()
	text := "FROM " + ref + " AS seen\nUSER root\nRUN mkdir /out && " + command + "\nFROM scratch\nCOPY --from=seen /out/listing /listing\n"
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	said, err := b.Command(t.Context(), "build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context="+dir, "--local", "dockerfile="+dir, "--output", "type=local,dest="+out).CombinedOutput()
	if err != nil {
		t.Fatalf("buildctl: %v: %s", err, said)
	}
	got, err := os.ReadFile(filepath.Join(out, "listing"))
	if err != nil {
		t.Fatal(err)
	}
	return got
}

const treeConfig = `project: trees
configVersion: 1
---
image: app
from: %s/base/busybox:latest
git:
- add: /files
  to: /odd
`

// importFiles makes a repository of one commit from paths of any bytes.
func importFiles(t *testing.T, paths func(yield func(path, content string) bool)) *project {
	t.Helper()
	p := emptyProject(t)
	cmd := exec.CommandContext(t.Context(), "git", "-C", p.dir, "fast-import", "--quiet")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	w := bufio.NewWriter(in)
	fmt.Fprintf(w, "commit refs/heads/main\ncommitter demo <demo@localhost> 0 +0000\ndata 0\n")
	add := func(path, content string) bool {
		_, err := fmt.Fprintf(w, "M 100644 inline %s\ndata %d\n%s\n", quote(path), len(content), content)
		return err == nil
	}
	add("cairn.yaml", fmt.Sprintf(treeConfig, shared.registry.Address()))
	paths(add)
	if err := w.Flush(); err != nil {
		t.Fatal(err)
	}
	if err := in.Close(); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("git fast-import: %v", err)
	}
	return p
}

// quote writes a path as git reads it, in octal where it is not plain.
func quote(path string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, c := range []byte(path) {
		if c <= ' ' || c >= 0x7f || c == '"' || c == '\\' {
			fmt.Fprintf(&b, "\\%03o", c)
		} else {
			b.WriteByte(c)
		}
	}
	b.WriteByte('"')
	return b.String()
}

func TestOddNamesArriveByteForByte(t *testing.T) {
	t.Parallel()
	odd := []string{
		"plain", "with space", " leading and trailing ", "new\nline", "tab\there", "quote\"and'quote", `back\slash`,
		"-dash", "*star?[x]", "\xff\xfe not utf-8", "d\xe9j\xe0/vu", "ünïcode/日本語", "e\u0301 decomposed", "\x01control\x7f",
		strings.Repeat("n", 255), strings.Repeat("d/", 60) + strings.Repeat("x", 200), "trailing.", "...", "$HOME", "a:b", "=x=",
	}
	p := importFiles(t, func(yield func(string, string) bool) {
		for _, name := range odd {
			if !yield("files/"+name, name) {
				return
			}
		}
	})
	ref := newHost(t, 0).build(t, p, storageOf(t, shared.registry, "")).ref(t, "app")
	own := readTree(t, pull(t, ref))
	var want []string
	for _, name := range odd {
		if n := own.nodes["odd/"+name]; n == nil || n.content != contentOf(name) {
			t.Errorf("%q is %v in the layers", name, n)
		}
		want = append(want, "/odd/"+name)
	}
	got := strings.Split(strings.TrimSuffix(string(runInEngine(t, ref, "find /odd -type f -print0 > /out/listing")), "\x00"), "\x00")
	slices.Sort(got)
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("an engine sees\n%q\nwant\n%q", got, want)
	}
}

// A name that means removal in a layer would remove its neighbour.
func TestANameThatALayerCannotHoldIsRefused(t *testing.T) {
	t.Parallel()
	p := importFiles(t, func(yield func(string, string) bool) {
		yield("files/a", "a")
		yield("files/.wh.a", "")
	})
	res := newHost(t, 0).startBuild(t, p, storageOf(t, shared.registry, "")).wait(t)
	if message, _ := res.errorLines(); res.code == 0 || !strings.Contains(message, ".wh.") {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
}

func TestALargeTreeIsBuilt(t *testing.T) {
	t.Parallel()
	const files = 100_000
	p := importFiles(t, func(yield func(string, string) bool) {
		for i := range files {
			if !yield(fmt.Sprintf("files/%02x/%02x/%d.txt", i%256, i/256%256, i), fmt.Sprint("file ", i)) {
				return
			}
		}
	})
	img := pull(t, newHost(t, 0).build(t, p, storageOf(t, shared.registry, "")).ref(t, "app"))
	own := readTree(t, img)
	for i := range files {
		name := fmt.Sprintf("odd/%02x/%02x/%d.txt", i%256, i/256%256, i)
		if n := own.nodes[name]; n == nil || n.content != contentOf(fmt.Sprint("file ", i)) {
			t.Fatalf("%s is %v", name, n)
		}
	}
}
