package sweep

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

const (
	// marking is how many names are marked at the same time. Marks of one shard share
	// a request.
	marking = 256
	// maxMarked is how many names are marked together: each has an entry in the ledger
	// of about 200 bytes, and what is gone for Δ one of about 350.
	maxMarked = 5000
)

// sweeper is one removal.
type sweeper struct {
	Options
	graph *graph
	known func(tag string) bool

	mu      sync.Mutex // of outcome, and of the calls of Done
	outcome Outcome
}

func newSweeper(p Plan, o Options) *sweeper {
	o.Parallel = cmp.Or(o.Parallel, DefaultParallel)
	if o.Waiting == nil {
		o.Waiting = func(synchronization.Holder) {}
	}
	if o.Done == nil {
		o.Done = func(Result) {}
	}
	return &sweeper{Options: o, graph: newGraph(p.Remove), known: p.Known}
}

// run is names before content: first the indexes, then, the grace after the last of
// them was seen gone, what they named.
func (s *sweeper) run(ctx context.Context) error {
	// What was published or deleted more than Δ ago shall have no entry any more. An
	// error is of no use: what has one stays this time.
	_ = s.Ledger.Sweep(ctx, s.shows)
	if err := s.finishOthers(ctx); err != nil {
		return err
	}
	// What is marked below and cannot be deleted would hold up builds until somebody
	// comes who may delete it.
	if len(left(slices.Concat(s.graph.indexes, s.graph.stages))) > 0 {
		if err := storage.ProbeDeletion(ctx, s.Storage); err != nil {
			return err
		}
	}
	ages, err := s.ages(ctx)
	if err != nil {
		return err
	}
	if err := s.sweep(ctx, [][]*item{s.graph.indexes}); err != nil {
		return err
	}
	if err := s.noteFreed(ctx); err != nil {
		return err
	}
	s.holdBack(ages)
	ready := left(s.graph.stages)
	sorted := ranks(ready)
	if err := s.sweep(ctx, sorted); err != nil {
		return err
	}
	for _, it := range left(ready) {
		s.end(it, Result{Fate: Needed, Why: "what stands on it stands below it as well"})
	}
	return nil
}

// ages notes which stages nothing names, and which are about to lose their last name,
// before any index goes, and returns for how long the former has been so. What this
// removal frees is noted again when it is seen gone; should this process die before
// that, whoever comes next counts from when it has found out.
func (s *sweeper) ages(ctx context.Context) (map[stages.Digest]time.Duration, error) {
	if s.Grace == 0 {
		return nil, nil
	}
	listed := s.listed()
	var unnamed, freeing []stages.Digest
	for _, it := range s.graph.stages {
		if listed[it] {
			freeing = append(freeing, it.Digest)
		} else {
			unnamed = append(unnamed, it.Digest)
		}
	}
	return s.Session.SetUnnamed(ctx, unnamed, freeing)
}

// listed returns the stages that an index names which is not gone.
func (s *sweeper) listed() map[*item]bool {
	all := map[*item]bool{}
	for _, x := range s.graph.indexes {
		if x.fate == Removed || x.fate == Gone {
			continue
		}
		for _, b := range x.below {
			all[b] = true
		}
	}
	return all
}

// noteFreed begins the grace of the stages that the indexes named which are gone
// by now, and which no other names. It does so also where this removal waits for none:
// of what stays after all, a later one must not count a time from before.
func (s *sweeper) noteFreed(ctx context.Context) error {
	listed := s.listed()
	freed := map[*item]bool{}
	var ds []stages.Digest
	for _, x := range s.graph.indexes {
		for _, b := range x.below {
			if !listed[b] && !freed[b] {
				freed[b] = true
				ds = append(ds, b.Digest)
			}
		}
	}
	if len(s.graph.indexes) == 0 {
		return nil
	}
	return s.Session.AddUnnamed(ctx, ds)
}

