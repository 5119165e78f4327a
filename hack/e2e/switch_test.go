package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// moving is a project of which each version runs one command upon what all share.
// What the commands leave is never the same twice: a stage that is built again
// shows as another manifest.
func moving(t *testing.T, version int) *project {
	t.Helper()
	return newProject(t, fmt.Sprintf(`
-- cairn.yaml --
project: moving
configVersion: 1
---
image: app
from: @REGISTRY@/base/busybox:latest
shell:
  install: ["@COUNT@/shared", "cat /proc/sys/kernel/random/uuid > /shared"]
  setup: ["@COUNT@/v%d", "cat /proc/sys/kernel/random/uuid > /own"]
`, version), shared.registry)
}

// hustle are builds that go on all the time, one after the other in several places,
// of a version that changes.
type hustle struct {
	t        *testing.T
	versions []*project
	version  atomic.Int64
	done     atomic.Int64

	// told is the history of it all.
	told *chronicle

	mu    sync.Mutex
	last  []int64 // the version that each builder built last
	built map[int64]bool
	stop  chan struct{}
	all   sync.WaitGroup
}

func newHustle(t *testing.T, versions int) *hustle {
	t.Helper()
	h := &hustle{t: t, told: newChronicle(t.Name()), built: map[int64]bool{}, stop: make(chan struct{})}
	for v := range versions {
		h.versions = append(h.versions, moving(t, v))
	}
	return h
}

// begin has a host build again and again.
func (h *hustle) begin(on *host) {
	h.mu.Lock()
	n := len(h.last)
	h.last = append(h.last, -1)
	h.mu.Unlock()
	h.all.Go(func() {
		for {
			select {
			case <-h.stop:
				return
			default:
			}
			if !h.once(on, n) {
				return
			}
		}
	})
}

