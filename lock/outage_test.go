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

// away is a store that does not answer until back.
type away struct {
	lock.Store
	back time.Time
}

var errAway = errors.New("nobody is there")

func (s *away) silent() error {
	if time.Now().Before(s.back) {
		return errors.Join(lock.ErrUnavailable, errAway)
	}
	return nil
}

// Read implements [lock.Cells].
func (s *away) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	if err := s.silent(); err != nil {
		return nil, err
	}
	return s.Store.Read(ctx, shards...)
}

// Swap implements [lock.Cells].
func (s *away) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	if err := s.silent(); err != nil {
		return lock.Snapshot{}, err
	}
	return s.Store.Swap(ctx, shard, changes)
}

func TestAnOutageIsToldWithTheTimeThatIsLeft(t *testing.T) {
	write := func(ctx context.Context, c *lock.Client) error {
		_, err := c.Apply(ctx, "shard", lock.Add("key", "value"))
		return err
	}
	read := func(ctx context.Context, c *lock.Client) error {
		_, err := c.Read(ctx, "shard")
		return err
	}
	for _, test := range []struct {
		name   string
		do     func(context.Context, *lock.Client) error
		lasts  time.Duration
		failed bool
	}{
		{"a read that is answered in the end", read, 20 * time.Second, false},
		{"a write that is answered in the end", write, 20 * time.Second, false},
		{"a read that is given up", read, time.Hour, true},
		{"a write that is given up", write, time.Hour, true},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var told []lock.Outage
				store := &away{Store: mem.New(time.Now), back: time.Now().Add(test.lasts)}
				c := lock.NewClient(t.Context(), store, lock.Options{
					Now: time.Now, Rand: rand.Reader, Budget: 30 * time.Second,
					Outage: func(o lock.Outage) { told = append(told, o) },
				})
				defer c.Close()
				err := test.do(t.Context(), c)
				if errors.Is(err, lock.ErrUnavailable) != test.failed {
					t.Errorf("the operation ends with %v", err)
				}
				if len(told) < 3 {
					t.Fatalf("it was told %d times", len(told))
				}
				for i, o := range told[1 : len(told)-1] {
					if !errors.Is(o.Err, errAway) || o.Left <= 0 || o.Left > told[i].Left || o.Silent < told[i].Silent {
						t.Errorf("after %+v it was told %+v", told[i], o)
					}
				}
				if last := told[len(told)-1]; (last.Err != nil) != test.failed {
					t.Errorf("the last that was told is %+v", last)
				}
			})
		})
	}
}

// hung is a store that answers nobody.
type hung struct{ lock.Store }

// Read implements [lock.Cells].
func (hung) Read(ctx context.Context, _ ...string) (map[string]lock.Snapshot, error) {
	<-ctx.Done()
	return nil, errors.Join(lock.ErrUnavailable, ctx.Err())
}

func TestTheOutageOfAStoreThatHangsBeganWithTheRequest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var told []lock.Outage
		c := lock.NewClient(t.Context(), hung{mem.New(time.Now)}, lock.Options{
			Now: time.Now, Rand: rand.Reader, Request: 10 * time.Second, Budget: 15 * time.Second,
			Outage: func(o lock.Outage) { told = append(told, o) },
		})
		defer c.Close()
		if _, err := c.Read(t.Context(), "shard"); !errors.Is(err, lock.ErrUnavailable) {
			t.Errorf("it ends with %v", err)
		}
		if len(told) == 0 || told[0].Silent < 10*time.Second || told[0].Left > 5*time.Second {
			t.Errorf("it was told %+v", told)
		}
	})
}

func TestARefusalIsNoOutage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := lock.NewClient(t.Context(), mem.New(time.Now), lock.Options{
			Now: time.Now, Rand: rand.Reader,
			Outage: func(o lock.Outage) { t.Errorf("it was told %+v", o) },
		})
		defer c.Close()
		if _, err := c.Apply(t.Context(), "shard", lock.Add("key", "value")); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Apply(t.Context(), "shard", lock.Add("key", "value"), lock.Add("other", "value")); !errors.Is(err, lock.ErrConflict) {
			t.Errorf("a change of a cell that is there ends with %v", err)
		}
	})
}
