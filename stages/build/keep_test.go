package build_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/synchronization"
)

// awayLedger is a ledger's store that cannot be reached while away is set.
type awayLedger struct {
	synchronization.Backend
	mu   sync.Mutex
	away bool
}

func (l *awayLedger) set(away bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.away = away
}

func (l *awayLedger) err() error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away {
		return fmt.Errorf("%w: connection refused", lock.ErrUnavailable)
	}
	return nil
}

// Read implements [lock.Cells].
func (l *awayLedger) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	if err := l.err(); err != nil {
		return nil, err
	}
	return l.Backend.Read(ctx, shards...)
}

// Swap implements [lock.Cells].
func (l *awayLedger) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	if err := l.err(); err != nil {
		return lock.Snapshot{}, err
	}
	return l.Backend.Swap(ctx, shard, changes)
}

// Renew implements [lock.Sessions].
func (l *awayLedger) Renew(ctx context.Context, group string, r lock.Record) error {
	if err := l.err(); err != nil {
		return err
	}
	return l.Backend.Renew(ctx, group, r)
}

// chainOfThree is an image whose command stages follow each other.
func chainOfThree() config.Image {
	return config.Image{Name: "app", Shell: commands(stages.KindBeforeInstall, stages.KindInstall, stages.KindSetup)}
}

func TestWithoutALedgerMissesFailAndHitsDoNot(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one := w.planOf(noSources{}, []string{"app"}, chainOfThree())
		_, err := w.host().run(t.Context(), one, nil)
		must(t, err)
		l := &awayLedger{Backend: w.ledger, away: true}

		h := w.host()
		h.ledger = l
		rep, err := h.run(t.Context(), one, nil)
		must(t, err)
		if got := results(rep); got != "app/from=cached app/beforeInstall=cached app/install=cached app/setup=cached" {
			t.Error(got)
		}
		// The same image in a build that has no index yet gets none: that takes a ledger.
		named := chainOfThree()
		named.Name = "renamed"
		p := w.planOf(noSources{}, nil, named)
		rep, err = h.run(t.Context(), p, nil)
		must(t, err)
		if got := results(rep); got != "renamed/from=cached renamed/beforeInstall=cached renamed/install=cached renamed/setup=cached" {
			t.Error(got)
		}
		if root, err := p.Root(); err != nil || rep.Unlisted == "" || rep.Root != root {
			t.Errorf("unlisted because %q, root %s, error %v", rep.Unlisted, rep.Root, err)
		}
		other := chainOfThree()
		other.CacheVersion = "2"
		rep, err = h.run(t.Context(), w.planOf(noSources{}, nil, other), nil)
		if !errors.Is(err, synchronization.ErrUnavailable) {
			t.Fatalf("error %v, want ErrUnavailable", err)
		}
		if got := results(rep); got != "app/from= app/beforeInstall= app/install= app/setup=" {
			t.Errorf("results %s of a run that made nothing", got)
		}
	})
}

func TestKeptResultsArePublishedByTheNextRunWithoutRunningAgain(t *testing.T) {
	for name, meanwhile := range map[string]func(*testing.T, *host, *awayLedger, *stages.Plan){
		"at once": func(*testing.T, *host, *awayLedger, *stages.Plan) {},
		"after a second run without a ledger": func(t *testing.T, h *host, _ *awayLedger, p *stages.Plan) {
			_, err := h.run(t.Context(), p, nil)
			must(t, err)
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, chainOfThree(), config.Image{
				Name: "importer", Shell: commands(stages.KindInstall),
				Imports: []config.Import{{Kind: stages.KindImportAfterInstall, Image: "app", Add: "/made", To: "/made"}},
			})
			l := &awayLedger{Backend: w.ledger, away: true}
			h := w.host()
			h.ledger = l
			h.adjust = func(o *build.Options) { o.KeepLocal = true }
			rep, err := h.run(t.Context(), p, nil)
			must(t, err)
			const made = "app/from=assembled app/beforeInstall=built app/install=built app/setup=built " +
				"importer/from=assembled importer/install=built importer/importsAfterInstall=built"
			if got := results(rep); got != made {
				t.Errorf("%s: results %s", name, got)
			}
			if len(rep.Kept) != 5 || rep.Images[0].Ref != "" {
				t.Errorf("%s: kept %v, ref %q", name, rep.Kept, rep.Images[0].Ref)
			}
			for tag := range w.mem.Tags(t.Context()) {
				t.Errorf("%s: tag %s was published", name, tag)
			}
			meanwhile(t, h, l, p)
			l.set(false)
			rep, err = h.run(t.Context(), p, nil)
			must(t, err)
			if got := results(rep); got != made || len(rep.Kept) != 0 {
				t.Errorf("%s: results %s, kept %v", name, got, rep.Kept)
			}
			if n := h.engine.count(); n != 5 {
				t.Errorf("%s: 5 command stages ran %d times", name, n)
			}
			w.sound()
			w.manifests(p)
		})
	}
}

func TestALedgerThatGoesAwayLeavesTheRestLocal(t *testing.T) {
	for swaps := range 12 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, chainOfThree())
			l := &awayLedger{Backend: w.ledger}
			h := w.host()
			h.ledger = &countdown{awayLedger: l, left: swaps}
			h.adjust = func(o *build.Options) { o.KeepLocal = true }
			if _, err := h.run(t.Context(), p, nil); err != nil {
				t.Fatalf("away after %d writes: %v", swaps, err)
			}
			l.set(false)
			h.ledger = l
			if _, err := h.run(t.Context(), p, nil); err != nil {
				t.Fatalf("away after %d writes: %v", swaps, err)
			}
			if n := h.engine.count(); n != 3 {
				t.Errorf("away after %d writes: 3 command stages ran %d times", swaps, n)
			}
			w.sound()
			w.manifests(p)
		})
	}
}

