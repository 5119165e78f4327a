package build_test

import (
	"context"
	"errors"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/synchronization"
	synchronizationtest "github.com/cairnbuild/cairn/synchronization/synctest"
)

// cuts are the moments after a decision at which a host is cut off from the ledger.
var cuts = map[string]func(h *host, p *stages.Plan, cut func()){
	"before the tag is put": func(h *host, p *stages.Plan, cut func()) {
		h.events.on = func(e build.Event) {
			if e.Phase == build.PhasePublishing && e.Stage == p.Images[0].Final() {
				cut()
			}
		}
	},
	"after the tag was put": func(h *host, p *stages.Plan, cut func()) {
		h.storage = faulty.New(h.w.log, func(c faulty.Call) *faulty.Fault {
			if c.Operation != faulty.Publish || c.Subject != storage.StageTag(p.Images[0].Final().Digest) {
				return nil
			}
			return &faulty.Fault{Wait: func(context.Context) error { cut(); return nil }}
		})
	},
}

// cutOff is a host whose ledger is away for a time, once, from a moment on.
func cutOff(w *world, p *stages.Plan, when func(*host, *stages.Plan, func()), away time.Duration) *host {
	h, l := w.host(), &awayLedger{Backend: w.ledger}
	h.ledger = l
	var once sync.Once
	when(h, p, func() {
		once.Do(func() {
			l.set(true)
			time.AfterFunc(away, func() { l.set(false) })
		})
	})
	return h
}

func TestAnOutageAfterTheDecisionIsEndured(t *testing.T) {
	for name, when := range cuts {
		for _, away := range []time.Duration{10 * time.Second, 25 * time.Second, 40 * time.Second, 55 * time.Second} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.planOf(noSources{}, nil, app())
				h := cutOff(w, p, when, away)
				rep, err := h.run(t.Context(), p, nil)
				if err != nil {
					t.Fatalf("away for %s %s: %v", away, name, err)
				}
				if got := results(rep); got != "app/from=assembled app/install=built" || h.engine.count() != 1 {
					t.Errorf("away for %s %s: %s; commands ran %d times", away, name, got, h.engine.count())
				}
				w.sound()
				w.manifests(p)
				w.free(p.Project)
			})
		}
	}
}

// A run that finishes what a dead one decided can lose its session as well. The entry
// that it then has under a new one must not be left behind: while the run lives, nobody
// else may end it.
func TestWhatWasTakenOverIsFinishedThroughAnOutage(t *testing.T) {
	for _, away := range []time.Duration{10 * time.Second, 25 * time.Second, 40 * time.Second, 55 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, app())
			ctx, die := context.WithCancelCause(t.Context())
			dead := cutOff(w, p, cuts["before the tag is put"], time.Hour)
			var dying sync.WaitGroup
			dying.Go(func() {
				if _, err := dead.run(ctx, p, nil); err == nil {
					t.Error("a run without a ledger has published")
				}
			})
			time.Sleep(time.Minute)
			h := cutOff(w, p, cuts["after the tag was put"], away)
			rep, err := h.run(t.Context(), p, nil)
			if err != nil {
				t.Fatalf("away for %s: %v", away, err)
			}
			if got := results(rep); !strings.HasSuffix(got, "app/install=adopted") || h.engine.count() != 0 {
				t.Errorf("away for %s: %s; commands ran %d times", away, got, h.engine.count())
			}
			w.sound()
			w.free(p.Project)
			die(errDead)
			dying.Wait()
			time.Sleep(time.Hour)
		})
	}
}

func TestALongOutageAfterTheDecisionIsNamedOrLeftToTheNextRun(t *testing.T) {
	for name, when := range cuts {
		for _, keep := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.planOf(noSources{}, nil, app())
				h := cutOff(w, p, when, time.Hour)
				h.adjust = func(o *build.Options) { o.KeepLocal = keep }
				_, err := h.run(t.Context(), p, nil)
				if keep && err != nil || !keep && !errors.Is(err, synchronization.ErrUnavailable) {
					t.Errorf("%s, keeping: %v: error %v", name, keep, err)
				}
				time.Sleep(time.Hour)
				_, err = h.run(t.Context(), p, nil)
				must(t, err)
				if n := h.engine.count(); n != 1 {
					t.Errorf("%s, keeping: %v: commands ran %d times", name, keep, n)
				}
				w.sound()
				w.manifests(p)
			})
		}
	}
}

