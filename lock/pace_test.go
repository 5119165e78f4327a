package lock_test

import (
	"context"
	"crypto/rand"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// crowded is a store that begins a write again whenever another was faster, as
// one does that compares and swaps by itself: writers of one shard cost it the
// square of their number. A write that takes too long is given up.
type crowded struct {
	*mem.Backend
	each time.Duration

	mu     sync.Mutex
	inside map[string]int
	most   int // writers of one shard at once
	givenUp,
	reads atomic.Int64
}

func (s *crowded) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	s.mu.Lock()
	s.inside[shard]++
	n := s.inside[shard]
	s.most = max(s.most, n)
	s.mu.Unlock()
	defer func() {
		s.mu.Lock()
		s.inside[shard]--
		s.mu.Unlock()
	}()
	select {
	case <-time.After(time.Duration(n*n) * s.each):
		return s.Backend.Swap(ctx, shard, changes)
	case <-ctx.Done():
		s.givenUp.Add(1)
		return lock.Snapshot{}, lock.ErrAmbiguous
	}
}

func (s *crowded) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	s.reads.Add(1)
	select {
	case <-time.After(s.each):
		return s.Backend.Read(ctx, shards...)
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

func newCrowded(each time.Duration) *crowded {
	return &crowded{Backend: mem.New(time.Now), each: each, inside: map[string]int{}}
}

func (s *crowded) client(t *testing.T) *lock.Client {
	c := lock.NewClient(t.Context(), s, lock.Options{Now: time.Now, Rand: rand.Reader})
	t.Cleanup(c.Close)
	return c
}

// Without their pace all clients write all shards at once. Each write then takes
// longer than a request may, is given up and sent again, and nobody gets through.
func TestManyClientsOfManyShardsDoNotKeepEachOtherFromWriting(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const clients, shards = 50, 16
		store := newCrowded(5 * time.Millisecond)
		began := time.Now()
		var all sync.WaitGroup
		for i := range clients {
			c := store.client(t)
			for n := range shards {
				all.Go(func() {
					key, plan := fmt.Sprintf("k%d", i), 0
					_, err := c.Acquire(t.Context(), fmt.Sprint(n), lock.Snapshot{},
						func(snap lock.Snapshot, nonce func() (string, error)) ([]lock.Change, error) {
							if plan++; snap.Data[key] != "" {
								return nil, nil
							}
							v, err := nonce()
							return []lock.Change{lock.Add(key, v)}, err
						})
					if err != nil {
						t.Errorf("client %d, shard %d, after %d attempts: %v", i, n, plan, err)
					}
				})
			}
		}
		all.Wait()
		if n := store.givenUp.Load(); n > clients*shards/50 {
			t.Errorf("%d of %d writes were given up", n, clients*shards)
		}
		if took := time.Since(began); took > 20*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestAClientAloneWritesManyShardsAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const shards, each = 64, 100 * time.Millisecond
		store := newCrowded(each)
		c := store.client(t)
		began := time.Now()
		var all sync.WaitGroup
		for n := range shards {
			all.Go(func() {
				if _, err := c.Apply(t.Context(), fmt.Sprint(n), lock.Add("k", "v")); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		if took := time.Since(began); took > shards*each/3 {
			t.Errorf("%d writes took %s, one after another they take %s", shards, took, shards*each)
		}
	})
}

func TestReadsAtTheSameTimeAreShared(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newCrowded(10 * time.Millisecond)
		c := store.client(t)
		if _, err := c.Apply(t.Context(), "s", lock.Add("k", "1")); err != nil {
			t.Fatal(err)
		}
		var all sync.WaitGroup
		for range 100 {
			all.Go(func() {
				found, err := c.Read(t.Context(), "s", "none")
				if _, there := found["none"]; err != nil || found["s"].Data["k"] != "1" || there {
					t.Errorf("got %v, error %v", found, err)
				}
			})
		}
		all.Wait()
		if n := store.reads.Load(); n > 4 {
			t.Errorf("%d requests for 100 reads of two shards, want at most 4", n)
		}
	})
}

// A read shows all that was written before it began, so nobody gets the answer of
// one that was under way already.
func TestASharedReadBeginsAfterItWasAskedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newCrowded(10 * time.Millisecond)
		c := store.client(t)
		go func() {
			if _, err := c.Read(t.Context(), "s"); err != nil {
				t.Error(err)
			}
		}()
		time.Sleep(5 * time.Millisecond) // simulated: the first read is under way
		if _, err := store.Backend.Swap(t.Context(), "s", []lock.Change{lock.Add("k", "1")}); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		found, err := c.Read(t.Context(), "s")
		if err != nil || found["s"].Data["k"] != "1" {
			t.Errorf("got %v, error %v", found, err)
		}
		if took := time.Since(began); took < 15*time.Millisecond {
			t.Errorf("it took %s, as long as the read before it", took)
		}
	})
}

func TestAReadEndsWithItsOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCrowded(time.Minute).client(t)
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		began := time.Now()
		if _, err := c.Read(ctx, "s"); err == nil || time.Since(began) != time.Second {
			t.Errorf("got error %v after %s", err, time.Since(began))
		}
	})
}
