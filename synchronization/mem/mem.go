// Package mem is a ledger's backend in memory, for tests. It meets the contract
// of a real one exactly and fails never; faults are added by a decorator.
package mem

import (
	"context"
	"fmt"
	"maps"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// Backend is a store that all sessions of a process may share.
type Backend struct {
	now func() time.Time

	mu       sync.Mutex
	made     int // objects made so far, which names them
	revision uint64
	shards   map[string]lock.Snapshot
	records  map[string]map[string]lock.Record
	watches  map[string]map[chan struct{}]struct{}
}

// New returns an empty backend whose shared clock is now.
func New(now func() time.Time) *Backend {
	return &Backend{
		now:     now,
		shards:  map[string]lock.Snapshot{},
		records: map[string]map[string]lock.Record{},
		watches: map[string]map[chan struct{}]struct{}{},
	}
}

// Address names the backend.
func (b *Backend) Address() string { return ":mem" }

// Close does nothing, for others may use the backend still.
func (b *Backend) Close() error { return nil }

// Lose drops a shard, as if the object had been deleted behind the ledger's back.
func (b *Backend) Lose(shard string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.shards, shard)
	b.wake(shard)
}

// Read implements [lock.Cells].
func (b *Backend) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	found := map[string]lock.Snapshot{}
	for _, name := range shards {
		if s, ok := b.shards[name]; ok {
			found[name] = s
		}
	}
	return found, nil
}

// Swap implements [lock.Cells]. Snapshots share their data, so it makes new data
// instead of changing it.
func (b *Backend) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	if err := ctx.Err(); err != nil {
		return lock.Snapshot{}, fmt.Errorf("%w: %w", lock.ErrUnavailable, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	s, ok := b.shards[shard]
	if !s.Holds(changes) {
		return lock.Snapshot{}, lock.ErrConflict
	}
	if !ok {
		b.made++
		s.UID = fmt.Sprintf("uid-%d", b.made)
	}
	b.revision++
	s.Revision = b.revision
	s.Data = s.After(changes)
	b.shards[shard] = s
	b.wake(shard)
	return s, nil
}

// wake is called with the lock held.
func (b *Backend) wake(shard string) {
	for ch := range b.watches[shard] {
		select {
		case ch <- struct{}{}:
		default:
		}
	}
}

// Watch implements [lock.Cells].
func (b *Backend) Watch(ctx context.Context, shard string) (<-chan struct{}, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	ch := make(chan struct{}, 1)
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.watches[shard] == nil {
		b.watches[shard] = map[chan struct{}]struct{}{}
	}
	b.watches[shard][ch] = struct{}{}
	context.AfterFunc(ctx, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		delete(b.watches[shard], ch)
		close(ch)
	})
	return ch, nil
}

// Now implements [lock.Cells].
func (b *Backend) Now(ctx context.Context) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	return b.now(), nil
}

// Renew implements [lock.Sessions].
func (b *Backend) Renew(ctx context.Context, group string, r lock.Record) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, ok := b.records[group][r.Session]; !ok && r.Seq != 1 {
		return lock.ErrNoSession
	}
	if b.records[group] == nil {
		b.records[group] = map[string]lock.Record{}
	}
	b.records[group][r.Session] = r
	return nil
}

// Records implements [lock.Sessions].
func (b *Backend) Records(ctx context.Context, group string) ([]lock.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []lock.Record
	for r := range maps.Values(b.records[group]) {
		all = append(all, r)
	}
	return all, nil
}

// Remove implements [lock.Sessions].
func (b *Backend) Remove(ctx context.Context, group, session string, seq uint64) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	r, ok := b.records[group][session]
	if ok && seq != 0 && r.Seq != seq {
		return lock.ErrConflict
	}
	delete(b.records[group], session)
	return nil
}
