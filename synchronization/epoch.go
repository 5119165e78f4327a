package synchronization

import (
	"context"
	"errors"

	"github.com/cairnbuild/cairn/lock"
)

// Shut closes the ledger: from its return on no claim is made and nothing is
// decided in it, whoever tries. Entries stay as they are. Shutting a ledger that
// is closed, perhaps half, completes it.
func (l *Ledger) Shut(ctx context.Context) error {
	if err := l.turn(ctx, false); err != nil {
		return opError(err, "shut the ledger of %s", l.project)
	}
	return nil
}

// Reopen opens a ledger that is closed, with a new epoch: claims from before
// stay fenced.
func (l *Ledger) Reopen(ctx context.Context) error {
	if err := l.turn(ctx, true); err != nil {
		return opError(err, "reopen the ledger of %s", l.project)
	}
	return nil
}

// turn changes the record first and then makes every shard agree with it, so a
// turn that was interrupted can be completed by turning again.
func (l *Ledger) turn(ctx context.Context, open bool) error {
	seal, err := l.turnRecord(ctx, open)
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

func (l *Ledger) turnRecord(ctx context.Context, open bool) (sentinel, error) {
	for {
		rec, err := l.readRecord(ctx)
		if err != nil {
			return sentinel{}, err
		}
		seal, err := l.decodeSentinel(l.record, rec)
		if err != nil || seal.Open == open {
			return seal, err
		}
		seal.Open = open
		if open {
			seal.Epoch++
		}
		text, err := seal.encode()
		if err != nil {
			return seal, err
		}
		_, err = l.client.Apply(ctx, l.record, lock.Replace(keySentinel, rec.Data[keySentinel], text))
		if err == nil || !errors.Is(err, lock.ErrConflict) {
			return seal, err
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
