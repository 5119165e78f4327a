package build

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// listing is an index on its way: that of the build, or of one image for several
// platforms. It is published as a stage is, under an entry of its own: else a cleaner
// that has seen nobody at work could delete an image just before it is listed.
type listing struct {
	what   string
	root   stages.Digest
	images []*stages.Image

	// session and claim are the entry, below what the ledger said of the images when
	// it was known. early: that was before anybody looked for them.
	session *synchronization.Session
	claim   *synchronization.Claim
	below   map[stages.Digest]synchronization.Entry
	early   bool
}

// listings returns the indexes of the run. That of the build comes last: it tells
// later builds that all is there.
func (r *run) listings(root stages.Digest) ([]*listing, error) {
	var all []*listing
	for _, images := range severalPlatforms(r.Plan.Images) {
		part := stages.Plan{Project: r.Plan.Project, Images: images}
		own, err := part.Root()
		if err != nil {
			return nil, err
		}
		if own == root {
			continue // there is no other image, and both indexes are one
		}
		all = append(all, &listing{what: fmt.Sprintf("index of image %q", images[0].Name), root: own, images: images})
	}
	return append(all, &listing{what: "index of the build", root: root, images: r.Plan.Images}), nil
}

// claimEarly takes the entries of the indexes before the images are looked for: what
// is read of them after that need not be read again before it is listed. What others
// hold, or there is no room for, is tried for again at the end.
func (r *run) claimEarly(ctx context.Context, lists []*listing) error {
	s, err := r.ledger.session(ctx)
	if err != nil {
		return r.unreached(ctx, err)
	}
	roots := make([]stages.Digest, len(lists))
	for i, l := range lists {
		roots[i] = l.root
	}
	got, err := s.TryAcquire(ctx, roots)
	if errors.Is(err, synchronization.ErrFull) || errors.Is(err, synchronization.ErrLost) {
		return nil
	}
	if err != nil {
		return r.unreached(ctx, err)
	}
	below, err := s.Entries(ctx, finals(r.Plan.Images))
	if err != nil {
		return r.unreached(ctx, err)
	}
	for _, l := range lists {
		if c := got.Claims[l.root]; c != nil {
			l.session, l.claim, l.below, l.early = s, c, below, true
		}
	}
	r.missed = lists[len(lists)-1].claim != nil
	return nil
}

// unlisted has a run that may do without its ledger go on, and makes any other end.
func (r *run) unlisted(ctx context.Context, err error) error {
	switch {
	case errors.Is(err, synchronization.ErrLost):
		return nil
	case !errors.Is(err, synchronization.ErrUnavailable):
		return err
	case r.KeepLocal:
		r.ledger.leaveAlone(ctx, err)
		return nil
	}
	return err
}

// unreached is unlisted for a run that has not begun: while all it needs may be there,
// it does not need a ledger.
func (r *run) unreached(ctx context.Context, err error) error {
	err = r.unlisted(ctx, err)
	if errors.Is(err, synchronization.ErrUnavailable) {
		r.noLedger = err
		return nil
	}
	return err
}

// goUnlisted reports whether the build does without an index: all of it was found, and
// no ledger is there to publish under. What is for several platforms has a name by its
// index only.
func (r *run) goUnlisted(lists []*listing) bool {
	return r.noLedger != nil && len(lists) == 1 && len(severalPlatforms(r.Plan.Images)) == 0 &&
		!slices.ContainsFunc(r.order, func(d stages.Digest) bool { return r.at(d).madeHere() })
}

// isMissed reports whether a first look for n would only cost a request: it is the
// only image of a build whose index is missing, and is looked for under its entry.
func (r *run) isMissed(n *node) bool { return r.missed && n.root && len(r.Plan.Images) == 1 }

func finals(images []*stages.Image) []stages.Digest {
	out := make([]stages.Digest, len(images))
	for i, img := range images {
		out[i] = img.Final().Digest
	}
	return out
}

// publishBuild gives the build its index, and every image for several platforms one
// of its own, when all that they list is published.
func (r *run) publishBuild(ctx context.Context, lists []*listing) error {
	for _, img := range r.Plan.Images {
		if err := r.node(img.Final()).wait(ctx); err != nil {
			return err
		}
	}
	if r.anyLocal() {
		return nil // not all names exist, so there is nothing that an index could list
	}
	if r.goUnlisted(lists) {
		return nil
	}
	for _, l := range lists {
		if err := r.bringListing(ctx, l); err != nil {
			return fmt.Errorf("%s: %w", l.what, err)
		}
	}
	r.noLedger = nil
	return nil
}

