package build_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/synchronization"
)

// listed is a world in which the app exists, with the index of its build, and in whose
// ledger nothing is left of that.
type listed struct {
	*world
	plan  *stages.Plan
	root  stages.Digest
	index storage.Manifest
}

func newListed(t *testing.T) *listed {
	t.Helper()
	w := newWorld(t)
	l := &listed{world: w, plan: w.planOf(noSources{}, nil, app())}
	_, err := w.host().run(t.Context(), l.plan, nil)
	must(t, err)
	l.root, err = l.plan.Root()
	must(t, err)
	l.index, err = w.mem.Manifest(t.Context(), storage.BuildTag(l.root))
	must(t, err)
	w.sweep()
	return l
}

// claim acquires the index in another session.
func (l *listed) claim(s *synchronization.Session) *synchronization.Claim {
	l.t.Helper()
	got, err := s.TryAcquire(l.t.Context(), []stages.Digest{l.root})
	must(l.t, err)
	if got.Claims[l.root] == nil {
		l.t.Fatalf("the index is held: %+v", got.Held)
	}
	return got.Claims[l.root]
}

// entry is what the ledger says of the index.
func (l *listed) entry() synchronization.Entry {
	l.t.Helper()
	led, err := l.host().openLedger(l.t.Context(), "shop")
	must(l.t, err)
	defer led.Close()
	all, err := led.List(l.t.Context())
	must(l.t, err)
	return all[l.root]
}

func TestAnIndexIsPublishedWhateverItsEntrySays(t *testing.T) {
	for _, c := range []struct {
		name string
		// gone: the index has no tag. Else the run's first look misses it.
		gone bool
		// found is what the run finds; what it returns is called at its end.
		found func(l *listed, s *synchronization.Session) func()
		// anew: the index is of another generation, with another manifest.
		anew bool
		// atLeast and atMost bound how long the run takes.
		atLeast, atMost time.Duration
	}{
		{name: "nothing", gone: true, found: func(*listed, *synchronization.Session) func() { return nil }, atMost: time.Second},
		{name: "a living runner that is busy with its images", gone: true, atMost: time.Second,
			found: func(l *listed, s *synchronization.Session) func() {
				c := l.claim(s)
				return func() {
					if err := c.Decide(l.t.Context(), l.index.Descriptor.Digest); !errors.Is(err, synchronization.ErrTaken) {
						l.t.Errorf("who was superseded decides: %v", err)
					}
				}
			}},
		{name: "a living runner that has decided", gone: true, atLeast: 4 * time.Second, atMost: time.Minute,
			found: func(l *listed, s *synchronization.Session) func() {
				c := l.claim(s)
				must(l.t, c.Decide(l.t.Context(), l.index.Descriptor.Digest))
				done := make(chan error, 1)
				go func() {
					time.Sleep(5 * time.Second)
					done <- errors.Join(l.mem.Publish(l.t.Context(), storage.BuildTag(l.root), l.index), c.Published(l.t.Context()))
				}()
				return func() { must(l.t, <-done) }
			}},
		{name: "what a dead runner has decided", gone: true, atMost: time.Second,
			found: func(l *listed, s *synchronization.Session) func() {
				must(l.t, l.claim(s).Decide(l.t.Context(), l.index.Descriptor.Digest))
				must(l.t, s.Close(l.t.Context()))
				return nil
			}},
		{name: "what a dead runner has decided of images that are others now", gone: true, anew: false,
			atLeast: synchronization.DefaultDelta, atMost: synchronization.DefaultDelta + time.Minute,
			found: func(l *listed, s *synchronization.Session) func() {
				must(l.t, l.claim(s).Decide(l.t.Context(), digest.FromString("lost")))
				must(l.t, s.Close(l.t.Context()))
				return nil
			}},
		{name: "an index that is published and has lost its tag", gone: true, atMost: time.Second,
			found: func(l *listed, s *synchronization.Session) func() {
				c := l.claim(s)
				must(l.t, c.Decide(l.t.Context(), l.index.Descriptor.Digest))
				must(l.t, c.Published(l.t.Context()))
				return nil
			}},
		{name: "a mark on an index that is there", atMost: time.Second,
			found: func(l *listed, s *synchronization.Session) func() {
				c, err := s.Doom(l.t.Context(), l.root)
				must(l.t, err)
				return func() {
					if err := c.Delete(l.t.Context(), l.index.Descriptor.Digest); !errors.Is(err, synchronization.ErrTaken) {
						l.t.Errorf("a rescued index is deleted: %v", err)
					}
				}
			}},
		{name: "a mark on an index that is gone", gone: true, atMost: time.Second,
			found: func(l *listed, s *synchronization.Session) func() {
				_, err := s.Doom(l.t.Context(), l.root)
				must(l.t, err)
				return nil
			}},
		{name: "a deletion that a dead cleaner has begun", anew: true, atMost: time.Minute,
			found: func(l *listed, s *synchronization.Session) func() {
				c, err := s.Doom(l.t.Context(), l.root)
				must(l.t, err)
				must(l.t, c.Delete(l.t.Context(), l.index.Descriptor.Digest))
				must(l.t, s.Close(l.t.Context()))
				return nil
			}},
		{name: "a deletion that is complete", gone: true, anew: true, atMost: time.Second,
			found: func(l *listed, s *synchronization.Session) func() {
				c, err := s.Doom(l.t.Context(), l.root)
				must(l.t, err)
				must(l.t, c.Delete(l.t.Context(), l.index.Descriptor.Digest))
				must(l.t, c.Deleted(l.t.Context()))
				return nil
			}},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				l := newListed(t)
				h := l.host()
				if c.gone {
					l.forget(l.plan)
				} else {
					h.storage = faulty.New(l.log, faulty.On(faulty.FetchManifest, 1, faulty.Fault{Err: storage.ErrNotFound}))
				}
				s, end := l.join()
				check := c.found(l, s)
				began := time.Now()
				_, err := h.run(t.Context(), l.plan, nil)
				must(t, err)
				if took := time.Since(began); took < c.atLeast || took > c.atMost {
					t.Errorf("it took %s, want from %s to %s", took, c.atLeast, c.atMost)
				}
				if check != nil {
					check()
				}
				end()
				l.wantIndex(c.anew)
				if n := h.engine.count(); n != 0 {
					t.Errorf("commands ran %d times", n)
				}
				l.free("shop")
			})
		})
	}
}

