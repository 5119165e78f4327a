package build

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// How often a tag is put or read whose reads do not show what was put, and the
// pause before the second time, which doubles.
const (
	tagTries = 5
	tagPause = 100 * time.Millisecond
)

// The pauses between two looks for a decided manifest that is missing.
const (
	firstMissing = time.Second
	maxMissing   = 30 * time.Second
)

// name is steps 6 and 7.
func (r *run) name(ctx context.Context, tag string, c *synchronization.Claim, m storage.Manifest) error {
	if err := r.putTag(ctx, tag, c, m); err != nil {
		return err
	}
	return c.Published(ctx)
}

// putTag gives m its name, under the guard of the entry, and reads it.
func (r *run) putTag(ctx context.Context, tag string, c *synchronization.Claim, m storage.Manifest) error {
	var lost error
	for try := range tagTries {
		if err := pause(ctx, backoff(try)); err != nil {
			return err
		}
		lost = r.put(ctx, tag, c, m)
		if lost != nil && !errors.Is(lost, storage.ErrTransient) {
			return lost
		}
		shown, err := r.shows(ctx, tag, m.Descriptor.Digest)
		if shown || err != nil {
			return err
		}
	}
	return fmt.Errorf("tag %s was put and does not show: %w", tag, errors.Join(storage.ErrTransient, lost))
}

func (r *run) put(ctx context.Context, tag string, c *synchronization.Claim, m storage.Manifest) error {
	gctx, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return overdue(gctx, r.Storage.Publish(gctx, tag, m))
}

