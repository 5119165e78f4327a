package switchover_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/switchover"
)

// play runs a test in simulated time.
func play(t *testing.T, name string, do func(t *testing.T, w *world)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) { do(t, newWorld(t)) })
	})
}

// fill publishes a few stages at a place and leaves one decided without a tag.
func (w *world) fill(p *place) {
	w.t.Helper()
	r := w.runner(p)
	for n := byte(1); n <= 3; n++ {
		w.must(r.publish(stage(n), string('a'+rune(n))))
	}
	_, err := r.decide(stage(4), w.image(p, "decided"))
	w.must(err)
	r.close()
}

// wantMoved checks that all is at one place, and that the other one says so.
func (w *world) wantMoved(from, to *place) {
	w.t.Helper()
	if s := w.stance(from); s.Gone() == nil || s.Gone().To.Storage != to.name {
		w.t.Errorf("the ledger that was left says %+v", s)
	}
	if s := w.stance(to); !s.Free() || s.Move != nil || s.Arrival != nil || s.Storage != to.storage.Address() {
		w.t.Errorf("the ledger that was moved to says %+v", s)
	}
	for n := byte(1); n <= 4; n++ {
		if was, is := w.shows(from, stage(n)), w.shows(to, stage(n)); was == "" || was != is {
			w.t.Errorf("stage %d was %q and is %q", n, was, is)
		}
	}
	old, now := w.runner(from), w.runner(to)
	w.wantErr(old.publish(stage(9), "late"), synchronization.ErrClosed)
	w.must(now.publish(stage(9), "new"))
	old.close()
	now.close()
}

func TestASwitch(t *testing.T) {
	play(t, "moves everything, and what was decided", func(t *testing.T, w *world) {
		w.fill(w.old)
		rep, err := switchover.Run(t.Context(), w.options(w.old, w.new))
		w.must(err)
		if rep.Named != 4 || len(rep.Left) != 0 || rep.Until.Before(time.Now()) {
			t.Errorf("report %+v", rep)
		}
		w.wantMoved(w.old, w.new)
	})
	play(t, "is not done twice", func(t *testing.T, w *world) {
		w.fill(w.old)
		_, err := switchover.Run(t.Context(), w.options(w.old, w.new))
		w.must(err)
		rep, err := switchover.Run(t.Context(), w.options(w.old, w.new))
		w.must(err)
		if !rep.Already || rep.Named != 0 {
			t.Errorf("report %+v", rep)
		}
		w.wantMoved(w.old, w.new)
	})
	play(t, "and back, and there again", func(t *testing.T, w *world) {
		w.fill(w.old)
		for range 2 {
			_, err := switchover.Run(t.Context(), w.options(w.old, w.new))
			w.must(err)
			r := w.runner(w.new)
			w.must(r.publish(stage(byte(20+w.stance(w.new).Seal.Epoch)), "made there"))
			r.close()
			_, err = switchover.Back(t.Context(), w.options(w.new, w.old))
			w.must(err)
		}
		for n := byte(1); n <= 30; n++ {
			if there, here := w.shows(w.new, stage(n)), w.shows(w.old, stage(n)); there != here {
				t.Errorf("stage %d is %q here and %q there", n, here, there)
			}
		}
		w.wantMoved(w.new, w.old)
		_, err := switchover.Back(t.Context(), w.options(w.new, w.old))
		w.wantErr(err, switchover.ErrNothing)
	})
	play(t, "waits for builds, but not for ever", func(t *testing.T, w *world) {
		w.fill(w.old)
		ends, stays := w.runner(w.old), w.runner(w.old)
		began := time.Now()
		time.AfterFunc(20*time.Second, ends.close)
		o := w.options(w.old, w.new)
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		if took := time.Since(began); took < o.Drain || took > o.Drain+time.Second {
			t.Errorf("it took %s", took)
		}
		w.wantErr(stays.publish(stage(7), "late"), synchronization.ErrClosed)
		stays.close()
		w.wantMoved(w.old, w.new)
	})
	play(t, "does not go elsewhere than it went", func(t *testing.T, w *world) {
		_, err := switchover.Run(t.Context(), w.options(w.old, w.new))
		w.must(err)
		var elsewhere *switchover.ElsewhereError
		if _, err = switchover.Run(t.Context(), w.options(w.old, newPlace("third"))); !errors.As(err, &elsewhere) {
			t.Errorf("error %v", err)
		}
	})
	play(t, "leaves what is another manifest at the new place", func(t *testing.T, w *world) {
		w.fill(w.old)
		there := w.runner(w.new)
		w.must(there.publish(stage(1), "another"))
		w.must(w.ledger(w.new).Bind(t.Context(), w.new.storage.Address())) // as builds do
		theirs := w.shows(w.new, stage(1))
		rep, err := switchover.Run(t.Context(), w.options(w.old, w.new))
		w.must(err)
		var differs *transfer.DifferentError
		if len(rep.Left) != 1 || !errors.As(&rep.Left[0], &differs) || rep.Left[0].Tag != storage.StageTag(stage(1)) {
			t.Errorf("left %v", rep.Left)
		}
		if now := w.shows(w.new, stage(1)); now != theirs {
			t.Errorf("the tag was moved from %s to %s", theirs, now)
		}
		w.must(there.publish(stage(8), "goes on")) // its ledger was not closed
		there.close()
	})
}

