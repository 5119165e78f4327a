package build

import (
	"context"
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

// vigil is the wait for a stage that another holds. It says of whom, and for how long.
type vigil struct {
	run   *run
	node  *node
	began time.Time

	mu  sync.Mutex
	who string
}

// wait returns when nobody alive is at work on the stage.
func (v *vigil) wait(ctx context.Context, s *synchronization.Session) error {
	bound, cancel := context.WithTimeout(ctx, v.run.Patience)
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
		if v.who = h.Name; v.who == "" {
			v.who = "session " + h.Session
		}
		v.mu.Unlock()
		v.tell()
	})
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return &WaitError{Stage: v.node.stage.Digest, Holder: v.holder(), Waited: v.run.Now().Sub(v.began)}
	}
	return err
}

func (v *vigil) holder() string {
	v.mu.Lock()
	defer v.mu.Unlock()
	return v.who
}

func (v *vigil) tell() {
	v.run.tell(Event{
		Image: v.node.label, Stage: v.node.stage, Phase: PhaseWaiting,
		Detail: "held by " + v.holder(), Waited: v.run.Now().Sub(v.began),
	})
}

// whileOurs returns a context for the work on n. Where the session is lost
// meanwhile, a new one takes its place, and the work goes on if n's entry is still
// there for the taking: an outage of the ledger shall not cost the result of a
// command that runs. When another has taken it, the context ends with the cause
// [synchronization.ErrLost]: whoever lost a stage must not go on making what
// another makes now.
func (r *run) whileOurs(ctx context.Context, s *synchronization.Session, n *node) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		for s != nil {
			select {
			case <-s.Context().Done():
			case <-ctx.Done():
				return
			}
			next, ours := r.regain(ctx, n)
			if !ours {
				cancel(context.Cause(s.Context()))
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

// regain acquires n again under a new session. While the ledger is away nobody can
// say that n is another's: then there is no session.
func (r *run) regain(ctx context.Context, n *node) (s *synchronization.Session, ours bool) {
	s, err := r.ledger.session(ctx)
	if err != nil {
		return nil, true
	}
	d := n.stage.Digest
	got, err := s.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return nil, true
	}
	c := got.Claims[d]
	if c == nil {
		return nil, false
	}
	n.hand(&grip{session: s, claim: c})
	return s, c.Entry().State == synchronization.Building
}
