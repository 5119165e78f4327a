package build

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// finishing bounds what is done for a decided stage after the run was cancelled.
const finishing = 30 * time.Second

// maxRounds bounds how often a stage is looked at anew. Every round but the
// first follows a wait or another runner's step, so this many mean that
// something is broken.
const maxRounds = 100

// errAgain is the answer of a step after which the stage is looked at anew: it
// was lost to another runner, or what it stands on has changed.
var errAgain = errors.New("look again")

// errRestless ends a stage that would be looked at for ever.
var errRestless = errors.New("the stage and what it stands on change again and again")

// bring has stage n published, by this run or another, or fails. It is the
// publish protocol:
//
//  1. Look in the storage: there → adopt, and the ledger is not asked.
//  2. Take the entry. Held by another → wait for a change and look again.
//  3. Under the entry, look for n once more. Then list the entries of what n is
//     built upon, and read their tags after that (in this order: an entry that
//     was there before the list is seen, one made later finds our entry). What is
//     missing below is taken together, see chain.go, and brought in the same way.
//  4. Make the stage; push by digest; read back. Nothing is visible yet.
//  5. Decide: building → publishing{M}. A stale owner is refused here.
//  6. Read the entry, put the tag at once, read the tag.
//  7. publishing{M} → published{M}.
func (r *run) bring(ctx context.Context, n *node) error {
	defer r.ended(ctx, n)
	if found, err := r.findFirst(ctx, n); err != nil || found {
		return err
	}
	for range maxRounds {
		err := r.attempt(ctx, n)
		var blocked *blockedError
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return err
		case errors.As(err, &blocked):
			if err := r.unblock(ctx, blocked); err != nil {
				return err
			}
		case errors.Is(err, synchronization.ErrLost):
			// This runner may be taken for dead: it paused too long, or the ledger was
			// away. What it made is kept; the next session may find it published.
			if n.isDecided() {
				continue // under its entry, which has to be ended: nobody sweeps it
			}
		case errors.Is(err, errAgain), errors.Is(err, synchronization.ErrTaken):
		case r.KeepLocal && errors.Is(err, synchronization.ErrUnavailable):
			r.ledger.leaveAlone(ctx, err)
			return r.unsynchronized(ctx, n)
		default:
			return err
		}
		if found, err := r.look(ctx, n); err != nil || found {
			return err
		}
	}
	return errRestless
}

// findFirst ends n where it was there before the run.
func (r *run) findFirst(ctx context.Context, n *node) (bool, error) {
	r.phase(n, PhaseLooking, "")
	if r.isMissed(n) {
		return false, nil
	}
	there, err := r.sees(ctx, n)
	if err == nil && there {
		r.published(n, n.sight.manifest, ResultCached)
	}
	return there, err
}

// ended is the last of n: what the ledger says of it must not be left to a session that
// lives on, for nobody else may end that, and whoever builds upon n waits for it. An
// entry can have come into our hands while n was found published, or failed: acquired
// together with others, or taken again after the session was lost.
func (r *run) ended(ctx context.Context, n *node) {
	n.over.Store(true)
	if s := r.ledger.live.Load(); s != nil {
		r.putDown(ctx, s, n)
	}
}

// putDown ends the entry of a stage that nobody works on, if the session has it.
func (r *run) putDown(ctx context.Context, s *synchronization.Session, n *node) {
	if ctx.Err() != nil || s.Context().Err() != nil {
		return // the run ends, and all of its entries with it, or the session has
	}
	c := s.PutDown(n.stage.Digest)
	if c == nil {
		return
	}
	r.release(ctx, c)
	if c.Entry().State != synchronization.Publishing {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, finishing)
	defer cancel()
	// An error is of no use here: n has its end, and the entry dies with the session.
	_, _, _ = r.finishDecided(ctx, n, c)
}

// inherited looks after the entries that a session took over from one that was lost:
// those of stages that nobody works on are ended.
func (r *run) inherited(s *synchronization.Session) {
	for _, d := range s.InHands() {
		n := r.at(d)
		if n == nil || n.begun() && !n.over.Load() {
			continue // at work: it asks for its entry, or ends it
		}
		r.spawn(func(ctx context.Context) error {
			r.putDown(ctx, s, n)
			return nil
		})
	}
}