func TestACancelledRunDoesNotAwaitALedgerThatIsAway(t *testing.T) {
	cause := errors.New("interrupted")
	for name, when := range cuts {
		synctest.Test(t, func(t *testing.T) {
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, app())
			h := cutOff(w, p, func(h *host, p *stages.Plan, cut func()) {
				when(h, p, func() { cut(); cancel(cause) })
			}, time.Hour)
			began := time.Now()
			_, err := h.run(ctx, p, nil)
			if took := time.Since(began); err == nil || took < 20*time.Second || took > 45*time.Second {
				t.Errorf("%s: ended after %s: %v", name, took, err)
			}
			time.Sleep(time.Hour)
		})
	}
}

func TestACommandKeepsItsStageThroughAnOutageOfAnyLength(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		h, other := w.host(), w.host()
		f := synchronizationtest.NewFaulty(w.ledger, 1, locktest.Faults{})
		h.ledger = f
		var others sync.WaitGroup
		h.engine.before = func(ctx context.Context, job *engine.Job, n int) error {
			if job.Name != "app/install" || n > 1 {
				return nil
			}
			time.Sleep(time.Second) // the stage below is published
			f.Pause()
			time.Sleep(20 * time.Minute)
			f.Resume()
			time.Sleep(2 * time.Minute)
			others.Go(func() {
				if _, err := other.run(t.Context(), p, nil); err != nil {
					t.Errorf("the other run: %v", err)
				}
			})
			return takes(10*time.Minute)(ctx, job, n)
		}
		_, err := h.run(t.Context(), p, nil)
		must(t, err)
		others.Wait()
		f.Wait()
		if n, m := h.engine.count(), other.engine.count(); n != 3 || m != 0 {
			t.Errorf("3 commands ran %d times, and %d times beside the run that lives", n, m)
		}
		w.sound()
		w.manifests(p)
		w.free("shop")
	})
}

func TestTheEndOfPatienceTellsOfALedgerThatIsAway(t *testing.T) {
	// A session is lost during the second wait's last question, and before the third's.
	for _, patience := range []time.Duration{12 * time.Second, 20 * time.Second, 40 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, app())
			s, leave := w.join()
			defer leave()
			_, err := s.TryAcquire(t.Context(), []stages.Digest{p.Images[0].Final().Digest})
			must(t, err)
			h, l := w.host(), &awayLedger{Backend: w.ledger}
			h.ledger = l
			h.adjust = func(o *build.Options) { o.Patience = patience }
			h.events.on = func(e build.Event) {
				if e.Phase == build.PhaseWaiting {
					time.AfterFunc(5*time.Second, func() { l.set(true) })
				}
			}
			_, err = h.run(t.Context(), p, nil)
			if !errors.Is(err, synchronization.ErrUnavailable) {
				t.Errorf("patience %s: error %v", patience, err)
			}
			if patience < 15*time.Second && !strings.Contains(err.Error(), "held by a host when the ledger was heard of last") {
				t.Errorf("patience %s: the holder is not named: %v", patience, err)
			}
		})
	}
}

// readsLeft is away after a number of reads.
type readsLeft struct {
	*awayLedger
	left int
}

// Read implements [lock.Cells].
func (l *readsLeft) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	l.mu.Lock()
	l.left--
	l.away = l.left < 0
	l.mu.Unlock()
	return l.awayLedger.Read(ctx, shards...)
}

