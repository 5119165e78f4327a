package switchover

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
)

// maxRounds bounds how often a name is tried for that others change meanwhile.
const maxRounds = 20

// errEnded: the old ledger says that the stage was deleted.
var errEnded = errors.New("it was withdrawn")

// errLost: a runner at the new place has decided a manifest that is not there.
var errLost = errors.New("another manifest was decided for it at the new place, and is not there")

// giveOne gives a name, unless the new place has it already.
func (n *naming) giveOne(ctx context.Context, tag string, m storage.Manifest) error {
	d, err := stages.ParseDigest(tag)
	if err != nil { // an index, which is the same whoever puts it
		return left(tag, n.giveIndex(ctx, tag, m))
	}
	if n.ended[d] {
		return left(tag, errEnded)
	}
	for range maxRounds {
		err := n.giveStage(ctx, d, m)
		if !errors.Is(err, synchronization.ErrTaken) {
			return left(tag, err)
		}
	}
	return left(tag, synchronization.ErrTaken)
}

// left returns err as one that concerns the name alone where that is so.
func left(tag string, err error) error {
	var other *transfer.DifferentError
	switch {
	case errors.As(err, &other), errors.Is(err, synchronization.ErrAvoided), errors.Is(err, synchronization.ErrTaken),
		errors.Is(err, errEnded), errors.Is(err, errLost):
		return &LeftError{Tag: tag, Err: err}
	}
	return err
}

// different says that a stage is another manifest at the new place.
func different(d stages.Digest, ours storage.Manifest, theirs digest.Digest) error {
	return &transfer.DifferentError{Tag: storage.StageTag(d), Ours: ours.Descriptor.Digest, Theirs: theirs}
}

func (n *naming) giveIndex(ctx context.Context, tag string, m storage.Manifest) error {
	shown, err := shows(ctx, n.To.Storage, tag, m.Descriptor.Digest)
	if err != nil || shown {
		return err
	}
	put, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	return n.To.Storage.Publish(put, tag, m)
}

// giveStage goes once as far as the entry of the stage allows. It fails with
// [synchronization.ErrTaken] where it is worth another look.
func (n *naming) giveStage(ctx context.Context, d stages.Digest, m storage.Manifest) error {
	got, err := n.session.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return err
	}
	if c, ok := got.Claims[d]; ok {
		return n.giveUnder(ctx, c, m)
	}
	held := got.Held[d]
	switch held.Entry.State {
	case synchronization.Published:
		return n.compare(ctx, d, held.Entry, m)
	case synchronization.Doomed:
		return n.keep(ctx, d, held.Entry, m)
	}
	if err := n.session.Wait(ctx, []stages.Digest{d}, nil); err != nil {
		return err
	}
	return fmt.Errorf("%w: it was in the hands of %s", synchronization.ErrTaken, held.Name)
}

// giveUnder does what the entry in our hands asks for.
func (n *naming) giveUnder(ctx context.Context, c *synchronization.Claim, m storage.Manifest) error {
	tag := storage.StageTag(c.Digest())
	switch e := c.Entry(); e.State {
	case synchronization.Publishing:
		return n.giveDecided(ctx, c, m)
	case synchronization.Building:
		shown, err := shows(ctx, n.To.Storage, tag, m.Descriptor.Digest)
		if err != nil || shown {
			return errors.Join(err, c.Release(ctx))
		}
		if err := n.To.Storage.PushManifest(ctx, m); err != nil {
			return errors.Join(err, c.Release(ctx))
		}
		if err := c.Decide(ctx, m.Descriptor.Digest); err != nil {
			return err
		}
		return n.put(ctx, c, m)
	default: // a deletion that somebody has begun, and that a cleaner ends
		return errEnded
	}
}

// giveDecided finishes what an earlier run, or a runner, had decided.
func (n *naming) giveDecided(ctx context.Context, c *synchronization.Claim, m storage.Manifest) error {
	decided := c.Entry().Manifest
	if decided == m.Descriptor.Digest {
		return n.put(ctx, c, m)
	}
	theirs, err := n.To.Storage.Manifest(ctx, decided.String())
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: %s", errLost, decided)
	}
	if err != nil {
		return err
	}
	if err := n.put(ctx, c, theirs); err != nil {
		return err
	}
	return different(c.Digest(), m, decided)
}

// put gives a decided manifest its tag, under the guard of the entry.
func (n *naming) put(ctx context.Context, c *synchronization.Claim, m storage.Manifest) error {
	tag := storage.StageTag(c.Digest())
	shown, err := shows(ctx, n.To.Storage, tag, m.Descriptor.Digest)
	if err != nil {
		return err
	}
	if !shown {
		if err := n.putGuarded(ctx, c, tag, m); err != nil {
			return err
		}
		if shown, err = shows(ctx, n.To.Storage, tag, m.Descriptor.Digest); err == nil && !shown {
			err = fmt.Errorf("tag %s was put and does not show: %w", tag, storage.ErrTransient)
		}
		if err != nil {
			return err
		}
	}
	return c.Published(ctx)
}

func (n *naming) putGuarded(ctx context.Context, c *synchronization.Claim, tag string, m storage.Manifest) error {
	guarded, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return n.To.Storage.Publish(guarded, tag, m)
}

// compare looks at a stage that was published at the new place lately.
func (n *naming) compare(ctx context.Context, d stages.Digest, seen synchronization.Entry, m storage.Manifest) error {
	if seen.Manifest != m.Descriptor.Digest {
		return different(d, m, seen.Manifest)
	}
	shown, err := shows(ctx, n.To.Storage, storage.StageTag(d), m.Descriptor.Digest)
	if err != nil || shown {
		return err
	}
	c, err := n.session.Republish(ctx, d, seen)
	if err != nil {
		return err
	}
	return n.put(ctx, c, m)
}

// keep rescues a stage that a cleaner of the new place has marked, or takes the
// entry where there is none to rescue.
func (n *naming) keep(ctx context.Context, d stages.Digest, seen synchronization.Entry, m storage.Manifest) error {
	found, err := n.To.Storage.Resolve(ctx, storage.StageTag(d))
	switch {
	case err == nil:
		if err := n.session.Rescue(ctx, d, seen, found.Digest); err != nil {
			return err
		}
		if found.Digest != m.Descriptor.Digest {
			return different(d, m, found.Digest)
		}
		return nil
	case errors.Is(err, storage.ErrNotFound):
		c, err := n.session.Reclaim(ctx, d, seen)
		if err != nil {
			return err
		}
		return n.giveUnder(ctx, c, m)
	}
	return err
}
