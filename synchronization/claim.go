package synchronization

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// Claim is a stage's entry in the hands of a session. Its steps are made one
// after another; each demands that the ledger still holds exactly what the claim
// knows. It is safe for concurrent use.
type Claim struct {
	s     *Session
	d     stages.Digest
	shard string
	epoch int
	from  string // the entry's text that the acquisition replaced
	fence uint64

	step sync.Mutex // held during a step

	mu    sync.Mutex
	entry Entry
	text  string
	seal  lock.Change // the sentinel as it was seen last
}

func (s *Session) newClaim(v view, d stages.Digest, from string, e Entry) (*Claim, error) {
	text, err := e.encode()
	if err != nil {
		return nil, entryError("claim", d, err)
	}
	return &Claim{
		s: s, d: d, shard: v.shard, epoch: v.seal.Epoch,
		from: from, entry: e, text: text, seal: v.test(),
	}, nil
}

// Digest returns the stage.
func (c *Claim) Digest() stages.Digest { return c.d }

// Entry returns the entry as the claim knows it.
func (c *Claim) Entry() Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.entry
}

// Fence returns a number that grows with every acquisition of the stage for as
// long as the ledger's shard is not lost.
func (c *Claim) Fence() uint64 { return c.fence }

func (c *Claim) is(text string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.text == text
}

// Decide makes m the stage's manifest: building → publishing{m}. This is the
// decision; after it the stage has this manifest, whoever finishes publishing. It
// fails with [ErrTaken] or [ErrLost] for an owner that was too slow, which then
// throws its result away, and with [ErrAvoided] for the manifest of the deleted
// generation.
func (c *Claim) Decide(ctx context.Context, m digest.Digest) error {
	return c.move(ctx, "decide", func(e Entry) (Entry, error) {
		if e.State != Building {
			return e, wrongState(e)
		}
		if m == e.Avoid {
			return e, fmt.Errorf("%w: %s", ErrAvoided, m)
		}
		return Entry{State: Publishing, Session: e.Session, Nonce: e.Nonce, Manifest: m}, nil
	})
}

// Published says that the tag was seen to show the manifest: publishing{M} →
// published{M}. The claim is then over.
//
// The entry gets the time of the store's clock, read before the write, so nothing
// under this entry was sent later. [Ledger.Sweep] compares it with the same
// clock: the store stamps both moments, and no runner's clock is involved.
func (c *Claim) Published(ctx context.Context) error {
	return c.end(ctx, "publish", Publishing, Published)
}

// Deleted says that the manifest and its tag were seen to be gone: deleting{M} →
// deleted{M}. The claim is then over.
func (c *Claim) Deleted(ctx context.Context) error {
	return c.end(ctx, "delete", Deleting, Deleted)
}

// end makes the last step of a claim, which stamps its entry.
func (c *Claim) end(ctx context.Context, op string, from, to State) error {
	now, err := c.s.ledger.client.Now(ctx)
	if err != nil {
		return entryError(op, c.d, err)
	}
	err = c.move(ctx, op, func(e Entry) (Entry, error) {
		if e.State != from {
			return e, wrongState(e)
		}
		return Entry{State: to, Session: e.Session, Nonce: e.Nonce, Manifest: e.Manifest, At: stamp(now)}, nil
	})
	if err == nil {
		c.s.drop(c)
	}
	return err
}

// Abandon ends the generation of a manifest that was decided, is in no storage
// and whose bytes nobody has: publishing{M} → deleting{M}. A manifest that is
// missing directly after its push may only be a lagging read: ask again for a
// while, within Δ, before believing it.
func (c *Claim) Abandon(ctx context.Context) error {
	return c.move(ctx, "abandon", func(e Entry) (Entry, error) {
		if e.State != Publishing {
			return e, wrongState(e)
		}
		return Entry{State: Deleting, Session: e.Session, Nonce: e.Nonce, Manifest: e.Manifest}, nil
	})
}

// Delete ends the generation of a doomed stage whose tag shows m: doomed →
// deleting{m}. The manifest may be deleted from then on, each time under
// [Claim.Guard].
func (c *Claim) Delete(ctx context.Context, m digest.Digest) error {
	return c.move(ctx, "delete", func(e Entry) (Entry, error) {
		if e.State != Doomed {
			return e, wrongState(e)
		}
		return Entry{State: Deleting, Session: e.Session, Nonce: e.Nonce, Manifest: m}, nil
	})
}

