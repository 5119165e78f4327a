package wire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
)

// cleanupLimit bounds a cleanup with all its waits.
const cleanupLimit = 2 * time.Hour

// RemovalLimitError says that a removal took too long, builds that it waited for included.
type RemovalLimitError struct {
	Limit time.Duration
	// Last is the runner that was waited for last; nil where none was.
	Last *synchronization.Holder
}

// Error implements error.
func (e *RemovalLimitError) Error() string {
	if e.Last == nil {
		return fmt.Sprintf("the removal did not end within %v", e.Limit)
	}
	return fmt.Sprintf("the removal did not end within %v; it waited last for %s, which is at work on %s",
		e.Limit, cmp.Or(e.Last.Name, e.Last.Session), e.Last.Digest.Short())
}

// Hint says what to do.
func (e *RemovalLimitError) Hint() string {
	return "run it again when that build has ended: it goes on where it was; \"cairn locks ls\" lists who is at work"
}

// bounded runs a removal that may take no longer than limit, and says of whom it waited
// last where it does.
func bounded(ctx context.Context, limit time.Duration, waiting func(synchronization.Holder), run func(context.Context, func(synchronization.Holder)) error) error {
	over := &RemovalLimitError{Limit: limit}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, over)
	defer cancel()
	var last atomic.Pointer[synchronization.Holder]
	err := run(ctx, func(h synchronization.Holder) {
		last.Store(&h)
		if waiting != nil {
			waiting(h)
		}
	})
	if err != nil && errors.Is(context.Cause(ctx), over) {
		return &RemovalLimitError{Limit: limit, Last: last.Load()}
	}
	return err
}
