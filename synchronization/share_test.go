package synchronization_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

const someManifest = "sha256:4e3c6b2d3f0a1b5c7d9e8f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c"

// counted is a backend that counts what one process asks of it.
type counted struct {
	*mem.Backend
	reads, swaps, watches, open atomic.Int64
}

func (c *counted) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	c.reads.Add(1)
	select {
	case <-time.After(time.Millisecond):
		return c.Backend.Read(ctx, shards...)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func (c *counted) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	c.swaps.Add(1)
	return c.Backend.Swap(ctx, shard, changes)
}

func (c *counted) Watch(ctx context.Context, shard string) (<-chan struct{}, error) {
	c.watches.Add(1)
	c.open.Add(1)
	context.AfterFunc(ctx, func() { c.open.Add(-1) })
	return c.Backend.Watch(ctx, shard)
}

func (c *counted) reset() {
	for _, n := range []*atomic.Int64{&c.reads, &c.swaps, &c.watches} {
		n.Store(0)
	}
}

// runner is a session of a process of its own.
func newRunner(t *testing.T, b *mem.Backend) (*synchronization.Session, *counted) {
	t.Helper()
	c := &counted{Backend: b}
	l, err := synchronization.Open(t.Context(), c, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		l.Close()
	})
	return s, c
}

// inShard returns n stages whose entries are in the same shard.
func inShard(n int) []stages.Digest {
	ds := make([]stages.Digest, n)
	for i := range ds {
		ds[i] = stages.DigestOf(fmt.Append(nil, i))
		ds[i][0] = 7
	}
	return ds
}

func claim(t *testing.T, s *synchronization.Session, d stages.Digest) *synchronization.Claim {
	t.Helper()
	got, err := s.TryAcquire(t.Context(), []stages.Digest{d})
	if err != nil || got.Claims[d] == nil {
		t.Fatalf("got %+v, error %v", got, err)
	}
	return got.Claims[d]
}

func TestWaitsOfOneProcessShareAWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New(time.Now)
		owner, _ := newRunner(t, b)
		others, asked := newRunner(t, b)
		ds := inShard(20)
		var claims []*synchronization.Claim
		for _, d := range ds {
			claims = append(claims, claim(t, owner, d))
		}
		for range 2 { // the watch is closed after the last wait, and opened for the next
			asked.reset()
			var all sync.WaitGroup
			woken := make([]time.Time, len(ds))
			for i, d := range ds {
				all.Go(func() {
					if err := others.Wait(t.Context(), []stages.Digest{d}, nil); err != nil {
						t.Error(err)
					}
					woken[i] = time.Now()
				})
			}
			synctest.Wait()
			time.Sleep(time.Second) // simulated
			asked.reads.Store(0)
			began := time.Now()
			for _, c := range claims {
				if err := c.Release(t.Context()); err != nil {
					t.Error(err)
				}
			}
			all.Wait()
			for i, at := range woken {
				if late := at.Sub(began); late > 100*time.Millisecond {
					t.Errorf("wait %d knew after %s", i, late)
				}
			}
			if n := asked.watches.Load(); n != 1 {
				t.Errorf("%d watches for %d waits, want 1", n, len(ds))
			}
			if n := asked.reads.Load(); n > 4 {
				t.Errorf("%d reads after one change, want at most 4", n)
			}
			synctest.Wait()
			if n := asked.open.Load(); n != 0 {
				t.Errorf("%d watches are open after all waits", n)
			}
			claims = nil
			for _, d := range ds {
				claims = append(claims, claim(t, owner, d))
			}
		}
	})
}

func TestAWaitThatEndsLeavesTheWatchToTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New(time.Now)
		owner, _ := newRunner(t, b)
		others, _ := newRunner(t, b)
		ds := inShard(1)
		c := claim(t, owner, ds[0])
		ctx, cancel := context.WithCancel(t.Context())
		var all sync.WaitGroup
		all.Go(func() {
			if err := others.Wait(ctx, ds, nil); !errors.Is(err, context.Canceled) {
				t.Errorf("the wait that was ended returned %v", err)
			}
		})
		synctest.Wait()
		var knew time.Time
		all.Go(func() {
			if err := others.Wait(t.Context(), ds, nil); err != nil {
				t.Error(err)
			}
			knew = time.Now()
		})
		synctest.Wait()
		cancel()
		time.Sleep(10 * time.Millisecond) // simulated
		began := time.Now()
		if err := c.Release(t.Context()); err != nil {
			t.Fatal(err)
		}
		all.Wait()
		if late := knew.Sub(began); late > 100*time.Millisecond {
			t.Errorf("the wait that went on knew after %s", late)
		}
	})
}

