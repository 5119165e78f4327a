package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// served returns what a registry's log says of requests since it was reset,
// authentication apart: how many there were, and the bytes of blobs and manifests
// that were sent as answers.
func served(t *testing.T, r *testbed.Registry) (log []testbed.Request, bytes int64) {
	t.Helper()
	all, err := r.AccessLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, q := range all {
		if q.Path == "/v2/" || q.Status == 401 {
			continue
		}
		log = append(log, q)
		if q.Method == "GET" && q.Status/100 == 2 {
			bytes += q.Bytes
		}
	}
	return log, bytes
}

// checkCounts compares a report with the registry's own account of it.
func checkCounts(t *testing.T, r *testbed.Registry, what string, rep report, storedBefore int64) {
	t.Helper()
	log, sent := served(t, r)
	if int64(len(log)) != rep.Requests.Registry {
		t.Errorf("%s: the report counts %d requests, the registry %d:\n%s", what, rep.Requests.Registry, len(log), lines(log))
	}
	if rep.BytesPulled != sent {
		t.Errorf("%s: the report counts %d bytes pulled, the registry %d sent", what, rep.BytesPulled, sent)
	}
	stored, err := r.StoredBytes()
	if err != nil {
		t.Fatal(err)
	}
	if grown := stored - storedBefore; rep.BytesPushed < grown {
		t.Errorf("%s: the report counts %d bytes pushed, the registry has %d more", what, rep.BytesPushed, grown)
	}
}

func lines(log []testbed.Request) string {
	var b strings.Builder
	for _, q := range log {
		fmt.Fprintf(&b, "  %s %s %d %d\n", q.Method, q.Path, q.Status, q.Bytes)
	}
	return b.String()
}

// measured builds with an empty log and checks the report's counts.
func measured(t *testing.T, r *testbed.Registry, what string, build func() report) report {
	t.Helper()
	if err := r.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	before, err := r.StoredBytes()
	if err != nil {
		t.Fatal(err)
	}
	rep := build()
	checkCounts(t, r, what, rep, before)
	return rep
}

// sources is a project of two images without imports.
const sources = `
-- cairn.yaml --
project: sources
configVersion: 1
---
image: one
from: @REGISTRY@/base/busybox:latest
git:
- add: /src
  to: /src
  stageDependencies:
    setup: ["a"]
shell:
  beforeInstall:
  - seq 100000 > /first
  setup:
  - cat /src/a > /second
---
image: two
from: @REGISTRY@/base/busybox:latest
shell:
  install:
  - echo two > /two
-- src/a --
a
-- src/b --
b
`

func TestReportsAgreeWithTheRegistry(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := newProject(t, sources, r)
	storage := storageOf(t, r, "")
	h := newHost(t, 0)
	if res := h.run(t, p, "lock"); res.code != 0 {
		t.Fatalf("cairn lock ends with %d: %s", res.code, res.stderr)
	}
	p.commit(t)

	first := measured(t, r, "everything new", func() report { return h.build(t, p, storage) })
	if !first.EngineStarted {
		t.Error("the first build has no engine")
	}
	base := layersOf(t, storage, digestOf(t, first, "one/from"))

	p.change(t, "src/b", "changed\n")
	fresh := newHost(t, ownDaemon)
	source := measured(t, r, "one source file", func() report { return fresh.build(t, p, storage) })
	// One image alone takes 14 at most. Where there are several, each is looked up first.
	if source.EngineStarted || source.Requests.Registry > 14+2 {
		log, _ := served(t, r)
		t.Errorf("one source file: engine %v, %d requests:\n%s", source.EngineStarted, source.Requests.Registry, lines(log))
	}
	log, _ := served(t, r)
	for _, q := range log {
		for _, d := range base {
			if q.Method == "GET" && strings.HasSuffix(q.Path, "/blobs/"+d) {
				t.Errorf("the base's layer is pulled: %s", q.Path)
			}
		}
	}
	if _, runs := fresh.status(t); runs {
		t.Error("one source file: a daemon was started")
	}

	p.change(t, "src/a", "changed\n")
	measured(t, r, "one declared file", func() report { return newHost(t, 1).build(t, p, storage) })

	idle := newHost(t, ownDaemon)
	before := snapshot(t, idle.dir, p.dir)
	noop := measured(t, r, "nothing changed", func() report { return idle.build(t, p, storage) })
	if noop.Requests.Registry != 1 || noop.Requests.Ledger != 0 || noop.EngineStarted || noop.BytesPushed != 0 {
		t.Errorf("nothing changed: %+v", noop)
	}
	if after := snapshot(t, idle.dir, p.dir); !maps.Equal(before, after) {
		t.Errorf("nothing changed, but files did:\n%v\n%v", slices.Sorted(maps.Keys(before)), slices.Sorted(maps.Keys(after)))
	}
	if _, runs := idle.status(t); runs {
		t.Error("nothing changed: a daemon was started")
	}
}

func TestNothingIsWrittenOnDiskWhenNothingChanged(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := newProject(t, sources, r)
	h := newHost(t, 0)
	if res := h.run(t, p, "lock"); res.code != 0 {
		t.Fatalf("cairn lock ends with %d: %s", res.code, res.stderr)
	}
	p.commit(t)
	h.build(t, p, ":local")
	h.engine = "" // it must not want one
	before := snapshot(t, h.dir, p.dir)
	noop := measured(t, r, "nothing changed", func() report { return h.build(t, p, ":local") })
	if noop.Requests.Registry != 0 || noop.Requests.Ledger != 0 || noop.EngineStarted {
		t.Errorf("nothing changed: %+v", noop)
	}
	after := snapshot(t, h.dir, p.dir)
	for path, what := range after {
		if before[path] != what {
			t.Errorf("nothing changed, but %s did: %q, before %q", path, what, before[path])
		}
	}
	if len(after) != len(before) {
		t.Errorf("there were %d files, now %d", len(before), len(after))
	}
}

// layersOf returns the digests of the layers of a stage.
func layersOf(t *testing.T, repo, stage string) []string {
	t.Helper()
	m, err := pull(t, repo+":"+stage).Manifest()
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, l := range m.Layers {
		out = append(out, l.Digest.String())
	}
	return out
}

// snapshot notes all paths below the directories with size, mode and time.
func snapshot(t *testing.T, dirs ...string) map[string]string {
	t.Helper()
	out := map[string]string{}
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			info, err := os.Lstat(path)
			if err == nil {
				out[path] = fmt.Sprintf("%v %d %v", info.Mode(), info.Size(), info.ModTime())
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return out
}