// unblock waits for what other runners make, holding nothing.
func (r *run) unblock(ctx context.Context, blocked *blockedError) error {
	for _, dep := range blocked.on {
		r.ensure(dep)
	}
	for _, dep := range blocked.on {
		if err := dep.wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

// look asks the storage for n again, after others may have published it.
func (r *run) look(ctx context.Context, n *node) (bool, error) {
	m, err := r.Storage.Manifest(ctx, storage.StageTag(n.stage.Digest))
	switch {
	case err == nil:
		r.adopted(n, m)
		return true, nil
	case errors.Is(err, storage.ErrNotFound):
		return false, nil
	default:
		return false, err
	}
}

// attempt takes n's entry and goes as far as the entry's state asks for. It
// returns nil when n is published, here or by another.
func (r *run) attempt(ctx context.Context, n *node) error {
	s, err := r.ledger.session(ctx)
	if err != nil {
		return err
	}
	if err := r.enterPlace(ctx, s, n); err != nil {
		return err
	}
	defer n.leavePlace()
	ctx, stop := r.whileOurs(ctx, s, n)
	defer stop()
	err = r.acquire(ctx, s, n)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, synchronization.ErrLost) {
		return cause
	}
	return err
}

// acquire is step 2 and what follows from it.
func (r *run) acquire(ctx context.Context, s *synchronization.Session, n *node) error {
	if g := n.handedTo(s); g != nil {
		return r.work(ctx, n, g)
	}
	d := n.stage.Digest
	got, err := s.TryAcquire(ctx, []stages.Digest{d})
	if errors.Is(err, synchronization.ErrFull) && r.ledger.sweepFull(ctx, d, r.showsNamed) {
		return errAgain
	}
	if err != nil {
		return err
	}
	if c, ok := got.Claims[d]; ok {
		return r.work(ctx, n, &grip{session: s, claim: c})
	}
	switch e := got.Held[d].Entry; e.State {
	case synchronization.Published:
		return r.adoptDecided(ctx, s, n, e)
	case synchronization.Doomed:
		return r.rescue(ctx, s, n, e)
	}
	if err := r.awaitHolder(ctx, s, n, got.Held[d]); err != nil {
		return err
	}
	return errAgain
}

// awaitHolder waits until nobody alive is at work on n, which h has as far as is known.
func (r *run) awaitHolder(ctx context.Context, s *synchronization.Session, n *node, h synchronization.Holder) error {
	n.leavePlace()
	n.setForeign(true)
	defer n.setForeign(false)
	n.waits.begin(r.Now())
	defer func() { n.waits.end(r.Now()) }()
	w := &vigil{run: r, node: n, who: nameOf(h)}
	return w.wait(ctx, s)
}

// work does what the entry in our hands asks for.
func (r *run) work(ctx context.Context, n *node, g *grip) error {
	c := g.claim
	switch c.Entry().State {
	case synchronization.Publishing: // a dead owner's decision
		n.decide()
		m, res, err := r.finishDecided(ctx, n, c)
		if err != nil {
			return err
		}
		r.publishedHere(n, m, res)
		return nil
	case synchronization.Deleting: // a dead owner's deletion
		if err := r.deleteDecided(ctx, n.tag(), c); err != nil {
			return err
		}
		return errAgain
	}
	err := r.makeAndPublish(ctx, n, g)
	if err != nil || n.isLocal() {
		r.release(ctx, c)
	}
	return err
}

// release gives up an entry that was not decided. It works for a cancelled run
// too: a held entry would keep others waiting until the session is seen dead.
func (r *run) release(ctx context.Context, c *synchronization.Claim) {
	if c.Entry().State != synchronization.Building {
		return // decided: it stays, and whoever comes next finishes it
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishing)
	defer cancel()
	// An error is of no use here: the entry dies with the session.
	_ = c.Release(ctx)
}

// adoptDecided takes manifest m for n: a published entry is the truth, and reads
// of the registry may lag behind it. Where the tag or the manifest is gone, it is
// published again.
func (r *run) adoptDecided(ctx context.Context, s *synchronization.Session, n *node, seen synchronization.Entry) error {
	m := seen.Manifest
	man, err := r.Storage.Manifest(ctx, m.String())
	if err == nil {
		var named bool
		if named, err = r.shows(ctx, storage.StageTag(n.stage.Digest), m); named {
			r.adopted(n, man)
			return nil
		}
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	c, err := s.Republish(ctx, n.stage.Digest, seen)
	if err != nil {
		return err
	}
	return r.work(ctx, n, &grip{session: s, claim: c})
}

// rescue keeps a stage that a cleaner has marked, for it is needed again. Where
// its tag shows nothing any more, it is made.
func (r *run) rescue(ctx context.Context, s *synchronization.Session, n *node, seen synchronization.Entry) error {
	desc, err := r.Storage.Resolve(ctx, storage.StageTag(n.stage.Digest))
	switch {
	case err == nil:
		if err := s.Rescue(ctx, n.stage.Digest, seen, desc.Digest); err != nil {
			return err
		}
		return errAgain
	case errors.Is(err, storage.ErrNotFound):
		c, err := s.Reclaim(ctx, n.stage.Digest, seen)
		if err != nil {
			return err
		}
		return r.work(ctx, n, &grip{session: s, claim: c})
	default:
		return err
	}
}

// makeAndPublish is the ordinary way, steps 3 to 7.
func (r *run) makeAndPublish(ctx context.Context, n *node, g *grip) error {
	c := g.claim
	avoid := c.Entry().Avoid
	if avoid == "" {
		m, err := r.Storage.Manifest(ctx, storage.StageTag(n.stage.Digest))
		if err == nil {
			return r.adoptUnder(ctx, n, c, m)
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		cand, err := r.fromSecond(ctx, n)
		if err != nil {
			return err
		}
		if cand != nil {
			return r.publish(ctx, n, c, cand)
		}
	}
	if err := r.offeredUnlessKept(ctx, n); err != nil {
		return err
	}
	if err := r.confirmNeeds(ctx, n, g); err != nil {
		return err
	}
	cand, err := r.candidateFor(ctx, n, generation{avoid: avoid, mark: c.Entry().Nonce})
	if err != nil {
		return err
	}
	return r.publish(ctx, n, c, cand)
}

// adoptUnder adopts what the tag shows under our entry. That counts only when the
// entry was ours all the while, which its release shows.
func (r *run) adoptUnder(ctx context.Context, n *node, c *synchronization.Claim, m storage.Manifest) error {
	if err := c.Release(ctx); err != nil {
		return err
	}
	r.adopted(n, m)
	return nil
}

// publish is steps 4 to 7 for a candidate.
func (r *run) publish(ctx context.Context, n *node, c *synchronization.Claim, cand *candidate) error {
	r.phase(n, PhasePushing, "")
	if err := r.pushBlobs(ctx, n, cand); err != nil {
		if r.damaged(ctx, n, cand, err) {
			return errAgain
		}
		return err
	}
	err := r.stands(ctx, n, cand)
	if errors.Is(err, errLocalBelow) {
		r.endLocally(n, cand)
		return nil
	}
	if err != nil {
		return err
	}
	if err := r.pushManifest(ctx, n, cand); err != nil {
		return err
	}
	if err := r.checkNewMarker(ctx); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	// From here on a cancelled run finishes rather than leaving it to others: whether a
	// decision was heard of would be unknown. Otherwise it takes as long as it takes: the
	// ledger and the storage have bounds of their own.
	m := cand.image.Manifest()
	fctx, cancel := outliving(ctx, finishing)
	defer cancel()
	if err := c.Decide(fctx, m.Descriptor.Digest); err != nil {
		return err
	}
	n.decide()
	r.phase(n, PhasePublishing, "")
	if err := r.name(fctx, n.tag(), c, m); err != nil {
		return err
	}
	r.forget(fctx, n)
	r.publishedHere(n, m, cand.result)
	return nil
}

// errLocalBelow: a stage below was made without a ledger and is not published.
var errLocalBelow = errors.New("what it is built upon stays in the local cache")

// stands checks that the stages a candidate was made from became what it was
// made from. Another runner may have published one of them first.
func (r *run) stands(ctx context.Context, n *node, cand *candidate) error {
	if cand.basis == nil {
		return nil // it came whole from the secondary storage
	}
	for i, need := range n.stage.Needs() {
		dep := r.node(need)
		if err := dep.wait(ctx); err != nil {
			return err
		}
		if dep.isLocal() {
			return fmt.Errorf("stage %s is not published: %w", dep.stage.Name(), errLocalBelow)
		}
		if cand.basis[i] != dep.publishedDigest() {
			return errAgain
		}
	}
	return nil
}