var errStop = errors.New("stopped here")

// stoppedAt are options of a switch that ends when it has reached a step.
func (w *world) stoppedAt(o switchover.Options, at synchronization.Step) switchover.Options {
	o.Reached = func(_ context.Context, step synchronization.Step) error {
		if step == at {
			return errStop
		}
		return nil
	}
	return o
}

// A switch ends at each step, in both directions, and is run again, or taken back.
func TestAnInterruptedSwitch(t *testing.T) {
	for _, step := range synchronization.Steps() {
		play(t, "goes on from "+string(step), func(t *testing.T, w *world) {
			w.fill(w.old)
			_, err := switchover.Run(t.Context(), w.stoppedAt(w.options(w.old, w.new), step))
			w.wantErr(err, errStop)
			w.wantNobodyElse(step)
			_, err = switchover.Run(t.Context(), w.options(w.old, w.new))
			w.must(err)
			w.wantMoved(w.old, w.new)
		})
		play(t, "is taken back from "+string(step), func(t *testing.T, w *world) {
			w.fill(w.old)
			_, err := switchover.Run(t.Context(), w.stoppedAt(w.options(w.old, w.new), step))
			w.wantErr(err, errStop)
			_, err = switchover.Back(t.Context(), w.options(w.new, w.old))
			w.must(err)
			w.wantBack()
			_, err = switchover.Run(t.Context(), w.options(w.old, w.new))
			w.must(err)
			for n := byte(1); n <= 3; n++ {
				if was, is := w.shows(w.old, stage(n)), w.shows(w.new, stage(n)); was != is {
					t.Errorf("stage %d was %q and is %q", n, was, is)
				}
			}
		})
		play(t, "back goes on from "+string(step), func(t *testing.T, w *world) {
			w.fill(w.old)
			_, err := switchover.Run(t.Context(), w.options(w.old, w.new))
			w.must(err)
			_, err = switchover.Back(t.Context(), w.stoppedAt(w.options(w.new, w.old), step))
			w.wantErr(err, errStop)
			_, err = switchover.Back(t.Context(), w.options(w.new, w.old))
			w.must(err)
			w.wantMoved(w.new, w.old)
		})
	}
}

// wantNobodyElse checks that at most one of the two ledgers takes anything while a
// switch stands still.
func (w *world) wantNobodyElse(at synchronization.Step) {
	w.t.Helper()
	old, now := w.runner(w.old), w.runner(w.new)
	defer old.close()
	defer now.close()
	here, there := old.publish(stage(30), "here"), now.publish(stage(30), "there")
	closing := !at.Before(synchronization.Finishing)
	if (here == nil) == closing || here != nil && !errors.Is(here, synchronization.ErrClosed) {
		w.t.Errorf("at step %q the old ledger answers %v", at, here)
	}
	opened := at == synchronization.Moved
	if (there == nil) != opened || there != nil && !errors.Is(there, synchronization.ErrClosed) {
		w.t.Errorf("at step %q the new ledger answers %v", at, there)
	}
}

// wantBack checks that builds go on at the old place and are refused at the new one.
func (w *world) wantBack() {
	w.t.Helper()
	if s := w.stance(w.old); !s.Free() || s.Move != nil {
		w.t.Errorf("the old ledger says %+v", s)
	}
	if s := w.stance(w.new); s.Gone() == nil || s.Gone().To.Storage != w.old.name {
		w.t.Errorf("the new ledger says %+v", s)
	}
	r := w.runner(w.old)
	w.must(r.publish(stage(10), "goes on"))
	r.close()
}

