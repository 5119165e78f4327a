package switchover

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
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
)

// maxRounds bounds how often a name is tried for that others change meanwhile.
const maxRounds = 20

// errEnded: the old ledger says that the stage was deleted.
var errEnded = errors.New("it was withdrawn")

// errLost: a runner at the new place has decided a manifest that is not there.
var errLost = errors.New("another manifest was decided for it at the new place, and is not there")

// errListed: a cleaner of the new place is removing a stage that an index lists.
var errListed = errors.New("a stage that it lists is not at the new place, or is being removed there")

// errHeld: a runner at the new place is publishing it, and does not come to its end.
var errHeld = errors.New("it is in other hands at the new place")

// request bounds a write of a tag that stands under no entry.
const request = 30 * time.Second

// name is a tag that is to be given, and of which an entry decides.
type name struct {
	tag string
	d   stages.Digest // a stage's, or the root of an index
	m   storage.Manifest
}

// giveOne gives a name, unless the new place has it already.
func (n *naming) giveOne(ctx context.Context, tag string, m storage.Manifest) error {
	if !storage.IsStageTag(tag) && !storage.IsBuildTag(tag) {
		return left(tag, n.giveAttached(ctx, tag, m))
	}
	d, err := stages.ParseDigest(tag[len(tag)-hexLength:])
	if err != nil {
		return err
	}
	if n.ended[d] {
		return left(tag, errEnded)
	}
	until := n.Now().Add(n.Patience)
	for range maxRounds {
		err := n.giveNamed(ctx, name{tag, d, m}, until)
		if !errors.Is(err, synchronization.ErrTaken) {
			return left(tag, err)
		}
	}
	return left(tag, synchronization.ErrTaken)
}

// hexLength is the length of the digest that ends a stage's or an index's tag.
const hexLength = 2 * len(stages.Digest{})

// left returns err as one that concerns the name alone where that is so.
func left(tag string, err error) error {
	var other *transfer.DifferentError
	switch {
	case errors.As(err, &other), errors.Is(err, synchronization.ErrAvoided), errors.Is(err, synchronization.ErrTaken),
		errors.Is(err, errEnded), errors.Is(err, errLost), errors.Is(err, errListed), errors.Is(err, errHeld):
		return &LeftError{Tag: tag, Err: err}
	}
	return err
}

// different says that a name is another manifest at the new place.
func (o name) different(theirs digest.Digest) error {
	return &transfer.DifferentError{Tag: o.tag, Ours: o.m.Descriptor.Digest, Theirs: theirs}
}

// giveAttached names what is attached to a manifest, of which no entry decides.
func (n *naming) giveAttached(ctx context.Context, tag string, m storage.Manifest) error {
	bound, cancel := context.WithTimeout(ctx, request)
	defer cancel()
	shown, err := shows(bound, n.To.Storage, tag, m.Descriptor.Digest)
	if err != nil || shown {
		return err
	}
	return n.To.Storage.Publish(bound, tag, m)
}

// giveNamed goes once as far as the entry of the name allows. It fails with
// [synchronization.ErrTaken] where it is worth another look.
func (n *naming) giveNamed(ctx context.Context, o name, until time.Time) error {
	got, err := n.session.TryAcquire(ctx, []stages.Digest{o.d})
	if err != nil {
		return err
	}
	if c, ok := got.Claims[o.d]; ok {
		return n.giveUnder(ctx, c, o)
	}
	held := got.Held[o.d]
	switch held.Entry.State {
	case synchronization.Published:
		return n.compare(ctx, held.Entry, o)
	case synchronization.Doomed:
		return n.keep(ctx, held.Entry, o)
	}
	return n.outwait(ctx, o, held.Name, until)
}

// outwait waits until a name is not in other hands any more, to be tried for again.
func (n *naming) outwait(ctx context.Context, o name, by string, until time.Time) error {
	bound, cancel := context.WithTimeout(ctx, until.Sub(n.Now()))
	defer cancel()
	err := n.session.Wait(bound, []stages.Digest{o.d}, func(h synchronization.Holder) {
		n.tell(Awaited{For: FreeName, Tag: o.tag, By: []string{h.Name}, Left: until.Sub(n.Now())})
	})
	switch {
	case err == nil:
		return fmt.Errorf("%w: it was in the hands of %s", synchronization.ErrTaken, by)
	case bound.Err() != nil && ctx.Err() == nil:
		return fmt.Errorf("%w, those of %s, for more than %s", errHeld, by, n.Patience)
	}
	return err
}

