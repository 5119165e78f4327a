package switchover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// Side is one end of a switch.
type Side struct {
	// Place is how runners name it.
	Place   synchronization.Place
	Storage storage.Storage
	Ledger  *synchronization.Ledger
	// Binding is what the ledger is bound to for this storage.
	Binding string
}

// boundElsewhere says that the ledger belongs to another storage: to the stages of
// another host, for instance, which have the same address.
func (s Side) boundElsewhere(stance synchronization.Stance) error {
	return &synchronization.BoundElsewhereError{Project: s.Ledger.Project(), Bound: stance.Storage, Wanted: s.Binding}
}

// Namer gives a name at the new place. All that it needs is there.
// [*LeftError] concerns this name alone; every other error ends the switch.
type Namer func(ctx context.Context, tag string, m storage.Manifest) error

// Copier brings what the old storage holds to the new one.
type Copier interface {
	// Contents brings all that the old storage names, without the names.
	Contents(ctx context.Context) error
	// Names brings what is missing still and hands each name that the new storage
	// does not have to name, stages before the indexes that list them. It tells
	// found how many there are. It returns the names that were left, and why.
	Names(ctx context.Context, found func(total int), name Namer) ([]LeftError, error)
}

// Options are what a switch needs.
type Options struct {
	From, To Side
	Copier   Copier
	// Check fails where the new storage is another project's, or belongs to another
	// ledger. It writes nothing. Mark has the storage name the new ledger.
	Check, Mark func(ctx context.Context) error
	// By says for people who this is.
	By string
	// Patience is for how long a name is waited for that a runner of the new place holds.
	Patience time.Duration
	// Waiting is told what is awaited, and of whom; it may be nil, and is called from
	// several goroutines.
	Waiting func(Awaited)
	// Drain is for how long builds that run are waited for before the old ledger is closed.
	Drain time.Duration
	// Grace is for how long misses look into the old storage afterwards.
	Grace time.Duration
	// Observe is told of each step and of how it goes on; it may be nil.
	Observe func(synchronization.Move)
	// Reached is called when a step is noted and before it is done; an error ends the
	// switch there. One that is given up stays at its step: it is called before the new
	// ledger is closed, and before the old one is opened. It may be nil.
	Reached func(ctx context.Context, step synchronization.Step) error
	// Now is this process's clock.
	Now func() time.Time
}

// Report is what a switch has done.
type Report struct {
	From, To synchronization.Place
	// Already: everything was done before. GivenUp: a switch that had not come to
	// its end was undone, and nothing had to be moved.
	Already, GivenUp bool
	// Named is how many names this run has given.
	Named int
	// Left are names that were not given at the new place, and why.
	Left []LeftError
	// Until is until when misses look into the old storage.
	Until time.Time
}

// LeftError says that a name was left where it was.
type LeftError struct {
	Tag string
	Err error
}

// Error implements error.
func (e *LeftError) Error() string { return fmt.Sprintf("%s: %v", e.Tag, e.Err) }

// Unwrap returns the cause.
func (e *LeftError) Unwrap() error { return e.Err }

// BusyError says that another switch of the project is under way.
type BusyError struct {
	// Place is that of the ledger that says so, By who it is.
	Place synchronization.Place
	By    string
}

// Error implements error.
func (e *BusyError) Error() string {
	return fmt.Sprintf("the ledger %s says that %s is switching it", e.Place.Ledger, e.By)
}

// Hint says what to do.
func (*BusyError) Hint() string {
	return "wait for its end; \"cairn stages switch-from-local --status\" tells how far it is, and a run that was killed can be started again after half a minute"
}

// ElsewhereError says that the stages are, or go, to another place than the one asked for.
type ElsewhereError struct {
	Move   synchronization.Move
	Wanted synchronization.Place
}

// Error implements error.
func (e *ElsewhereError) Error() string {
	done := "are on their way"
	if e.Move.Step == synchronization.Moved {
		done = "have moved"
	}
	return fmt.Sprintf("the stages of %s %s to %s (ledger %s), not to %s (ledger %s)",
		e.Move.From.Storage, done, e.Move.To.Storage, e.Move.To.Ledger, e.Wanted.Storage, e.Wanted.Ledger)
}

// Hint says what to do.
func (e *ElsewhereError) Hint() string {
	return "go on with that place, or take it back first: cairn stages switch-back"
}

// SameLedgerError says that both sides have one ledger.
type SameLedgerError struct{ Ledger string }

// Error implements error.
func (e *SameLedgerError) Error() string {
	return fmt.Sprintf("the ledger %s is the one that the stages coordinate in already", e.Ledger)
}

// Hint says what to do.
func (*SameLedgerError) Hint() string {
	return "name another ledger with --synchronization, for instance another namespace"
}