func TestAStageOfAKnownShardIsAcquiredByOneRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, asked := newRunner(t, mem.New(time.Now))
		ds := inShard(2)
		claim(t, s, ds[0])
		asked.reset()
		claim(t, s, ds[1])
		if r, w := asked.reads.Load(), asked.swaps.Load(); r != 0 || w != 1 {
			t.Errorf("%d reads and %d writes, want 0 and 1", r, w)
		}
	})
}

func TestAGuessThatIsOutOfDateOnlyCostsARequest(t *testing.T) {
	ds := inShard(3)
	for _, test := range []struct {
		name  string
		since func(t *testing.T, other *synchronization.Session, b *mem.Backend, shard string)
		want  synchronization.State // of the entry held; "" is that it was acquired
	}{
		{"another builds it", func(t *testing.T, other *synchronization.Session, _ *mem.Backend, _ string) {
			claim(t, other, ds[1])
		}, synchronization.Building},
		{"another has published it", func(t *testing.T, other *synchronization.Session, _ *mem.Backend, _ string) {
			c := claim(t, other, ds[1])
			if err := errors.Join(c.Decide(t.Context(), someManifest), c.Published(t.Context())); err != nil {
				t.Fatal(err)
			}
		}, synchronization.Published},
		{"another has died over it", func(t *testing.T, other *synchronization.Session, b *mem.Backend, _ string) {
			claim(t, other, ds[1])
			if err := b.Remove(t.Context(), "cairn-shop", other.ID(), 0); err != nil {
				t.Fatal(err)
			}
		}, ""},
		{"the shard was lost", func(_ *testing.T, _ *synchronization.Session, b *mem.Backend, shard string) {
			b.Lose(shard)
		}, ""},
		{"the shard was lost, and made anew by another", func(t *testing.T, other *synchronization.Session, b *mem.Backend, shard string) {
			b.Lose(shard)
			claim(t, other, ds[2])
		}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := mem.New(time.Now)
				s, _ := newRunner(t, b)
				other, _ := newRunner(t, b)
				claim(t, s, ds[0])
				test.since(t, other, b, "cairn-shop.7")
				got, err := s.TryAcquire(t.Context(), ds[1:2])
				if err != nil {
					t.Fatal(err)
				}
				if state := got.Held[ds[1]].Entry.State; state != test.want || (got.Claims[ds[1]] != nil) != (test.want == "") {
					t.Fatalf("got %+v", got)
				}
				c := got.Claims[ds[1]]
				if c == nil {
					return
				}
				if err := errors.Join(c.Decide(t.Context(), someManifest), c.Published(t.Context())); err != nil {
					t.Error(err)
				}
			})
		})
	}
}

// The reason for which a build ends is often a refusal elsewhere. It was taken for
// one of the claim's own write, which was then tried again without end.
func TestAClaimDoesNotTakeTheEndOfItsContextForARefusal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New(time.Now)
		s, _ := newRunner(t, b)
		d := inShard(1)[0]
		c := claim(t, s, d)
		found, err := b.Read(t.Context(), "cairn-shop.7")
		if err != nil {
			t.Fatal(err)
		}
		cause := &lock.SwapError{Shard: "cairn-shop.3", Snapshot: found["cairn-shop.7"], Err: lock.ErrAmbiguous}
		ctx, cancel := context.WithCancelCause(t.Context())
		cancel(cause)
		if err := c.Decide(ctx, someManifest); !errors.Is(err, cause) {
			t.Errorf("got error %v", err)
		}
		if err := c.Decide(t.Context(), someManifest); err != nil {
			t.Errorf("afterwards: %v", err)
		}
	})
}
