package lock

import (
	"context"
	"fmt"
	"sync"
	"time"
)

// fewShards is for how many shards a read of its own for each, shared with who
// else reads the shard, is better than one for all of them.
const fewShards = 4

// Read returns the shards, as [Cells.Read] does, and retries within the budget. A
// read of a few shards is shared: who asks for a shard while it is being read
// waits, with all others that do, for the next read, which begins after they
// asked.
func (c *Client) Read(ctx context.Context, shards ...string) (map[string]Snapshot, error) {
	read := c.readOnce
	if len(shards) <= fewShards {
		read = c.readShared
	}
	found, err := read(ctx, shards)
	if err != nil {
		return nil, fmt.Errorf("read %v: %w", shards, err)
	}
	return found, nil
}

func (c *Client) readOnce(ctx context.Context, shards []string) (map[string]Snapshot, error) {
	var found map[string]Snapshot
	err := c.Retry(ctx, func(ctx context.Context) (err error) {
		found, err = c.store.Read(ctx, shards...)
		return err
	})
	for shard, snap := range found {
		c.remember(shard, snap)
	}
	return found, err
}

func (c *Client) readShared(ctx context.Context, shards []string) (map[string]Snapshot, error) {
	asked := make([]*asking[Snapshot], len(shards))
	for i, shard := range shards {
		asked[i] = c.reader(shard).ask(ctx)
	}
	found := make(map[string]Snapshot, len(shards))
	for i, a := range asked {
		snap, err := a.answer()
		if err != nil {
			return nil, err
		}
		if snap.UID != "" {
			found[shards[i]] = snap
		}
	}
	return found, nil
}

// reader returns what reads a shard for all who want to.
func (c *Client) reader(shard string) *shared[Snapshot] {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.readers[shard] == nil {
		c.readers[shard] = &shared[Snapshot]{c: c, do: func(ctx context.Context) (Snapshot, error) {
			found, err := c.store.Read(ctx, shard)
			if err == nil {
				c.remember(shard, found[shard])
			}
			return found[shard], err
		}}
	}
	return c.readers[shard]
}

// Last returns the newest snapshot of a shard that any answer showed so far. It
// may be out of date, and is good for changes, which test what they expect.
func (c *Client) Last(shard string) (Snapshot, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	snap, ok := c.last[shard]
	return snap, ok
}

// remember notes what an answer showed. Answers can overtake each other.
func (c *Client) remember(shard string, snap Snapshot) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if old := c.last[shard]; old.UID != snap.UID || old.Revision <= snap.Revision {
		c.last[shard] = snap
	}
}

// Now returns the store's clock and retries within the budget. It is shared as
// reads are.
func (c *Client) Now(ctx context.Context) (time.Time, error) {
	now, err := c.clock.ask(ctx).answer()
	if err != nil {
		return time.Time{}, fmt.Errorf("read the store's clock: %w", err)
	}
	return now, nil
}

// shared is a request that many make at once: one of them is under way, and
// whoever asks meanwhile shares the next one.
type shared[T any] struct {
	c  *Client
	do func(context.Context) (T, error)

	mu      sync.Mutex
	busy    bool
	waiting []*asking[T]
}

// asking is one who asks.
type asking[T any] struct {
	ctx   context.Context
	began time.Time
	done  chan answer[T]
}

type answer[T any] struct {
	value T
	err   error
}

func (s *shared[T]) ask(ctx context.Context) *asking[T] {
	a := &asking[T]{ctx: ctx, began: s.c.now(), done: make(chan answer[T], 1)}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting = append(s.waiting, a)
	if !s.busy {
		s.busy = true
		s.c.work.Go(s.serve)
	}
	return a
}

func (a *asking[T]) answer() (T, error) {
	select {
	case r := <-a.done:
		return r.value, r.err
	case <-a.ctx.Done():
		var none T
		return none, context.Cause(a.ctx)
	}
}

// serve makes requests until nobody waits for one.
func (s *shared[T]) serve() {
	pace := s.c.attempts()
	for {
		askers := s.next()
		if len(askers) == 0 {
			return
		}
		var value T
		err := s.c.once(s.c.life, func(ctx context.Context) (err error) {
			value, err = s.do(ctx)
			return err
		})
		if err == nil || !retryable(err) || s.c.life.Err() != nil {
			pace.answered() // before those who asked go on: what is told comes in order
			for _, a := range askers {
				a.done <- answer[T]{value, err}
			}
			pace = s.c.attempts()
			continue
		}
		if left := s.again(askers, err); left > 0 {
			pace.unanswered(err, left)
		}
		_ = sleep(s.c.life, pace.next()) // when life ends the next request says so
	}
}

// next takes all who wait, but those who have gone.
func (s *shared[T]) next() []*asking[T] {
	s.mu.Lock()
	defer s.mu.Unlock()
	var askers []*asking[T]
	for _, a := range s.waiting {
		if a.ctx.Err() == nil {
			askers = append(askers, a)
		}
	}
	s.waiting = nil
	s.busy = len(askers) > 0
	return askers
}

// again has those wait for another attempt whose budget is not used up, and
// returns what is left of it to the first of them; 0 is that there are none.
func (s *shared[T]) again(askers []*asking[T], cause error) (least time.Duration) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, a := range askers {
		left := s.c.budget - s.c.now().Sub(a.began)
		if left <= 0 {
			a.done <- answer[T]{err: s.c.exhausted(cause)}
			continue
		}
		s.waiting = append(s.waiting, a)
		if least == 0 || left < least {
			least = left
		}
	}
	return least
}