// countdown is away after a number of writes.
type countdown struct {
	*awayLedger
	left int
}

// Swap implements [lock.Cells].
func (l *countdown) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	l.mu.Lock()
	l.left--
	if l.left < 0 {
		l.away = true
	}
	l.mu.Unlock()
	return l.awayLedger.Swap(ctx, shard, changes)
}

func TestAFailedPushKeepsWhatWasMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		h := w.host()
		var once sync.Once
		ran := make(chan struct{})
		h.engine.before = func(_ context.Context, job *engine.Job, _ int) error {
			if job.Name == "app/setup" {
				once.Do(func() { close(ran) })
			}
			return nil
		}
		// The second stage's manifest is refused, after all commands have run.
		f := faulty.New(w.log, faulty.On(faulty.PushManifest, 2, faulty.Fault{
			Wait: func(context.Context) error { <-ran; time.Sleep(time.Second); return storage.ErrTransient },
		}))
		h.storage = f
		rep, err := h.run(t.Context(), p, nil)
		var kept *build.KeptError
		var at *build.StageError
		if !errors.As(err, &kept) || !errors.Is(err, storage.ErrTransient) || !errors.As(err, &at) || at.Stage.Name() != "beforeInstall" {
			t.Fatalf("error %v", err)
		}
		if len(kept.Kept) != 3 || !slices.Equal(kept.Kept, rep.Kept) {
			t.Errorf("kept %v", kept.Kept)
		}
		if got := results(rep); got != "app/from=assembled app/beforeInstall= app/install= app/setup=" {
			t.Error(got)
		}
		failed := 0
		for _, e := range h.events.events {
			if e.Phase == build.PhaseFailed {
				failed++
			}
		}
		if failed != 1 {
			t.Errorf("%d stages are told to have failed, want the one", failed)
		}
		w.sound()
		f.Follow(nil)
		_, err = h.run(t.Context(), p, nil)
		must(t, err)
		if n := h.engine.count(); n != 3 {
			t.Errorf("3 command stages ran %d times", n)
		}
		w.sound()
		w.manifests(p)
	})
}

func TestADamagedCacheOnlyCostsTime(t *testing.T) {
	for name, damage := range map[string]func(*mem.Storage, digest.Digest) bool{
		"a layer is gone": (*mem.Storage).DropBlob, "a layer is corrupt": (*mem.Storage).CorruptBlob,
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, chainOfThree())
			h := w.host()
			pad := mem.New(mem.Options{})
			h.pad = memPad{pad}
			h.ledger = &awayLedger{Backend: w.ledger, away: true}
			h.adjust = func(o *build.Options) { o.KeepLocal = true }
			_, err := h.run(t.Context(), p, nil)
			must(t, err)
			img, err := keptManifest(t, h.pad, p.Images[0].Stages[2]).Image()
			must(t, err)
			if layer := img.Layers[len(img.Layers)-1].Digest; !damage(pad, layer) {
				t.Fatalf("%s: the cache has no layer %s", name, layer)
			}
			h.ledger = w.ledger
			if _, err = h.run(t.Context(), p, nil); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			// What stood on the lost result is made again as well.
			if n := h.engine.count(); n != 5 {
				t.Errorf("%s: commands ran %d times, want 3 and 2 again", name, n)
			}
			w.sound()
			w.manifests(p)
		})
	}
}

func TestCtrlCFinishesWhatIsDecidedAndFreesTheRest(t *testing.T) {
	cause := errors.New("interrupted")
	for at := 1; ; at++ {
		var seen int
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, chainOfThree())
			h := w.host()
			var mu sync.Mutex
			decided := map[*stages.Stage]bool{}
			h.events.on = func(e build.Event) {
				mu.Lock()
				defer mu.Unlock()
				if e.Phase == build.PhasePublishing {
					decided[e.Stage] = true
				}
				if seen++; seen == at {
					cancel(cause)
				}
			}
			_, err := h.run(ctx, p, nil)
			if err != nil && !errors.Is(err, cause) {
				t.Errorf("cancelled at event %d: %v", at, err)
			}
			for s := range decided {
				if _, err := w.mem.Resolve(t.Context(), storage.StageTag(s.Digest)); err != nil {
					t.Errorf("cancelled at event %d: stage %s was decided and is not published: %v", at, s.Name(), err)
				}
			}
			w.sound()
			// Nobody has to wait for the end of a session.
			began := time.Now()
			h.events.on = nil
			_, err = h.run(t.Context(), p, nil)
			must(t, err)
			if took := time.Since(began); took > time.Second {
				t.Errorf("cancelled at event %d: the next run waited %s", at, took)
			}
			w.manifests(p)
			w.free(p.Project)
		})
		if seen < at {
			break
		}
	}
}

// free checks that the ledger holds no entry in flight.
func (w *world) free(project string) {
	w.t.Helper()
	h := w.host()
	l, err := h.openLedger(w.t.Context(), project)
	must(w.t, err)
	defer l.Close()
	entries, err := l.List(w.t.Context())
	must(w.t, err)
	for d, e := range entries {
		if e.State != synchronization.Published && e.State != synchronization.Deleted {
			w.t.Errorf("stage %s is left %s", d, e.State)
		}
	}
}
