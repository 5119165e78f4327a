package build

import (
	"context"
	"sync"

	"github.com/cairnbuild/cairn/synchronization"
)

// ledger opens the project's ledger when the first entry is needed, and keeps
// the run's session in it.
type ledger struct {
	open    func(ctx context.Context) (*synchronization.Ledger, error)
	storage string

	mu   sync.Mutex
	l    *synchronization.Ledger
	sess *synchronization.Session
}

// session returns the session of this run. It fails with
// [synchronization.ErrUnavailable] while there is no ledger.
func (h *ledger) session(ctx context.Context) (*synchronization.Session, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sess != nil {
		return h.sess, nil
	}
	if err := h.bound(ctx); err != nil {
		return nil, err
	}
	s, err := h.l.Join(ctx)
	if err != nil {
		return nil, err
	}
	h.sess = s
	return s, nil
}

func (h *ledger) bound(ctx context.Context) error {
	if h.l != nil {
		return nil
	}
	l, err := h.open(ctx)
	if err != nil {
		return err
	}
	if err := l.Bind(ctx, h.storage); err != nil {
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
	h.mu.Lock()
	defer h.mu.Unlock()
	if err := h.bound(ctx); err != nil {
		return "", err
	}
	if h.l.Address() == localLedger {
		return localLedger, nil
	}
	return h.l.UID(ctx)
}

// rejoin drops a lost session, so that the next step begins a new one.
func (h *ledger) rejoin() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sess != nil && h.sess.Context().Err() != nil {
		h.sess = nil
	}
}

// close ends the session. Entries that were not decided become free at once.
func (h *ledger) close(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.sess == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), finishing)
	defer cancel()
	s := h.sess
	h.sess = nil
	if s.Context().Err() != nil {
		return nil // lost: nothing of it is left to end
	}
	return s.Close(ctx)
}
