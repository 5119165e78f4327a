package lock_test

import (
	"context"
	"crypto/rand"
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// full is a store that takes no new cells.
type full struct{ *mem.Backend }

// Swap implements [lock.Cells].
func (s full) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	time.Sleep(time.Millisecond) // simulated, so that others come to wait
	for _, c := range changes {
		if c.Old == nil {
			return lock.Snapshot{}, lock.ErrFull
		}
	}
	return s.Backend.Swap(ctx, shard, changes)
}

func TestAChangeThatDoesNotFitKeepsNoOtherFromBeingMade(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := full{mem.New(time.Now)}
		if _, err := store.Backend.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "1"), lock.Add("b", "1")}); err != nil {
			t.Fatal(err)
		}
		c := lock.NewClient(t.Context(), store, lock.Options{Now: time.Now, Rand: rand.Reader})
		defer c.Close()
		var all sync.WaitGroup
		for _, change := range []lock.Change{lock.Replace("a", "1", "2"), lock.Add("c", "1"), lock.Replace("b", "1", "2"), lock.Add("d", "1")} {
			all.Go(func() {
				_, err := c.Apply(t.Context(), "s", change)
				if fits := change.Old != nil; errors.Is(err, lock.ErrFull) == fits || fits && err != nil {
					t.Errorf("the change of %s ends with %v", change.Key, err)
				}
			})
		}
		all.Wait()
	})
}