// A run that stood still and was taken for dead wakes up when another has done its
// work, or has undone it.
func TestARunThatWasTakenForDead(t *testing.T) {
	for _, step := range synchronization.Steps() {
		for name, other := range map[string]func(w *world) error{
			"another one goes on": func(w *world) error {
				_, err := switchover.Run(w.t.Context(), w.options(w.old, w.new))
				return err
			},
			"it was taken back": func(w *world) error {
				_, err := switchover.Back(w.t.Context(), w.options(w.new, w.old))
				return err
			},
		} {
			play(t, name+" at "+string(step), func(t *testing.T, w *world) {
				w.fill(w.old)
				o := w.options(w.old, w.new)
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				o.Reached = func(_ context.Context, at synchronization.Step) error {
					if at == step {
						w.must(w.old.backend.Remove(ctx, "cairn-shop", w.stance(w.old).Move.Session, 0))
						w.must(other(w))
					}
					return nil
				}
				_, err := switchover.Run(ctx, o)
				if err == nil && step != synchronization.Moved {
					t.Error("it came to its end beside the other")
				}
				open := 0
				for _, p := range []*place{w.old, w.new} {
					if s := w.stance(p); s.Seal.Open && s.Free() {
						open++
					}
				}
				if open != 1 {
					t.Errorf("%d ledgers are open: %+v, %+v", open, w.stance(w.old), w.stance(w.new))
				}
			})
		}
	}
}

// A run that gives a switch up stands still, and wakes up when another has brought the
// switch to its end: it must not open the ledger that was left.
func TestARunThatGivesUpAndWasTakenForDead(t *testing.T) {
	for _, step := range []synchronization.Step{synchronization.Copying, synchronization.Finishing, synchronization.Naming} {
		for at := 1; at <= 2; at++ {
			play(t, fmt.Sprintf("from %s, at its halt %d", step, at), func(t *testing.T, w *world) {
				w.fill(w.old)
				_, err := switchover.Run(t.Context(), w.stoppedAt(w.options(w.old, w.new), step))
				w.wantErr(err, errStop)
				o, halts := w.options(w.new, w.old), 0
				o.Reached = func(context.Context, synchronization.Step) error {
					if halts++; halts == at {
						w.must(w.old.backend.Remove(t.Context(), "cairn-shop", w.stance(w.old).Move.Session, 0))
						_, err := switchover.Run(t.Context(), w.stoppedAt(w.options(w.old, w.new), synchronization.Moved))
						w.wantErr(err, errStop)
					}
					return nil
				}
				_, err = switchover.Back(t.Context(), o)
				w.wantErr(err, synchronization.ErrTurned)
				_, err = switchover.Run(t.Context(), w.options(w.old, w.new))
				w.must(err)
				w.wantMoved(w.old, w.new)
			})
		}
	}
}

// A switch that somebody else is at is left alone.
func TestTwoSwitchesAtOnce(t *testing.T) {
	play(t, "the second one is refused", func(t *testing.T, w *world) {
		w.fill(w.old)
		o := w.options(w.old, w.new)
		var second error
		o.Reached = func(_ context.Context, at synchronization.Step) error {
			if at == synchronization.Naming {
				_, second = switchover.Run(t.Context(), w.options(w.old, w.new))
			}
			return nil
		}
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		var busy *switchover.BusyError
		if !errors.As(second, &busy) || busy.By != "an operator" {
			t.Errorf("error %v", second)
		}
		w.wantMoved(w.old, w.new)
	})
}

// What runners wait for while a switch goes on, and what they are told.
func TestRunnersWaitForTheEndOfASwitch(t *testing.T) {
	play(t, "and learn where to go", func(t *testing.T, w *world) {
		w.fill(w.old)
		gone := make(chan *synchronization.Move, 1)
		var told []synchronization.Step
		o := w.options(w.old, w.new)
		o.Reached = func(ctx context.Context, at synchronization.Step) error {
			if at == synchronization.Draining {
				l := w.ledger(w.old)
				go func() {
					m, err := l.Calm(t.Context(), func(a synchronization.Awaited) { told = append(told, a.Step) })
					if err != nil {
						t.Error(err)
					}
					gone <- m
				}()
			}
			time.Sleep(2 * time.Second) // simulated: they look now and then
			return nil
		}
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		if m := <-gone; m == nil || m.To.Storage != "new" {
			t.Errorf("moved %+v", m)
		}
		if len(told) < 4 || told[0] != synchronization.Draining {
			t.Errorf("told %v", told)
		}
	})
	play(t, "and go on where it was given up", func(t *testing.T, w *world) {
		w.fill(w.old)
		_, err := switchover.Run(t.Context(), w.stoppedAt(w.options(w.old, w.new), synchronization.Naming))
		w.wantErr(err, errStop)
		calm := make(chan error, 1)
		dead := make(chan bool, 8)
		l := w.ledger(w.old)
		go func() {
			m, err := l.Calm(t.Context(), func(a synchronization.Awaited) { dead <- a.Dead })
			if m != nil {
				err = errors.New("it moved")
			}
			calm <- err
		}()
		if !<-dead {
			t.Error("they are not told that nobody is at it any more")
		}
		_, err = switchover.Back(t.Context(), w.options(w.new, w.old))
		w.must(err)
		w.must(<-calm)
	})
}
