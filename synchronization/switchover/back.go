package switchover

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
)

// ErrNothing says that the stages have not been switched, so nothing can be taken back.
var ErrNothing = errors.New("there is no switch to take back")

// Back takes a switch back. Its options are those of the way back: From is where
// the stages were switched to, To where they came from. A switch that had not come to its end is
// given up: nobody has built at the new place yet. Else the stages that were made
// there are moved as a switch moves them.
func Back(ctx context.Context, o Options) (*Report, error) {
	stance, err := o.To.Ledger.Stance(ctx)
	if err != nil {
		return nil, err
	}
	m := stance.Move
	switch {
	case m == nil:
		return nil, ErrNothing
	case m.To.UID != o.From.Place.UID:
		return nil, &ElsewhereError{Move: *m, Wanted: o.From.Place}
	}
	taken, err := epochTaken(ctx, o.From.Ledger, *m)
	if err != nil {
		return nil, err
	}
	s := newSwitcher(o)
	switch {
	case m.Step == synchronization.Moved && stance.Seal.Open:
		return s.report, s.endBack(ctx)
	case taken, m.Step.Before(synchronization.Opening):
		s.report.GivenUp = true
		return s.report, s.giveUp(ctx, stance)
	case m.Step == synchronization.Opening:
		if err := finishForward(ctx, o, stance); err != nil {
			return s.report, err
		}
	}
	s.gone = s.goneElsewhere(ctx)
	return s.report, s.run(ctx)
}

// endBack ends a way back that was interrupted when the old ledger was open again.
func (s *switcher) endBack(ctx context.Context) error {
	stance, err := s.From.Ledger.Stance(ctx)
	if err != nil {
		return err
	}
	if m := stance.Move; m != nil && m.To.UID == s.To.Place.UID && m.Step != synchronization.Moved {
		return s.run(ctx)
	}
	s.report.Already = true
	return s.To.Ledger.Settle(ctx)
}

// finishForward ends a switch that was interrupted while the new ledger was being
// opened: somebody may build there already.
func finishForward(ctx context.Context, o Options, seen synchronization.Stance) (err error) {
	f := newSwitcher(o)
	f.From, f.To = o.To, o.From
	if err := f.join(ctx, seen.Move); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.leave(ctx)) }()
	next := *seen.Move
	next.By, next.Session = o.By, f.session.ID()
	if err := f.take(ctx, seen, next); err != nil {
		return err
	}
	if err := f.open(ctx); err != nil {
		return err
	}
	return f.end(ctx)
}

// goneElsewhere reports whether the ledger that the stages were switched to was
// closed by another host's way back. What cannot be read now is found out by begin.
func (s *switcher) goneElsewhere(ctx context.Context) bool {
	stance, err := s.From.Ledger.Stance(ctx)
	return err == nil && stance.Gone() != nil && stance.Gone().To.UID != s.To.Place.UID
}

// giveUp undoes a switch that has not opened the other ledger; its ledger, To, was seen
// so. Somebody may take the switch over meanwhile and bring it to its end, so the
// ledger is opened only by the write that sees that the switch is still in our hands.
func (s *switcher) giveUp(ctx context.Context, seen synchronization.Stance) (err error) {
	undo := newSwitcher(s.Options)
	undo.From, undo.To = s.To, s.From
	if err := undo.join(ctx, seen.Move); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, undo.leave(ctx)) }()
	mine := *seen.Move
	mine.By, mine.Session = s.By, undo.session.ID()
	if err := undo.take(ctx, seen, mine); err != nil {
		return err
	}
	if err := undo.reached(ctx); err != nil {
		return err
	}
	if err := undo.refuse(ctx); err != nil {
		return fmt.Errorf("close %s again: %w", s.From.Place.Ledger, err)
	}
	if err := undo.reached(ctx); err != nil {
		return err
	}
	stance, err := s.To.Ledger.Stance(ctx)
	if err != nil {
		return err
	}
	open := synchronization.Seal{Epoch: stance.Seal.Epoch + 1, Open: true}
	if err := s.To.Ledger.TurnNoted(ctx, stance.Seal, open, undo.move); err != nil {
		return err
	}
	return s.To.Ledger.Note(ctx, &undo.move, nil)
}

// refuse fences who was moving stages to the new ledger, and has that say where
// they are. One that others use stays as it is. Whoever takes the switch over takes
// that ledger into another epoch: so it is looked at first, and then whether the switch
// is still in our hands.
func (s *switcher) refuse(ctx context.Context) error {
	to := s.To.Ledger
	stance, err := to.Stance(ctx)
	if err != nil {
		return err
	}
	if stance.Arrival == nil || stance.Arrival.From.UID != s.From.Place.UID {
		return nil
	}
	if err := s.isOurs(ctx); err != nil {
		return err
	}
	if err := to.Turn(ctx, stance.Seal, synchronization.Seal{Epoch: stance.Seal.Epoch + 1}); err != nil {
		return err
	}
	now, err := to.Now(ctx)
	if err != nil {
		return err
	}
	since := now.UTC().Truncate(time.Second)
	return to.Refuse(ctx, synchronization.Move{
		From: s.To.Place, To: s.From.Place, Step: synchronization.Moved, By: s.By,
		Session: s.session.ID(), Since: since, Until: since.Add(s.Grace),
	})
}

// isOurs returns [synchronization.ErrTurned] where the switch is not in our hands any more.
func (s *switcher) isOurs(ctx context.Context) error {
	stance, err := s.From.Ledger.Stance(ctx)
	if err == nil && (stance.Move == nil || stance.Move.Session != s.session.ID()) {
		err = synchronization.ErrTurned
	}
	return err
}
