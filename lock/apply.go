package lock

import (
	"context"
	"errors"
	"fmt"
)

// maxMerged bounds the changes of one request, far below what stores accept.
const maxMerged = 512

// group is the changes of one caller: they are made together or not at all, but
// independently of the other groups that happen to share a request.
type group struct {
	changes []Change
	// once: the changes carry nonces, so they are not sent again after an
	// ambiguous answer; see [Client.Acquire].
	once bool
	// unsure: the answer to an attempt was lost, so what the shard shows may be
	// the group's own work.
	unsure bool
	done   chan result
}

type result struct {
	snap Snapshot
	err  error
}

// queue is the groups that wait for a shard's one request under way.
type queue struct {
	waiting []*group
	busy    bool
}

// Apply makes the changes, all or none, and returns a snapshot that shows them.
// At most one request of a client is under way for a shard; what is asked for
// meanwhile shares the next one.
//
// A [*SwapError] that wraps [ErrConflict] says that a change did not find its
// Old, or that it was made, unnoticed, and its New has been replaced since. So does
// a removal of what somebody else has removed. After a lost answer Apply reads back
// and, where the changes are not seen,
// sends them again, which is right for changes from a value that never recurs,
// one with a nonce, and for a removal. From a value that does recur use
// [Client.Acquire].
//
// When ctx ends while the request is under way the error wraps [ErrAmbiguous].
func (c *Client) Apply(ctx context.Context, shard string, changes ...Change) (Snapshot, error) {
	return c.submit(ctx, shard, &group{changes: changes, done: make(chan result, 1)})
}

// Acquire takes cells of a shard. Plan looks at a snapshot, snap at first, and
// returns the changes to try; none ends the acquisition. It is asked again with
// a newer snapshot whenever the changes were not made, and takes a fresh nonce
// for every value that it wants to write: a nonce is sent once. An acquisition
// whose answer was lost and that the read-back does not show may still be applied
// later. Under a nonce of its own such a late cell is only one that names a
// session without being in its hands, and cannot be taken for the cell that the
// session did acquire.
//
// The Revision of the returned snapshot is a fencing token: no earlier
// acquisition of the same cells has one as high, and every later one has a
// higher one, because it was seen between this acquisition and the next.
func (c *Client) Acquire(ctx context.Context, shard string, snap Snapshot,
	plan func(snap Snapshot, nonce func() (string, error)) ([]Change, error),
) (Snapshot, error) {
	for a := c.attempts(); ; {
		changes, err := plan(snap, c.Nonce)
		if err != nil || len(changes) == 0 {
			return snap, err
		}
		after, err := c.submit(ctx, shard, &group{changes: changes, once: true, done: make(chan result, 1)})
		var refused *SwapError
		if ctx.Err() != nil || !errors.As(err, &refused) {
			a.answered()
			return after, because(ctx, err) // why ctx ended may wrap the refusal of something else
		}
		snap = refused.Snapshot
		if err := a.pause(ctx, err); err != nil {
			return snap, err
		}
	}
}

// because adds to err why ctx ended, where it has: a refusal that comes at the end of a
// session says nothing of the end, by which the caller has to go.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); err != nil && cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w: %w", cause, err)
	}
	return err
}

// submit queues the group and waits for its result.
func (c *Client) submit(ctx context.Context, shard string, g *group) (Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return Snapshot{}, context.Cause(ctx)
	}
	c.enqueue(shard, g)
	select {
	case r := <-g.done:
		return r.snap, r.err
	case <-ctx.Done():
		if c.withdraw(shard, g) {
			return Snapshot{}, context.Cause(ctx)
		}
		return Snapshot{}, fmt.Errorf("change %s: %w: %w", shard, ErrAmbiguous, context.Cause(ctx))
	}
}

func (c *Client) enqueue(shard string, g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[shard]
	if q == nil {
		q = &queue{}
		c.queues[shard] = q
	}
	q.waiting = append(q.waiting, g)
	if !q.busy {
		q.busy = true
		c.work.Go(func() { c.drain(shard, q) })
	}
}

// withdraw takes back a group that has not been sent yet.
func (c *Client) withdraw(shard string, g *group) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	q := c.queues[shard]
	for i, w := range q.waiting {
		if w == g {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
			return true
		}
	}
	return false
}

// drain sends what waits for the shard until nothing does. What is asked for
// while it waits for its turn goes with it.
func (c *Client) drain(shard string, q *queue) {
	for {
		if err := c.pace.enter(c.life); err != nil {
			c.refuse(q, err)
			return
		}
		batch := c.next(q)
		if len(batch) > 0 {
			c.send(shard, batch)
			_ = sleep(c.life, c.Jitter(c.pace.rest())) // when life ends there is no next turn
		}
		c.pace.leave()
		if len(batch) == 0 {
			return
		}
	}
}

// refuse ends what waits for a client that is closed.
func (c *Client) refuse(q *queue, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	finish(q.waiting, result{err: err})
	q.waiting, q.busy = nil, false
}

