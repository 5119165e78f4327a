package synchronization

import (
	"context"
	"errors"
	"fmt"

	"github.com/cairnbuild/cairn/lock"
)

// Shut closes the ledger: from its return on no claim is made and nothing is
// decided in it, whoever tries. Entries stay as they are. Shutting a ledger that
// is closed, perhaps half, completes it.
func (l *Ledger) Shut(ctx context.Context) error {
	err := l.turn(ctx, func(now Seal, _ lock.Snapshot) (Seal, []lock.Change, error) {
		return Seal{Epoch: now.Epoch}, nil, nil
	})
	if err != nil {
		return opError(err, "shut the ledger of %s", l.project)
	}
	return nil
}

// Reopen opens a ledger that is closed, with a new epoch: claims from before
// stay fenced.
func (l *Ledger) Reopen(ctx context.Context) error {
	err := l.turn(ctx, func(now Seal, _ lock.Snapshot) (Seal, []lock.Change, error) {
		if now.Open {
			return now, nil, nil
		}
		return Seal{Epoch: now.Epoch + 1, Open: true}, nil, nil
	})
	if err != nil {
		return opError(err, "reopen the ledger of %s", l.project)
	}
	return nil
}

// Turn makes the ledger what to says, where it is still what was says, or on the
// way between the two. [ErrTurned] says that somebody else has turned it: who was
// slow must not undo that. A ledger never goes back: to is a later epoch, or the
// same one closed.
func (l *Ledger) Turn(ctx context.Context, was, to Seal) error {
	return l.turnFrom(ctx, was, to, func(lock.Snapshot) ([]lock.Change, error) { return nil, nil })
}

// TurnNoted is Turn that also demands, in the same write, that the record says of a
// move just what noted is: somebody else who has taken the move over would not know
// that the ledger was turned. [ErrTurned] says that it does not.
func (l *Ledger) TurnNoted(ctx context.Context, was, to Seal, noted Move) error {
	text, err := encodeNote(&noted)
	if err != nil {
		return err
	}
	return l.turnFrom(ctx, was, to, func(rec lock.Snapshot) ([]lock.Change, error) {
		if rec.Data[keyMove] != text {
			return nil, fmt.Errorf("%w: it says of the move something else", ErrTurned)
		}
		return []lock.Change{lock.Test(keyMove, text)}, nil
	})
}

// turnFrom turns a ledger that is what was says; demand returns what else has to be so.
func (l *Ledger) turnFrom(ctx context.Context, was, to Seal, demand func(rec lock.Snapshot) ([]lock.Change, error)) error {
	err := l.turn(ctx, func(now Seal, rec lock.Snapshot) (Seal, []lock.Change, error) {
		if now != was && now != to || to.sentinel().turns() < was.sentinel().turns() {
			return now, nil, fmt.Errorf("%w: epoch %d, open: %t", ErrTurned, now.Epoch, now.Open)
		}
		demanded, err := demand(rec)
		return to, demanded, err
	})
	if err != nil {
		return opError(err, "turn the ledger of %s", l.project)
	}
	return nil
}

// turning says what a ledger is to become that is so now, and what its record must say then.
type turning func(now Seal, rec lock.Snapshot) (Seal, []lock.Change, error)

// turn changes the record first and then makes every shard agree with it, so a
// turn that was interrupted can be completed by turning again.
func (l *Ledger) turn(ctx context.Context, to turning) error {
	seal, err := l.turnRecord(ctx, to)
	if err != nil {
		return err
	}
	for _, shard := range allShards(l.project) {
		if err := l.turnShard(ctx, shard, seal); err != nil {
			return err
		}
	}
	return nil
}

func (l *Ledger) turnRecord(ctx context.Context, to turning) (sentinel, error) {
	for {
		rec, err := l.readRecord(ctx)
		if err != nil {
			return sentinel{}, err
		}
		now, err := l.decodeSentinel(l.record, rec)
		if err != nil {
			return now, err
		}
		next, demanded, err := to(Seal{Epoch: now.Epoch, Open: now.Open}, rec)
		if err != nil || next.sentinel() == now {
			return now, err
		}
		text, err := next.sentinel().encode()
		if err != nil {
			return now, err
		}
		_, err = l.client.Apply(ctx, l.record, append(demanded, lock.Replace(keySentinel, rec.Data[keySentinel], text))...)
		if err == nil || !errors.Is(err, lock.ErrConflict) {
			return next.sentinel(), err
		}
	}
}

func (l *Ledger) turnShard(ctx context.Context, shard string, seal sentinel) error {
	for {
		views, err := l.views(ctx, []string{shard})
		if err != nil {
			return err
		}
		v := views[shard]
		if v.seal.turns() >= seal.turns() {
			return nil // there, or further: a slow turn must not undo a later one
		}
		text, err := seal.of(v.seal.Ledger).encode()
		if err != nil || text == v.snap.Data[keySentinel] {
			return err
		}
		_, err = l.client.Apply(ctx, shard, lock.Replace(keySentinel, v.snap.Data[keySentinel], text))
		if err == nil || !errors.Is(err, lock.ErrConflict) {
			return err
		}
	}
}