// once builds the current version. It reports whether to go on.
func (h *hustle) once(on *host, n int) bool {
	v := h.version.Load()
	end := h.told.start()
	res := on.startBuild(h.t, h.versions[v], ":local", "--follow-switch").wait(h.t)
	end(res)
	if res.code != 0 {
		h.t.Errorf("a build of version %d ends with %d:\n%s", v, res.code, res.stderr)
		return false
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.last[n], h.built[v] = v, true
	h.done.Add(1)
	return true
}

// next has the version after this one built from now on.
func (h *hustle) next() { h.version.Add(1) }

// more is next, after a few builds more.
func (h *hustle) more() {
	h.t.Helper()
	until := h.done.Load() + 4
	await(h.t, "a few builds more", func() bool { return h.done.Load() >= until || h.t.Failed() })
	h.next()
}

// settled waits until every builder has built the current version.
func (h *hustle) settled() {
	h.t.Helper()
	await(h.t, fmt.Sprintf("all build version %d", h.version.Load()), func() bool {
		h.mu.Lock()
		defer h.mu.Unlock()
		for _, v := range h.last {
			if v < h.version.Load() {
				return h.t.Failed()
			}
		}
		return true
	})
}

func (h *hustle) end() {
	close(h.stop)
	h.all.Wait()
}

// check demands that the history of all this is one in which nothing was decided twice,
// lost or made again.
func (h *hustle) check() {
	h.t.Helper()
	counts := []string{"shared"}
	for v := range h.built {
		counts = append(counts, fmt.Sprintf("v%d", v))
	}
	for _, what := range counts {
		h.told.add(history.Event{Kind: history.Command, Command: what, Count: shared.counter.count(counted(h.t, what))})
	}
	all := h.told.closed()
	h.t.Logf("%d events, %d states of ledgers", len(all.Events), len(all.Revisions))
	for _, v := range history.CheckSwitch(all) {
		h.t.Error(v)
	}
}

// within returns the host with the cluster's kubeconfig, and a state directory of its own.
func (h *host) within(c *spaced, name string) *host {
	other := h.with([]string{"KUBECONFIG=" + c.Kubeconfig})
	other.state = filepath.Join(h.dir, name)
	return other
}

// switchTo switches the project to a storage and the cluster; it is killed as often
// as there are texts, each time when it has said the next one.
func (h *host) switchTo(t *testing.T, p *project, c *spaced, args []string, kills ...string) result {
	t.Helper()
	args = append(append([]string{"stages"}, args...), "--synchronization", "kubernetes://"+c.namespace+"?ttl=5s")
	for _, at := range kills {
		r := h.start(t, p, args...)
		await(t, "the switch says "+at, func() bool {
			select {
			case <-r.done:
				return true
			default:
				return strings.Contains(r.err.String(), at)
			}
		})
		r.kill(t)
	}
	res := h.start(t, p, args...).wait(t)
	if res.code != 0 {
		t.Fatalf("the switch ends with %d:\n%s", res.code, res.stderr)
	}
	return res
}

// Eight builds go on all the time on two hosts that have one :local storage, while
// it is switched to a registry and a cluster, and back. The switch is killed at some
// of its steps and run again. No build fails, nothing is built twice, and no stage
// is ever seen with two manifests: package history judges what was seen of both places.
func TestASwitchUnderEightBuilds(t *testing.T) {
	t.Parallel()
	c := newSpaced(t)
	storage := storageOf(t, shared.registry, "")
	first := newHost(t, 0).within(c, "s0")
	second := first.on(1).within(c, "s1")
	h := newHustle(t, 6)
	layout := filepath.Join(first.cache, "stages", "moving")
	seen := h.told.watch(t, "moving", localSpot(t, "here", layout), clusterSpot(t, "there", storage, c))
	for range 4 {
		h.begin(first)
		h.begin(second)
	}
	h.settled()
	h.next()

	began := time.Now()
	var switched sync.WaitGroup
	switched.Go(func() {
		first.switchTo(t, h.versions[0], c, []string{"switch-from-local", "--to", storage}, "step 2 of 7", "step 4 of 7", "step 5 of 7")
	})
	h.more() // while it goes on
	switched.Wait()
	t.Logf("%d builds until the switch was over, which took %s", h.done.Load(), time.Since(began).Round(time.Millisecond))
	h.next()
	h.settled()
	checkRepository(t, storage)
	status := first.run(t, h.versions[0], "stages", "switch-from-local", "--status")
	if !strings.Contains(status.stdout, "Moved to "+storage) {
		t.Errorf("status:\n%s%s", status.stdout, status.stderr)
	}

	began = time.Now()
	switched.Go(func() { first.switchTo(t, h.versions[0], c, []string{"switch-back"}, "step 5 of 7") })
	h.more()
	switched.Wait()
	t.Logf("%d builds until it was taken back, which took %s", h.done.Load(), time.Since(began).Round(time.Millisecond))
	h.next()
	h.settled()
	h.end()
	seen()
	h.check()
	checkLayout(t, layout)
}

// Two hosts have stages of their own, and differ about one. Both switch to one
// registry: what is there first stays, and from then on they share.
func TestTwoHostsSwitchToOneRegistry(t *testing.T) {
	t.Parallel()
	c := newSpaced(t)
	storage := storageOf(t, shared.registry, "")
	one, two := newHost(t, 0).within(c, "s"), newHost(t, 1).within(c, "s")
	before, after := moving(t, 0), moving(t, 1)
	mine := one.build(t, before, ":local")
	theirs := two.build(t, before, ":local")
	if digestOf(t, mine, "app/install") != digestOf(t, theirs, "app/install") || mine.ref(t, "app") == theirs.ref(t, "app") {
		t.Fatal("the hosts were to have two manifests of one stage")
	}
	to := []string{"switch-from-local", "--to", storage}
	one.switchTo(t, before, c, to)
	res := two.switchTo(t, before, c, to)
	if !strings.Contains(res.stderr, "stays in :local") {
		t.Errorf("nobody is told that the stages differ:\n%s", res.stderr)
	}
	for _, h := range []*host{one, two} {
		if rep := h.build(t, before, ":local", "--follow-switch"); strings.TrimPrefix(rep.ref(t, "app"), storage) != strings.TrimPrefix(mine.ref(t, "app"), ":local") {
			t.Errorf("the image is %s, and was %s", rep.ref(t, "app"), mine.ref(t, "app"))
		}
		h.build(t, after, ":local", "--follow-switch")
	}
	if n := shared.counter.count(counted(t, "v1")); n != 1 {
		t.Errorf("what was made after the switch was made %d times", n)
	}
	checkRepository(t, storage)
}

// A build runs for longer than the switch waits. It goes on at the new place, and
// what it had made is not made again; without leave to follow it ends with what it
// made kept, and with the settings to change.
func TestABuildOutlastsTheDrain(t *testing.T) {
	t.Parallel()
	for _, follow := range []bool{true, false} {
		t.Run(fmt.Sprintf("follow %t", follow), func(t *testing.T) {
			c := newSpaced(t)
			storage := storageOf(t, shared.registry, "")
			host := newHost(t, 0).within(c, "s")
			p := newProject(t, held, shared.registry)
			open := shared.counter.hold(t, counted(t, "second"))
			var flags []string
			if follow {
				flags = append(flags, "--follow-switch")
			}
			b := host.startBuild(t, p, ":local", flags...)
			shared.counter.await(t, counted(t, "second"), 1)
			host.switchTo(t, p, c, []string{"switch-from-local", "--to", storage, "--drain-timeout", "1s"})
			open()
			res := b.wait(t)
			if !follow {
				message, hint := res.errorLines()
				if res.code != 7 && res.code != 9 || !strings.Contains(message, "moved from :local to "+storage) || !strings.Contains(hint, "CAIRN_STAGES_STORAGE="+storage) {
					t.Errorf("it ends with %d:\n%s", res.code, res.stderr)
				}
				res = host.startBuild(t, p, ":local", "--follow-switch").wait(t)
			}
			succeeded(t, res)
			for _, what := range []string{"first", "second"} {
				if n := shared.counter.count(counted(t, what)); n != 1 {
					t.Errorf("the command %s ran %d times:\n%s", what, n, res.stderr)
				}
			}
			checkRepository(t, storage)
		})
	}
}