// next takes the groups that fit together from the queue, in their order.
func (c *Client) next(q *queue) []*group {
	c.mu.Lock()
	defer c.mu.Unlock()
	var batch, rest []*group
	taken := map[string]Change{}
	for _, g := range q.waiting {
		if fits(taken, g.changes) {
			batch = append(batch, g)
		} else {
			rest = append(rest, g)
		}
	}
	q.waiting = rest
	q.busy = len(batch) > 0
	return batch
}

// fits adds the changes to those taken, unless both would touch a key. Equal
// tests of one key, such as of a guard, are one.
func fits(taken map[string]Change, changes []Change) bool {
	if len(taken) > 0 && len(taken)+len(changes) > maxMerged {
		return false
	}
	for _, c := range changes {
		t, ok := taken[c.Key]
		oneTest := c.tests() && t.tests() && same(c.Old, t.Old)
		if ok && !oneTest {
			return false
		}
	}
	for _, c := range changes {
		taken[c.Key] = c
	}
	return true
}

// merge returns the changes of all groups, each key once.
func merge(batch []*group) []Change {
	var all []Change
	seen := map[string]bool{}
	for _, g := range batch {
		for _, c := range g.changes {
			if !seen[c.Key] {
				seen[c.Key] = true
				all = append(all, c)
			}
		}
	}
	return all
}

// send makes the changes of a batch and tells each group its result. After a
// refusal or a lost answer the groups are judged one by one by what the shard
// shows, and those that are neither made nor refused are sent again.
func (c *Client) send(shard string, batch []*group) {
	for a := c.attempts(); len(batch) > 0; {
		snap, err := c.swap(shard, merge(batch))
		if err == nil {
			a.answered()
			finish(batch, result{snap: snap})
			return
		}
		switch {
		case errors.Is(err, ErrConflict), errors.Is(err, ErrAmbiguous):
			found, readErr := c.Read(c.life, shard)
			if readErr != nil {
				finish(batch, result{err: fmt.Errorf("change %s: %w: %w", shard, ErrAmbiguous, readErr)})
				return
			}
			batch = settle(shard, batch, found[shard], errors.Is(err, ErrAmbiguous))
		case errors.Is(err, ErrFull) && len(batch) > 1:
			c.sendEach(shard, batch)
			return
		case !errors.Is(err, ErrUnavailable):
			finish(batch, result{err: fmt.Errorf("change %s: %w", shard, err)})
			return
		}
		if len(batch) == 0 {
			a.answered()
			return
		}
		if err := a.pause(c.life, err); err != nil {
			finish(batch, result{err: fmt.Errorf("change %s: %w", shard, err)})
			return
		}
	}
}

// sendEach makes the changes of the groups one after another, since what is too
// much for the shard may be what only one of them adds.
func (c *Client) sendEach(shard string, batch []*group) {
	for _, g := range batch {
		c.send(shard, []*group{g})
	}
}

// swap sends one request. One that was interrupted may have arrived.
func (c *Client) swap(shard string, changes []Change) (snap Snapshot, err error) {
	began := c.now()
	err = c.once(c.life, func(ctx context.Context) (err error) {
		snap, err = c.store.Swap(ctx, shard, changes)
		return err
	})
	if err == nil {
		c.remember(shard, snap)
	}
	if err != nil && interrupted(err) && !errors.Is(err, ErrUnavailable) {
		err = fmt.Errorf("%w: %w", ErrAmbiguous, err)
	}
	if !errors.Is(err, ErrUnavailable) { // then it has done nothing
		c.pace.note(c.now().Sub(began), err == nil)
	}
	return snap, err
}

// settle tells the groups whose outcome snap shows, and returns the others.
func settle(shard string, batch []*group, snap Snapshot, ambiguous bool) []*group {
	var open []*group
	for _, g := range batch {
		g.unsure = g.unsure || ambiguous
		switch {
		case g.shownBy(snap):
			g.done <- result{snap: snap}
		case !snap.Holds(g.changes):
			g.done <- result{err: &SwapError{Shard: shard, Snapshot: snap, Err: ErrConflict}}
		case ambiguous && g.once:
			g.done <- result{err: &SwapError{Shard: shard, Snapshot: snap, Err: ErrAmbiguous}}
		default:
			open = append(open, g)
		}
	}
	return open
}

// shownBy reports whether snap shows the group's changes. A value that was written
// is shown by itself, whoever wrote it. That a key is absent shows a removal only
// where an attempt at it may have been applied: after a plain refusal it was another
// who removed the key, and perhaps a value in between that the caller never saw.
func (g *group) shownBy(snap Snapshot) bool {
	return snap.Shows(g.changes) && (g.unsure || !g.onlyRemoves())
}

// onlyRemoves reports whether the group writes, and writes nothing but absence.
func (g *group) onlyRemoves() bool {
	writes := false
	for _, c := range g.changes {
		if c.tests() {
			continue
		}
		if c.New != nil {
			return false
		}
		writes = true
	}
	return writes
}

func finish(batch []*group, r result) {
	for _, g := range batch {
		g.done <- r
	}
}
