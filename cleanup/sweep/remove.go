package sweep

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// A name that was deleted is asked for so often until it shows nothing; the pause
// before the second time doubles.
const (
	vanishTries = 6
	vanishPause = 100 * time.Millisecond
)

// releasing bounds the taking away of marks from what stays, also after the removal
// was cancelled: a mark costs a build that meets it one write.
const releasing = 10 * time.Second

// errLingers is of one tag: its registry lists or caches it for longer than others do.
var errLingers = errors.New("it still shows after its deletion")

// mark marks a name. Only what is not in flight, and was not lately, can be marked.
func (s *sweeper) mark(ctx context.Context, it *item) error {
	c, err := s.Session.Doom(ctx, it.Digest)
	if errors.Is(err, synchronization.ErrTaken) {
		c, err = s.markMarked(ctx, it)
	}
	switch {
	case errors.Is(err, synchronization.ErrTaken):
		s.end(it, Result{Fate: Needed, Why: "it is being published, or was lately"})
		return nil
	case errors.Is(err, synchronization.ErrFull), errors.Is(err, synchronization.ErrBadEntry):
		s.end(it, Result{Fate: Failed, Err: err})
		return nil
	}
	it.claim = c
	return err
}

// markMarked takes over the mark of another cleaner, which may be dead.
func (s *sweeper) markMarked(ctx context.Context, it *item) (*synchronization.Claim, error) {
	entries, err := s.Session.Entries(ctx, []stages.Digest{it.Digest})
	if err != nil {
		return nil, err
	}
	return s.Session.Redoom(ctx, it.Digest, entries[it.Digest])
}

// unmark takes the marks from what stays.
func (s *sweeper) unmark(ctx context.Context, items []*item) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), releasing)
	defer cancel()
	marked := slices.DeleteFunc(slices.Clone(items), func(it *item) bool {
		return it.claim == nil || it.claim.Entry().State != synchronization.Doomed
	})
	tasks := make(chan struct{}, marking)
	failed := make(chan error, len(marked))
	for _, it := range marked {
		tasks <- struct{}{}
		go func() {
			defer func() { <-tasks }()
			failed <- it.claim.Release(ctx)
		}()
	}
	var first error
	for range marked {
		if err := <-failed; err != nil && first == nil && !errors.Is(err, synchronization.ErrTaken) && !errors.Is(err, synchronization.ErrState) {
			first = err
		}
	}
	return first
}

// remove deletes what is marked, and what nothing has turned out to need.
func (s *sweeper) remove(ctx context.Context, it *item) error {
	desc, err := s.Storage.Resolve(ctx, it.Tag())
	switch {
	case errors.Is(err, storage.ErrNotFound):
		s.end(it, Result{Fate: Gone})
		return nil
	case err != nil:
		return s.failed(ctx, it, err)
	case desc.Digest != it.Manifest:
		s.end(it, Result{Fate: Needed, Why: "it was published anew"})
		return nil
	}
	err = it.claim.Delete(ctx, desc.Digest)
	if errors.Is(err, synchronization.ErrTaken) {
		s.end(it, Result{Fate: Needed, Why: "a build has taken it up again"})
		return nil
	}
	if err == nil {
		err = s.delete(ctx, it.claim, it.Tag())
	}
	if err == nil {
		err = it.claim.Deleted(ctx)
	}
	if err != nil {
		return s.failed(ctx, it, err)
	}
	s.end(it, Result{Fate: Removed})
	return nil
}

// failed is the end of a name that could not be removed. What would fail for all
// others as well ends the removal.
func (s *sweeper) failed(ctx context.Context, it *item, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err = fmt.Errorf("%s %s: %w", it.Kind, it.Digest.Short(), err)
	s.end(it, Result{Fate: Failed, Err: err})
	if errors.Is(err, errLingers) {
		return nil // its entry says so, and the next removal deletes it again
	}
	for _, class := range []error{
		storage.ErrUnauthorized, storage.ErrDenied, storage.ErrUnsupported, storage.ErrRateLimited, storage.ErrTransient,
		synchronization.ErrLost, synchronization.ErrClosed, synchronization.ErrUnavailable,
	} {
		if errors.Is(err, class) {
			return err
		}
	}
	return nil
}

// delete deletes a tag under its entry, which is read directly before, and sees it gone.
func (s *sweeper) delete(ctx context.Context, c *synchronization.Claim, tag string) error {
	gctx, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	err = s.Storage.DeleteTag(gctx, tag)
	cancel()
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	return s.vanishes(ctx, tag)
}

func (s *sweeper) vanishes(ctx context.Context, tag string) error {
	for try := range vanishTries {
		if try > 0 {
			if err := pause(ctx, vanishPause<<(try-1)); err != nil {
				return err
			}
		}
		_, err := s.Storage.Resolve(ctx, tag)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("tag %s: %w: %w", tag, errLingers, storage.ErrTransient)
}

func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// shows reports whether the tag of a stage, or of an index, shows a manifest. The
// entry does not say which of the two it is of; no digest is both.
func (s *sweeper) shows(ctx context.Context, d stages.Digest, m digest.Digest) (bool, error) {
	for _, tag := range []string{storage.StageTag(d), storage.BuildTag(d)} {
		desc, err := s.Storage.Resolve(ctx, tag)
		if err == nil && desc.Digest == m {
			return true, nil
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return false, err
		}
	}
	return false, nil
}

// finishOthers ends the deletions that cleaners have left which are gone. One that
// lives is waited for: it takes a moment for each.
func (s *sweeper) finishOthers(ctx context.Context) error {
	entries, err := s.Ledger.List(ctx)
	if err != nil {
		return err
	}
	maps.DeleteFunc(entries, func(_ stages.Digest, e synchronization.Entry) bool {
		return e.State != synchronization.Deleting || e.Session == s.Session.ID()
	})
	for open := slices.Collect(maps.Keys(entries)); len(open) > 0; {
		if err := s.Session.Wait(ctx, open, s.Waiting); err != nil {
			return err
		}
		got, err := s.Session.TryAcquire(ctx, open)
		if err != nil {
			return err
		}
		for _, c := range got.Claims {
			if err := s.finish(ctx, c); err != nil && !errors.Is(err, errLingers) {
				return err // a tag that lingers holds up nothing but itself
			}
		}
		open = slices.DeleteFunc(open, func(d stages.Digest) bool {
			return got.Held[d].Entry.State != synchronization.Deleting
		})
	}
	return nil
}

// finish ends one deletion. Whether it was an index's or a stage's the entry does
// not say; no digest is both.
func (s *sweeper) finish(ctx context.Context, c *synchronization.Claim) error {
	if c.Entry().State != synchronization.Deleting {
		err := c.Release(ctx) // it was ended meanwhile, and the claim is a new one
		if errors.Is(err, synchronization.ErrState) {
			return nil
		}
		return err
	}
	for _, tag := range []string{storage.BuildTag(c.Digest()), storage.StageTag(c.Digest())} {
		if err := s.delete(ctx, c, tag); err != nil {
			return fmt.Errorf("end the deletion of %s: %w", tag, err)
		}
	}
	return c.Deleted(ctx)
}
