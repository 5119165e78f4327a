package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

// Purge is a plan of removing all that a project has in its storage, and its ledger.
type Purge struct {
	// Cleanup is what goes, and what must stay: what tags that Cairn has not made stand
	// on, and what was published a moment ago.
	*Cleanup
	// Ledger is the ledger's address.
	Ledger string
	// InUse are the names that clusters use. They go like all others: who asks for that
	// has to want it.
	InUse []cleanup.Verdict
	// Busy are the runners that are at work.
	Busy []synchronization.Holder

	broken []inventory.Name
}

// PurgeOutcome is what became of a purge.
type PurgeOutcome struct {
	sweep.Outcome
	// Left are the names of the project that are still there. With any, the marker and
	// the ledger stay as well.
	Left []string
	// LedgerRemoved says that the marker and the ledger are gone.
	LedgerRemoved bool
}

// eraser is a backend whose objects can be removed.
type eraser interface {
	MayErase(ctx context.Context, shard string) error
	Erase(ctx context.Context, shard string) error
}

// MovingError says that a ledger cannot be removed since stages move from or to it.
type MovingError struct{ Ledger string }

// Error implements error.
func (e *MovingError) Error() string {
	return fmt.Sprintf("the ledger %s is part of a switch that is not over", e.Ledger)
}

// Hint says what to do.
func (*MovingError) Hint() string {
	return "finish it or take it back: \"cairn stages switch-from-local --status\""
}

// PlanPurge decides what goes. It changes nothing.
func (s Settings) PlanPurge(ctx context.Context, h Host, p *Project, st *Storages, o CleanupOptions) (*Purge, error) {
	stagesStorage, err := st.Stages(ctx, p.Config.Name)
	if err != nil {
		return nil, err
	}
	c := &Cleanup{Storage: stagesStorage.Address(), settings: s, host: h, project: p.Config.Name, stages: stagesStorage}
	purge := &Purge{Cleanup: c, Ledger: s.LedgerAddress(h)}
	in := cleanup.Input{Now: h.Now(), AllowEmptyKeep: true}
	in.Inventory, err = st.Inventory(ctx, c.project, stagesStorage, true, func(done, total int) { o.Progress("reading the storage", done, total) })
	if err != nil {
		return nil, err
	}
	c.IndexError = in.Inventory.IndexError
	if err := c.checkMarker(in.Inventory); err != nil {
		return nil, err
	}
	for _, step := range []func() error{
		func() error { return c.nameForeign(ctx, &in) },
		func() error { return c.findUses(ctx, p, o, &in) },
		func() error { return c.readEntries(ctx, &in) },
		func() error { return purge.findBusy(ctx) },
	} {
		if err := step(); err != nil {
			return nil, err
		}
	}
	if err := purge.decide(in); err != nil {
		return nil, err
	}
	return purge, nil
}

// decide makes the verdicts: one plan says what is in use, the other what goes if
// nobody minds that.
func (p *Purge) decide(in cleanup.Input) error {
	used, err := cleanup.Plan(in)
	if err != nil {
		return err
	}
	for _, v := range used.Verdicts {
		if slices.ContainsFunc(v.Reasons, func(r cleanup.Reason) bool { return r.Code == cleanup.InUse }) {
			p.InUse = append(p.InUse, v)
		}
	}
	in.InUse, in.Unread = nil, nil
	if p.Decision, err = cleanup.Plan(in); err != nil {
		return err
	}
	for _, n := range in.Inventory.Names {
		p.known = append(p.known, n.Tag)
		if n.Broken != nil && n.Kind != inventory.KindMarker {
			p.broken = append(p.broken, n)
		}
	}
	return nil
}

// findBusy finds the runners that are at work in the ledger.
func (p *Purge) findBusy(ctx context.Context) error {
	locks, err := p.settings.Locks(ctx, p.host, p.project)
	if err != nil {
		return err
	}
	if !locks.None() {
		p.Busy, err = locks.ledger.Living(ctx, "")
	}
	return errors.Join(err, locks.Close())
}

