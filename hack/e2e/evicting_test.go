package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// evicted is a project of which a change leaves two stages on top of two others.
const evicted = `
-- cairn.yaml --
project: evicted-@WHICH@
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- {add: /src, to: /src, stageDependencies: {beforeSetup: ["**"], setup: ["**"]}}
shell:
  beforeInstall:
  - echo @WHICH@ > /one; seq 50000 >> /one
  install:
  - echo @WHICH@ > /two; seq 60000 >> /two
  beforeSetup:
  - @COUNT@/first
  - cat /src/a /one > /three
  setup:
  - @COUNT@/second
  - cat /src/a /two /three | md5sum > /four
-- src/a --
one
`

// passesOf returns when a pass over each of a host's volumes ended last.
func passesOf(t *testing.T, h *host) map[string]time.Time {
	t.Helper()
	out := make(map[string]time.Time)
	s, _ := h.status(t)
	for _, v := range s.Volumes {
		if v.LastPass != nil {
			out[v.Volume] = v.LastPass.EndedAt
		}
	}
	return out
}

// awaitPass waits for a pass that began after this call, over each volume.
func awaitPass(t *testing.T, h *host) {
	t.Helper()
	for range 2 { // the first one that ends may be under way
		before := passesOf(t, h)
		await(t, "the daemon evicts", func() bool {
			now := passesOf(t, h)
			return now["cache"].After(before["cache"]) && now["engine"].After(before["engine"])
		})
	}
}

// A daemon that evicts all that it may, again and again, takes nothing from four
// builds that run meanwhile: none fails, and none reads a layer a second time.
func TestEvictionTakesNothingFromBuildsThatRun(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	h := newHost(t, ownDaemon)
	h.cache = filepath.Join(smallVolume(t, 256), "cache")
	const builds = 4
	var projects [builds]*project
	var storages [builds]string
	for i := range builds {
		storages[i] = storageOf(t, r, fmt.Sprint("-", i))
		projects[i] = newProject(t, strings.ReplaceAll(evicted, "@WHICH@", fmt.Sprint(i)), r)
		newHost(t, 0).build(t, projects[i], storages[i]) // by somebody else
		projects[i].change(t, "src/a", fmt.Sprint("build ", i))
	}
	greedy := []string{"CAIRN_HIGH=1", "CAIRN_LOW=1", "CAIRN_MIN_AGE=0s", "CAIRN_EVICTION_INTERVAL=100ms"}
	h.with(greedy).build(t, newProject(t, slow, r), storageOf(t, r, "-slow")) // it starts the daemon
	awaitPass(t, h)

	names := []string{"first", "second"}
	open, before := map[string]func(){}, map[string]int{}
	for _, n := range names {
		open[n], before[n] = shared.counter.hold(t, counted(t, n)), shared.counter.count(counted(t, n))
	}
	if err := r.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	var running [builds]*running
	for i := range builds {
		running[i] = h.startBuild(t, projects[i], storages[i])
	}
	for _, n := range names {
		shared.counter.await(t, counted(t, n), before[n]+builds)
		awaitPass(t, h)
		open[n]()
	}
	var reports [builds]report
	for i, b := range running {
		reports[i] = succeeded(t, b.wait(t))
		if reports[i].count("built") != 2 {
			t.Errorf("build %d: %v", i, reports[i].results())
		}
	}
	checkReadOnce(t, r, builds)
	for i, p := range projects {
		if quiet := newHost(t, 1).build(t, p, storages[i]); quiet.Root != reports[i].Root || quiet.ref(t, "app") != reports[i].ref(t, "app") {
			t.Errorf("build %d has the root %s, without evictions it is %s", i, reports[i].Root, quiet.Root)
		}
		checkRepository(t, storages[i])
	}
	if text := h.metrics(t); !strings.Contains(text, `cairnd_evicted_items_total{volume="engine"}`) || strings.Contains(text, `cairnd_evicted_items_total{volume="engine"} 0`) {
		t.Errorf("nothing was evicted from the engine:\n%s", text)
	}
}

// checkReadOnce checks that no blob of a test's repositories was read twice: each
// build has one of its own. That of the base is read by each build.
func checkReadOnce(t *testing.T, r *testbed.Registry, builds int) {
	t.Helper()
	log, _ := served(t, r)
	reads := make(map[string]int)
	own := 0
	for _, q := range log {
		if q.Method == "GET" && q.Status/100 == 2 && strings.Contains(q.Path, "/blobs/sha256:") {
			reads[q.Path]++
		}
	}
	for path, n := range reads {
		most := builds
		if strings.Contains(path, "/"+repository(t)+"-") {
			own, most = own+1, 1
		}
		if n > most {
			t.Errorf("%s is read %d times", path, n)
		}
	}
	if own < 2*builds {
		t.Errorf("the builds read only %v", reads)
	}
}
