package build

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// The entries of an image are taken from its top: first that of its last stage,
// which is the image's ticket, then at once those of all stages below that are
// missing. Who holds the ticket builds the chain, so that layers do not travel
// between hosts from one command to the next; who does not turns to another image.
//
// An image is in hand only while it has one of the run's places, and a ticket is
// given back while somebody else makes what the image stands on. So a run holds
// what it can work on, and others find the rest free.

// grip is an entry in the hands of this run.
type grip struct {
	session *synchronization.Session
	claim   *synchronization.Claim
	// below are the entries of what the stage is built upon, listed when the claim
	// was known; nil when they were not listed.
	below map[stages.Digest]synchronization.Entry
}

// blockedError ends the attempt at an image that stands on what other runners make.
type blockedError struct{ on []*node }

// Error implements error.
func (e *blockedError) Error() string {
	return fmt.Sprintf("another runner makes stage %s, which it is built upon", e.on[0].stage.Name())
}

// enterPlace waits until the run may take another image in hand. Stages below an
// image come with it.
func (r *run) enterPlace(ctx context.Context, s *synchronization.Session, n *node) error {
	if !n.root {
		return nil
	}
	queued := false
	give, err := r.places.take(ctx, rank(s.ID(), n.stage.Digest), n.wanted, func() {
		queued = true
		r.phase(n, PhaseQueued, "")
	})
	if queued && err == nil {
		r.phase(n, PhaseLooking, "") // once more, under its entry
	}
	n.mu.Lock()
	n.leave = give
	n.mu.Unlock()
	return err
}

// leavePlace gives the image's place back, if it has one: nothing is left to be
// made of it here.
func (n *node) leavePlace() {
	n.mu.Lock()
	leave := n.leave
	n.leave = nil
	n.mu.Unlock()
	if leave != nil {
		leave()
	}
}

// takeBelow acquires, for n whose entry is ours, all that is missing below it by
// one write for each shard, and has it brought. For an image of which another
// runner makes a part it fails with a [*blockedError] and takes nothing.
//
// With a second storage each stage is looked for there first: what has been found
// needs nothing below it.
func (r *run) takeBelow(ctx context.Context, s *synchronization.Session, n *node) error {
	if r.Second != nil {
		return nil
	}
	missing, err := r.missingBelow(ctx, n)
	if err != nil || len(missing) == 0 {
		return err
	}
	if err := r.grasping.take(ctx); err != nil {
		return err
	}
	defer r.grasping.give()
	idle, blocked := r.sort(missing)
	if n.root {
		others, err := r.inOtherHands(ctx, s, idle)
		if err != nil {
			return err
		}
		if blocked = append(blocked, others...); len(blocked) > 0 {
			return &blockedError{on: blocked}
		}
	}
	err = r.acquireAll(ctx, s, idle)
	for _, dep := range idle {
		r.require(dep) // also after an error: nobody knows whose entries are ours by now
	}
	return err
}

// sort returns, of missing stages, those that nobody in this run has begun with
// and those that this run waits for, since another makes them.
func (r *run) sort(missing []*node) (idle, blocked []*node) {
	for _, dep := range missing {
		switch {
		case dep.isDone():
		case !dep.begun():
			idle = append(idle, dep)
		case dep.isForeign():
			blocked = append(blocked, dep)
		default:
			dep.want()
		}
	}
	return idle, blocked
}

// inOtherHands returns the stages that are in flight under another session.
func (r *run) inOtherHands(ctx context.Context, s *synchronization.Session, of []*node) ([]*node, error) {
	if len(of) == 0 {
		return nil, nil
	}
	entries, err := s.Entries(ctx, digests(of))
	if err != nil {
		return nil, err
	}
	var out []*node
	for _, n := range of {
		switch e := entries[n.stage.Digest]; e.State {
		case synchronization.Building, synchronization.Publishing, synchronization.Deleting:
			if e.Session != s.ID() {
				out = append(out, n)
			}
		}
	}
	return out, nil
}

// acquireAll tries for the entries of stages and hands what it gets to them, with
// the list of the entries of what they are built upon.
func (r *run) acquireAll(ctx context.Context, s *synchronization.Session, of []*node) error {
	if len(of) == 0 {
		return nil
	}
	got, err := s.TryAcquire(ctx, digests(of))
	if errors.Is(err, synchronization.ErrFull) {
		return nil // each is tried for alone, and makes room if it can
	}
	if err != nil {
		return err
	}
	var needs []stages.Digest
	for _, n := range of {
		if got.Claims[n.stage.Digest] != nil {
			for _, need := range n.stage.Needs() {
				needs = append(needs, need.Digest)
			}
		}
	}
	below, err := s.Entries(ctx, needs)
	if err != nil {
		return err // what was acquired is released with the session
	}
	for _, n := range of {
		if c := got.Claims[n.stage.Digest]; c != nil {
			n.hand(&grip{session: s, claim: c, below: below})
		}
	}
	return nil
}

func digests(of []*node) []stages.Digest {
	out := make([]stages.Digest, len(of))
	for i, n := range of {
		out[i] = n.stage.Digest
	}
	return out
}

// missingBelow looks at all that n stands on, down to what is there.
func (r *run) missingBelow(ctx context.Context, n *node) ([]*node, error) {
	var mu sync.Mutex
	var missing []*node
	visited := map[*node]bool{}
	looks, ctx := errgroup.WithContext(ctx)
	var visit func(n *node)
	visit = func(n *node) {
		mu.Lock()
		defer mu.Unlock()
		for _, need := range n.stage.Needs() {
			dep := r.node(need)
			if visited[dep] {
				continue
			}
			visited[dep] = true
			looks.Go(func() error {
				there, err := r.sees(ctx, dep)
				if err != nil || there {
					return err
				}
				mu.Lock()
				missing = append(missing, dep)
				mu.Unlock()
				visit(dep)
				return nil
			})
		}
	}
	visit(n)
	err := looks.Wait()
	return missing, err
}

// sees is the run's first look at n in the storage, of which there is one,
// whoever asks.
func (r *run) sees(ctx context.Context, n *node) (bool, error) {
	n.looked.Store(true)
	if err := n.looking.take(ctx); err != nil {
		return false, err
	}
	defer n.looking.give()
	if n.sight != nil {
		return n.sight.there, nil
	}
	m, err := r.Storage.Manifest(ctx, storage.StageTag(n.stage.Digest))
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return false, err
	}
	n.sight = &sight{there: err == nil, manifest: m}
	return n.sight.there, nil
}

// hand gives a stage an entry that was acquired for it.
func (n *node) hand(g *grip) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handed = g
}

// handedTo returns, once, the entry that was acquired for n under a session.
func (n *node) handedTo(s *synchronization.Session) *grip {
	n.mu.Lock()
	defer n.mu.Unlock()
	g := n.handed
	n.handed = nil
	if g == nil || g.session != s {
		return nil // the session is lost, and the entry with it
	}
	return g
}

// require has dep brought for what is in hand and stands on it. It is wanted before
// it begins: without that, an image would wait for a place that it is waited for in.
func (r *run) require(dep *node) {
	dep.want()
	r.ensure(dep)
}

// want has n brought although all places are taken: an image that has one stands on it.
func (n *node) want() { n.wantOnce.Do(func() { close(n.wanted) }) }

func (n *node) setForeign(foreign bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.foreign = foreign
}

// isForeign reports whether this run waits for another that makes n.
func (n *node) isForeign() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.foreign
}
