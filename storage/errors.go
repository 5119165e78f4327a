package storage

import (
	"errors"
	"strings"
	"time"
)

// Classes of errors. Implementations classify once, where the answer arrives;
// everybody else asks with [errors.Is].
var (
	// ErrNotFound: there is no such manifest, tag, blob or repository.
	ErrNotFound = errors.New("not found")
	// ErrUnauthorized: the storage does not know who asks (401).
	ErrUnauthorized = errors.New("unauthorized")
	// ErrDenied: the storage knows who asks and refuses (403).
	ErrDenied = errors.New("denied")
	// ErrRateLimited: too many requests (429), after the retries that Retry-After allowed.
	ErrRateLimited = errors.New("rate limited")
	// ErrTransient: the storage could not answer (5xx, resets, timeouts), after retries.
	ErrTransient = errors.New("storage unavailable")
	// ErrCorrupt: what was read is not what its digest says.
	ErrCorrupt = errors.New("corrupt content")
	// ErrExists: an immutable tag names something else.
	ErrExists = errors.New("tag exists and cannot be moved")
	// ErrUnsupported: this storage cannot do that at all.
	ErrUnsupported = errors.New("not supported by this storage")
	// ErrTooLarge: the storage refuses the size (413), or what was read is
	// larger than the limits of this package.
	ErrTooLarge = errors.New("too large")
	// ErrFull: no space is left on the device that holds the storage.
	ErrFull = errors.New("no space left on device")
	// ErrInvalid: the request itself was refused as wrong (other 4xx).
	ErrInvalid = errors.New("refused as invalid")
)

// Error is an error of a storage. It wraps one of the classes of this package
// and, where there is one, the cause below it.
type Error struct {
	// Op is what was tried, for instance "fetch manifest".
	Op string
	// Storage is the storage's address.
	Storage string
	// Subject is the tag or digest, "" for the storage as a whole.
	Subject string
	// Class is one of the sentinel errors of this package.
	Class error
	// RetryAfter is what the storage asked for, 0 when it did not.
	RetryAfter time.Duration
	// Err is the cause, nil where the class says everything.
	Err error
}

// Error implements error.
func (e *Error) Error() string {
	s := e.Op + " " + e.Storage
	if e.Subject != "" {
		s += " " + e.Subject
	}
	if e.Err == nil {
		return s + ": " + e.Class.Error()
	}
	// A cause that wraps the class often begins with its words.
	cause := strings.TrimPrefix(e.Err.Error(), e.Class.Error())
	cause = strings.TrimPrefix(cause, ": ")
	s += ": " + e.Class.Error()
	if cause != "" {
		s += ": " + cause
	}
	return s
}

// Unwrap returns the class and the cause.
func (e *Error) Unwrap() []error {
	if e.Err == nil {
		return []error{e.Class}
	}
	return []error{e.Class, e.Err}
}
