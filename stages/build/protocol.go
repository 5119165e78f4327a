package build

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// finishing bounds what is done for a decided stage after the run was cancelled.
const finishing = 30 * time.Second

// errAgain is the answer of a step after which the stage is looked at anew: it
// was lost to another runner, or what it stands on has changed.
var errAgain = errors.New("look again")

// bring has stage n published, by this run or another, or fails. It is the
// publish protocol:
//
//  1. Look in the storage: there → adopt, and the ledger is not asked.
//  2. Take the entry. Held by another → wait for a change and look again.
//  3. Under the entry, list the entries of what n is built upon, then read their
//     tags (in this order: an entry that was there before the list is seen, one
//     made later finds our entry), and look for n once more.
//  4. Make the stage; push by digest; read back. Nothing is visible yet.
//  5. Decide: building → publishing{M}. A stale owner is refused here.
//  6. Read the entry, put the tag at once, read the tag.
//  7. publishing{M} → published{M}.
func (r *run) bring(ctx context.Context, n *node) error {
	found, err := r.look(ctx, n, ResultCached)
	if err != nil || found {
		return err
	}
	r.prefetch(ctx, n)
	for {
		err := r.attempt(ctx, n)
		switch {
		case err == nil, errors.Is(err, errAdopted):
			return nil
		case errors.Is(err, lock.ErrLost) && ctx.Err() == nil:
			// This runner was taken for dead: it paused too long, or the ledger was
			// away. What it made is kept; another session may find it published.
			r.ledger.rejoin()
		case errors.Is(err, errAgain):
		default:
			return err
		}
		if found, err := r.look(ctx, n, ResultAdopted); err != nil || found {
			return err
		}
	}
}

// look asks the storage, and the secondary one, for n.
func (r *run) look(ctx context.Context, n *node, res Result) (bool, error) {
	m, err := r.Storage.Manifest(ctx, storage.StageTag(n.stage.Digest))
	switch {
	case err == nil:
		r.published(n, m, res)
		return true, nil
	case errors.Is(err, storage.ErrNotFound):
		return false, nil
	default:
		return false, err
	}
}

// prefetch begins to look for all that n is built upon when n's own child was
// missing too: then it is likely that most of the image must be made, and asking
// for one stage after the other would only add up their latencies.
func (r *run) prefetch(ctx context.Context, n *node) {
	if r.isFinal(n) {
		return
	}
	for _, s := range n.stage.Needs() {
		r.ensure(ctx, r.node(s))
	}
}

func (r *run) isFinal(n *node) bool {
	for _, img := range r.Plan.Images {
		if img.Final() == n.stage {
			return true
		}
	}
	return false
}

// attempt takes n's entry and goes as far as the entry's state asks for.
func (r *run) attempt(ctx context.Context, n *node) error {
	s, err := r.ledger.session(ctx)
	if err != nil {
		return r.unsynchronized(ctx, n, err)
	}
	claim, err := r.claim(ctx, s, n)
	if err != nil {
		return err
	}
	// Whoever loses the session must not go on making what another makes now.
	ctx, stop := whileHeld(ctx, s)
	defer stop()
	switch e := claim.Entry(); e.State {
	case synchronization.Publishing: // a dead owner's decision
		err = r.finishDecided(ctx, n, claim, e.Manifest)
	case synchronization.Deleting: // a dead owner's deletion
		err = r.finishDeletion(ctx, n, claim, e.Manifest)
	default:
		err = r.makeAndPublish(ctx, s, n, claim)
	}
	if err != nil {
		r.release(ctx, claim)
	}
	if cause := context.Cause(ctx); cause != nil && errors.Is(cause, lock.ErrLost) {
		return cause
	}
	return err
}

// whileHeld returns a context that ends with ctx or with the session.
func whileHeld(ctx context.Context, s *synchronization.Session) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.Context(), func() { cancel(context.Cause(s.Context())) })
	return ctx, func() {
		stop()
		cancel(nil)
	}
}

