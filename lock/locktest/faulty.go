// Package locktest is the conformance suite of [lock.Store]: what every store
// does, and what the locks make of stores that fail. It also holds the decorator
// that makes a store fail.
package locktest

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// Faults are the chances, from 0 to 1, with which requests go wrong, and the
// most that they are late.
type Faults struct {
	// Refused requests do nothing and say so.
	Refused float64
	// LostRequest: nothing is done, the outcome unknown.
	LostRequest float64
	// LostAnswer: it is done, the outcome unknown.
	LostAnswer float64
	// Late: the outcome is unknown, and it is done after up to MaxLate.
	Late float64
	// Conflict: a write is refused although all its tests hold.
	Conflict float64
	// DropWatch: a watch ends instead of waking.
	DropWatch float64
	// MaxDelay and MaxLate bound how long a request and a late write take.
	MaxDelay, MaxLate time.Duration
}

// Faulty decorates a store with faults. Each process that is simulated has its
// own, so that it can be cut off or counted alone.
type Faulty struct {
	store lock.Store
	late  sync.WaitGroup

	mu     sync.Mutex
	dice   *rand.Rand
	faults Faults
	cut    chan struct{} // closed when requests may pass; nil when they may
	swaps  int
	sent   []lock.Change
	reads  int
}

// New returns the store with faults, the same ones for the same seed.
func New(store lock.Store, seed uint64, f Faults) *Faulty {
	dice := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // faults are to be repeatable
	return &Faulty{store: store, dice: dice, faults: f}
}

// Set changes the faults.
func (f *Faulty) Set(faults Faults) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = faults
}

// Pause holds all requests back until [Faulty.Resume], as when the process is
// stopped or cut off. They still end with their contexts.
func (f *Faulty) Pause() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut == nil {
		f.cut = make(chan struct{})
	}
}

// Resume ends a pause.
func (f *Faulty) Resume() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.cut != nil {
		close(f.cut)
		f.cut = nil
	}
}

// Swaps returns how many writes were asked for.
func (f *Faulty) Swaps() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.swaps
}

// Reads returns how many reads were asked for.
func (f *Faulty) Reads() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.reads
}

// Sent returns the changes of all writes, in their order.
func (f *Faulty) Sent() []lock.Change {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]lock.Change(nil), f.sent...)
}

// Wait waits for the writes that are late.
func (f *Faulty) Wait() { f.late.Wait() }

// fate is what becomes of a request.
type fate int

const (
	passes fate = iota
	refused
	lostRequest
	lostAnswer
	late
	conflict
)

// decide waits as a request does and says what becomes of it.
func (f *Faulty) decide(ctx context.Context, write bool) (fate, error) {
	f.mu.Lock()
	cut, max := f.cut, f.faults.MaxDelay
	var delay time.Duration
	if max > 0 {
		delay = time.Duration(f.dice.Int64N(int64(max)))
	}
	what := f.choose(write)
	f.mu.Unlock()
	if cut != nil {
		select {
		case <-cut:
		case <-ctx.Done():
			return refused, fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
		}
	}
	if delay > 0 {
		t := time.NewTimer(delay)
		defer t.Stop()
		select {
		case <-t.C:
		case <-ctx.Done():
			return refused, fmt.Errorf("%w: %w", lock.ErrUnavailable, ctx.Err())
		}
	}
	return what, nil
}

func (f *Faulty) choose(write bool) fate {
	x := f.dice.Float64()
	chances := []struct {
		p    float64
		fate fate
	}{
		{f.faults.Refused, refused},
		{f.faults.LostRequest, lostRequest},
		{f.faults.LostAnswer, lostAnswer},
		{f.faults.Late, late},
		{f.faults.Conflict, conflict},
	}
	for _, c := range chances {
		if x < c.p && (write || c.fate == refused || c.fate == lostRequest) {
			return c.fate
		}
		x -= c.p
	}
	return passes
}

