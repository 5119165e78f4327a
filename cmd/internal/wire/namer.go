package wire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
)

// leaving bounds the end of a session of the ledger.
const leaving = 10 * time.Second

// ledgerNamer names stages in a storage in which runners publish: under entries of
// its ledger, as they do, so that there is one manifest for each stage whoever
// comes first. Indexes are the same whoever writes them and need no entry.
type ledgerNamer struct {
	target  storage.Storage
	session *synchronization.Session
	rest    transfer.Namer
}

// Name implements [transfer.Namer].
func (n *ledgerNamer) Name(ctx context.Context, tag string, m storage.Manifest) error {
	if !storage.IsStageTag(tag) {
		return n.rest.Name(ctx, tag, m)
	}
	d, err := stages.ParseDigest("sha256:" + tag)
	if err != nil {
		return err
	}
	got, err := n.session.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return err
	}
	if c, ok := got.Claims[d]; ok {
		return n.under(ctx, c, tag, m)
	}
	held := got.Held[d]
	if held.Entry.State != synchronization.Published {
		return fmt.Errorf("%w, by %s", transfer.ErrBusy, held.Name)
	}
	if held.Entry.Manifest != m.Descriptor.Digest {
		return &transfer.DifferentError{Tag: tag, Ours: m.Descriptor.Digest, Theirs: held.Entry.Manifest}
	}
	return nil
}

// under names a stage under an entry that was acquired.
func (n *ledgerNamer) under(ctx context.Context, c *synchronization.Claim, tag string, m storage.Manifest) error {
	switch state := c.Entry().State; state {
	case synchronization.Building:
	case synchronization.Publishing:
		return n.concernsName(n.finish(ctx, c, tag, m))
	default: // a deletion that somebody has begun, and that a cleaner ends
		return fmt.Errorf("%w: one that is gone has left it %s", transfer.ErrBusy, state)
	}
	same, err := n.shows(ctx, tag, m)
	if err != nil || same {
		return errors.Join(err, n.release(ctx, c))
	}
	if err := n.target.PushManifest(ctx, m); err != nil {
		return errors.Join(err, n.release(ctx, c))
	}
	if err := c.Decide(ctx, m.Descriptor.Digest); err != nil {
		return n.concernsName(err)
	}
	if err := n.put(context.WithoutCancel(ctx), c, tag, m); err != nil {
		return n.concernsName(err)
	}
	return nil
}

// errLost: what was decided for a stage is not at the target.
var errLost = errors.New("another manifest was decided for it there, and is lost")

// finish gives the tag that a sync or a runner which is gone had decided: nobody
// else could publish the stage until then.
func (n *ledgerNamer) finish(ctx context.Context, c *synchronization.Claim, tag string, m storage.Manifest) error {
	decided := c.Entry().Manifest
	if decided == m.Descriptor.Digest {
		if err := n.target.PushManifest(ctx, m); err != nil {
			return err
		}
		return n.put(context.WithoutCancel(ctx), c, tag, m)
	}
	theirs, err := n.target.Manifest(ctx, decided.String())
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: %w: %s", transfer.ErrRefused, errLost, decided)
	}
	if err != nil {
		return err
	}
	if err := n.put(context.WithoutCancel(ctx), c, tag, theirs); err != nil {
		return err
	}
	return &transfer.DifferentError{Tag: tag, Ours: m.Descriptor.Digest, Theirs: decided}
}

// put gives a decided manifest its tag, also when the copy is interrupted: what is
// decided would keep others waiting. The guard has a deadline.
func (n *ledgerNamer) put(ctx context.Context, c *synchronization.Claim, tag string, m storage.Manifest) error {
	guarded, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	if err := n.target.Publish(guarded, tag, m); err != nil {
		return err
	}
	same, err := n.shows(guarded, tag, m)
	if err != nil {
		return err
	}
	if !same {
		return fmt.Errorf("tag %s was put and does not show: %w", tag, storage.ErrTransient)
	}
	return c.Published(guarded)
}

// concernsName makes an error that is about one stage one of [transfer].
func (*ledgerNamer) concernsName(err error) error {
	if errors.Is(err, synchronization.ErrAvoided) || errors.Is(err, synchronization.ErrTaken) {
		return fmt.Errorf("%w: %w", transfer.ErrRefused, err)
	}
	return err
}

// shows reports whether the tag names m: false when it names nothing.
func (n *ledgerNamer) shows(ctx context.Context, tag string, m storage.Manifest) (bool, error) {
	found, err := n.target.Resolve(ctx, tag)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case found.Digest != m.Descriptor.Digest:
		return false, &transfer.DifferentError{Tag: tag, Ours: m.Descriptor.Digest, Theirs: found.Digest}
	}
	return true, nil
}

func (n *ledgerNamer) release(ctx context.Context, c *synchronization.Claim) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	return c.Release(ctx)
}
