package synchronization

import (
	"context"
	"errors"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// Seal is a ledger's epoch, and whether it is open.
type Seal struct {
	Epoch int
	Open  bool
}

// sentinel returns the seal as the record holds it.
func (s Seal) sentinel() sentinel { return sentinel{Format: Format, Epoch: s.Epoch, Open: s.Open} }

// Stance is what a ledger's record says about itself.
type Stance struct {
	Seal Seal
	// Storage is the address that the ledger is bound to, "" before that.
	Storage string
	// Move is the one of this ledger's stages to another, Arrival that of others'
	// stages to this one; nil for none.
	Move    *Move
	Arrival *Arrival
}

// Free reports whether builds may begin: the ledger is open, and nobody is about
// to close it.
func (s Stance) Free() bool {
	return s.Seal.Open && (s.Move == nil || s.Move.Step == Copying || s.Move.Step == Moved)
}

// Gone returns the move by which the ledger's stages are elsewhere, nil for none,
// or where they are about to come back.
func (s Stance) Gone() *Move {
	if !s.Seal.Open && s.Arrival == nil && s.Move != nil && s.Move.Step == Moved {
		return s.Move
	}
	return nil
}

func (l *Ledger) stanceOf(rec lock.Snapshot) (Stance, error) {
	seal, err := l.decodeSentinel(l.record, rec)
	if err != nil {
		return Stance{}, err
	}
	s := Stance{Seal: Seal{Epoch: seal.Epoch, Open: seal.Open}, Storage: rec.Data[keyStorage]}
	if text, ok := rec.Data[keyMove]; ok {
		m, err := DecodeMove(text)
		if err != nil {
			return Stance{}, &BadKeyError{Object: l.record, Key: keyMove, Delta: l.delta, Err: err}
		}
		s.Move = &m
	}
	if text, ok := rec.Data[keyArrival]; ok {
		a, err := DecodeArrival(text)
		if err != nil {
			return Stance{}, &BadKeyError{Object: l.record, Key: keyArrival, Delta: l.delta, Err: err}
		}
		s.Arrival = &a
	}
	return s, nil
}

// Stance reads the record, by a quorum read.
func (l *Ledger) Stance(ctx context.Context) (Stance, error) {
	rec, err := l.readRecord(ctx)
	if err != nil {
		return Stance{}, opError(err, "read the record of %s", l.project)
	}
	s, err := l.stanceOf(rec)
	if err != nil {
		return Stance{}, opError(err, "read the record of %s", l.project)
	}
	return s, nil
}

// First returns what the record said when the ledger was opened, or made.
func (l *Ledger) First() Stance {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.first
}

// Arrive notes that stages of a move come to this ledger, which must not be in use:
// it is bound to no storage yet, or to the same one and closed. It binds it.
// [ErrTurned] says that it is in use, or bound to another storage, by now.
func (l *Ledger) Arrive(ctx context.Context, storage string, a Arrival) error {
	text, err := encodeNote(&a)
	if err != nil {
		return err
	}
	return l.changeRecord(ctx, "receive stages in", func(s Stance, rec lock.Snapshot) ([]lock.Change, error) {
		switch {
		case s.Storage == "", s.Storage == storage && !s.Seal.Open:
		case s.Arrival != nil && *s.Arrival == a: // noted, and not yet closed
		default:
			return nil, ErrTurned
		}
		changes := set(nil, rec, keyArrival, text)
		return set(changes, rec, keyStorage, storage), nil
	})
}

// Settle removes the notes of moves that are over from a ledger that is open: builds
// need not know of them. Where it is not, or another move is under way, it does nothing.
func (l *Ledger) Settle(ctx context.Context) error {
	return l.changeRecord(ctx, "settle", func(s Stance, rec lock.Snapshot) ([]lock.Change, error) {
		if !s.Seal.Open || s.Move != nil && s.Move.Step != Moved {
			return nil, nil
		}
		return without(rec, keyMove, keyArrival), nil
	})
}

// Refuse notes, instead of stages that were to arrive in a closed ledger, where
// these are: m. [ErrTurned] says that it is open, or that none were to arrive.
func (l *Ledger) Refuse(ctx context.Context, m Move) error {
	text, err := encodeNote(&m)
	if err != nil {
		return err
	}
	return l.changeRecord(ctx, "send stages back from", func(s Stance, rec lock.Snapshot) ([]lock.Change, error) {
		if s.Seal.Open || s.Arrival == nil {
			return nil, ErrTurned
		}
		return set(without(rec, keyArrival), rec, keyMove, text), nil
	})
}

// without returns the changes that remove keys, where they are.
func without(rec lock.Snapshot, keys ...string) []lock.Change {
	var changes []lock.Change
	for _, key := range keys {
		if text, ok := rec.Data[key]; ok {
			changes = append(changes, lock.Remove(key, text))
		}
	}
	return changes
}

// Note replaces what the record says of a move, which was so, by is; nil is
// nothing. [ErrTurned] says that it says something else by now.
func (l *Ledger) Note(ctx context.Context, was, is *Move) error {
	return l.noteMove(ctx, was, is, func(Seal) bool { return true })
}

// Take is Note for who takes a move over, or begins one, after they have seen the
// ledger in this seal: [ErrTurned] also says that it was turned since, by one who was
// slow, or of whom they do not know.
func (l *Ledger) Take(ctx context.Context, seal Seal, was *Move, is Move) error {
	return l.noteMove(ctx, was, &is, func(now Seal) bool { return now == seal })
}

func (l *Ledger) noteMove(ctx context.Context, was, is *Move, fits func(Seal) bool) error {
	from, err := encodeNote(was)
	if err != nil {
		return err
	}
	to, err := encodeNote(is)
	if err != nil {
		return err
	}
	return l.changeRecord(ctx, "note a move in", func(s Stance, rec lock.Snapshot) ([]lock.Change, error) {
		switch now := rec.Data[keyMove]; {
		case now == to:
			return nil, nil
		case now != from, !fits(s.Seal):
			return nil, ErrTurned
		case to == "":
			return []lock.Change{lock.Remove(keyMove, from)}, nil
		}
		return set(nil, rec, keyMove, to), nil
	})
}

// changeRecord changes the record as change says of what is read, until that was so
// at the moment of the change.
func (l *Ledger) changeRecord(ctx context.Context, op string, change func(Stance, lock.Snapshot) ([]lock.Change, error)) error {
	for {
		rec, err := l.readRecord(ctx)
		if err != nil {
			return opError(err, "%s the ledger of %s", op, l.project)
		}
		s, err := l.stanceOf(rec)
		var changes []lock.Change
		if err == nil {
			changes, err = change(s, rec)
		}
		if err != nil || len(changes) == 0 {
			if err != nil {
				err = opError(err, "%s the ledger of %s", op, l.project)
			}
			return err
		}
		_, err = l.client.Apply(ctx, l.record, append(changes, lock.Test(keySentinel, rec.Data[keySentinel]))...)
		if err == nil {
			return nil
		}
		if !errors.Is(err, lock.ErrConflict) {
			return opError(err, "%s the ledger of %s", op, l.project)
		}
	}
}

// Now returns the clock of the ledger's store, which all runners share.
func (l *Ledger) Now(ctx context.Context) (time.Time, error) { return l.client.Now(ctx) }

// Living returns the sessions that are not known to be dead, but for the one with
// id except. One that merely stands still is found dead only by looking again.
func (l *Ledger) Living(ctx context.Context, except string) ([]Holder, error) {
	records, err := l.crowd.Living(ctx)
	if err != nil {
		return nil, opError(err, "list the sessions of %s", l.project)
	}
	var all []Holder
	for _, r := range records {
		if r.Session != except {
			all = append(all, Holder{Session: r.Session, Name: r.Holder})
		}
	}
	return all, nil
}

// Calm waits while a move keeps builds from beginning, and returns it when the
// stages have gone elsewhere by it; nil says that the ledger is free for builds.
// Tell, which may be nil, is told what is awaited, again when that changes. It
// fails with [ErrClosed] for a ledger that is closed and has no move to wait for.
func (l *Ledger) Calm(ctx context.Context, tell func(Awaited)) (*Move, error) {
	wake := make(chan struct{}, 1)
	leave := l.watches.join(ctx, l.record, wake)
	defer leave()
	var told Awaited
	for {
		s, err := l.Stance(ctx)
		if err != nil {
			return nil, err
		}
		if s.Free() {
			return nil, nil
		}
		if m := s.Gone(); m != nil {
			return m, nil
		}
		a, err := l.awaited(ctx, s)
		if err != nil {
			return nil, err
		}
		if a.Dead && s.Seal.Open {
			return nil, nil // it was to be closed, and is not
		}
		if a != told && tell != nil {
			tell(a)
		}
		told = a
		if err := l.untilWoken(ctx, wake); err != nil {
			return nil, err
		}
	}
}

// Awaited is what keeps builds from beginning.
type Awaited struct {
	// Step is that of the move of this ledger's stages, "" where others' arrive.
	Step Step
	// By says for people who moves; Dead that they were observed to have ended.
	By   string
	Dead bool
}

func (l *Ledger) awaited(ctx context.Context, s Stance) (Awaited, error) {
	switch {
	case s.Move != nil && s.Move.Step != Moved:
		dead, err := l.crowd.Look(ctx, s.Move.Session)
		return Awaited{Step: s.Move.Step, By: s.Move.By, Dead: dead[s.Move.Session]}, err
	case s.Arrival != nil:
		return Awaited{By: s.Arrival.By}, nil
	}
	return Awaited{}, opError(ErrClosed, "wait for the ledger of %s", l.project)
}

// untilWoken returns when the record may have changed, or it is time to look.
func (l *Ledger) untilWoken(ctx context.Context, wake <-chan struct{}) error {
	t := time.NewTimer(l.look)
	defer t.Stop()
	select {
	case <-wake:
	case <-t.C:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return nil
}
