package build

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// DefaultPatience is how long a run waits for a stage that a living runner holds.
const DefaultPatience = 2 * time.Hour

// remindEvery is how often a run that waits says so again.
const remindEvery = 30 * time.Second

// WaitError says that another runner held a stage for longer than this run waits.
type WaitError struct {
	Stage stages.Digest
	// Holder says for people who it is.
	Holder string
	Waited time.Duration
}

// Error implements error.
func (e *WaitError) Error() string {
	return fmt.Sprintf("stage %s is still held by %s after %s", e.Stage.Short(), e.Holder, e.Waited.Round(time.Second))
}

// asking bounds the question at the end of a wait whether the ledger is there.
const asking = 5 * time.Second

// waits is for how long a stage has been waited for. Several may do so at once.
type waits struct {
	mu     sync.Mutex
	active int
	since  time.Time // when the first of the active ones began
	past   time.Duration
}

func (w *waits) begin(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.active == 0 {
		w.since = now
	}
	w.active++
}

func (w *waits) end(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.active--; w.active == 0 {
		w.past += now.Sub(w.since)
	}
}

// total returns how long all waits were together, those that last included.
func (w *waits) total(now time.Time) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.active == 0 {
		return w.past
	}
	return w.past + now.Sub(w.since)
}

// nameOf says for people who holds a stage.
func nameOf(h synchronization.Holder) string {
	switch {
	case h.Name != "":
		return h.Name
	case h.Session != "":
		return "session " + h.Session
	}
	return "another runner"
}

// vigil is the wait for a stage that another holds. It says of whom, and for how long.
type vigil struct {
	run  *run
	node *node

	mu  sync.Mutex
	who string
}

// wait returns when nobody alive is at work on the stage.
func (v *vigil) wait(ctx context.Context, s *synchronization.Session) error {
	bound, cancel := context.WithTimeout(ctx, v.run.Patience-v.waited())
	defer cancel()
	var reminding sync.WaitGroup
	defer reminding.Wait()
	told, stop := context.WithCancel(bound)
	defer stop()
	reminding.Go(func() {
		for pause(told, remindEvery) == nil {
			v.tell()
		}
	})
	err := s.Wait(bound, []stages.Digest{v.node.stage.Digest}, func(h synchronization.Holder) {
		v.mu.Lock()
		v.who = nameOf(h)
		v.mu.Unlock()
		v.tell()
	})
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return v.over(ctx, s)
	}
	return err
}

// over is the error of a wait that has lasted too long. While the ledger is away
// nobody knows whether the stage is still held, so it is asked once more.
func (v *vigil) over(ctx context.Context, s *synchronization.Session) error {
	d := v.node.stage.Digest
	asked, cancel := context.WithTimeout(ctx, asking)
	defer cancel()
	_, err := s.Entries(asked, []stages.Digest{d})
	if err == nil {
		return &WaitError{Stage: d, Holder: v.holder(), Waited: v.waited()}
	}
	if asked.Err() != nil && ctx.Err() == nil {
		err = fmt.Errorf("%w: %w", synchronization.ErrUnavailable, err)
	}
	return fmt.Errorf("stage %s was held by %s when the ledger was heard of last, and was waited for %s: %w",
		d.Short(), v.holder(), v.waited().Round(time.Second), err)
}

func (v *vigil) waited() time.Duration { return v.node.waits.total(v.run.Now()) }

func (v *vigil) holder() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.who
}

func (v *vigil) tell() {
	v.run.tell(Event{
		Image: v.node.label, Stage: v.node.stage, Phase: PhaseWaiting,
		Detail: "held by " + v.holder(), Waited: v.waited(),
	})
}

// whileOurs returns a context for the work on n. Where the session is lost
// meanwhile, a new one takes its place, and the work goes on if n's entry is still
// there for the taking: an outage of the ledger shall not cost the result of a
// command that runs, however long it lasts. When another has taken it, the context
// ends with the cause [synchronization.ErrLost]: whoever lost a stage must not go on
// making what another makes now.
func (r *run) whileOurs(ctx context.Context, s *synchronization.Session, n *node) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for {
			select {
			case <-s.Context().Done():
			case <-ctx.Done():
				return
			}
			next, err := r.regain(ctx, n)
			if err != nil {
				cancel(context.Cause(s.Context())) // or ctx has ended before
				return
			}
			s = next
		}
	})
	return ctx, func() {
		cancel(nil)
		watching.Wait()
	}
}

// regaining is the pause before n is tried for again while the ledger is away.
const regaining = 5 * time.Second

// errOthers: another runner has the stage now.
var errOthers = errors.New("another runner has taken it")

// regain acquires n again under a new session. While the ledger is away nobody can
// say that n is another's, so it is tried until that is known or ctx ends.
func (r *run) regain(ctx context.Context, n *node) (*synchronization.Session, error) {
	for {
		s, err := r.regainOnce(ctx, n)
		if err == nil || errors.Is(err, errOthers) {
			return s, err
		}
		if err := pause(ctx, regaining); err != nil {
			return nil, err
		}
	}
}

func (r *run) regainOnce(ctx context.Context, n *node) (*synchronization.Session, error) {
	s, err := r.ledger.session(ctx)
	if err != nil {
		return nil, err
	}
	d := n.stage.Digest
	got, err := s.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return nil, err
	}
	c := got.Claims[d]
	if c == nil {
		return nil, errOthers
	}
	n.hand(&grip{session: s, claim: c})
	if c.Entry().State != synchronization.Building {
		return nil, errOthers // who has decided it, and is gone
	}
	return s, nil
}
