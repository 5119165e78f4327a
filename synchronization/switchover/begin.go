package switchover

import (
	"context"
	"errors"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
)

// begin notes that this run switches, in the place of one that has ended.
func (s *switcher) begin(ctx context.Context) error {
	stance, err := s.current(ctx)
	if err != nil {
		return err
	}
	was := stance.Move
	if stance.Storage != "" && stance.Storage != s.From.Binding {
		return s.From.boundElsewhere(stance)
	}
	if gone := stance.Gone(); gone != nil {
		return s.beginGone(ctx, *gone)
	}
	switch {
	case was != nil && was.To.UID != s.To.Place.UID:
		return &ElsewhereError{Move: *was, Wanted: s.To.Place}
	case was == nil && stance.Arrival != nil && !stance.Seal.Open:
		return &BusyError{Place: s.From.Place, By: stance.Arrival.By}
	case was == nil && !stance.Seal.Open:
		return synchronization.ErrClosed
	}
	if err := s.Check(ctx); err != nil {
		return err
	}
	if err := s.join(ctx, was); err != nil {
		return err
	}
	s.epoch = stance.Seal.Epoch
	next := synchronization.Move{Step: synchronization.Copying}
	if was != nil {
		next = *was
	}
	if next.Step, err = s.resume(ctx, stance, next); err != nil {
		return errors.Join(err, s.leave(ctx))
	}
	next.From, next.To, next.By, next.Session = s.From.Place, s.To.Place, s.By, s.session.ID()
	return s.take(ctx, stance, next)
}

// resume returns the step that a switch goes on with, m being what was noted of it.
func (s *switcher) resume(ctx context.Context, stance synchronization.Stance, m synchronization.Move) (synchronization.Step, error) {
	if stance.Seal.Open && !m.Step.Before(synchronization.Finishing) {
		return synchronization.Copying, nil // it was given up, and that was interrupted
	}
	usurped, err := epochTaken(ctx, s.To.Ledger, m)
	if usurped {
		return synchronization.Naming, err
	}
	return m.Step, err
}

// epochTaken reports whether a switch was about to open the new ledger, and another
// run, which had been taken for dead, has taken that into an epoch of its own: it
// cannot be opened in the one that was noted. Nobody has built in it yet, for a way
// back begins by noting that the switch is done.
func epochTaken(ctx context.Context, to *synchronization.Ledger, m synchronization.Move) (bool, error) {
	if m.Step != synchronization.Opening || m.Epoch == 0 {
		return false, nil
	}
	stance, err := to.Stance(ctx)
	return err == nil && !stance.Seal.Open && stance.Seal.Epoch != m.Epoch, err
}

// current returns what the old ledger's record says, after notes of an earlier
// switch, which ended with this ledger open, have been removed.
func (s *switcher) current(ctx context.Context) (synchronization.Stance, error) {
	stance, err := s.From.Ledger.Stance(ctx)
	if err != nil || !stance.Seal.Open {
		return stance, err
	}
	ended := stance.Move != nil && stance.Move.Step == synchronization.Moved
	if !ended && (stance.Move != nil || stance.Arrival == nil) {
		return stance, nil
	}
	if err := s.From.Ledger.Settle(ctx); err != nil {
		return stance, err
	}
	return s.From.Ledger.Stance(ctx)
}

// beginGone begins where the old ledger was closed by an earlier switch.
func (s *switcher) beginGone(ctx context.Context, gone synchronization.Move) error {
	if gone.To.UID == s.To.Place.UID {
		s.report.Already, s.report.Until = true, gone.Until
		return s.tidy(ctx)
	}
	if !s.gone {
		return &ElsewhereError{Move: gone, Wanted: s.To.Place}
	}
	s.move = synchronization.Move{Step: synchronization.Naming, From: s.From.Place, To: s.To.Place, By: s.By}
	return nil
}

// join shows in the old ledger that this run is at work, after the one that was has ended.
func (s *switcher) join(ctx context.Context, was *synchronization.Move) (err error) {
	if was != nil {
		if err := s.outlast(ctx, *was); err != nil {
			return err
		}
	}
	s.session, err = s.From.Ledger.Join(ctx)
	return err
}

// take writes the first note of this run, after the old ledger was seen so.
func (s *switcher) take(ctx context.Context, seen synchronization.Stance, next synchronization.Move) error {
	now, err := s.From.Ledger.Now(ctx)
	if err != nil {
		return err
	}
	if next.Since.IsZero() {
		next.Since = now.UTC().Truncate(time.Second)
	}
	if err := s.From.Ledger.Take(ctx, seen.Seal, seen.Move, next); err != nil {
		return errors.Join(err, s.leave(ctx))
	}
	s.move = next
	return nil
}

// receive has the new ledger closed to everybody but this run, unless others use
// it already, and has the new storage name it.
func (s *switcher) receive(ctx context.Context) error {
	stance, err := s.To.Ledger.Stance(ctx)
	if err != nil {
		return err
	}
	address := s.To.Binding
	next := s.move
	switch arriving := stance.Arrival; {
	case stance.Storage != "" && stance.Storage != address:
		return s.To.boundElsewhere(stance)
	case stance.Move != nil && stance.Move.Step != synchronization.Moved:
		return &BusyError{Place: s.To.Place, By: stance.Move.By}
	case arriving != nil && arriving.From.UID != s.From.Place.UID && !stance.Seal.Open:
		return &BusyError{Place: s.To.Place, By: arriving.By}
	case stance.Seal.Open && stance.Storage != "" && (arriving == nil || arriving.From.UID != s.From.Place.UID):
		next.Epoch = 0 // runners work there, and go on
	default:
		if next.Epoch, err = s.arrive(ctx, stance, address); err != nil {
			return err
		}
	}
	if err := s.Mark(ctx); err != nil {
		return err
	}
	return s.note(ctx, next)
}

// arrive takes the new ledger into an epoch in which only this run works.
func (s *switcher) arrive(ctx context.Context, stance synchronization.Stance, address string) (int, error) {
	a := synchronization.Arrival{From: s.From.Place, By: s.By}
	if stance.Arrival != nil {
		a = *stance.Arrival
	}
	if err := s.To.Ledger.Arrive(ctx, address, a); err != nil {
		return 0, err
	}
	epoch := stance.Seal.Epoch + 1
	return epoch, s.To.Ledger.Turn(ctx, stance.Seal, synchronization.Seal{Epoch: epoch})
}
