package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"

	"github.com/cairnbuild/cairn/storage"
)

// contentError is an error of what is to be stored, not of the storage: its
// class, such as not found, says nothing about this side.
type contentError struct{ err error }

func (e *contentError) Error() string { return "content: " + e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// fail classifies err, where that has not been done, and says what was tried.
func (s *Storage) fail(op, subject string, err error) error {
	var typed *storage.Error
	if errors.As(err, &typed) {
		return err
	}
	c := class(err)
	if c == nil {
		return fmt.Errorf("%s %s %s: %w", op, Address, subject, err)
	}
	return &storage.Error{Op: op, Storage: Address, Subject: subject, Class: c, Err: err}
}

// class returns the class of an error of the file system or of this package, nil
// for one that is not about the storage: an ended context, failing content.
func class(err error) error {
	for _, c := range []error{storage.ErrCorrupt, storage.ErrInvalid, storage.ErrTooLarge, storage.ErrUnsupported, storage.ErrNotFound} {
		if errors.Is(err, c) {
			return c
		}
	}
	var content *contentError
	switch {
	case errors.As(err, &content), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil
	case isFull(err):
		return storage.ErrFull
	case errors.Is(err, fs.ErrPermission), isReadOnly(err):
		return storage.ErrDenied
	case errors.Is(err, fs.ErrNotExist):
		return storage.ErrNotFound
	}
	return storage.ErrTransient
}
