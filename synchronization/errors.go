package synchronization

import (
	"errors"
	"fmt"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// Errors that callers tell apart with [errors.Is].
var (
	// ErrTaken: the entry is not the claim's any more. What was built under it is
	// to be thrown away, and the stage to be looked at again.
	ErrTaken = errors.New("another runner has taken the stage over")
	// ErrClosed: the ledger is closed, or was since the claim was made. Nothing
	// can be decided in it.
	ErrClosed = errors.New("the ledger is closed")
	// ErrTurned: somebody else has closed or opened the ledger, or noted a move in it,
	// since it was looked at.
	ErrTurned = errors.New("somebody else has changed the ledger's record")
	// ErrBadEntry: a key of the ledger does not hold what it should. The error
	// names the key.
	ErrBadEntry = errors.New("the ledger holds nonsense")
	// ErrAvoided: the manifest is that of the generation that was just deleted; a
	// new generation needs another one.
	ErrAvoided = errors.New("a new generation must not have the manifest of the deleted one")
	// ErrState: the claim's entry is in a state that does not allow this step.
	ErrState = errors.New("the entry's state does not allow this")
	// ErrNone: the project has no ledger, or one that nobody has finished making.
	ErrNone = errors.New("there is no ledger")
	// ErrFull: so many stages are in flight, or were lately, that the ledger has no
	// place for another. [Ledger.Sweep] may make some.
	ErrFull = lock.ErrFull
	// ErrUnavailable: the ledger could not be asked for longer than the retry budget.
	ErrUnavailable = lock.ErrUnavailable
	// ErrLost: this runner's session could not be renewed in time.
	ErrLost = lock.ErrLost
)

// Error is a failed operation on the ledger, whatever the cause: who knows no more
// of a failure knows by it that the ledger is concerned.
type Error struct {
	// Op says for people what was to be done, and to what.
	Op string
	// Err is the cause.
	Err error
}

// Error implements error.
func (e *Error) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// opError is the error of an operation that format and args describe.
func opError(err error, format string, args ...any) error {
	return &Error{Op: fmt.Sprintf(format, args...), Err: err}
}

// FormatError says that the ledger was made by an incompatible version.
type FormatError struct {
	Project string
	// Found is the ledger's format, Known the one of this program.
	Found, Known string
}

// Error implements error.
func (e *FormatError) Error() string {
	return fmt.Sprintf("the ledger of project %s has format %q, this program knows format %q", e.Project, e.Found, e.Known)
}

// BadEntryError says that the entry of a stage holds nonsense. It wraps [ErrBadEntry].
type BadEntryError struct {
	// Object is the store's object that the entry is in, Key its key there.
	Object, Key string
	Digest      stages.Digest
	Err         error
}

// Error implements error.
func (e *BadEntryError) Error() string { return fmt.Sprintf("%s: %v", e.Object, e.Err) }

// Unwrap returns what is wrong with the entry.
func (e *BadEntryError) Unwrap() error { return e.Err }

// BadKeyError says that a key by which the ledger holds together has nonsense as its
// value. It wraps [ErrBadEntry]. No operation mends that: what the key said is gone.
type BadKeyError struct {
	// Object is the store's object, Key its key.
	Object, Key string
	// Loses: when the key is removed and made anew, the object counts as lost, with
	// what that means for Delta.
	Loses bool
	// Delta is the ledger's Δ.
	Delta time.Duration
	Err   error
}

// Error implements error.
func (e *BadKeyError) Error() string {
	return fmt.Sprintf("%v: key %q of %s: %v", ErrBadEntry, e.Key, e.Object, e.Err)
}

// Unwrap returns the class and the cause.
func (e *BadKeyError) Unwrap() []error { return []error{ErrBadEntry, e.Err} }

// BoundElsewhereError says that the ledger belongs to another stages storage.
type BoundElsewhereError struct {
	Project string
	// Bound is the storage that the ledger belongs to, Wanted the one asked for.
	Bound, Wanted string
}

// Error implements error.
func (e *BoundElsewhereError) Error() string {
	return fmt.Sprintf("the ledger of project %s belongs to the stages storage %s, not to %s", e.Project, e.Bound, e.Wanted)
}

// entryError is a failed operation on the entry of a stage.
func entryError(op string, d stages.Digest, err error) error {
	return opError(err, "%s stage %s", op, d.Short())
}
