package build_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/synchronization"
	synchronizationtest "github.com/cairnbuild/cairn/synchronization/synctest"
)

// app is the smallest image with commands.
func app() config.Image {
	return config.Image{Name: "app", Shell: commands(stages.KindInstall)}
}

// forget takes the build's index away, so that the next run looks at the stages.
func (w *world) forget(p *stages.Plan) {
	w.t.Helper()
	root, err := p.Root()
	must(w.t, err)
	must(w.t, w.mem.DeleteTag(w.t.Context(), storage.BuildTag(root)))
}

// join gives a session in the world's ledger, which ends with the test.
func (w *world) join() (*synchronization.Session, func()) {
	w.t.Helper()
	l, err := w.host().openLedger(w.t.Context(), "shop")
	must(w.t, err)
	s, err := l.Join(w.t.Context())
	must(w.t, err)
	return s, func() {
		must(w.t, s.Close(context.WithoutCancel(w.t.Context())))
		l.Close()
	}
}

// sweep drops what the ledger keeps for Δ.
func (w *world) sweep() {
	w.t.Helper()
	time.Sleep(synchronization.DefaultDelta + time.Minute)
	l, err := w.host().openLedger(w.t.Context(), "shop")
	must(w.t, err)
	defer l.Close()
	must(w.t, l.Sweep(w.t.Context(), func(context.Context, stages.Digest, digest.Digest) (bool, error) { return true, nil }))
}

// built is a world in which the app exists, and its plan.
func built(t *testing.T, e *fakeEngine) (*world, *stages.Plan, map[stages.Digest]digest.Digest) {
	t.Helper()
	w := newWorld(t)
	p := w.planOf(noSources{}, nil, app())
	h := w.host()
	if e != nil {
		h.engine = e
	}
	_, err := h.run(t.Context(), p, nil)
	must(t, err)
	w.forget(p)
	manifests := w.manifests(p)
	return w, p, manifests
}

func TestAPublishedStageWhoseTagIsGoneGetsItAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w, p, before := built(t, nil)
		final := p.Images[0].Final()
		must(t, w.mem.DeleteTag(t.Context(), storage.StageTag(final.Digest)))
		h := w.host()
		rep, err := h.run(t.Context(), p, nil)
		must(t, err)
		if after := w.manifests(p); after[final.Digest] != before[final.Digest] || h.engine.count() != 0 {
			t.Errorf("stage is %s and was %s; commands ran %d times; %s", after[final.Digest], before[final.Digest], h.engine.count(), results(rep))
		}
		w.sound()
	})
}

func TestADoomedStageIsRescuedOrMadeAgain(t *testing.T) {
	for _, lost := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w, p, before := built(t, nil)
			w.sweep()
			final := p.Images[0].Final()
			s, end := w.join()
			_, err := s.Doom(t.Context(), final.Digest)
			must(t, err)
			// The cleaner's mark is met by a read that misses the tag for a moment,
			// or the tag is really gone.
			h := w.host()
			if lost {
				must(t, w.mem.DeleteTag(t.Context(), storage.StageTag(final.Digest)))
			} else {
				h.storage = faulty.New(w.log, faulty.On(faulty.FetchManifest, 2, faulty.Fault{Err: storage.ErrNotFound}))
			}
			_, err = h.run(t.Context(), p, nil)
			must(t, err)
			after := w.manifests(p)
			if ran := h.engine.count() > 0; ran != lost || (before[final.Digest] == after[final.Digest]) == lost {
				t.Errorf("tag gone: %v; commands ran: %v; %s was %s", lost, ran, after[final.Digest], before[final.Digest])
			}
			end()
			w.whole()
			w.free("shop")
		})
	}
}

