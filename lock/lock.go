// Package lock holds fenced locks over a store that can only compare and swap.
//
// A lock is a cell: a key of a shard whose value names the session that holds it
// and a nonce that is used for one attempt only. Whoever wants to change a cell
// says exactly which value it expects to find, so a holder that was slow, paused
// or cut off and has been replaced can never write as if it still held the lock.
//
// The package has three parts. [Store] is the contract that a backend meets.
// [Client] is one process's access to it: it merges writes, resolves answers that
// were lost by reading back, and retries within a budget. [Session] and
// [Observer] are the two sides of being alive: a session renews one record
// whatever the number of its locks, and an observer takes a session for dead when
// that record has not changed for the session's TTL, as measured by the
// observer's own monotonic clock. Clocks of two machines are never compared.
//
// Taking a live session for dead is harmless for the safety of the cells: it
// loses its lock, and its next write is refused.
package lock

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"
)

// Classes of errors. A store returns them, wrapped or not; everything else that a
// store returns is taken for permanent and is not retried.
var (
	// ErrConflict: a change did not find the value that it expected. Nothing was written.
	ErrConflict = errors.New("the cell has another value")
	// ErrAmbiguous: the request may have been applied, may be applied later, or never.
	ErrAmbiguous = errors.New("outcome of the write is unknown")
	// ErrUnavailable: the store cannot be asked at present and has done nothing; from
	// a [Client], that this lasted longer than its retry budget.
	ErrUnavailable = errors.New("the store is unavailable")
	// ErrFull: the changes do not fit into the shard. Nothing was written.
	ErrFull = errors.New("the shard is full")
	// ErrNoSession: the session's record is gone, since another took the session for dead.
	ErrNoSession = errors.New("the session's record is gone")
	// ErrLost: the session was not renewed in time, so others may take it for dead.
	// It is the cause with which a session's context is cancelled.
	ErrLost = errors.New("the session is lost")
)

// Snapshot is a shard at one moment.
type Snapshot struct {
	// UID names this incarnation of the shard. A shard that was lost and made anew
	// has another one. It is empty where there is no shard.
	UID string
	// Revision grows with every change of the shard.
	Revision uint64
	// Data holds the cells. Readers do not change it.
	Data map[string]string
}

// Change says what a cell must hold and what it shall hold then; nil is absence.
// A change whose Old equals its New only tests.
type Change struct {
	Key      string
	Old, New *string
}

// Test returns the change that only demands that key holds value.
func Test(key, value string) Change { return Change{Key: key, Old: &value, New: &value} }

// Add returns the change that demands that key is absent and gives it a value.
func Add(key, value string) Change { return Change{Key: key, New: &value} }

// Replace returns the change of key from one value to another.
func Replace(key, from, to string) Change { return Change{Key: key, Old: &from, New: &to} }

// Remove returns the change that takes key away when it holds value.
func Remove(key, value string) Change { return Change{Key: key, Old: &value} }

// Cells is a store of shards that hold cells.
type Cells interface {
	// Read returns the named shards, those that do not exist left out. It is a
	// quorum read: it shows every write that was acknowledged before it began.
	// Several shards are one request where the store can do that.
	Read(ctx context.Context, shards ...string) (map[string]Snapshot, error)
	// Swap applies all changes to one shard, or none, and returns the shard as
	// it then is. A shard that does not exist is made, as if it had been empty.
	// It returns [ErrConflict] when a change did not find its Old, and
	// [ErrAmbiguous] when the store may have applied them without saying so. No
	// key is named twice.
	Swap(ctx context.Context, shard string, changes []Change) (Snapshot, error)
	// Watch wakes: the channel receives after a change of the shard that happened
	// once Watch had returned, several changes perhaps once, and perhaps without
	// any change. A watch that may have missed one says so by closing the channel.
	// It ends, closing the channel, with ctx.
	Watch(ctx context.Context, shard string) (<-chan struct{}, error)
	// Now returns the one clock that all users of this store share.
	Now(ctx context.Context) (time.Time, error)
}

// Record is what a session shows of itself.
type Record struct {
	// Session is the session's id: lower-case hexadecimal digits.
	Session string
	// Holder says for people who it is.
	Holder string
	// Seq grows with each renewal; that it stands still is how death is observed.
	Seq uint64
	// TTL is for how long Seq must stand still before others may take the session
	// for dead.
	TTL time.Duration
	// Gone is set by stores that know by themselves that the process has ended.
	Gone bool
}

// Sessions keeps the records of sessions, by group.
type Sessions interface {
	// Renew writes the record. Seq 1 makes it; any other replaces a record that is
	// there, or returns [ErrNoSession]. Repeating a request is harmless.
	Renew(ctx context.Context, group string, r Record) error
	// Records returns all records of a group, by a quorum read.
	Records(ctx context.Context, group string) ([]Record, error)
	// Remove takes a record away when its Seq is seq, or whatever it is for seq 0.
	// It returns [ErrConflict] when it has moved on; a missing one is no error.
	Remove(ctx context.Context, group, session string, seq uint64) error
}

// Store is everything that the locks stand on.
type Store interface {
	Cells
	Sessions
}

// SwapError tells what the shard looked like when a change was not made. It
// wraps [ErrConflict], when the change was refused, or [ErrAmbiguous], when the
// shard does not show it but an earlier request may still be applied.
type SwapError struct {
	Shard    string
	Snapshot Snapshot
	Err      error
}

// Error implements error.
func (e *SwapError) Error() string { return fmt.Sprintf("change %s: %v", e.Shard, e.Err) }

// Unwrap returns the class.
func (e *SwapError) Unwrap() error { return e.Err }

// get returns the value of key, nil when it is absent.
func (s Snapshot) get(key string) *string {
	if v, ok := s.Data[key]; ok {
		return &v
	}
	return nil
}

// Holds reports whether every change finds its Old in s.
func (s Snapshot) Holds(changes []Change) bool {
	for _, c := range changes {
		if !same(s.get(c.Key), c.Old) {
			return false
		}
	}
	return true
}

// Shows reports whether s is what the changes lead to. Changes that only test
// count where there is no other, since a guard may well have moved on after the
// changes were applied.
func (s Snapshot) Shows(changes []Change) bool {
	writes := false
	for _, c := range changes {
		if c.tests() {
			continue
		}
		writes = true
		if !same(s.get(c.Key), c.New) {
			return false
		}
	}
	return writes || s.Holds(changes)
}

// After returns a copy of s's data with the changes made, for backends that
// keep the cells of a shard as one map.
func (s Snapshot) After(changes []Change) map[string]string {
	data := make(map[string]string, len(s.Data)+len(changes))
	maps.Copy(data, s.Data)
	for _, c := range changes {
		if c.New == nil {
			delete(data, c.Key)
		} else {
			data[c.Key] = *c.New
		}
	}
	return data
}

func (c Change) tests() bool { return same(c.Old, c.New) }

func same(a, b *string) bool {
	if a == nil || b == nil {
		return a == b
	}
	return *a == *b
}
