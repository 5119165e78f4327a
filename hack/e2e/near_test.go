package e2e

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// layersRead returns how often layers were read from a registry since its log was
// reset, by path.
func layersRead(t *testing.T, r *testbed.Registry, repository string) map[string]int {
	t.Helper()
	log, _ := served(t, r)
	out := make(map[string]int)
	for _, q := range log {
		if q.Method == "GET" && strings.Contains(q.Path, "/"+repository+"/blobs/sha256:") && q.Status/100 == 2 {
			out[q.Path]++
		}
	}
	return out
}

const onTop = `
-- cairn.yaml --
project: near
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- {add: /src, to: /src, stageDependencies: {setup: ["**"]}}
shell:
  install:
  - seq 200000 > /below
  setup:
  - cat /src/a > /above; wc -l /below >> /above
-- src/a --
one
`

// Another engine of the same host begins with nothing, and gets the layers that the
// host has read before from the host.
func TestLayersThatAHostHasReadAreNotReadAgain(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p := newProject(t, onTop, r)
	storage := storageOf(t, r, "")
	newHost(t, 0).build(t, p, storage) // by somebody else
	h := newHost(t, ownDaemon)         // an engine that others share may have the base already
	build := func(content string) report {
		t.Helper()
		p.change(t, "src/a", content)
		if err := r.ResetLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		return h.build(t, p, storage)
	}
	first := build("two")
	if read := layersRead(t, r, repository(t)); len(read) == 0 || first.Reused.Blobs != 0 {
		t.Fatalf("the first build reads %v, and reuses %+v", read, first.Reused)
	}
	own := newHost(t, ownDaemon)
	own.cache = h.cache
	h = own
	second := build("three")
	if read := layersRead(t, r, repository(t)); len(read) != 0 || second.Reused.Blobs == 0 || second.count("built") == 0 {
		t.Errorf("a build on an engine that has nothing reads %v, and reuses %+v: %v", read, second.Reused, second.results())
	}
	to := filepath.Join(h.dir, "image.tar")
	if res := h.run(t, p, "export", "app", "--to", "tar:"+to, "--stages-storage", storage); res.code != 0 {
		t.Fatalf("export ends with %d: %s", res.code, res.stderr)
	}
	if read := layersRead(t, r, repository(t)); len(read) == 0 {
		t.Error("an export reads the layer that was just made from nowhere")
	}
	if err := r.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	if res := h.run(t, p, "export", "app", "--to", "tar:"+to+".2", "--stages-storage", storage); res.code != 0 {
		t.Fatalf("export ends with %d: %s", res.code, res.stderr)
	}
	if read := layersRead(t, r, repository(t)); len(read) != 0 {
		t.Errorf("a second export reads %v", read)
	}
}

// A mirror is filled by one host and read by another, and one that is away is told once.
func TestACacheStorageSparesTheRegistry(t *testing.T) {
	t.Parallel()
	far, near := newRegistry(t), newRegistry(t)
	p := newProject(t, onTop, far)
	storage := storageOf(t, far, "")
	h, other := newHost(t, ownDaemon), newHost(t, ownDaemon)
	newHost(t, 0).build(t, p, storage)
	mirror := []string{"--cache-storage", near.Address() + "/mirror"}
	p.change(t, "src/a", "two")
	h.build(t, p, storage, mirror...)
	p.change(t, "src/a", "three")
	if err := far.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	rep := other.build(t, p, storage, mirror...)
	if read := layersRead(t, far, repository(t)); len(read) != 0 || rep.Reused.Mirrored == 0 {
		t.Errorf("the registry is read for %v, from the mirror came %+v", read, rep.Reused)
	}
	if err := near.Stop(); err != nil {
		t.Fatal(err)
	}
	fresh := newHost(t, ownDaemon)
	p.change(t, "src/a", "four")
	res := fresh.startBuild(t, p, storage, mirror...).wait(t)
	succeeded(t, res)
	if n := strings.Count(res.stderr, "the build goes on without the cache storage"); n != 1 {
		t.Errorf("it is told %d times that the mirror is away:\n%s", n, res.stderr)
	}
}