// Release gives the stage back: building or doomed → no entry, or that of the
// deleted generation which was to be avoided. It does not need a live session.
//
// [ErrTaken] says that the entry was not the claim's any more. Who only gives up
// need not care. Who found the tag under the entry, and so adopts it, must look
// again: what the tag showed is only right if the entry was the claim's all the
// while, and that is what a Release that succeeds shows.
func (c *Claim) Release(ctx context.Context) error {
	var now time.Time
	if c.Entry().Avoid != "" {
		var err error
		if now, err = c.s.ledger.client.Now(ctx); err != nil {
			return entryError("release", c.d, err)
		}
	}
	c.step.Lock()
	defer c.step.Unlock()
	e := c.Entry()
	if !e.idle() {
		return entryError("release", c.d, wrongState(e))
	}
	err := c.write(ctx, e.released(now))
	if err != nil {
		return entryError("release", c.d, err)
	}
	c.s.drop(c)
	return nil
}

// Guard reads the entry, by a quorum read, and returns nil only when it is
// exactly the claim's, in state publishing or deleting. It stands immediately
// before each write to the storage that others can see. The write uses the
// returned context, whose short deadline counts from before the read, and which
// ends with the session.
func (c *Claim) Guard(ctx context.Context) (context.Context, context.CancelFunc, error) {
	c.step.Lock()
	defer c.step.Unlock()
	began := c.s.ledger.now()
	if err := c.guard(ctx); err != nil {
		return nil, nil, entryError("guard", c.d, err)
	}
	left := c.s.ledger.guard - c.s.ledger.now().Sub(began)
	bound, unbind := c.s.within(ctx)
	bound, cancel := context.WithTimeout(bound, left)
	return bound, func() { cancel(); unbind() }, nil
}

func (c *Claim) guard(ctx context.Context) error {
	e := c.Entry()
	if e.State != Publishing && e.State != Deleting {
		return wrongState(e)
	}
	views, err := c.s.openViews(ctx, []string{c.shard})
	if err != nil {
		return err
	}
	if err := c.still(views[c.shard]); err != nil {
		return err
	}
	return c.s.alive.Check() // the read may have taken long
}

// still returns nil when the shard shows the claim's entry, in its epoch. Else
// the claim is not in the session's hands any more.
func (c *Claim) still(v view) error {
	if v.seal.Epoch != c.epoch {
		c.s.drop(c)
		return fmt.Errorf("%w: it was closed after epoch %d and reopened", ErrClosed, c.epoch)
	}
	if err := c.s.admits(v); err != nil {
		return err
	}
	e, text, err := v.entry(c.d)
	if err == nil && c.is(text) {
		return nil
	}
	c.s.drop(c)
	if err != nil {
		return err
	}
	return fmt.Errorf("%w: its entry is now %q of session %q", ErrTaken, e.State, e.Session)
}

// move makes a step that needs a live session.
func (c *Claim) move(ctx context.Context, op string, next func(Entry) (Entry, error)) error {
	c.step.Lock()
	defer c.step.Unlock()
	to, err := next(c.Entry())
	if err == nil {
		err = c.s.alive.Check()
	}
	if err == nil {
		bound, cancel := c.s.within(ctx)
		defer cancel()
		err = c.write(bound, to)
	}
	if err != nil {
		return entryError(op, c.d, err)
	}
	return nil
}

// write replaces the claim's entry. A failure whose outcome is unknown leaves the
// claim as it is: the same step may be tried again, and finds out.
func (c *Claim) write(ctx context.Context, to Entry) error {
	text, err := to.encode()
	if err != nil {
		return err
	}
	for {
		_, err := c.s.ledger.client.Apply(ctx, c.shard, c.seal, entryChange(c.d, c.text, text))
		if err == nil {
			c.mu.Lock()
			c.entry, c.text = to, text
			c.mu.Unlock()
			return nil
		}
		var refused *lock.SwapError
		if ctx.Err() != nil || !errors.As(err, &refused) {
			return err // why ctx ended may wrap the refusal of another claim
		}
		if err := c.renewSeal(refused.Snapshot); err != nil {
			return err
		}
	}
}

// renewSeal finds out why a write was refused. It returns nil when only the
// sentinel's text changed, within the epoch, after a part of the ledger was lost.
func (c *Claim) renewSeal(snap lock.Snapshot) error {
	seal, err := c.s.ledger.decodeSentinel(c.shard, snap)
	if errors.Is(err, errMissing) {
		c.s.drop(c)
		return fmt.Errorf("%w: its shard was lost", ErrTaken)
	}
	if err != nil {
		return err
	}
	v := view{shard: c.shard, snap: snap, seal: seal}
	if err := c.still(v); err != nil {
		return err
	}
	c.seal = v.test()
	return nil
}

func wrongState(e Entry) error { return fmt.Errorf("%w: it is %q", ErrState, e.State) }