func TestANewGenerationHasAnotherManifestEvenOfEqualBytes(t *testing.T) {
	for name, keepTags := range map[string]bool{"names can be deleted": false, "only manifests can be deleted": true} {
		for _, far := range []int{gone, finished} {
			synctest.Test(t, func(t *testing.T) {
				e := newFakeEngine()
				e.same = true
				w := newWorldOn(t, mem.Options{KeepTags: keepTags})
				p := w.planOf(noSources{}, nil, app())
				h := w.host()
				h.engine = e
				_, err := h.run(t.Context(), p, nil)
				must(t, err)
				before := w.manifests(p)
				w.forgetIndex(p)
				w.sweep()
				final := p.Images[0].Final()
				w.withdraw(final, far)
				_, err = h.run(t.Context(), p, nil)
				must(t, err)
				after := w.manifests(p)
				if after[final.Digest] == before[final.Digest] {
					t.Errorf("%s: the withdrawn manifest %s is back", name, after[final.Digest])
				}
				m, err := w.mem.Manifest(t.Context(), after[final.Digest].String())
				must(t, err)
				img, err := m.Image()
				must(t, err)
				if img.Annotations[assemble.AnnotationGeneration] == "" {
					t.Errorf("%s: the new generation has no mark", name)
				}
				if n := e.count(); n != 2 {
					t.Errorf("%s: commands ran %d times", name, n)
				}
				w.whole()
				w.free("shop")
			})
		}
	}
}

func TestADeletionThatIsDoneIsEndedByWhoMayNotDelete(t *testing.T) {
	for _, class := range []error{storage.ErrDenied, storage.ErrUnauthorized, storage.ErrUnsupported} {
		for _, far := range []int{decided, gone} {
			synctest.Test(t, func(t *testing.T) {
				w, p, _ := built(t, nil)
				w.sweep()
				w.withdraw(p.Images[0].Final(), far)
				h := w.host()
				h.storage = faulty.New(w.log, faulty.Always(faulty.DeleteTag, faulty.Fault{Err: class}))
				_, err := h.run(t.Context(), p, nil)
				if far == decided {
					if !errors.Is(err, class) {
						t.Errorf("the tag shows, and the error is %v, want %v", err, class)
					}
					return
				}
				must(t, err)
				w.whole()
				w.free("shop")
			})
		}
	}
}

// forgetIndex is forget for a storage that keeps tags.
func (w *world) forgetIndex(p *stages.Plan) {
	w.t.Helper()
	root, err := p.Root()
	must(w.t, err)
	d, err := w.mem.Resolve(w.t.Context(), storage.BuildTag(root))
	must(w.t, err)
	must(w.t, w.mem.DeleteManifest(w.t.Context(), d.Digest))
}

// How far a cleaner comes.
const (
	decided = iota
	gone
	finished
)

// withdraw deletes a stage as a cleaner does, who may die on the way.
func (w *world) withdraw(s *stages.Stage, far int) {
	w.t.Helper()
	ctx := w.t.Context()
	session, end := w.join()
	defer end()
	c, err := session.Doom(ctx, s.Digest)
	must(w.t, err)
	d, err := w.mem.Resolve(ctx, storage.StageTag(s.Digest))
	must(w.t, err)
	must(w.t, c.Delete(ctx, d.Digest))
	if far >= gone {
		must(w.t, w.mem.DeleteManifest(ctx, d.Digest))
	}
	if far >= finished {
		must(w.t, c.Deleted(ctx))
	}
}

// decideAndDie leaves a stage decided and not published by a runner that is gone, whose
// manifest is then deleted from the storage.
func (w *world) decideAndDie(h *host, p *stages.Plan) digest.Digest {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	final := p.Images[0].Final()
	m := &mortal{kill: cancel}
	h.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
		if c.Operation == faulty.Publish && c.Subject == storage.StageTag(final.Digest) {
			m.step()
			m.mu.Lock()
			m.dead = true
			m.mu.Unlock()
			cancel(errDead)
		}
		if !m.alive() {
			return &faulty.Fault{Err: errDead}
		}
		return nil
	})
	h.ledger = mortalLedger{w.ledger, m}
	if _, err := h.run(ctx, p, nil); err == nil {
		w.t.Fatal("the run survived")
	}
	h.storage, h.ledger = w.log, w.ledger
	l, err := h.openLedger(w.t.Context(), "shop")
	must(w.t, err)
	defer l.Close()
	entries, err := l.List(w.t.Context())
	must(w.t, err)
	e := entries[final.Digest]
	if e.State != synchronization.Publishing {
		w.t.Fatalf("the stage is left %q", e.State)
	}
	must(w.t, w.mem.DeleteManifest(w.t.Context(), e.Manifest))
	return e.Manifest
}