// Read implements [lock.Cells].
func (f *Faulty) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	f.mu.Lock()
	f.reads++
	f.mu.Unlock()
	if err := f.readable(ctx); err != nil {
		return nil, err
	}
	return f.store.Read(ctx, shards...)
}

// readable is the fate of a request that changes nothing.
func (f *Faulty) readable(ctx context.Context) error {
	what, err := f.decide(ctx, false)
	if err == nil && what != passes {
		err = lock.ErrUnavailable
	}
	return err
}

// Swap implements [lock.Cells].
func (f *Faulty) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	f.mu.Lock()
	f.swaps++
	f.sent = append(f.sent, changes...)
	f.mu.Unlock()
	what, err := f.decide(ctx, true)
	if err != nil {
		return lock.Snapshot{}, err
	}
	switch what {
	case refused:
		return lock.Snapshot{}, lock.ErrUnavailable
	case lostRequest:
		return lock.Snapshot{}, lock.ErrAmbiguous
	case conflict:
		return lock.Snapshot{}, lock.ErrConflict
	case late:
		f.later(ctx, func(ctx context.Context) { _, _ = f.store.Swap(ctx, shard, changes) })
		return lock.Snapshot{}, lock.ErrAmbiguous
	case lostAnswer:
		if _, err := f.store.Swap(ctx, shard, changes); err != nil {
			return lock.Snapshot{}, err
		}
		return lock.Snapshot{}, lock.ErrAmbiguous
	}
	return f.store.Swap(ctx, shard, changes)
}

// later does it after a while, whatever becomes of the request's context.
func (f *Faulty) later(ctx context.Context, do func(context.Context)) {
	f.mu.Lock()
	delay := time.Duration(f.dice.Int64N(int64(f.faults.MaxLate) + 1))
	f.mu.Unlock()
	f.late.Go(func() {
		<-time.After(delay)
		do(context.WithoutCancel(ctx))
	})
}

// Watch implements [lock.Cells].
func (f *Faulty) Watch(ctx context.Context, shard string) (<-chan struct{}, error) {
	if err := f.readable(ctx); err != nil {
		return nil, err
	}
	inner, cancel := context.WithCancel(ctx)
	in, err := f.store.Watch(inner, shard)
	if err != nil {
		cancel()
		return nil, err
	}
	out := make(chan struct{}, 1)
	go func() {
		defer close(out)
		defer cancel()
		for range in {
			f.mu.Lock()
			drop := f.dice.Float64() < f.faults.DropWatch
			f.mu.Unlock()
			if drop {
				return
			}
			select {
			case out <- struct{}{}:
			default:
			}
		}
	}()
	return out, nil
}

// Now implements [lock.Cells].
func (f *Faulty) Now(ctx context.Context) (time.Time, error) {
	if err := f.readable(ctx); err != nil {
		return time.Time{}, err
	}
	return f.store.Now(ctx)
}

// Renew implements [lock.Sessions].
func (f *Faulty) Renew(ctx context.Context, group string, r lock.Record) error {
	what, err := f.decide(ctx, true)
	if err != nil {
		return err
	}
	switch what {
	case refused, conflict:
		return lock.ErrUnavailable
	case lostRequest, late: // a late renewal could only make a session look alive
		return lock.ErrAmbiguous
	case lostAnswer:
		if err := f.store.Renew(ctx, group, r); err != nil {
			return err
		}
		return lock.ErrAmbiguous
	}
	return f.store.Renew(ctx, group, r)
}

// Records implements [lock.Sessions].
func (f *Faulty) Records(ctx context.Context, group string) ([]lock.Record, error) {
	if err := f.readable(ctx); err != nil {
		return nil, err
	}
	return f.store.Records(ctx, group)
}

// Remove implements [lock.Sessions].
func (f *Faulty) Remove(ctx context.Context, group, session string, seq uint64) error {
	if err := f.readable(ctx); err != nil {
		return err
	}
	return f.store.Remove(ctx, group, session, seq)
}
