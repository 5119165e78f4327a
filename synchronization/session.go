package synchronization

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// Session is one runner's part in the ledger. It is safe for concurrent use.
type Session struct {
	ledger *Ledger
	alive  *lock.Session

	// before is the lost session that this one took the place of, "" for none.
	before string
	// epoch is the one in which this session works in the closed ledger, 0 for one
	// that works in an open one.
	epoch int

	mu    sync.Mutex
	hands map[stages.Digest]*Claim
}

// Holder is who has a stage that this session may want.
type Holder struct {
	// Digest is the stage.
	Digest stages.Digest
	// Session is the id of the entry's owner, Name what it said of itself, "" if
	// that is not known.
	Session, Name string
	Entry         Entry
	// Dead is true when the owner was observed dead.
	Dead bool
}

// Acquired is the answer to an attempt to acquire stages. Every stage asked for
// is in one of the two.
type Acquired struct {
	// Claims are those that this session holds, new or from before. The state of
	// a claim's entry says what is to be done: build, finish publishing, or finish
	// deleting.
	Claims map[stages.Digest]*Claim
	// Held are the others: in flight under a live session, published or doomed.
	Held map[stages.Digest]Holder
}

// Join makes a session. The caller closes it. Its context is a child of ctx.
func (l *Ledger) Join(ctx context.Context) (*Session, error) {
	alive, err := l.client.Join(ctx, lock.SessionOptions{Group: l.record, Holder: l.holder, TTL: l.ttl})
	if err != nil {
		return nil, opError(err, "join the ledger of %s", l.project)
	}
	return &Session{ledger: l, alive: alive, hands: map[stages.Digest]*Claim{}}, nil
}

// JoinShut makes a session that works in the ledger while that is closed, in this
// epoch: for who moves stages to it. It is fenced by the next epoch.
func (l *Ledger) JoinShut(ctx context.Context, epoch int) (*Session, error) {
	s, err := l.Join(ctx)
	if err != nil {
		return nil, err
	}
	s.epoch = epoch
	return s, nil
}

// admits returns [ErrClosed] unless this session may change entries of the shard.
func (s *Session) admits(v view) error {
	switch {
	case s.epoch == 0:
		return v.open()
	case v.seal.Open || v.seal.Epoch != s.epoch:
		return fmt.Errorf("%w to who worked in it in epoch %d: %s, epoch %d", ErrClosed, s.epoch, v.shard, v.seal.Epoch)
	}
	return nil
}

// Rejoin joins in the place of a session of this process that was lost, and takes
// over what that one still has in flight, before others see its end. Claims of the
// lost session stay refused; [Session.TryAcquire] gives new ones. The lost session
// must not be closed besides, but where Rejoin fails it may be called for it again.
func (l *Ledger) Rejoin(ctx context.Context, lost *Session) (*Session, error) {
	s, err := l.Join(ctx)
	if err != nil {
		return nil, err
	}
	s.before = lost.ID()
	if err := s.inherit(ctx); err != nil {
		s.vanish(ctx)
		return nil, opError(err, "take the place of session %s", lost.ID())
	}
	lost.vanish(ctx)
	return s, nil
}

// vanishing bounds the removal of a session's record that nobody depends on.
const vanishing = 5 * time.Second

// vanish ends a session that stands in the way of another one of this process. It
// does so also for who does not want to wait for anything more. Where the record
// cannot be removed now, others find the session dead and bury it.
func (s *Session) vanish(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), vanishing)
	defer cancel()
	if err := s.alive.Leave(ctx); err != nil {
		s.ledger.log.Info("the record of an ended session is left to others", zap.String("session", s.ID()), zap.Error(err))
	}
}

// inherit acquires what the session before has in flight.
func (s *Session) inherit(ctx context.Context) error {
	all, nonsense := s.ledger.List(ctx)
	if all == nil {
		return nonsense
	}
	var left []stages.Digest
	for d, e := range all {
		if e.Session == s.before && e.inFlight() {
			left = append(left, d)
		}
	}
	if len(left) == 0 {
		return nil
	}
	_, err := s.TryAcquire(ctx, left)
	return err
}

// ID returns the session's id, as entries name it.
func (s *Session) ID() string { return s.alive.ID() }

// Context returns the context for work under claims. It is cancelled with cause
// [ErrLost] when the session could not be renewed in time, and by Close.
func (s *Session) Context() context.Context { return s.alive.Context() }

// Close releases what is only being built, ends the renewals and removes the
// session's record, which lets others finish the rest at once. Give it a context
// that outlives the build's, with a deadline: what is not released is found by the
// session's death.
func (s *Session) Close(ctx context.Context) error {
	released := s.releaseAll(ctx)
	left := s.alive.Leave(ctx)
	return errors.Join(released, left)
}