func TestAWaitNamesTheHolderWheneverTheLedgerGoesAway(t *testing.T) {
	waited := false
	for reads := range 12 {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, app())
			s, leave := w.join()
			defer leave()
			_, err := s.TryAcquire(t.Context(), []stages.Digest{p.Images[0].Final().Digest})
			must(t, err)
			h := w.host()
			h.ledger = &readsLeft{awayLedger: &awayLedger{Backend: w.ledger}, left: reads}
			h.adjust = func(o *build.Options) { o.Patience = 10 * time.Second }
			_, err = h.run(t.Context(), p, nil)
			var wait *build.WaitError
			if !errors.Is(err, synchronization.ErrUnavailable) && !errors.As(err, &wait) || strings.Contains(err.Error(), "held by  ") {
				t.Fatalf("away after %d reads: error %v", reads, err)
			}
			waited = waited || strings.Contains(err.Error(), "was held by ")
		})
	}
	if !waited {
		t.Error("the ledger never went away during the wait")
	}
}

// raced calls overtake once, before its user writes the first time to the entry of a stage.
type raced struct {
	synchronization.Backend
	stage    stages.Digest
	once     sync.Once
	overtake func()
}

// Swap implements [lock.Cells].
func (b *raced) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	for _, c := range changes {
		if strings.HasSuffix(c.Key, b.stage.Hex()) {
			b.once.Do(b.overtake)
		}
	}
	return b.Backend.Swap(ctx, shard, changes)
}

func TestPatienceIsForAllWaitsForAStageTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		final := p.Images[0].Final().Digest
		first, endFirst := w.join()
		second, endSecond := w.join()
		defer endSecond()
		_, err := first.TryAcquire(t.Context(), []stages.Digest{final})
		must(t, err)
		time.AfterFunc(6*time.Minute, endFirst)
		h := w.host()
		h.ledger = &raced{Backend: w.ledger, stage: final, overtake: func() {
			if _, err := second.TryAcquire(t.Context(), []stages.Digest{final}); err != nil {
				t.Error(err)
			}
		}}
		h.adjust = func(o *build.Options) { o.Patience = 10 * time.Minute }
		began := time.Now()
		_, err = h.run(t.Context(), p, nil)
		var wait *build.WaitError
		if !errors.As(err, &wait) || wait.Waited < 10*time.Minute || time.Since(began) > 11*time.Minute {
			t.Errorf("after %s: error %v", time.Since(began), err)
		}
	})
}

func TestTheIndexOfABuildIsNotPutAgainByWhoAdopted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		root, err := p.Root()
		must(t, err)
		tag := storage.BuildTag(root)
		looks := 0
		alone, late := w.host(), w.host()
		alone.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
			if c.Operation == faulty.Resolve && c.Subject == tag {
				looks++
			}
			return nil
		})
		late.ledger = &raced{Backend: w.ledger, stage: p.Images[0].Final().Digest, overtake: func() {
			if _, err := alone.run(t.Context(), p, nil); err != nil {
				t.Error(err)
			}
		}}
		rep, err := late.run(t.Context(), p, nil)
		must(t, err)
		if got := results(rep); got != "app/from=cached app/install=adopted" {
			t.Error(got)
		}
		if n := len(w.log.shown[tag]); n != 1 || looks != 1 {
			t.Errorf("the index was put %d times; who built all by itself looked for it %d times under its entry", n, looks)
		}
		// Where it is missing, who adopted puts it.
		other := newWorld(t)
		late = other.host()
		late.ledger = &raced{Backend: other.ledger, stage: p.Images[0].Final().Digest, overtake: func() {
			if _, err := other.host().run(t.Context(), p, nil); err != nil {
				t.Error(err)
			}
			other.forgetIndex(p)
		}}
		_, err = late.run(t.Context(), p, nil)
		must(t, err)
		if _, err := other.mem.Resolve(t.Context(), tag); err != nil {
			t.Errorf("the index: %v", err)
		}
	})
}

// breakLock breaks the lock of a stage, which there must be.
func breakLock(t *testing.T, l *synchronization.Ledger, d stages.Digest) {
	t.Helper()
	there, err := l.Break(t.Context(), d)
	must(t, err)
	if !there {
		t.Errorf("stage %s has no entry to break", d.Short())
	}
}