func TestADecidedManifestThatIsLostComesFromItsMakersCache(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		h := w.host()
		chosen := w.decideAndDie(h, p)
		began := time.Now()
		_, err := h.run(t.Context(), p, nil)
		must(t, err)
		if got := w.manifests(p)[p.Images[0].Final().Digest]; got != chosen || h.engine.count() != 1 {
			t.Errorf("published %s, decided %s; commands ran %d times", got, chosen, h.engine.count())
		}
		if took := time.Since(began); took > 2*time.Minute {
			t.Errorf("it took %s", took)
		}
		w.sound()
	})
}

func TestADecidedManifestThatNobodyHasEndsItsGenerationAfterDelta(t *testing.T) {
	for name, returns := range map[string]bool{"it stays away": false, "it was a lagging read": true} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, app())
			dead := w.host()
			chosen := w.decideAndDie(dead, p)
			began := time.Now()
			h := w.host()
			h.events.on = func(e build.Event) {
				if returns && strings.Contains(e.Detail, chosen.String()) {
					must(t, w.mem.PushManifest(t.Context(), keptManifest(t, dead.pad, p.Images[0].Final())))
				}
			}
			_, err := h.run(t.Context(), p, nil)
			must(t, err)
			got, took := w.manifests(p)[p.Images[0].Final().Digest], time.Since(began)
			if returns != (got == chosen) || returns == (took >= synchronization.DefaultDelta) {
				t.Errorf("%s: published %s after %s, decided was %s", name, got, took, chosen)
			}
			w.sound()
			w.free("shop")
		})
	}
}

func TestATagThatShowsSomethingElseIsNotMoved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		h := w.host()
		final := p.Images[0].Final()
		other, err := w.base.Manifest(t.Context(), string(w.bases))
		must(t, err)
		// Somebody without a ledger puts the tag while the stage is being made.
		h.engine.before = func(ctx context.Context, _ *engine.Job, _ int) error {
			must(t, storage.CopyImage(ctx, w.mem, w.base, other, "", storage.CopyOptions{}))
			return nil
		}
		h.events.on = func(e build.Event) {
			if e.Phase == build.PhasePublishing && e.Stage == final {
				must(t, w.mem.Publish(t.Context(), storage.StageTag(final.Digest), other))
			}
		}
		f := faulty.New(w.mem, func(c faulty.Call) *faulty.Fault {
			if c.Operation == faulty.Publish && c.Subject == storage.StageTag(final.Digest) {
				return &faulty.Fault{Err: storage.ErrTransient}
			}
			return nil
		})
		h.storage = f
		if _, err = h.run(t.Context(), p, nil); !errors.Is(err, storage.ErrCorrupt) {
			t.Fatalf("error %v, want ErrCorrupt", err)
		}
		f.Follow(nil)
		h.events.on = nil
		must(t, w.mem.DeleteTag(t.Context(), storage.StageTag(final.Digest)))
		_, err = h.run(t.Context(), p, nil)
		must(t, err)
	})
}

// interrupted is a run that is cut off from the ledger, for long enough to be taken
// for dead, while it runs the commands of install. Meanwhile is what others do.
func interrupted(t *testing.T, w *world, p *stages.Plan, meanwhile func()) (*build.Report, *host, bool) {
	t.Helper()
	h := w.host()
	f := synchronizationtest.NewFaulty(w.ledger, 1, locktest.Faults{})
	h.ledger = f
	ended := false
	h.engine.before = func(ctx context.Context, job *engine.Job, n int) error {
		if job.Name != "app/install" || n > 1 {
			return nil
		}
		time.Sleep(time.Second) // the stage below is published
		f.Pause()
		meanwhile()
		time.Sleep(40 * time.Second)
		f.Resume()
		select {
		case <-time.After(5 * time.Minute):
			return nil
		case <-ctx.Done():
			ended = true
			return context.Cause(ctx)
		}
	}
	rep, err := h.run(t.Context(), p, nil)
	must(t, err)
	f.Wait()
	w.sound()
	w.manifests(p)
	w.free("shop")
	return rep, h, ended
}

func TestAnOutageOfTheLedgerCostsNoCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		rep, h, ended := interrupted(t, w, p, func() {})
		if got := results(rep); got != "app/from=assembled app/beforeInstall=built app/install=built app/setup=built" {
			t.Error(got)
		}
		if n := h.engine.count(); n != 3 || ended {
			t.Errorf("3 command stages ran %d times; the one under way was ended: %v", n, ended)
		}
	})
}

func TestACommandWhoseStageAnotherTookIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		other := w.host()
		rep, h, ended := interrupted(t, w, p, func() {
			if _, err := other.run(t.Context(), p, nil); err != nil {
				t.Errorf("the other run: %v", err)
			}
		})
		if got := results(rep); got != "app/from=assembled app/beforeInstall=built app/install=adopted app/setup=adopted" {
			t.Error(got)
		}
		if n, m := h.engine.count(), other.engine.count(); n != 1 || m != 2 || !ended {
			t.Errorf("commands ran %d and %d times; the one under way was ended: %v", n, m, ended)
		}
	})
}

func TestARunWaitsForALivingHolderWithinItsPatience(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		s, end := w.join()
		_, err := s.TryAcquire(t.Context(), []stages.Digest{p.Images[0].Final().Digest})
		must(t, err)
		h := w.host()
		h.adjust = func(o *build.Options) { o.Patience = 10 * time.Minute }
		_, err = h.run(t.Context(), p, nil)
		var wait *build.WaitError
		if !errors.As(err, &wait) || wait.Holder != "a host" || wait.Waited < 10*time.Minute {
			t.Fatalf("error %v", err)
		}
		var told []time.Duration
		for _, e := range h.events.events {
			if e.Phase == build.PhaseWaiting {
				told = append(told, e.Waited)
			}
		}
		if len(told) < 19 || told[0] > time.Second || told[10] != 5*time.Minute {
			t.Errorf("it told of its wait at %v", told)
		}
		end()
		w.free("shop")
	})
}

func TestWhatAStageStandsOnIsReadAgainUnderItsEntry(t *testing.T) {
	// Between the look at the parent and the list of its entry, a cleaner acts.
	acts := map[string]func(*testing.T, *world, *stages.Stage){
		"marks it": func(t *testing.T, w *world, parent *stages.Stage) {
			s, end := w.join()
			_, err := s.Doom(t.Context(), parent.Digest)
			must(t, err)
			t.Cleanup(end)
		},
		"dies over its deletion":   func(_ *testing.T, w *world, parent *stages.Stage) { w.withdraw(parent, decided) },
		"deletes it":               func(_ *testing.T, w *world, parent *stages.Stage) { w.withdraw(parent, finished) },
		"deletes it and forgot it": func(_ *testing.T, w *world, parent *stages.Stage) { w.withdraw(parent, finished); w.sweep() },
	}
	for name, act := range acts {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			first := w.planOf(noSources{}, nil, config.Image{Name: "app", Shell: commands(stages.KindBeforeInstall)})
			_, err := w.host().run(t.Context(), first, nil)
			must(t, err)
			w.forget(first)
			w.sweep()
			p := w.planOf(noSources{}, nil, chainOfThree())
			parent := first.Images[0].Final()
			h := w.host()
			// The second stage's own look prefetches the parent; its entry is taken after.
			var acted bool
			h.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
				if c.Operation == faulty.FetchManifest && c.Subject == storage.StageTag(parent.Digest) && !acted {
					acted = true
					return &faulty.Fault{Wait: func(context.Context) error { return nil }}
				}
				return nil
			})
			var done bool
			h.events.on = func(e build.Event) {
				if e.Stage.Digest == parent.Digest && e.Phase == build.PhaseDone && !done {
					done = true
					act(t, w, parent)
				}
			}
			if _, err = h.run(t.Context(), p, nil); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			w.whole()
			w.manifests(p)
			if !done || !acted {
				t.Errorf("%s: the parent was never read", name)
			}
			img, below := w.load(p.Images[0].Final()), w.load(parent)
			if !img.StandsOn(below) {
				t.Errorf("%s: the image does not stand on its published stage", name)
			}
		})
	}
}