// releaseAll reads the ledger instead of trusting the claims, for an acquisition
// whose answer was lost may have left an entry.
func (s *Session) releaseAll(ctx context.Context) error {
	views, err := s.ledger.views(ctx, allShards(s.ledger.project))
	if err != nil {
		return opError(err, "release stages")
	}
	var errs []error
	for _, shard := range slices.Sorted(maps.Keys(views)) {
		errs = append(errs, s.releaseShard(ctx, views[shard]))
	}
	return errors.Join(errs...)
}

func (s *Session) releaseShard(ctx context.Context, v view) error {
	if s.admits(v) != nil {
		return nil // nothing is written in a closed ledger
	}
	// Nonsense does not name this session; whoever needs its stage reports it.
	found, _ := v.entries()
	var errs []error
	for d, e := range found {
		if e.Session != s.ID() || !e.idle() {
			continue
		}
		err := s.ledger.release(ctx, v, d, e)
		if err != nil && !errors.Is(err, lock.ErrConflict) {
			errs = append(errs, entryError("release", d, err))
		}
	}
	return errors.Join(errs...)
}

// release takes an undecided entry away.
func (l *Ledger) release(ctx context.Context, v view, d stages.Digest, e Entry) error {
	var now time.Time
	if e.Avoid != "" {
		var err error
		if now, err = l.client.Now(ctx); err != nil {
			return err
		}
	}
	text, err := e.released(now).encode()
	if err != nil {
		return err
	}
	_, err = l.client.Apply(ctx, v.shard, v.test(), entryChange(d, v.snap.Data[entryKey(d)], text))
	return err
}

// entryChange returns the change of a stage's entry; "" is no entry.
func entryChange(d stages.Digest, from, to string) lock.Change {
	return keyChange(entryKey(d), from, to)
}

// within returns ctx, ending also with the session, and with its cause.
func (s *Session) within(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	stop := context.AfterFunc(s.Context(), func() { cancel(context.Cause(s.Context())) })
	return ctx, func() {
		stop()
		cancel(context.Canceled)
	}
}

// Entries returns what the ledger says about the stages, by one quorum read;
// those that it says nothing about are left out.
func (s *Session) Entries(ctx context.Context, ds []stages.Digest) (map[stages.Digest]Entry, error) {
	ctx, cancel := s.within(ctx)
	defer cancel()
	groups, shards := s.ledger.byShard(ds)
	views, err := s.openViews(ctx, shards)
	if err != nil {
		return nil, opError(err, "read the entries of %d stages", len(ds))
	}
	found := map[stages.Digest]Entry{}
	for shard, v := range views {
		for _, d := range groups[shard] {
			e, _, err := v.entry(d)
			if err != nil {
				return nil, err
			}
			if e.State != Absent {
				found[d] = e
			}
		}
	}
	return found, nil
}

// openViews reads shards, and fails unless the ledger is open and the session alive.
func (s *Session) openViews(ctx context.Context, shards []string) (map[string]view, error) {
	if err := s.alive.Check(); err != nil {
		return nil, err
	}
	if len(shards) == 0 {
		return nil, nil
	}
	views, err := s.ledger.views(ctx, shards)
	if err != nil {
		return nil, err
	}
	for _, v := range views {
		if err := s.admits(v); err != nil {
			return nil, err
		}
	}
	return views, nil
}

// inHand returns the claim that stands behind an entry of exactly this text.
func (s *Session) inHand(d stages.Digest, text string) *Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.hands[d]
	if c == nil || !c.is(text) {
		return nil
	}
	return c
}

// InHands returns the stages that this session has claims of, also those that
// nobody works on: what a session before it had in flight.
func (s *Session) InHands() []stages.Digest {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Keys(s.hands))
}

// PutDown takes the claim of a stage out of the session's hands and returns it, to be
// ended; nil where there is none. Whoever acquires the stage from then on gets a claim
// of its own, and this one is refused.
func (s *Session) PutDown(d stages.Digest) *Claim {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.hands[d]
	delete(s.hands, d)
	return c
}

func (s *Session) hold(c *Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.hands[c.d] = c
}

func (s *Session) drop(c *Claim) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.hands[c.d] == c {
		delete(s.hands, c.d)
	}
}

// Rescue keeps a doomed stage that this runner needs: the tag, read after the
// entry seen, shows manifest m, and m it stays. [ErrTaken] says that the entry is
// not that one any more, doomed though it may be: between the two a generation
// may have come and gone, and m with it; look again.
func (s *Session) Rescue(ctx context.Context, d stages.Digest, seen Entry, m digest.Digest) error {
	now, err := s.ledger.client.Now(ctx)
	if err != nil {
		return entryError("rescue", d, err)
	}
	c, err := s.convert(ctx, d, seen, Doomed, func(_ Entry, nonce string) Entry {
		return Entry{State: Published, Session: s.ID(), Nonce: nonce, Manifest: m, At: stamp(now)}
	})
	if err != nil {
		return entryError("rescue", d, err)
	}
	s.drop(c)
	return nil
}