// askAgain has wait what has got a name, and lost it, since this removal looked: an
// index that another cleaner has deleted meanwhile is not to be seen, but noted. Who
// would publish one from now on meets the marks.
func (s *sweeper) askAgain(ctx context.Context, marked []*item) error {
	marked = slices.DeleteFunc(slices.Clone(marked), func(it *item) bool { return it.Kind == Index })
	if s.Grace == 0 || len(marked) == 0 {
		return nil
	}
	ds := make([]stages.Digest, len(marked))
	for i, it := range marked {
		ds[i] = it.Digest
	}
	ages, err := s.Session.Unnamed(ctx, ds)
	for _, it := range marked {
		if age, noted := ages[it.Digest]; err == nil && (!noted || age < s.Grace) {
			s.wait(it, s.Grace-age)
		}
	}
	return err
}

// holdBack keeps what an index still names, and has what was named not long ago wait.
// What stays keeps what it stands on.
func (s *sweeper) holdBack(ages map[stages.Digest]time.Duration) {
	listed := s.listed()
	for _, it := range s.graph.stages {
		switch age, noted := ages[it.Digest]; {
		case it.fate != "":
		case listed[it]:
			s.keep(it, "an index that stays names it")
		case s.Grace > 0 && (!noted || age < s.Grace):
			s.wait(it, s.Grace-age)
		}
	}
}

// wait has an item wait for the end of its grace, and all below it.
func (s *sweeper) wait(it *item, rest time.Duration) {
	if it.fate != "" {
		return
	}
	s.end(it, Result{Fate: Waits, Left: rest, Why: "a build may still use what an index told it until lately"})
	for _, b := range it.below {
		s.wait(b, rest)
	}
}

// keep has an item stay, and all that it stands on.
func (s *sweeper) keep(it *item, why string) {
	if it.fate != "" {
		return
	}
	s.end(it, Result{Fate: Needed, Why: why})
	s.keepBelow(it)
}

func (s *sweeper) keepBelow(it *item) {
	for _, b := range it.below {
		s.keep(b, fmt.Sprintf("%s %s stays, which stands on it", it.Kind, it.Digest.Short()))
	}
}

// sweep removes names, rank after rank.
func (s *sweeper) sweep(ctx context.Context, ranks [][]*item) error {
	for _, batch := range batches(ranks, maxMarked) {
		if err := s.sweepBatch(ctx, batch); err != nil {
			return err
		}
	}
	return nil
}

// sweepBatch marks names, waits until all builds that may not have seen the marks
// are through, looks what they have left behind, and removes what is still to go.
func (s *sweeper) sweepBatch(ctx context.Context, ranks [][]*item) error {
	all := slices.Concat(ranks...)
	err := s.each(ctx, marking, all, s.mark)
	if err == nil {
		err = s.Session.Drain(ctx, s.Waiting)
	}
	if err == nil {
		err = s.lookAgain(ctx, left(all))
	}
	if err == nil {
		err = s.askAgain(ctx, left(all))
	}
	for _, rank := range ranks {
		if err == nil {
			err = s.each(ctx, s.Parallel, rank, s.remove)
		}
		for _, it := range rank {
			if it.fate == Needed || it.fate == Failed {
				s.keepBelow(it)
			}
		}
	}
	return errors.Join(err, s.unmark(ctx, all))
}

// each does something with all items that are still to go, several at a time. What
// do returns ends the removal; the failure of one name is that name's fate.
func (s *sweeper) each(ctx context.Context, parallel int, items []*item, do func(context.Context, *item) error) error {
	caller := ctx
	tasks, ctx := errgroup.WithContext(caller)
	tasks.SetLimit(parallel)
	for _, it := range items {
		if it.fate != "" {
			continue
		}
		if ctx.Err() != nil {
			break
		}
		tasks.Go(func() error { return do(ctx, it) })
	}
	if err := tasks.Wait(); err != nil {
		return err
	}
	return context.Cause(caller) // who was cancelled has left items out
}

// end notes what became of an item and tells it.
func (s *sweeper) end(it *item, r Result) {
	r.Name = it.Name
	s.mu.Lock()
	defer s.mu.Unlock()
	it.fate = r.Fate
	switch r.Fate {
	case Removed:
		s.outcome.Removed++
	case Gone:
		s.outcome.Gone++
	case Waits:
		s.outcome.Waits++
		s.outcome.Left = max(s.outcome.Left, r.Left)
	case Needed:
		s.outcome.Needed++
	case Failed:
		s.outcome.Failed++
	}
	s.Done(r)
}