// switcher is one run of a switch.
type switcher struct {
	Options
	report  *Report
	session *synchronization.Session // in the old ledger: shows that somebody is at it
	move    synchronization.Move     // as the old ledger has it
	epoch   int                      // of the old ledger, which is to be closed
	// gone: the old ledger is closed already, by a switch to another place, and its
	// record stays as it is.
	gone bool
}

// Run switches, or goes on with a switch that was interrupted. A switch that is
// done is not done again. The report is there also beside an error.
func Run(ctx context.Context, o Options) (*Report, error) {
	s := newSwitcher(o)
	return s.report, s.run(ctx)
}

func newSwitcher(o Options) *switcher {
	return &switcher{Options: o, report: &Report{From: o.From.Place, To: o.To.Place}}
}

func (s *switcher) run(ctx context.Context) (err error) {
	if s.From.Place.UID == s.To.Place.UID {
		return &SameLedgerError{Ledger: s.To.Place.Ledger}
	}
	if err := s.begin(ctx); err != nil || s.report.Already {
		return err
	}
	defer func() { err = errors.Join(err, s.leave(ctx)) }()
	first := s.move.Step
	if first.Before(synchronization.Opening) {
		if err := s.receive(ctx); err != nil {
			return err
		}
	}
	for _, step := range s.steps() {
		if step.name.Before(first) {
			continue
		}
		if err := s.reach(ctx, step.name); err != nil {
			return err
		}
		if err := step.do(ctx); err != nil {
			return err
		}
	}
	return s.end(ctx)
}

type step struct {
	name synchronization.Step
	do   func(ctx context.Context) error
}

// steps are those that remain to be done when the first one has been noted. A
// switch that goes on after its ledger was closed, perhaps half, closes it again.
func (s *switcher) steps() []step {
	closing := []step{
		{synchronization.Copying, s.Copier.Contents},
		{synchronization.Draining, s.drain},
		{synchronization.Closing, s.shut},
		{synchronization.Finishing, s.finish},
	}
	rest := []step{
		{synchronization.Naming, s.name},
		{synchronization.Opening, s.open},
	}
	if s.gone {
		return rest
	}
	return append(closing, rest...)
}

// reach notes a step, and tells of it.
func (s *switcher) reach(ctx context.Context, step synchronization.Step) error {
	next := s.move
	next.Step = step
	if step.Before(synchronization.Naming) {
		next.Done, next.Total = 0, 0
	}
	if err := s.note(ctx, next); err != nil {
		return err
	}
	return s.reached(ctx)
}

func (s *switcher) reached(ctx context.Context) error {
	if s.Reached == nil {
		return nil
	}
	return s.Reached(ctx, s.move.Step)
}

// note writes what the old ledger says of the switch, in the place of what it said.
func (s *switcher) note(ctx context.Context, next synchronization.Move) error {
	now, err := s.From.Ledger.Now(ctx)
	if err != nil {
		return err
	}
	next.Since = now.UTC().Truncate(time.Second)
	if next.Step == s.move.Step && !s.move.Since.IsZero() {
		next.Since = s.move.Since
	}
	if next.Step == synchronization.Moved {
		next.Until = next.Since.Add(s.Grace)
	}
	if !s.gone {
		if err := s.From.Ledger.Note(ctx, &s.move, &next); err != nil {
			return fmt.Errorf("note step %q: %w", next.Step, err)
		}
	}
	s.move = next
	if s.Observe != nil {
		s.Observe(next)
	}
	return nil
}

// shut closes the old ledger, as this run found it.
func (s *switcher) shut(ctx context.Context) error {
	return s.From.Ledger.Turn(ctx, synchronization.Seal{Epoch: s.epoch, Open: true}, synchronization.Seal{Epoch: s.epoch})
}

// open opens the new ledger, unless it was in use before.
func (s *switcher) open(ctx context.Context) error {
	e := s.move.Epoch
	if e == 0 {
		return nil
	}
	return s.To.Ledger.Turn(ctx, synchronization.Seal{Epoch: e}, synchronization.Seal{Epoch: e + 1, Open: true})
}

// end notes that all is over, and then tidies the record of the new ledger: what
// stands there while that is open hinders nobody.
func (s *switcher) end(ctx context.Context) error {
	if err := s.reach(ctx, synchronization.Moved); err != nil {
		return err
	}
	s.report.Until = s.move.Until
	return s.tidy(ctx)
}

// tidy removes what the record of the new ledger says about the switch.
func (s *switcher) tidy(ctx context.Context) error {
	stance, err := s.To.Ledger.Stance(ctx)
	if err != nil || !stance.Seal.Open || stance.Arrival == nil || stance.Arrival.From.UID != s.From.Place.UID {
		return err
	}
	return s.To.Ledger.Settle(ctx)
}

// leaving bounds the end of a session.
const leaving = 10 * time.Second

func (s *switcher) leave(ctx context.Context) error {
	if s.session == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	return s.session.Close(ctx)
}