// Reclaim acquires a doomed stage whose tag, read after the entry seen, shows
// nothing: there is nothing to rescue, so it is to be built.
func (s *Session) Reclaim(ctx context.Context, d stages.Digest, seen Entry) (*Claim, error) {
	c, err := s.convert(ctx, d, seen, Doomed, func(_ Entry, nonce string) Entry {
		return Entry{State: Building, Session: s.ID(), Nonce: nonce}
	})
	if err != nil {
		return nil, entryError("reclaim", d, err)
	}
	return c, nil
}

// Republish acquires a published stage whose tag, read after the entry seen, shows
// nothing, to give the tag again to the manifest that was decided. The claim is in
// state publishing.
func (s *Session) Republish(ctx context.Context, d stages.Digest, seen Entry) (*Claim, error) {
	c, err := s.convert(ctx, d, seen, Published, func(e Entry, nonce string) Entry {
		return Entry{State: Publishing, Session: s.ID(), Nonce: nonce, Manifest: e.Manifest}
	})
	if err != nil {
		return nil, entryError("republish", d, err)
	}
	return c, nil
}

// Doom marks a stage that is to be deleted, for a cleaner. It succeeds only where
// the stage has no entry; [ErrTaken] says that it has. The claim ends with
// [Claim.Delete] or, when the stage is still needed, with [Claim.Release].
func (s *Session) Doom(ctx context.Context, d stages.Digest) (*Claim, error) {
	c, err := s.convert(ctx, d, Entry{}, Absent, func(_ Entry, nonce string) Entry {
		return Entry{State: Doomed, Session: s.ID(), Nonce: nonce}
	})
	if err != nil {
		return nil, entryError("doom", d, err)
	}
	return c, nil
}

// Supersede acquires what another session is building, alive or not: for what takes
// no work to make, so that nobody waits for one who is busy with something else. The
// other is refused its decision, and looks again.
func (s *Session) Supersede(ctx context.Context, d stages.Digest, seen Entry) (*Claim, error) {
	c, err := s.convert(ctx, d, seen, Building, func(e Entry, nonce string) Entry {
		return Entry{State: Building, Session: s.ID(), Nonce: nonce, Avoid: e.Avoid}
	})
	if err != nil {
		return nil, entryError("supersede", d, err)
	}
	return c, nil
}

// Redoom marks for this session what another cleaner has marked, whether that one
// lives or not: a mark protects nothing, so that taking it away harms nobody. A
// cleaner that lives is refused what it does next with the stage.
func (s *Session) Redoom(ctx context.Context, d stages.Digest, seen Entry) (*Claim, error) {
	c, err := s.convert(ctx, d, seen, Doomed, func(_ Entry, nonce string) Entry {
		return Entry{State: Doomed, Session: s.ID(), Nonce: nonce}
	})
	if err != nil {
		return nil, entryError("doom", d, err)
	}
	return c, nil
}

// convert replaces the entry that was seen, in state from, by one of this session.
func (s *Session) convert(ctx context.Context, d stages.Digest, seen Entry, from State, next func(Entry, string) Entry) (won *Claim, err error) {
	if seen.State != from {
		return nil, fmt.Errorf("%w: its entry is %q and not %q", ErrTaken, seen.State, from)
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	err = whole(func() error {
		won, err = s.convertOnce(ctx, d, seen, next)
		return err
	})
	return won, err
}

func (s *Session) convertOnce(ctx context.Context, d stages.Digest, seen Entry, next func(Entry, string) Entry) (*Claim, error) {
	shard := shardOf(s.ledger.project, d)
	views, err := s.openViews(ctx, []string{shard})
	if err != nil {
		return nil, err
	}
	var won *Claim
	snap, err := s.ledger.client.Acquire(ctx, shard, views[shard].snap,
		func(snap lock.Snapshot, nonce func() (string, error)) ([]lock.Change, error) {
			v, err := s.ledger.inspect(shard, snap)
			if err != nil {
				return nil, err
			}
			if won != nil && v.snap.Data[entryKey(d)] == won.text {
				return nil, nil // the answer was lost, the entry is ours
			}
			won, err = s.propose(v, d, seen, nonce, next)
			if err != nil {
				return nil, err
			}
			return []lock.Change{v.test(), entryChange(d, won.from, won.text)}, nil
		})
	if err != nil {
		return nil, err
	}
	won.fence = snap.Revision
	s.hold(won)
	return won, nil
}

// propose returns the claim that a conversion would give.
func (s *Session) propose(v view, d stages.Digest, seen Entry, nonce func() (string, error),
	next func(Entry, string) Entry,
) (*Claim, error) {
	if err := s.admits(v); err != nil {
		return nil, err
	}
	e, text, err := v.entry(d)
	if err != nil {
		return nil, err
	}
	// A nonce is used for one acquisition, so state and nonce tell an entry from
	// every other one that the stage has had.
	if e.State != seen.State || e.Nonce != seen.Nonce {
		return nil, fmt.Errorf("%w: its entry is %q", ErrTaken, e.State)
	}
	n, err := nonce()
	if err != nil {
		return nil, err
	}
	return s.newClaim(v, d, text, next(e, n))
}
