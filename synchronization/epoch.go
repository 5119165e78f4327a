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
	err := l.turn(ctx, func(now Seal) (Seal, error) { return Seal{Epoch: now.Epoch}, nil })
	if err != nil {
		return opError(err, "shut the ledger of %s", l.project)
	}
	return nil
}

// Reopen opens a ledger that is closed, with a new epoch: claims from before
// stay fenced.
func (l *Ledger) Reopen(ctx context.Context) error {
	err := l.turn(ctx, func(now Seal) (Seal, error) {
		if now.Open {
			return now, nil
		}
		return Seal{Epoch: now.Epoch + 1, Open: true}, nil
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
	err := l.turn(ctx, func(now Seal) (Seal, error) {
		if now != was && now != to || to.sentinel().turns() < was.sentinel().turns() {
			return now, fmt.Errorf("%w: epoch %d, open: %t", ErrTurned, now.Epoch, now.Open)
		}
		return to, nil
	})
	if err != nil {
		return opError(err, "turn the ledger of %s", l.project)
	}
	return nil
}

// turn changes the record first and then makes every shard agree with it, so a
// turn that was interrupted can be completed by turning again.
func (l *Ledger) turn(ctx context.Context, to func(now Seal) (Seal, error)) error {
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

func (l *Ledger) turnRecord(ctx context.Context, to func(now Seal) (Seal, error)) (sentinel, error) {
	for {
		rec, err := l.readRecord(ctx)
		if err != nil {
			return sentinel{}, err
		}
		now, err := l.decodeSentinel(l.record, rec)
		if err != nil {
			return now, err
		}
		next, err := to(Seal{Epoch: now.Epoch, Open: now.Open})
		if err != nil || next.sentinel() == now {
			return now, err
		}
		text, err := next.sentinel().encode()
		if err != nil {
			return now, err
		}
		_, err = l.client.Apply(ctx, l.record, lock.Replace(keySentinel, rec.Data[keySentinel], text))
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