// claim takes the entry of n. Where another holds it, it waits for a change and
// returns errAgain.
func (r *run) claim(ctx context.Context, s *synchronization.Session, n *node) (*synchronization.Claim, error) {
	d := n.stage.Digest
	got, err := s.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return nil, err
	}
	if c, ok := got.Claims[d]; ok {
		return c, nil
	}
	held := got.Held[d]
	switch held.Entry.State {
	case synchronization.Published:
		// The tag is there or was not visible a moment ago: the entry knows better.
		return nil, r.adoptDecided(ctx, n, held.Entry.Manifest)
	case synchronization.Doomed:
		rescued, err := r.rescue(ctx, s, d)
		if err != nil {
			return nil, err
		}
		if rescued {
			return nil, errAgain
		}
	}
	err = s.Wait(ctx, []stages.Digest{d}, func(h synchronization.Holder) {
		r.phase(n, PhaseWaiting, "held by "+h.Session)
	})
	if err != nil {
		return nil, err
	}
	return nil, errAgain
}

// adoptDecided takes manifest m for n although the tag may not show it yet: a
// published entry is the truth, and reads of the registry may lag behind it.
func (r *run) adoptDecided(ctx context.Context, n *node, m digest.Digest) error {
	man, err := r.Storage.Manifest(ctx, m.String())
	if err != nil {
		return fmt.Errorf("published as %s, which the storage does not show: %w", m, err)
	}
	r.published(n, man, ResultAdopted)
	return errAdopted
}

// errAdopted ends an attempt that found the stage published.
var errAdopted = errors.New("adopted")

// rescue keeps a stage that a cleaner has marked: it is needed again.
func (r *run) rescue(ctx context.Context, s *synchronization.Session, d stages.Digest) (bool, error) {
	desc, err := r.Storage.Resolve(ctx, storage.StageTag(d))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, s.Rescue(ctx, d, desc.Digest)
}

// release gives up an entry that was not decided. It works for a cancelled run
// too: a held entry would keep others waiting until the session is seen dead.
func (r *run) release(ctx context.Context, c *synchronization.Claim) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishing)
	defer cancel()
	// An error is of no use here: the entry dies with the session.
	_ = c.Release(ctx)
}

// makeAndPublish is the ordinary way, steps 3 to 7.
func (r *run) makeAndPublish(ctx context.Context, s *synchronization.Session, n *node, c *synchronization.Claim) error {
	avoid := c.Entry().Avoid
	if avoid == "" {
		found, err := r.look(ctx, n, ResultAdopted)
		if err != nil {
			return err
		}
		if found {
			return c.Release(ctx)
		}
	}
	if err := r.checkMarker(ctx); err != nil {
		return err
	}
	cand, err := r.fromSecond(ctx, n)
	if err != nil {
		return err
	}
	if cand == nil {
		if err := r.confirmNeeds(ctx, s, n); err != nil {
			return err
		}
		if cand, err = r.candidateFor(ctx, n); err != nil {
			return err
		}
	}
	if cand.image.Manifest().Descriptor.Digest == avoid {
		// Equal bytes were deleted, and a late deletion could still hit them.
		cand.image = cand.image.WithGeneration(c.Entry().Nonce)
	}
	return r.publish(ctx, n, c, cand)
}

// confirmNeeds is step 3: it makes sure of the stages that n is built upon. Those
// that were looked up before n's entry was taken are read again, after a list of
// their entries.
func (r *run) confirmNeeds(ctx context.Context, s *synchronization.Session, n *node) error {
	needs := n.stage.Needs()
	if len(needs) == 0 {
		return nil
	}
	ds := make([]stages.Digest, len(needs))
	for i, need := range needs {
		ds[i] = need.Digest
	}
	entries, err := s.Entries(ctx, ds)
	if err != nil {
		return err
	}
	for _, need := range needs {
		dep := r.node(need)
		before := dep.isDone()
		r.ensure(ctx, dep)
		if err := dep.ready(ctx); err != nil {
			return err
		}
		e, inFlight := entries[need.Digest]
		if err := r.confirm(ctx, s, dep, e, inFlight, before); err != nil {
			return err
		}
	}
	return nil
}

