package build_test

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/synchronization"
)

// counted counts what a run asks of the ledger's store.
type counted struct {
	synchronization.Backend
	reads, writes atomic.Int64
}

// Read implements [lock.Cells].
func (c *counted) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	c.reads.Add(1)
	return c.Backend.Read(ctx, shards...)
}

// Swap implements [lock.Cells].
func (c *counted) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	c.writes.Add(1)
	return c.Backend.Swap(ctx, shard, changes)
}

// fleet are images of six stages each, with commands of their own upon one base.
func fleet(w *world, files sourceTree, images int) *stages.Plan {
	var all []config.Image
	for i := range images {
		img := config.Image{
			Name: fmt.Sprint("app", i), Shell: commands(stages.KindBeforeInstall, stages.KindInstall, stages.KindBeforeSetup, stages.KindSetup),
			Git: []stages.Mapping{{Add: "src", To: "/app", StageDependencies: map[stages.Kind][]string{stages.KindInstall: {"go.mod"}}}},
		}
		img.Shell[stages.KindBeforeInstall] = config.Section{Commands: []string{fmt.Sprint("make ", i)}}
		all = append(all, img)
	}
	return w.planOf(files.before, nil, all...)
}

// takes has every job last a while.
func takes(d time.Duration) func(context.Context, *engine.Job, int) error {
	return func(ctx context.Context, _ *engine.Job, _ int) error {
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func TestARunAsksLittleOfTheLedger(t *testing.T) {
	src := newSourceTree(t)
	const images = 20
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := fleet(w, src, images)
		h := w.host()
		c := &counted{Backend: w.ledger}
		h.ledger = c
		h.engine.before = takes(time.Second)
		began := time.Now()
		_, err := h.run(t.Context(), p, src.before)
		must(t, err)
		published, reads, writes := len(w.manifests(p)), int(c.reads.Load()), int(c.writes.Load())
		t.Logf("%d stages: %d reads and %d writes of the ledger in %s", published, reads, writes, time.Since(began))
		// Each stage is acquired, decided and published, with a read before its tag is
		// put; what is beside that comes once for each image, and for the build's index.
		// The ledger is new: its shards are made.
		if reads > published+9*(images+1) || writes > 3*published+images+synchronization.Shards {
			t.Errorf("%d reads and %d writes of the ledger for %d stages of %d images", reads, writes, published, images)
		}
	})
}

func TestRunsShareTheImages(t *testing.T) {
	src := newSourceTree(t)
	const runs, images, job = 4, 8, 10 * time.Second
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := fleet(w, src, images)
		hosts := make([]*host, runs)
		began := time.Now()
		var wg sync.WaitGroup
		for i := range hosts {
			h := w.host()
			h.engine.before = takes(job)
			hosts[i] = h
			wg.Go(func() {
				if _, err := h.run(t.Context(), p, src.before); err != nil {
					t.Errorf("run %d: %v", i, err)
				}
			})
		}
		wg.Wait()
		ran := 0
		for i, h := range hosts {
			t.Logf("run %d ran %d jobs", i, h.engine.count())
			ran += h.engine.count()
		}
		t.Logf("%d jobs in %s", ran, time.Since(began))
		if want := 4 * images; ran != want {
			t.Errorf("%d jobs ran, want %d", ran, want)
		}
		// Two at once on each host, and four images' worth of jobs on each place.
		if took, ideal := time.Since(began), 4*images/runs/2*job; took > ideal+ideal/2 {
			t.Errorf("%d runs took %s, want about %s", runs, took, ideal)
		}
		w.sound()
	})
}