// giveUnder does what the entry in our hands asks for.
func (n *naming) giveUnder(ctx context.Context, c *synchronization.Claim, o name) error {
	switch e := c.Entry(); e.State {
	case synchronization.Publishing:
		return n.giveDecided(ctx, c, o)
	case synchronization.Building:
		return n.decide(ctx, c, o)
	default: // a deletion that somebody has begun, and that a cleaner ends
		return errEnded
	}
}

// decide gives a name that nobody has decided about, unless it is there.
func (n *naming) decide(ctx context.Context, c *synchronization.Claim, o name) error {
	shown, err := shows(ctx, n.To.Storage, o.tag, o.m.Descriptor.Digest)
	if err == nil && !shown {
		err = n.keepListed(ctx, o)
	}
	if err == nil && !shown {
		err = n.To.Storage.PushManifest(ctx, o.m)
	}
	if err != nil || shown {
		return errors.Join(err, c.Release(ctx))
	}
	if err := c.Decide(ctx, o.m.Descriptor.Digest); err != nil {
		return err
	}
	return n.put(ctx, c, o.tag, o.m)
}

// keepListed has the stages stay that an index lists. A cleaner sees the entry of the
// index by now, but it may have marked some of them before.
func (n *naming) keepListed(ctx context.Context, o name) error {
	if !o.m.IsIndex() {
		return nil
	}
	idx, err := o.m.Index()
	if err != nil {
		return err
	}
	listed := map[stages.Digest]digest.Digest{}
	for _, m := range idx.Manifests {
		d, err := stages.ParseDigest(m.Annotations[storage.AnnotationStage])
		if err != nil {
			return fmt.Errorf("the index %s: %w", o.tag, err)
		}
		listed[d] = m.Digest
	}
	entries, err := n.session.Entries(ctx, slices.Collect(maps.Keys(listed)))
	if err != nil {
		return err
	}
	for d, m := range listed {
		if err := n.keepStage(ctx, d, entries[d], m); err != nil {
			return err
		}
	}
	return nil
}

// keepStage makes sure that a stage is there, and rescues it from a cleaner.
func (n *naming) keepStage(ctx context.Context, d stages.Digest, seen synchronization.Entry, m digest.Digest) error {
	shown, err := shows(ctx, n.To.Storage, storage.StageTag(d), m)
	switch {
	case err != nil:
		return err
	case !shown, seen.State == synchronization.Deleting, seen.State == synchronization.Deleted:
		return fmt.Errorf("%w: %s", errListed, d.Short())
	case seen.State == synchronization.Doomed:
		return n.session.Rescue(ctx, d, seen, m)
	}
	return nil
}

// giveDecided finishes what an earlier run, or a runner, had decided.
func (n *naming) giveDecided(ctx context.Context, c *synchronization.Claim, o name) error {
	decided := c.Entry().Manifest
	if decided == o.m.Descriptor.Digest {
		return n.put(ctx, c, o.tag, o.m)
	}
	theirs, err := n.To.Storage.Manifest(ctx, decided.String())
	if errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("%w: %s", errLost, decided)
	}
	if err != nil {
		return err
	}
	if err := n.put(ctx, c, o.tag, theirs); err != nil {
		return err
	}
	return o.different(decided)
}

// put gives a decided manifest its tag, under the guard of the entry.
func (n *naming) put(ctx context.Context, c *synchronization.Claim, tag string, m storage.Manifest) error {
	if err := putTag(ctx, n.To.Storage, c, tag, m); err != nil {
		return err
	}
	return c.Published(ctx)
}

// compare looks at what was published at the new place lately.
func (n *naming) compare(ctx context.Context, seen synchronization.Entry, o name) error {
	if seen.Manifest != o.m.Descriptor.Digest {
		return o.different(seen.Manifest)
	}
	shown, err := shows(ctx, n.To.Storage, o.tag, o.m.Descriptor.Digest)
	if err != nil || shown {
		return err
	}
	c, err := n.session.Republish(ctx, o.d, seen)
	if err != nil {
		return err
	}
	return n.put(ctx, c, o.tag, o.m)
}

// keep rescues what a cleaner of the new place has marked, or takes the entry where
// there is nothing to rescue.
func (n *naming) keep(ctx context.Context, seen synchronization.Entry, o name) error {
	found, err := n.To.Storage.Resolve(ctx, o.tag)
	switch {
	case err == nil:
		if err := n.session.Rescue(ctx, o.d, seen, found.Digest); err != nil {
			return err
		}
		if found.Digest != o.m.Descriptor.Digest {
			return o.different(found.Digest)
		}
		return nil
	case errors.Is(err, storage.ErrNotFound):
		c, err := n.session.Reclaim(ctx, o.d, seen)
		if err != nil {
			return err
		}
		return n.giveUnder(ctx, c, o)
	}
	return err
}
