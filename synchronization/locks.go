package synchronization

import (
	"bytes"
	"context"
	"errors"
	"slices"

	"github.com/cairnbuild/cairn/stages"
)

// Lock is an entry as a person looks at it.
type Lock struct {
	Holder
	// Shard is the store's object that the entry is in.
	Shard string
	// Fence is the shard's present one: no acquisition of the stage so far has a
	// higher one, every later one has.
	Fence uint64
}

// Locks returns all entries with their holders, in the order of their stages, by
// one look at the ledger and one at the sessions. A holder is Dead when the store
// knows that or has no record of its session; one that merely stands still
// is only found by looking again. Keys that hold nonsense are named by the error
// beside what is returned.
func (l *Ledger) Locks(ctx context.Context) ([]Lock, error) {
	views, err := l.views(ctx, allShards(l.project))
	if err != nil {
		return nil, opError(err, "list the locks of %s", l.project)
	}
	var all []Lock
	var owners []string
	var nonsense []error
	for shard, v := range views {
		found, err := v.entries()
		nonsense = append(nonsense, err)
		for d, e := range found {
			owners = append(owners, e.Session)
			all = append(all, Lock{Holder: Holder{Digest: d, Entry: e}, Shard: shard, Fence: v.snap.Revision})
		}
	}
	dead, err := l.crowd.Look(ctx, owners...)
	if err != nil {
		return nil, opError(err, "list the locks of %s", l.project)
	}
	for i, k := range all {
		all[i].Holder = l.held(k.Digest, k.Entry, dead[k.Entry.Session])
	}
	slices.SortFunc(all, func(a, b Lock) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	return all, errors.Join(nonsense...)
}

// ShardOf returns the name of the store's object that a stage's entry is in.
func (l *Ledger) ShardOf(d stages.Digest) string { return shardOf(l.project, d) }
