// Package sweep removes stages and build indexes from a storage while builds go on.
//
// What goes has been decided before, by a [Plan]. The package decides nothing but
// what must stay after all: what has become needed since the plan was made. It
// holds no lock that a build could wait for, may be killed at any moment and run
// again, and several may run at once. docs/decisions says why it is safe.
package sweep

import (
	"context"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// Kind says what a name is the name of.
type Kind string

// The kinds of names. Other tags of a storage are nobody's to remove.
const (
	// Index is an index of images: that of a build, or of an image for several
	// platforms. Its tag is [storage.BuildTag].
	Index Kind = "index"
	// Stage is a stage. Its tag is [storage.StageTag].
	Stage Kind = "stage"
)

// Name is a tag of the storage with what the inventory found under it.
type Name struct {
	Kind Kind
	// Digest is the stage's, or the root of an index.
	Digest stages.Digest
	// Manifest is what the tag showed. A tag that shows another one by now stays.
	Manifest digest.Digest
	// On are the stages that it stands on or lists: of an index its images, of a stage
	// its parent and those it imports from, as far as they are known. They go after it.
	On []stages.Digest
	// Layers are those of a stage's manifest, the lowest first. By them a stage is
	// recognized that was built upon this one since the inventory was taken.
	Layers []digest.Digest
}

// Tag returns the tag that the name is in the storage.
func (n Name) Tag() string {
	if n.Kind == Index {
		return storage.BuildTag(n.Digest)
	}
	return storage.StageTag(n.Digest)
}

// Plan says what is to be removed.
type Plan struct {
	// Remove is what shall go, in any order.
	Remove []Name
	// Known reports whether the inventory that the plan was made from has seen a tag.
	// Others are new: what they refer to stays.
	Known func(tag string) bool
}

// Storage is what is removed from. Where it is a [storage.DeletionProber], it is asked
// before anything is marked.
type Storage interface {
	storage.Resolver
	storage.Fetcher
	storage.Lister
	storage.Deleter
}

// Options of a removal. Storage, Ledger and Session are required.
type Options struct {
	Storage Storage
	Ledger  *synchronization.Ledger
	// Session is the remover's own in the Ledger; its marks end with it. The caller
	// closes it.
	Session *synchronization.Session
	// Grace is for how long nothing may have named a stage before it goes: for so long
	// a build may use what an index had told it. 0 removes at once, which is only for
	// who knows that nobody does.
	Grace time.Duration
	// Parallel bounds the names that are removed at the same time; 0 means [DefaultParallel].
	Parallel int
	// Waiting, if not nil, is told of each runner that is waited for.
	Waiting func(synchronization.Holder)
	// Done, if not nil, is told what became of each name, by one call at a time.
	Done func(Result)
}

// DefaultParallel is that of [Options]. Where tags are deleted together with the
// manifest that they were put on, the registry looks through all its tags each time:
// the more are under way, the more share that. The requests to one host are bounded
// elsewhere.
const DefaultParallel = 256

// Fate is what became of a name.
type Fate string

// The fates of names.
const (
	// Removed: the name is gone, by this removal.
	Removed Fate = "removed"
	// Gone: it was not there any more.
	Gone Fate = "gone"
	// Waits: it is to go when its grace is over.
	Waits Fate = "waits"
	// Needed: something refers to it that the plan did not know of, or a build is at
	// work on it.
	Needed Fate = "needed"
	// Failed: the storage or the ledger refused.
	Failed Fate = "failed"
)

// Result is what became of a name.
type Result struct {
	Name Name
	Fate Fate
	// Why says for people why it waits or is needed.
	Why string
	// Left is how much of the grace is left for what waits.
	Left time.Duration
	// Err is why it failed.
	Err error
}

// Outcome counts what became of the names of a plan.
type Outcome struct {
	Removed, Gone, Waits, Needed, Failed int
	// Left is the longest that a name has to wait further.
	Left time.Duration
}

// Run removes what the plan says. It returns an error when the removal could not
// go on; names that failed by themselves are counted, and their errors told to
// [Options].Done. What was done until then is done: a plan made anew goes on from there.
func Run(ctx context.Context, p Plan, o Options) (Outcome, error) {
	s := newSweeper(p, o)
	err := s.run(ctx)
	return s.outcome, err
}
