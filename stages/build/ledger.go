package build

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// leaving bounds the end of a session, sweeping what is done for the next runs.
const (
	leaving  = 10 * time.Second
	sweeping = 10 * time.Second
)

// ledger opens the project's ledger when the first entry is needed, and keeps
// the run's session in it.
type ledger struct {
	open func(ctx context.Context) (*synchronization.Ledger, error)
	// admit makes sure, once it is open, that ledger and storage belong together.
	admit func(ctx context.Context, l *synchronization.Ledger) error
	// inherited is told of a session that took the place of one that was lost.
	inherited func(*synchronization.Session)
	// live is sess for those who do not want to wait for another one.
	live atomic.Pointer[synchronization.Session]
	// turn is had by who uses what follows.
	turn turn
	// away is set for the rest of a run that goes on without the ledger: what it
	// made stays local, and so does all that stands on that.
	away error
	l    *synchronization.Ledger
	sess *synchronization.Session
	end  context.CancelFunc     // of the context that sess lives in
	full map[stages.Digest]bool // stages for whose entries it had no room; it was swept for the first
	// failures counts the attempts to join that failed, the last with failure, but
	// not those that were given up. Who waited for one does not begin another.
	failures atomic.Int64
	failure  error
}

// session returns the session of this run. It fails with
// [synchronization.ErrUnavailable] while there is no ledger.
func (h *ledger) session(ctx context.Context) (*synchronization.Session, error) {
	failures := h.failures.Load()
	if err := h.turn.take(ctx); err != nil {
		return nil, err
	}
	defer h.turn.give()
	if h.away != nil {
		return nil, h.away
	}
	if h.failures.Load() != failures {
		return nil, h.failure
	}
	if h.sess != nil && h.sess.Context().Err() == nil {
		return h.sess, nil
	}
	err := h.bound(ctx)
	if err == nil {
		err = h.join(ctx)
	}
	if err != nil {
		if ctx.Err() == nil { // who has given up says nothing about the ledger
			h.failure = err
			h.failures.Add(1)
		}
		return nil, err
	}
	return h.sess, nil
}

// join begins a session, in the place of one that was lost. It outlives ctx, for a cancelled run still finishes what
// is decided; only the attempt to join ends with ctx.
func (h *ledger) join(ctx context.Context) error {
	life, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() { cancel(context.Cause(ctx)) })
	s, err := h.rejoin(life)
	if err != nil {
		stop()
		cancel(nil)
		return err
	}
	if h.end != nil {
		h.end()
	}
	again := h.sess != nil
	h.sess, h.end = s, func() { cancel(nil) }
	h.live.Store(s)
	if again {
		h.inherited(s)
	}
	if !stop() {
		h.leave(ctx)
		return context.Cause(ctx)
	}
	return nil
}

func (h *ledger) bound(ctx context.Context) error {
	if h.l != nil {
		return nil
	}
	l, err := h.open(ctx)
	if err != nil {
		return err
	}
	if err := h.admit(ctx, l); err != nil {
		return err
	}
	h.l = l
	return nil
}

// localLedger is how the ledgers of single hosts are called in a marker. They
// have no identity beyond their host, which may be a CI runner that lives for
// one job: whoever chooses one for a registry says that nobody else publishes there.
const localLedger = ":local"

// identity names the ledger, in this incarnation, for the storage's marker.
func (h *ledger) identity(ctx context.Context) (string, error) {
	if err := h.turn.take(ctx); err != nil {
		return "", err
	}
	defer h.turn.give()
	if err := h.bound(ctx); err != nil {
		return "", err
	}
	return ledgerIdentity(ctx, h.l)
}

func ledgerIdentity(ctx context.Context, l *synchronization.Ledger) (string, error) {
	if l.Address() == localLedger {
		return localLedger, nil
	}
	return l.UID(ctx)
}

// leaveAlone has all that follows do without the ledger, so that not each stage
// waits anew for one that is away.
func (h *ledger) leaveAlone(ctx context.Context, err error) {
	if h.turn.take(ctx) == nil {
		h.away = err
		h.turn.give()
	}
}

// rejoin joins, and takes over what a lost session of this run has in flight.
func (h *ledger) rejoin(ctx context.Context) (*synchronization.Session, error) {
	if h.sess == nil {
		return h.l.Join(ctx)
	}
	return h.l.Rejoin(ctx, h.sess)
}

// losses are what is known to have been lost of the ledger. All that uses it has ended.
func (h *ledger) losses() []synchronization.Loss {
	if h.l == nil {
		return nil
	}
	return h.l.Losses()
}

// sweep drops the entries that the ledger needs no longer: those of stages that
// were published so long ago that the storage's own word has taken over. Who has
// written to a ledger tidies it; there is nobody else who would. An error is of
// no use: the next run sweeps again.
func (h *ledger) sweep(ctx context.Context, shows func(context.Context, stages.Digest, digest.Digest) (bool, error)) {
	if h.sess == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, sweeping)
	defer cancel()
	_ = h.l.Sweep(ctx, shows)
}

// sweepFull sweeps a ledger that has no room for the entry of d, once in a run. It
// reports whether to try again, which each stage does once.
func (h *ledger) sweepFull(ctx context.Context, d stages.Digest, shows func(context.Context, stages.Digest, digest.Digest) (bool, error)) bool {
	if h.turn.take(ctx) != nil {
		return false
	}
	defer h.turn.give()
	if h.full[d] {
		return false
	}
	if h.full == nil {
		h.full = map[stages.Digest]bool{}
		h.sweep(ctx, shows)
	}
	h.full[d] = true
	return true
}

// close ends the session. Entries that were not decided become free at once. All
// that uses the ledger has ended.
func (h *ledger) close(ctx context.Context) {
	if h.sess != nil {
		h.leave(ctx)
	}
}

// leave ends the session, whatever becomes of ctx. An error is of no use: the
// renewals have ended, so others will find the session dead in any case.
func (h *ledger) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
	defer cancel()
	_ = h.sess.Close(ctx)
	h.end()
	h.sess, h.end = nil, nil
}
