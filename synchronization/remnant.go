package synchronization

import (
	"context"
	"fmt"

	"github.com/cairnbuild/cairn/stages"
)

// Remnant is an entry that was left in a ledger which was closed. Nobody can change
// it before the ledger is opened again, and so nobody but who closed the ledger can
// finish what it says.
type Remnant struct {
	l      *Ledger
	digest stages.Digest
	entry  Entry
	epoch  int
}

// Remnants returns what was decided in a ledger that is closed in this epoch, and may
// lack its tag: the entries in state publishing, in no order. Keys that hold nonsense
// are named by the error, which comes beside the others.
func (l *Ledger) Remnants(ctx context.Context, epoch int) ([]*Remnant, error) {
	all, err := l.List(ctx)
	var left []*Remnant
	for d, e := range all {
		if e.State == Publishing {
			left = append(left, &Remnant{l: l, digest: d, entry: e, epoch: epoch})
		}
	}
	if all != nil && left == nil {
		left = []*Remnant{}
	}
	return left, err
}

// Digest returns the stage.
func (r *Remnant) Digest() stages.Digest { return r.digest }

// Entry returns the entry.
func (r *Remnant) Entry() Entry { return r.entry }

// Guard is [Claim.Guard] for what a closed ledger says: it reads the entry, by a
// quorum read, and returns nil only when it is exactly this one, in a shard that is
// still closed in the same epoch. The write to the storage uses the returned context,
// whose short deadline counts from before the read. [ErrTurned] says that the ledger
// was opened, by which its runners have the entry in their hands again; [ErrTaken]
// that the entry is another.
func (r *Remnant) Guard(ctx context.Context) (context.Context, context.CancelFunc, error) {
	began := r.l.now()
	if err := r.still(ctx); err != nil {
		return nil, nil, entryError("guard", r.digest, err)
	}
	bound, cancel := context.WithTimeout(ctx, r.l.guard-r.l.now().Sub(began))
	return bound, cancel, nil
}

func (r *Remnant) still(ctx context.Context) error {
	shard := shardOf(r.l.project, r.digest)
	views, err := r.l.views(ctx, []string{shard})
	if err != nil {
		return err
	}
	v := views[shard]
	if v.seal.Open || v.seal.Epoch != r.epoch {
		return fmt.Errorf("%w: it was closed in epoch %d; epoch %d, open: %t", ErrTurned, r.epoch, v.seal.Epoch, v.seal.Open)
	}
	now, _, err := v.entry(r.digest)
	if err == nil && now != r.entry {
		err = fmt.Errorf("%w: its entry is now %q", ErrTaken, now.State)
	}
	return err
}