// confirm makes sure that dep, which may have been read before our entry was
// known, is still what the storage says.
func (r *run) confirm(ctx context.Context, s *synchronization.Session, dep *node, e synchronization.Entry, inFlight, before bool) error {
	m := dep.publishedDigest()
	if m == "" || dep.ours() {
		return nil // under way here, or published under an entry of our own
	}
	if inFlight {
		switch e.State {
		case synchronization.Published:
			if e.Manifest != m {
				return fmt.Errorf("stage %s: the ledger says %s and the storage %s: %w", dep.stage.Digest, e.Manifest, m, storage.ErrCorrupt)
			}
			return nil
		case synchronization.Doomed:
			return s.Rescue(ctx, dep.stage.Digest, m)
		default:
			// Its owner, dead or alive, is not through with it.
			if err := r.settle(ctx, s, dep); err != nil {
				return err
			}
		}
	} else if !before {
		return nil // it was read after the list
	}
	desc, err := r.Storage.Resolve(ctx, storage.StageTag(dep.stage.Digest))
	if err != nil {
		return fmt.Errorf("stage %s was there a moment ago: %w", dep.stage.Digest, err)
	}
	if desc.Digest != m {
		return fmt.Errorf("stage %s: tag moved from %s to %s: %w", dep.stage.Digest, m, desc.Digest, storage.ErrCorrupt)
	}
	return nil
}

// settle waits for the owner of dep's entry, or takes the entry over and ends
// what a dead owner began.
func (r *run) settle(ctx context.Context, s *synchronization.Session, dep *node) error {
	for {
		claim, err := r.claim(ctx, s, dep)
		switch {
		case errors.Is(err, errAgain):
			entries, err := s.Entries(ctx, []stages.Digest{dep.stage.Digest})
			if err != nil {
				return err
			}
			if e, ok := entries[dep.stage.Digest]; !ok || e.State == synchronization.Published {
				return nil
			}
			continue
		case errors.Is(err, errAdopted):
			return nil
		case err != nil:
			return err
		}
		switch e := claim.Entry(); e.State {
		case synchronization.Publishing:
			return r.finishDecided(ctx, dep, claim, e.Manifest)
		case synchronization.Deleting:
			// What we stand on is gone; the next look begins with making it.
			return errors.Join(r.deleteDecided(ctx, dep, claim, e.Manifest), errors.New("was being deleted: run the build again"))
		default:
			return claim.Release(ctx)
		}
	}
}

// ours reports whether this run made what n was published as.
func (n *node) ours() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.result == ResultBuilt || n.result == ResultAssembled
}

// publish is steps 4 to 7 for a candidate.
func (r *run) publish(ctx context.Context, n *node, c *synchronization.Claim, cand *candidate) error {
	r.phase(n, PhasePushing, "")
	if err := r.push(ctx, n, cand); err != nil {
		return r.keep(n, err)
	}
	if err := r.stands(ctx, n, cand); err != nil {
		return err
	}
	m := cand.image.Manifest()
	if err := c.Decide(ctx, m.Descriptor.Digest); err != nil {
		return r.keep(n, err)
	}
	// Decided: from here on a cancelled run finishes rather than leaving it to others.
	fctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishing)
	defer cancel()
	r.phase(n, PhasePublishing, "")
	if err := r.name(fctx, n, c, m); err != nil {
		return r.keep(n, err)
	}
	r.forget(fctx, n)
	r.published(n, m, cand.result)
	return nil
}

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
		if dep.isKept() {
			return fmt.Errorf("stage %s is not published: %w", dep.stage.Name(), errKeptBelow)
		}
		if cand.basis[i] != dep.publishedDigest() {
			return errAgain
		}
	}
	return nil
}

var errKeptBelow = errors.New("what it is built upon stays in the local cache")

