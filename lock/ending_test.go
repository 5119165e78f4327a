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

// ending is a context that ends when it is asked for the second time: directly
// after the first answer of the store.
type ending struct {
	context.Context
	asked int
	end   func()
}

// Err implements [context.Context].
func (e *ending) Err() error {
	if e.asked++; e.asked == 2 {
		e.end()
	}
	return e.Context.Err()
}

func TestARefusalAtTheEndOfASessionTellsOfTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		errEnd := errors.New("the session is lost")
		store := mem.New(time.Now)
		if _, err := store.Swap(t.Context(), "s", []lock.Change{lock.Add("key", "another's")}); err != nil {
			t.Fatal(err)
		}
		c := lock.NewClient(t.Context(), store, lock.Options{Now: time.Now, Rand: rand.Reader})
		defer c.Close()
		ctx, cancel := context.WithCancelCause(t.Context())
		ctx = &ending{Context: ctx, end: func() { cancel(errEnd) }}
		_, err := c.Acquire(ctx, "s", lock.Snapshot{}, func(lock.Snapshot, func() (string, error)) ([]lock.Change, error) {
			return []lock.Change{lock.Add("key", "mine")}, nil
		})
		if !errors.Is(err, errEnd) || !errors.Is(err, lock.ErrConflict) {
			t.Errorf("it ends with %v", err)
		}
	})
}
