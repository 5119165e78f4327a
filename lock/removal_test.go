package lock_test

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// mute is a store that makes the next changes and loses its answers.
type mute struct {
	*mem.Backend
	losses int
}

// Swap implements [lock.Cells].
func (s *mute) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	snap, err := s.Backend.Swap(ctx, shard, changes)
	if err == nil && s.losses > 0 {
		s.losses--
		return lock.Snapshot{}, lock.ErrAmbiguous
	}
	return snap, err
}

func TestARemovalIsMadeOnlyByWhoMadeIt(t *testing.T) {
	remove := []lock.Change{lock.Test("guard", "1"), lock.Remove("key", "a")}
	for _, test := range []struct {
		name    string
		data    []lock.Change
		losses  int
		changes []lock.Change
		refused bool
	}{
		{"the key is there", []lock.Change{lock.Add("key", "a")}, 0, remove, false},
		{"the key is there and the answer is lost", []lock.Change{lock.Add("key", "a")}, 1, remove, false},
		{"another has removed the key", nil, 0, remove, true},
		{"another has replaced the key", []lock.Change{lock.Add("key", "b")}, 0, remove, true},
		{"another has written the same value", []lock.Change{lock.Add("key", "b")}, 0, []lock.Change{lock.Replace("key", "a", "b")}, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				store := &mute{Backend: mem.New(time.Now)}
				if _, err := store.Swap(t.Context(), "s", append(test.data, lock.Add("guard", "1"))); err != nil {
					t.Fatal(err)
				}
				store.losses = test.losses
				c := lock.NewClient(t.Context(), store, lock.Options{Now: time.Now, Rand: rand.Reader})
				defer c.Close()
				_, err := c.Apply(t.Context(), "s", test.changes...)
				if errors.Is(err, lock.ErrConflict) != test.refused || !test.refused && err != nil {
					t.Errorf("it ends with %v", err)
				}
			})
		})
	}
}