// Apply removes the names under entries of the ledger, so that a build that begins
// meanwhile sees no half of it. When none is left it closes the ledger, which fences
// all who would still publish, and removes the marker and the ledger. One that was
// killed is completed by the next.
func (p *Purge) Apply(ctx context.Context, o CleanupRun) (out PurgeOutcome, err error) {
	l, err := p.settings.openLedger(ctx, p.host, p.project, new(atomic.Int64), nil)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	if err := p.ready(ctx, l); err != nil {
		return out, err
	}
	names, err := p.all(ctx)
	if err != nil {
		return out, err
	}
	o.Grace = 0
	if out.Outcome, err = p.sweep(ctx, l, names, o); err != nil {
		return out, err
	}
	if out.Left, err = p.left(ctx); err != nil || len(out.Left) > 0 {
		return out, err
	}
	if err := l.Shut(ctx); err != nil {
		return out, err
	}
	// A build may have published and ended just before.
	if out.Left, err = p.left(ctx); err != nil || len(out.Left) > 0 {
		return out, errors.Join(err, l.Reopen(ctx))
	}
	if err := p.stages.DeleteTag(ctx, storage.ProjectTag); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return out, err
	}
	err = p.erase(ctx, l)
	out.LedgerRemoved = err == nil
	return out, err
}

// ready opens a ledger that a purge has closed which did not come to its end, and
// makes sure that it may be removed, before anything is.
func (p *Purge) ready(ctx context.Context, l *ledger) error {
	stance, err := l.Stance(ctx)
	if err != nil {
		return err
	}
	if stance.Arrival != nil || stance.Move != nil && stance.Move.Step != synchronization.Moved {
		return &MovingError{p.Ledger}
	}
	e, ok := l.backend.(eraser)
	if !ok {
		return fmt.Errorf("%s: %w", p.Ledger, errors.ErrUnsupported)
	}
	err = p.retry(ctx, l, func(ctx context.Context) error { return e.MayErase(ctx, synchronization.Group(p.project)) })
	if err == nil && !stance.Seal.Open {
		err = l.Reopen(ctx)
	}
	return err
}

// all returns the names that go, those among them that cannot be read.
func (p *Purge) all(ctx context.Context) ([]sweep.Name, error) {
	names := p.removals()
	for _, n := range p.broken {
		desc, err := p.stages.Resolve(ctx, n.Tag)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it leads nowhere
		}
		if err != nil {
			return nil, err
		}
		if out, ok := brokenName(n, desc.Digest); ok {
			names = append(names, out)
		}
	}
	return names, nil
}

// brokenName describes a name of which only the tag is known.
func brokenName(n inventory.Name, shows digest.Digest) (sweep.Name, bool) {
	out := sweep.Name{Kind: sweep.Stage, Manifest: shows}
	hex := n.Tag
	if storage.IsBuildTag(n.Tag) {
		out.Kind, hex = sweep.Index, n.Tag[len(n.Tag)-2*len(stages.Digest{}):]
	}
	d, err := stages.ParseDigest(hex)
	out.Digest = d
	return out, err == nil
}

// left returns the names of the project that the storage still has and that lead
// somewhere.
func (p *Purge) left(ctx context.Context) ([]string, error) {
	var all []string
	for tag, err := range p.stages.Tags(ctx) {
		if err != nil {
			return nil, err
		}
		if k := inventory.KindOf(tag); k == inventory.KindForeign || k == inventory.KindMarker {
			continue
		}
		_, err := p.stages.Resolve(ctx, tag)
		if err == nil {
			all = append(all, tag)
		} else if !errors.Is(err, storage.ErrNotFound) {
			return nil, err
		}
	}
	slices.Sort(all)
	return all, nil
}

// erase removes the ledger's objects and the records of sessions.
func (p *Purge) erase(ctx context.Context, l *ledger) error {
	e, ok := l.backend.(eraser)
	if !ok {
		return fmt.Errorf("%s: %w", p.Ledger, errors.ErrUnsupported)
	}
	group := synchronization.Group(p.project)
	return p.retry(ctx, l, func(ctx context.Context) error {
		records, err := l.backend.Records(ctx, group)
		if err != nil {
			return err
		}
		for _, r := range records {
			if err := l.backend.Remove(ctx, group, r.Session, 0); err != nil {
				return err
			}
		}
		for _, object := range synchronization.Objects(p.project) {
			if err := e.Erase(ctx, object); err != nil {
				return err
			}
		}
		return nil
	})
}

// retry asks the ledger's store as long as it may be away.
func (p *Purge) retry(ctx context.Context, l *ledger, do func(context.Context) error) error {
	client := lock.NewClient(ctx, l.backend, lock.Options{
		Now: p.host.Now, Rand: p.host.Rand, Budget: p.settings.SynchronizationTimeout, Request: p.settings.SynchronizationTimeout,
	})
	defer client.Close()
	return client.Retry(ctx, do)
}