// name is steps 6 and 7.
func (r *run) name(ctx context.Context, n *node, c *synchronization.Claim, m storage.Manifest) error {
	if err := r.putTag(ctx, storage.StageTag(n.stage.Digest), c, m); err != nil {
		return err
	}
	return c.Published(ctx)
}

// tagAttempts is how often a tag is put that reads do not show yet.
const tagAttempts = 5

// putTag gives m its name, under the guard of the entry, and reads it.
func (r *run) putTag(ctx context.Context, tag string, c *synchronization.Claim, m storage.Manifest) error {
	for range tagAttempts {
		gctx, cancel, err := c.Guard(ctx)
		if err != nil {
			return err
		}
		err = r.Storage.Publish(gctx, tag, m)
		cancel()
		if err != nil && !errors.Is(err, storage.ErrTransient) {
			return err
		}
		desc, err := r.Storage.Resolve(ctx, tag)
		switch {
		case err == nil && desc.Digest == m.Descriptor.Digest:
			return nil
		case err == nil:
			return fmt.Errorf("tag %s shows %s and not %s, which was decided: %w", tag, desc.Digest, m.Descriptor.Digest, storage.ErrCorrupt)
		case !errors.Is(err, storage.ErrNotFound):
			return err
		}
	}
	return fmt.Errorf("tag %s was put and does not show: %w", tag, storage.ErrTransient)
}

// finishDecided publishes what a dead owner decided.
func (r *run) finishDecided(ctx context.Context, n *node, c *synchronization.Claim, d digest.Digest) error {
	m, err := r.Storage.Manifest(ctx, d.String())
	if errors.Is(err, storage.ErrNotFound) {
		return r.loseDecided(ctx, n, c, d)
	}
	if err != nil {
		return err
	}
	desc, err := r.Storage.Resolve(ctx, storage.StageTag(n.stage.Digest))
	switch {
	case err == nil && desc.Digest == d:
		err = c.Published(ctx)
	case err == nil || errors.Is(err, storage.ErrNotFound):
		err = r.name(ctx, n, c, m)
	}
	if err != nil {
		return err
	}
	if !n.isDone() && n.publishedDigest() == "" {
		r.published(n, m, ResultAdopted)
	}
	return nil
}

// loseDecided handles a decided manifest that the storage does not have: a
// registry may collect what no tag names. This host may have made it; else its
// generation ends, and a new one begins that avoids its digest.
func (r *run) loseDecided(ctx context.Context, n *node, c *synchronization.Claim, d digest.Digest) error {
	if cand := r.fromPad(ctx, n); cand != nil && cand.image.Manifest().Descriptor.Digest == d {
		if err := r.push(ctx, n, cand); err != nil {
			return err
		}
		if err := r.name(ctx, n, c, cand.image.Manifest()); err != nil {
			return err
		}
		r.published(n, cand.image.Manifest(), cand.result)
		return nil
	}
	if err := c.Abandon(ctx); err != nil {
		return err
	}
	return errors.Join(r.deleteDecided(ctx, n, c, d), errAgain)
}

// finishDeletion ends a dead cleaner's deletion and has the stage made anew.
func (r *run) finishDeletion(ctx context.Context, n *node, c *synchronization.Claim, d digest.Digest) error {
	if err := r.deleteDecided(ctx, n, c, d); err != nil {
		return err
	}
	return errAgain
}

// deleteDecided removes the name and, where nothing else can be done, the
// manifest, each under the guard of the entry.
func (r *run) deleteDecided(ctx context.Context, n *node, c *synchronization.Claim, d digest.Digest) error {
	gctx, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	tag := storage.StageTag(n.stage.Digest)
	err = r.Storage.DeleteTag(gctx, tag)
	if errors.Is(err, storage.ErrUnsupported) {
		err = r.Storage.DeleteManifest(gctx, d)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	if _, err := r.Storage.Resolve(ctx, tag); !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("tag %s still shows after its deletion: %w", tag, errors.Join(err, storage.ErrTransient))
	}
	return c.Deleted(ctx)
}
