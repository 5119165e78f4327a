package switchover

import (
	"context"
	"slices"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
)

// takeover is for how long somebody who is said to be switching is watched before
// they are believed to be alive: longer than a session lasts without renewal.
const takeover = 45 * time.Second

// lookEvery is the pause between two looks at what others do.
const lookEvery = 500 * time.Millisecond

// sayEvery is how often it is said again what is awaited.
const sayEvery = 10 * time.Second

// Matter is what a switch waits for.
type Matter string

// The matters.
const (
	// EndOfBuilds: builds in the old ledger come to their end. After the time that is
	// left the ledger is closed, and they go on at the new place.
	EndOfBuilds Matter = "builds"
	// EndOfSwitch: whoever was switching before is known to have ended. After the time
	// that is left they are believed to live, with [*BusyError].
	EndOfSwitch Matter = "switch"
	// FreeName: a runner of the new place publishes a stage that is to be named. After
	// the time that is left the name is left.
	FreeName Matter = "name"
)

// Awaited is a wait of a switch.
type Awaited struct {
	For Matter
	// Tag is the name, of [FreeName].
	Tag string
	// By says for people who is waited for.
	By []string
	// Left is the longest that the wait lasts from now on.
	Left time.Duration
}

// waiting is one wait: it looks again and again until there is nobody left to wait
// for, or its time is over.
type waiting struct {
	s     *switcher
	what  Matter
	until time.Time
	// look returns who is waited for.
	look func(ctx context.Context) ([]string, error)

	said []string
	last time.Time
}

// wait returns who is still waited for when the time is over, nobody when it was not needed.
func (w *waiting) wait(ctx context.Context) ([]string, error) {
	for {
		by, err := w.look(ctx)
		now := w.s.Now()
		if err != nil || len(by) == 0 || !now.Before(w.until) {
			return by, err
		}
		w.say(by, now)
		if err := pause(ctx, min(lookEvery, w.until.Sub(now))); err != nil {
			return by, err
		}
	}
}

// say tells who is waited for, when that changes and now and then.
func (w *waiting) say(by []string, now time.Time) {
	if slices.Equal(by, w.said) && now.Sub(w.last) < sayEvery {
		return
	}
	w.said, w.last = by, now
	w.s.tell(Awaited{For: w.what, By: by, Left: w.until.Sub(now)})
}

// tell tells of a wait.
func (s *switcher) tell(a Awaited) {
	if s.Waiting != nil {
		s.Waiting(a)
	}
}

// outlast waits until who was switching is known to have ended.
func (s *switcher) outlast(ctx context.Context, was synchronization.Move) error {
	w := waiting{s: s, what: EndOfSwitch, until: s.Now().Add(takeover), look: func(ctx context.Context) ([]string, error) {
		living, err := s.From.Ledger.Living(ctx, "")
		for _, h := range living {
			if h.Session == was.Session {
				return []string{was.By}, err
			}
		}
		return nil, err
	}}
	alive, err := w.wait(ctx)
	if err == nil && len(alive) > 0 {
		err = &BusyError{Place: s.From.Place, By: was.By}
	}
	return err
}

// drain waits for the end of the builds that run, for as long as they may take. Who is
// still at work then finds the ledger closed, and follows.
func (s *switcher) drain(ctx context.Context) error {
	w := waiting{s: s, what: EndOfBuilds, until: s.Now().Add(s.Drain), look: func(ctx context.Context) ([]string, error) {
		living, err := s.From.Ledger.Living(ctx, s.session.ID())
		names := make([]string, len(living))
		for i, h := range living {
			names[i] = h.Name
		}
		slices.Sort(names)
		return names, err
	}}
	_, err := w.wait(ctx)
	return err
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