// overdue makes the error of a write transient that has taken longer than its guard
// allows: under the next guard it may be sent again.
func overdue(gctx context.Context, err error) error {
	if err == nil || !errors.Is(context.Cause(gctx), context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("the storage is slow: %w: %w", storage.ErrTransient, err)
}

// showsNamed is shows for the tag that an entry is about, which does not say whether
// it is that of a stage or of an index; no digest is both.
func (r *run) showsNamed(ctx context.Context, d stages.Digest, m digest.Digest) (bool, error) {
	shown, err := r.shows(ctx, storage.StageTag(d), m)
	if shown || err != nil {
		return shown, err
	}
	return r.shows(ctx, storage.BuildTag(d), m)
}

// shows reports whether a tag shows manifest d: false when it shows nothing. A
// registry that lags may show the generation before for a moment; a tag that goes
// on to show something else is an error, for it must never be moved.
func (r *run) shows(ctx context.Context, tag string, d digest.Digest) (bool, error) {
	var other digest.Digest
	for try := range tagTries {
		if err := pause(ctx, backoff(try)); err != nil {
			return false, err
		}
		desc, err := r.Storage.Resolve(ctx, tag)
		switch {
		case errors.Is(err, storage.ErrNotFound):
			return false, nil
		case err != nil:
			return false, err
		case desc.Digest == d:
			return true, nil
		}
		other = desc.Digest
	}
	return false, fmt.Errorf("tag %s shows %s and not %s, which was decided: %w", tag, other, d, storage.ErrCorrupt)
}

// backoff returns the pause before a try, none before the first.
func backoff(try int) time.Duration {
	if try == 0 {
		return 0
	}
	return tagPause << (try - 1)
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	if d == 0 {
		return nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// finishDecided publishes what a dead owner decided, and returns it.
func (r *run) finishDecided(ctx context.Context, n *node, c *synchronization.Claim) (storage.Manifest, Result, error) {
	d := c.Entry().Manifest
	m, err := r.Storage.Manifest(ctx, d.String())
	if errors.Is(err, storage.ErrNotFound) {
		return r.findDecided(ctx, n, c, d)
	}
	if err != nil {
		return storage.Manifest{}, "", err
	}
	return m, ResultAdopted, r.nameDecided(ctx, n.tag(), c, m)
}

// nameDecided is steps 6 and 7 for what another decided: it may have put the tag,
// and a tag that shows something else is not touched.
func (r *run) nameDecided(ctx context.Context, tag string, c *synchronization.Claim, m storage.Manifest) error {
	shown, err := r.shows(ctx, tag, m.Descriptor.Digest)
	if err != nil {
		return err
	}
	if shown {
		return c.Published(ctx)
	}
	return r.name(ctx, tag, c, m)
}

// findDecided handles a decided manifest that the storage does not have: a
// registry may collect what no tag names. This host may have made it; else its
// generation ends, and a new one begins that avoids its digest.
func (r *run) findDecided(ctx context.Context, n *node, c *synchronization.Claim, d digest.Digest) (storage.Manifest, Result, error) {
	if cand := r.fromPad(ctx, n); cand != nil && cand.image.Manifest().Descriptor.Digest == d {
		m, err := r.publishAgain(ctx, n, c, cand)
		return m, cand.result, err
	}
	m, err := r.awaitDecided(ctx, d, func(detail string) { r.phase(n, PhaseWaiting, detail) })
	switch {
	case err == nil:
		return m, ResultAdopted, r.nameDecided(ctx, n.tag(), c, m)
	case !errors.Is(err, storage.ErrNotFound):
		return storage.Manifest{}, "", err
	}
	return storage.Manifest{}, "", r.abandon(ctx, n.tag(), c)
}

// abandon ends the generation of a decided manifest that is lost, and returns
// errAgain for the one that begins.
func (r *run) abandon(ctx context.Context, tag string, c *synchronization.Claim) error {
	if err := c.Abandon(ctx); err != nil {
		return err
	}
	if err := r.deleteDecided(ctx, tag, c); err != nil {
		return err
	}
	return errAgain
}

// publishAgain publishes a decided result that was kept here.
func (r *run) publishAgain(ctx context.Context, n *node, c *synchronization.Claim, cand *candidate) (storage.Manifest, error) {
	m := cand.image.Manifest()
	if err := r.pushBlobs(ctx, n, cand); err != nil {
		return m, err
	}
	if err := r.pushManifest(ctx, n, cand); err != nil {
		return m, err
	}
	if err := r.nameDecided(ctx, n.tag(), c, m); err != nil {
		return m, err
	}
	r.forget(ctx, n)
	return m, nil
}

// awaitDecided waits for a decided manifest for as long as a write of its dead
// owner may still take effect, or a read may lag. Only after that nothing can
// bring it back, and its generation may end: a tag that appeared later would
// overwrite the next generation's.
func (r *run) awaitDecided(ctx context.Context, d digest.Digest, tell func(detail string)) (storage.Manifest, error) {
	began := r.Now()
	tell(fmt.Sprintf("manifest %s was decided by a runner that is gone, and is missing; waiting %s for it", d, r.Delta))
	for gap := firstMissing; ; gap = min(2*gap, maxMissing) {
		left := r.Delta - r.Now().Sub(began)
		if err := pause(ctx, max(0, min(gap, left))); err != nil {
			return storage.Manifest{}, err
		}
		m, err := r.Storage.Manifest(ctx, d.String())
		if !errors.Is(err, storage.ErrNotFound) || left <= 0 {
			return m, err
		}
	}
}

// deleteDecided removes the name, under the guard of the entry. The manifest stays for
// the registry's own collector: another stage of equal outcome may have it, or be
// about to get it.
func (r *run) deleteDecided(ctx context.Context, tag string, c *synchronization.Claim) error {
	undeleted := []error{storage.ErrNotFound, storage.ErrUnsupported, storage.ErrDenied, storage.ErrUnauthorized}
	err := r.deleteTag(ctx, c, tag)
	if err != nil && !slices.ContainsFunc(undeleted, func(class error) bool { return errors.Is(err, class) }) {
		return err
	}
	// Where nothing can be deleted, or not by this run, the name must be gone by itself.
	if gone := r.vanishes(ctx, tag); gone != nil {
		return errors.Join(gone, err)
	}
	return c.Deleted(ctx)
}

func (r *run) deleteTag(ctx context.Context, c *synchronization.Claim, tag string) error {
	gctx, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return overdue(gctx, r.Storage.DeleteTag(gctx, tag))
}

// vanishes waits a moment until a deleted tag shows nothing.
func (r *run) vanishes(ctx context.Context, tag string) error {
	for try := range tagTries {
		if err := pause(ctx, backoff(try)); err != nil {
			return err
		}
		_, err := r.Storage.Resolve(ctx, tag)
		if errors.Is(err, storage.ErrNotFound) {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return fmt.Errorf("tag %s still shows after its deletion: %w", tag, storage.ErrTransient)
}