// bringListing is bring for an index.
func (r *run) bringListing(ctx context.Context, l *listing) error {
	for range maxRounds {
		err := r.attemptListing(ctx, l)
		switch {
		case err == nil || ctx.Err() != nil:
			return err
		case errors.Is(err, synchronization.ErrLost), errors.Is(err, synchronization.ErrTaken), errors.Is(err, errAgain):
		default:
			return r.unlisted(ctx, err)
		}
		l.claim = nil // it is found again where it is ours still
	}
	return errRestless
}

// attemptListing takes the entry and does what its state asks for.
func (r *run) attemptListing(ctx context.Context, l *listing) error {
	s, err := r.ledger.session(ctx)
	if err != nil {
		return err
	}
	if l.claim == nil || l.session != s {
		if done, err := r.claimListing(ctx, s, l); done || err != nil {
			return err
		}
	}
	switch l.claim.Entry().State {
	case synchronization.Publishing:
		return r.finishListing(ctx, l)
	case synchronization.Deleting:
		if err := r.deleteDecided(ctx, storage.BuildTag(l.root), l.claim); err != nil {
			return err
		}
		return errAgain
	}
	return r.publishListing(ctx, s, l)
}

// claimListing takes the entry, or reports that the index is published.
func (r *run) claimListing(ctx context.Context, s *synchronization.Session, l *listing) (bool, error) {
	l.session, l.early = s, false
	got, err := s.TryAcquire(ctx, []stages.Digest{l.root})
	if errors.Is(err, synchronization.ErrFull) && r.ledger.sweepFull(ctx, l.root, r.showsNamed) {
		return false, errAgain
	}
	if err != nil {
		return false, err
	}
	if l.claim = got.Claims[l.root]; l.claim == nil {
		done, err := r.heldListing(ctx, s, l, got.Held[l.root])
		if done || err != nil {
			return done, err
		}
	}
	l.below, err = s.Entries(ctx, finals(l.images))
	return false, err
}

// heldListing deals with an entry that is not to be had: it waits, takes what is
// published, or rescues what a cleaner has marked. Without an error, and where the
// index is not published, the claim is there.
func (r *run) heldListing(ctx context.Context, s *synchronization.Session, l *listing, h synchronization.Holder) (bool, error) {
	tag, e := storage.BuildTag(l.root), h.Entry
	switch e.State {
	case synchronization.Building:
		// Its owner may be at work on the images still, which are all there for us.
		var err error
		l.claim, err = s.Supersede(ctx, l.root, e)
		return false, err
	case synchronization.Published:
		shown, err := r.shows(ctx, tag, e.Manifest)
		if shown {
			return true, r.adoptListing(ctx, l, e.Manifest)
		}
		if err != nil {
			return false, err
		}
		l.claim, err = s.Republish(ctx, l.root, e)
		return false, err
	case synchronization.Doomed:
		desc, err := r.Storage.Resolve(ctx, tag)
		if errors.Is(err, storage.ErrNotFound) {
			l.claim, err = s.Reclaim(ctx, l.root, e)
			return false, err
		}
		if err != nil {
			return false, err
		}
		if err := s.Rescue(ctx, l.root, e, desc.Digest); err != nil {
			return false, err
		}
		return true, r.adoptListing(ctx, l, desc.Digest)
	}
	if err := r.awaitListing(ctx, s, l); err != nil {
		return false, err
	}
	return false, errAgain
}

// noteMark notes the generation of an image's own index: the index of the build has to
// name it, and the report.
func (r *run) noteMark(l *listing, mark string) {
	if len(l.images) < len(r.Plan.Images) {
		r.marks[l.images[0].Name] = mark
	}
}

// adoptListing takes an index that another run published as d.
func (r *run) adoptListing(ctx context.Context, l *listing, d digest.Digest) error {
	m, err := r.indexOf(l.images, "")
	if err != nil || m.Descriptor.Digest == d {
		return err
	}
	if m, err = r.Storage.Manifest(ctx, d.String()); err != nil {
		return err
	}
	idx, err := m.Index()
	if err == nil {
		r.noteMark(l, idx.Annotations[generationKey])
	}
	return err
}