// wantIndex: the index has its tag, is what the ledger says, and lists what is there.
func (l *listed) wantIndex(anew bool) {
	l.t.Helper()
	m, err := l.mem.Manifest(l.t.Context(), storage.BuildTag(l.root))
	must(l.t, err)
	if other := m.Descriptor.Digest != l.index.Descriptor.Digest; other != anew {
		l.t.Errorf("the index is %s and was %s", m.Descriptor.Digest, l.index.Descriptor.Digest)
	}
	if e := l.entry(); e.State != synchronization.Published || e.Manifest != m.Descriptor.Digest {
		l.t.Errorf("the ledger says %+v", e)
	}
	idx, err := m.Index()
	must(l.t, err)
	for _, d := range idx.Manifests {
		if _, err := l.mem.Resolve(l.t.Context(), d.Digest.String()); err != nil {
			l.t.Errorf("it lists what is not there: %v", err)
		}
	}
}

// A cleaner that marks an image after the index was missed, and before it is listed,
// must not get to delete it.
func TestAnImageThatIsMarkedBeforeItIsListedIsRescued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newListed(t)
		l.forget(l.plan)
		final := l.plan.Images[0].Final()
		s, end := l.join()
		mark, err := s.Doom(t.Context(), final.Digest)
		must(t, err)
		_, err = l.host().run(t.Context(), l.plan, nil)
		must(t, err)
		d, err := l.mem.Resolve(t.Context(), storage.StageTag(final.Digest))
		must(t, err)
		if err := mark.Delete(t.Context(), d.Digest); !errors.Is(err, synchronization.ErrTaken) {
			t.Errorf("a listed image is deleted: %v", err)
		}
		end()
		l.wantIndex(false)
		l.free("shop")
	})
}

// A write of a tag that takes longer than its guard allows is sent again.
func TestASlowTagIsPutAgainUnderTheNextGuard(t *testing.T) {
	for _, tag := range []string{"stage", "index"} {
		t.Run(tag, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.planOf(noSources{}, nil, app())
				root, err := p.Root()
				must(t, err)
				slow := map[string]string{"stage": storage.StageTag(p.Images[0].Final().Digest), "index": storage.BuildTag(root)}[tag]
				puts := 0
				h := w.host()
				h.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
					if c.Operation != faulty.Publish || c.Subject != slow {
						return nil
					}
					if puts++; puts > 1 {
						return nil
					}
					return &faulty.Fault{Wait: func(ctx context.Context) error { <-ctx.Done(); return context.Cause(ctx) }}
				})
				_, err = h.run(t.Context(), p, nil)
				must(t, err)
				if puts != 2 {
					t.Errorf("it was put %d times", puts)
				}
				w.whole()
				w.free("shop")
			})
		})
	}
}
