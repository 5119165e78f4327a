package synchronization

import (
	"context"
	"errors"
	"maps"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// TryAcquire acquires what it can of the stages, by one write for each shard, and
// never waits for another session. It acquires
//
//   - what has no entry, or that of a deleted generation, to build it;
//   - what a dead session left building, publishing or deleting, in that state and
//     with that manifest, under a new nonce, to finish it;
//   - what names this session without being in its hands, in the same way: an
//     acquisition whose answer was lost.
//
// What it holds already it returns again.
func (s *Session) TryAcquire(ctx context.Context, ds []stages.Digest) (Acquired, error) {
	got := Acquired{Claims: map[stages.Digest]*Claim{}, Held: map[stages.Digest]Holder{}}
	ctx, cancel := s.within(ctx)
	defer cancel()
	if err := whole(func() error { return s.tryAcquire(ctx, ds, &got) }); err != nil {
		return Acquired{}, opError(err, "acquire %d stages", len(ds))
	}
	return got, nil
}

// whole repeats do while it finds a part of the ledger lost between two reads:
// the next read makes it anew.
func whole(do func() error) error {
	var err error
	for range maxRounds {
		if err = do(); !errors.Is(err, errMissing) {
			return err
		}
	}
	return err
}

func (s *Session) tryAcquire(ctx context.Context, ds []stages.Digest, got *Acquired) error {
	groups, shards := s.ledger.byShard(ds)
	if done, err := s.guess(ctx, groups, shards, got); done || err != nil {
		return err
	}
	views, err := s.openViews(ctx, shards)
	if err != nil {
		return err
	}
	dead, err := s.deadOwners(ctx, views, groups)
	if err != nil {
		return err
	}
	bids := make([]*bid, len(shards))
	tasks, ctx := errgroup.WithContext(ctx)
	for i, shard := range shards {
		b := &bid{session: s, shard: shard, ds: groups[shard], dead: dead}
		bids[i] = b
		tasks.Go(func() error { return b.acquire(ctx, views[shard].snap) })
	}
	err = tasks.Wait()
	for _, b := range bids {
		b.collect(got) // also after an error: what was acquired is in our hands
	}
	return err
}

// guess acquires the stages without reading first, where the last answers about
// all their shards showed them free. A change tests what it expects and the
// sentinel, so a guess that is out of date is only refused. It reports whether
// all stages were acquired; where not, the read that follows finds those that were.
func (s *Session) guess(ctx context.Context, groups map[string][]stages.Digest, shards []string, got *Acquired) (bool, error) {
	views := make(map[string]view, len(shards))
	for _, shard := range shards {
		snap, ok := s.ledger.client.Last(shard)
		if !ok {
			return false, nil
		}
		v, err := s.ledger.inspect(shard, snap)
		if err != nil || s.admits(v) != nil || !v.free(groups[shard]) {
			return false, nil // what was read then may be mended by now
		}
		views[shard] = v
	}
	bids := make([]*bid, len(shards))
	var tasks errgroup.Group
	for i, shard := range shards {
		b := &bid{session: s, shard: shard, ds: groups[shard], guess: true}
		bids[i] = b
		tasks.Go(func() error { return b.acquire(ctx, views[shard].snap) })
	}
	if err := tasks.Wait(); err != nil {
		return false, err
	}
	for _, b := range bids {
		if !b.valid {
			return false, nil
		}
	}
	for _, b := range bids {
		b.collect(got)
	}
	return true, nil
}

// free reports whether all the stages can be acquired whoever is alive.
func (v view) free(ds []stages.Digest) bool {
	for _, d := range ds {
		e, _, err := v.entry(d)
		if err != nil || e.State != Absent && e.State != Deleted {
			return false
		}
	}
	return true
}

// deadOwners looks, where others have the stages in flight, which of them are dead.
func (s *Session) deadOwners(ctx context.Context, views map[string]view, groups map[string][]stages.Digest) (map[string]bool, error) {
	var owners []string
	dead := map[string]bool{s.before: true}
	for shard, v := range views {
		for _, d := range groups[shard] {
			e, _, err := v.entry(d)
			if err != nil {
				return nil, err
			}
			if (e.inFlight() || e.State == Doomed) && e.Session != s.ID() && !dead[e.Session] {
				owners = append(owners, e.Session)
			}
		}
	}
	if len(owners) == 0 {
		return dead, nil
	}
	found, err := s.ledger.crowd.Look(ctx, owners...)
	maps.Copy(dead, found)
	return dead, err
}

// errGuess: what was guessed is not so.
var errGuess = errors.New("the shard is not as it was guessed to be")

// bid is the attempt to acquire stages of one shard.
type bid struct {
	session *Session
	shard   string
	ds      []stages.Digest
	dead    map[string]bool // owners observed dead; read after their entries
	guess   bool            // the snapshot may be out of date: one attempt, and no more
	tried   bool

	won   []*Claim // proposed, and won when acquire succeeds
	kept  []*Claim // in hand before
	held  []Holder
	valid bool
}

func (b *bid) acquire(ctx context.Context, snap lock.Snapshot) error {
	after, err := b.session.ledger.client.Acquire(ctx, b.shard, snap, b.plan)
	if errors.Is(err, errGuess) {
		return nil
	}
	if err != nil {
		return err
	}
	if b.guess && !b.session.ledger.knows(b.shard, after) {
		return nil // written into a shard that was lost and made anew; the read finds out
	}
	for _, c := range b.won {
		c.fence = after.Revision
		b.session.hold(c)
	}
	b.valid = true
	return nil
}

// plan says what to write, looking at a snapshot. It is called again with a newer
// one when that was refused.
func (b *bid) plan(snap lock.Snapshot, nonce func() (string, error)) ([]lock.Change, error) {
	if b.guess && b.tried {
		return nil, errGuess
	}
	b.tried = true
	b.won, b.kept, b.held = nil, nil, nil
	v, err := b.session.ledger.inspect(b.shard, snap)
	if err == nil {
		err = b.session.admits(v)
	}
	if err != nil {
		return nil, err
	}
	var changes []lock.Change
	for _, d := range b.ds {
		if err := b.consider(v, d, nonce); err != nil {
			return nil, err
		}
	}
	for _, c := range b.won {
		changes = append(changes, entryChange(c.d, c.from, c.text))
	}
	if len(changes) > 0 {
		changes = append(changes, v.test())
	}
	return changes, nil
}

// consider decides about one stage.
func (b *bid) consider(v view, d stages.Digest, nonce func() (string, error)) error {
	s := b.session
	e, text, err := v.entry(d)
	if err != nil {
		return err
	}
	if c := s.inHand(d, text); c != nil {
		b.kept = append(b.kept, c)
		return nil
	}
	mine := e.Session == s.ID()
	if e.inFlight() && !mine && !b.dead[e.Session] && s.epoch == 0 { // in a closed ledger all others are fenced
		b.held = append(b.held, s.ledger.held(d, e, false))
		return nil
	}
	n, err := nonce()
	if err != nil {
		return err
	}
	next, ok := e.takeover(s.ID(), n)
	if !ok {
		b.held = append(b.held, s.ledger.held(d, e, b.dead[e.Session]))
		return nil
	}
	c, err := s.newClaim(v, d, text, next)
	if err != nil {
		return err
	}
	b.won = append(b.won, c)
	return nil
}

func (b *bid) collect(got *Acquired) {
	if !b.valid {
		return
	}
	for _, c := range append(b.kept, b.won...) {
		got.Claims[c.d] = c
	}
	for _, h := range b.held {
		got.Held[h.Digest] = h
	}
}