func TestAnOwnerThatSleptThroughItsGenerationAdoptsTheNext(t *testing.T) {
	for _, at := range []build.Phase{build.PhasePushing, build.PhasePublishing} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, app())
			final := p.Images[0].Final()
			h := w.host()
			f := synchronizationtest.NewFaulty(w.ledger, 1, locktest.Faults{})
			h.ledger = f
			slept := false
			h.events.on = func(e build.Event) {
				if e.Stage != final || e.Phase != at || slept {
					return
				}
				slept = true
				f.Pause()
				defer f.Resume()
				if at == build.PhasePublishing {
					must(t, w.mem.DeleteManifest(t.Context(), keptManifest(t, h.pad, final).Descriptor.Digest))
				}
				_, err := w.host().run(t.Context(), p, nil)
				must(t, err)
			}
			rep, err := h.run(t.Context(), p, nil)
			must(t, err)
			if got := results(rep); got != "app/from=assembled app/install=adopted" || !slept {
				t.Errorf("asleep at %s: %s", at, got)
			}
			if m := rep.Images[0].Stages[1].Manifest; m == nil || *m != w.manifests(p)[final.Digest] {
				t.Errorf("asleep at %s: adopted %v", at, m)
			}
			f.Wait()
			w.sound()
		})
	}
}

func TestAChildOfALostCandidateIsMadeAgainUponThePublishedOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		first := w.planOf(noSources{}, nil, config.Image{Name: "app", Shell: commands(stages.KindBeforeInstall)})
		p := w.planOf(noSources{}, nil, chainOfThree())
		parent := first.Images[0].Final().Digest
		h := w.host()
		ran := make(chan struct{})
		h.engine.before = func(_ context.Context, job *engine.Job, n int) error {
			if job.Name == "app/setup" && n == 1 {
				close(ran)
			}
			return nil
		}
		// A person breaks the lock of a stage whose commands have run, and another
		// runner makes it.
		broken := false
		h.events.on = func(e build.Event) {
			if e.Stage.Digest != parent || e.Phase != build.PhasePushing || broken {
				return
			}
			broken = true
			<-ran
			l, err := w.host().openLedger(t.Context(), "shop")
			must(t, err)
			defer l.Close()
			breakLock(t, l, parent)
			_, err = w.host().run(t.Context(), first, nil)
			must(t, err)
		}
		rep, err := h.run(t.Context(), p, nil)
		must(t, err)
		if got := results(rep); got != "app/from=assembled app/beforeInstall=adopted app/install=built app/setup=built" {
			t.Error(got)
		}
		all := p.Images[0].Stages
		for i := 1; i < len(all); i++ {
			if !w.load(all[i]).StandsOn(w.load(all[i-1])) {
				t.Errorf("stage %s does not stand on the published one below", all[i].Name())
			}
		}
		w.sound()
		w.free("shop")
	})
}

func TestALockBrokenAfterTheDecisionKeepsItsOwnerFromThePut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		final := p.Images[0].Final()
		h := w.host()
		broken := false
		h.events.on = func(e build.Event) {
			if e.Stage != final || e.Phase != build.PhasePublishing || broken {
				return
			}
			broken = true
			l, err := w.host().openLedger(t.Context(), "shop")
			must(t, err)
			defer l.Close()
			breakLock(t, l, final.Digest)
			_, err = w.host().run(t.Context(), p, nil)
			must(t, err)
		}
		rep, err := h.run(t.Context(), p, nil)
		must(t, err)
		if got := results(rep); got != "app/from=assembled app/install=adopted" {
			t.Error(got)
		}
		w.sound()
	})
}

func TestATakeoverDoesNotMoveATagThatShowsSomethingElse(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		dead := w.host()
		w.decideAndDie(dead, p)
		tag := storage.StageTag(p.Images[0].Final().Digest)
		must(t, w.mem.PushManifest(t.Context(), keptManifest(t, dead.pad, p.Images[0].Final())))
		other, err := w.base.Manifest(t.Context(), string(w.bases))
		must(t, err)
		must(t, storage.CopyImage(t.Context(), w.mem, w.base, other, "", storage.CopyOptions{}))
		h := w.host()
		// The tag appears after the run has looked.
		h.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
			if c.Operation == faulty.FetchManifest && strings.HasPrefix(c.Subject, "sha256:") {
				return &faulty.Fault{Wait: func(ctx context.Context) error { return w.mem.Publish(ctx, tag, other) }}
			}
			return nil
		})
		if _, err = h.run(t.Context(), p, nil); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("error %v, want ErrCorrupt", err)
		}
		got, err := w.mem.Resolve(t.Context(), tag)
		must(t, err)
		if got.Digest != other.Descriptor.Digest {
			t.Errorf("the tag was moved to %s", got.Digest)
		}
	})
}
