package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// errGone: a stage that was seen is not there any more, or another one is.
var errGone = errors.New("it was there a moment ago")

// maxRenewals is how often one run believes that a stage which it had seen has
// been deleted, and brings it anew.
const maxRenewals = 3

// confirmNeeds is the second half of step 3: it brings the stages that n is
// built upon, and makes sure of those that were read before the list of entries.
func (r *run) confirmNeeds(ctx context.Context, n *node, g *grip) error {
	needs := n.stage.Needs()
	if len(needs) == 0 {
		return nil
	}
	s, deps := g.session, make([]*node, len(needs))
	for i, need := range needs {
		deps[i] = r.node(need)
	}
	late := make([]bool, len(deps))
	if g.below == nil {
		var err error
		if g.below, err = s.Entries(ctx, digests(deps)); err != nil {
			return err
		}
		for i, dep := range deps {
			late[i] = !dep.known() // it will be read after the list
		}
		if err := r.takeBelow(ctx, s, n); err != nil {
			return err
		}
	}
	for _, dep := range deps {
		r.require(dep)
	}
	for i, dep := range deps {
		if err := dep.ready(ctx); err != nil {
			return err
		}
		err := r.confirm(ctx, s, dep, g.below[dep.stage.Digest], late[i])
		if errors.Is(err, errGone) && r.renew(dep) {
			return errAgain
		}
		if err != nil {
			return fmt.Errorf("stage %s, which it is built upon: %w", dep.stage.Name(), err)
		}
	}
	return nil
}

// confirm makes sure that dep, which may have been read before our entry was
// known, is still what the storage says; e is what the ledger says about it since.
func (r *run) confirm(ctx context.Context, s *synchronization.Session, dep *node, e synchronization.Entry, late bool) error {
	m := dep.publishedDigest()
	if m == "" || dep.ours() && e.Session == s.ID() {
		return nil // under way here, or published since under the entry that was listed
	}
	for {
		switch e.State {
		case synchronization.Absent:
			if late {
				return nil
			}
			return r.stillShows(ctx, dep, m)
		case synchronization.Published:
			if e.Manifest != m {
				return fmt.Errorf("the ledger says %s and the storage %s: %w", e.Manifest, m, errGone)
			}
			return nil
		case synchronization.Deleted:
			return errGone
		case synchronization.Doomed:
			if err := r.stillShows(ctx, dep, m); err != nil {
				return err
			}
			err := s.Rescue(ctx, dep.stage.Digest, e, m)
			if !errors.Is(err, synchronization.ErrTaken) {
				return err
			}
		default:
			// Its owner, dead or alive, is not through with it.
			if err := r.settle(ctx, s, dep); err != nil {
				return err
			}
		}
		entries, err := s.Entries(ctx, []stages.Digest{dep.stage.Digest})
		if err != nil {
			return err
		}
		e, late = entries[dep.stage.Digest], false
	}
}

// stillShows reads dep's tag again.
func (r *run) stillShows(ctx context.Context, dep *node, m digest.Digest) error {
	desc, err := r.Storage.Resolve(ctx, storage.StageTag(dep.stage.Digest))
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return errGone
	case err != nil:
		return err
	case desc.Digest != m:
		return fmt.Errorf("the tag showed %s and shows %s: %w", m, desc.Digest, errGone)
	}
	return nil
}

// settle waits for the owner of dep's entry, or takes the entry over and ends
// what a dead owner began. What came of it is to be read from the ledger.
func (r *run) settle(ctx context.Context, s *synchronization.Session, dep *node) error {
	d := dep.stage.Digest
	got, err := s.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return err
	}
	c, ok := got.Claims[d]
	if !ok {
		return r.awaitHolder(ctx, s, dep, got.Held[d]) // returns at once where nobody is at work
	}
	switch c.Entry().State {
	case synchronization.Publishing:
		_, _, err = r.finishDecided(ctx, dep, c)
	case synchronization.Deleting:
		err = r.deleteDecided(ctx, dep.tag(), c)
	default:
		err = c.Release(ctx)
	}
	// Another stage of this run, or another runner, may have been at the same work.
	if errors.Is(err, errAgain) || errors.Is(err, synchronization.ErrTaken) || errors.Is(err, synchronization.ErrState) {
		return nil
	}
	return err
}

// renew has a stage that vanished brought once more. It reports whether that
// makes sense; where another goroutine did so already, it does.
func (r *run) renew(gone *node) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	d := gone.stage.Digest
	if r.nodes[d] != gone {
		return true
	}
	if gone.renewals >= maxRenewals {
		return false
	}
	fresh := newNode(gone.stage, gone.label)
	fresh.renewals, fresh.root, fresh.waits = gone.renewals+1, gone.root, gone.waits
	fresh.want() // it was in hand when it was found to be gone
	r.nodes[d] = fresh
	return true
}

// ours reports whether n was published under an entry of this run.
func (n *node) ours() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.owned
}