// awaitListing waits for another runner that publishes the same index.
func (r *run) awaitListing(ctx context.Context, s *synchronization.Session, l *listing) error {
	began, who := r.Now(), ""
	bound, cancel := context.WithTimeout(ctx, r.Patience)
	defer cancel()
	err := s.Wait(bound, []stages.Digest{l.root}, func(h synchronization.Holder) {
		who = nameOf(h)
		r.tellListing(l, fmt.Sprintf("waiting for %s, which publishes the %s", who, l.what))
	})
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return &WaitError{Stage: l.root, Holder: who, Waited: r.Now().Sub(began)}
	}
	return err
}

// tellListing tells of an index beside the image that it lists first.
func (r *run) tellListing(l *listing, line string) {
	n := r.node(l.images[0].Final())
	r.tell(Event{Image: n.label, Stage: n.stage, Line: []byte(line)})
}

// publishListing is the ordinary way: look once more, confirm the images, decide,
// put the tag.
func (r *run) publishListing(ctx context.Context, s *synchronization.Session, l *listing) error {
	avoid := l.claim.Entry().Avoid
	if avoid == "" {
		desc, err := r.Storage.Resolve(ctx, storage.BuildTag(l.root))
		if err == nil {
			if err := l.claim.Release(ctx); err != nil {
				return err // it counts only when the entry was ours all the while
			}
			return r.adoptListing(ctx, l, desc.Digest)
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	if err := r.confirmListed(ctx, s, l); err != nil {
		return err
	}
	m, err := r.indexOf(l.images, "")
	if err == nil && m.Descriptor.Digest == avoid {
		mark := l.claim.Entry().Nonce
		r.noteMark(l, mark)
		m, err = r.indexOf(l.images, mark)
	}
	if err != nil {
		return err
	}
	if err := r.checkNewMarker(ctx); err != nil {
		return err
	}
	if err := l.claim.Decide(ctx, m.Descriptor.Digest); err != nil {
		return err
	}
	fctx, cancel := outliving(ctx, finishing)
	defer cancel()
	return r.nameListing(fctx, l, m)
}

// confirmListed makes sure that the images are what the storage says still, and has
// those brought again that are not.
func (r *run) confirmListed(ctx context.Context, s *synchronization.Session, l *listing) error {
	for _, img := range l.images {
		n := r.node(img.Final())
		err := r.confirm(ctx, s, n, l.below[n.stage.Digest], l.early)
		if errors.Is(err, errGone) && r.renew(n) {
			n = r.node(img.Final())
			r.require(n)
			if err := n.wait(ctx); err != nil {
				return err
			}
			err = errAgain
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// nameListing puts the tag of a decided index. A registry that says it is done is
// believed: until the tag was seen, which is before the entry goes, the entry says
// what it has to show.
func (r *run) nameListing(ctx context.Context, l *listing, m storage.Manifest) error {
	tag := storage.BuildTag(l.root)
	err := r.put(ctx, tag, l.claim, m)
	if errors.Is(err, storage.ErrTransient) {
		err = r.putTag(ctx, tag, l.claim, m)
	}
	if err != nil {
		return err
	}
	return l.claim.Published(ctx)
}

// finishListing publishes what was decided by a runner that is gone. It is what this
// run would have decided, unless an image was made anew in between.
func (r *run) finishListing(ctx context.Context, l *listing) error {
	tag, d := storage.BuildTag(l.root), l.claim.Entry().Manifest
	m, err := r.decidedListing(ctx, l, d)
	if errors.Is(err, storage.ErrNotFound) {
		m, err = r.awaitDecided(ctx, d, func(detail string) { r.tellListing(l, detail) })
	}
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return r.abandon(ctx, tag, l.claim)
	case err != nil:
		return err
	}
	return r.nameDecided(ctx, tag, l.claim, m)
}

func (r *run) decidedListing(ctx context.Context, l *listing, d digest.Digest) (storage.Manifest, error) {
	m, err := r.indexOf(l.images, "")
	if err != nil || m.Descriptor.Digest == d {
		return m, err
	}
	return r.Storage.Manifest(ctx, d.String())
}
