package e2e

import (
	"path/filepath"
	"strings"
	"testing"
)

// Each of the two has an engine of its own, so that only the ledger can keep a
// command from running twice.
func TestTwoBuildsAtOnceRunEachCommandOnce(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"registry", "local"} {
		t.Run(kind, func(t *testing.T) {
			p, storage := countingProject(t, ""), storageOf(t, shared.registry, "")
			if kind == "local" {
				storage = ":local"
			}
			h := newHost(t, 0)
			other := h.on(1)
			first, second := h.startBuild(t, p, storage), other.startBuild(t, p, storage)
			a, b := succeeded(t, first.wait(t)), succeeded(t, second.wait(t))
			if a.Root != b.Root {
				t.Errorf("the roots are %s and %s", a.Root, b.Root)
			}
			for i := range a.Images {
				if a.Images[i].Ref != b.Images[i].Ref {
					t.Errorf("image %s is %s and %s", a.Images[i].Name, a.Images[i].Ref, b.Images[i].Ref)
				}
			}
			for stage, what := range countedStages() {
				if n := shared.counter.count(counted(t, what)); n != 1 {
					t.Errorf("the commands of %s ran %d times", stage, n)
				}
			}
			if kind == "local" {
				checkLayout(t, filepath.Join(h.cache, "stages", "counting"))
			} else {
				checkRepository(t, storage)
			}
		})
	}
}

func TestAWaitingBuildTakesOverFromAKilledOne(t *testing.T) {
	t.Parallel()
	p, storage := newProject(t, slow, shared.registry), storageOf(t, shared.registry, "")
	h := newHost(t, 0)
	open := shared.counter.hold(t, counted(t, "begin"))
	first := h.startBuild(t, p, storage)
	shared.counter.await(t, counted(t, "begin"), 1)
	second := h.on(1).startBuild(t, p, storage)
	await(t, "the second build waits for the first", func() bool { return strings.Contains(second.err.String(), "waiting") })
	first.kill(t)
	open()
	succeeded(t, second.wait(t))
	if n := shared.counter.count(counted(t, "install")); n != 1 {
		t.Errorf("the commands of the stage that was through ran %d times", n)
	}
	checkRepository(t, storage)
}
