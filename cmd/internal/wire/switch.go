package wire

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/switchover"
)

// Switching moves a project's stages of this host to a registry, or back.
type Switching struct {
	Settings Settings
	Host     Host
	Storages *Storages
	Project  string
	// To is the repository that is switched to; "" for the way back and the status,
	// which take it from the ledger of this host.
	To string
	// OldLedger is the address of the ledger of the :local stages, "" for their own.
	OldLedger string
	// Drain and Grace are those of switchover.Options.
	Drain, Grace time.Duration
	// Observe, Waiting and Reached are those of switchover.Options, Passes that of
	// switchover.NewCopier; all may be nil.
	Observe func(synchronization.Move)
	Waiting func(switchover.Awaited)
	Reached func(context.Context, synchronization.Step) error
	Passes  func() *transfer.Progress
}

// Run switches to a registry.
func (w *Switching) Run(ctx context.Context) (*switchover.Report, error) {
	if _, err := w.target(synchronization.Stance{}); err != nil {
		return nil, err // before anything is made on this host
	}
	return w.between(ctx, func(here, there *switchEnd) (*switchover.Report, error) {
		return switchover.Run(ctx, w.options(here, there))
	})
}

// Back takes a switch back. On a host that was not switched it makes nothing.
func (w *Switching) Back(ctx context.Context) (*switchover.Report, error) {
	st, err := w.Status(ctx)
	if err == nil && st.Move == nil {
		err = switchover.ErrNothing
	}
	if err != nil {
		return nil, err
	}
	return w.between(ctx, func(here, there *switchEnd) (*switchover.Report, error) {
		return switchover.Back(ctx, w.options(there, here))
	})
}

// Status reads how far a switch is. It makes nothing: where there is no ledger there
// was no switch.
func (w *Switching) Status(ctx context.Context) (st switchover.Status, err error) {
	here, err := w.old().findLedger(ctx, w.Host, w.Project)
	if errors.Is(err, synchronization.ErrNone) {
		return switchover.Status{Open: true}, nil
	}
	if err != nil {
		return st, err
	}
	defer func() { err = errors.Join(err, here.close()) }()
	return switchover.StatusOf(ctx, here.Ledger)
}

// switchEnd is a side of a switch, with what closes it.
type switchEnd struct {
	switchover.Side
	ledger *ledger
}

// old are the settings of the stages of this host.
func (w *Switching) old() Settings {
	s := w.Settings
	s.Storage, s.Synchronization = Local, w.OldLedger
	return s
}

// between opens both ends for do.
func (w *Switching) between(ctx context.Context, do func(here, there *switchEnd) (*switchover.Report, error)) (rep *switchover.Report, err error) {
	here, err := w.open(ctx, w.old())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, here.ledger.close()) }()
	settings, err := w.target(here.ledger.First())
	if err != nil {
		return nil, err
	}
	there, err := w.open(ctx, settings)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, there.ledger.close()) }()
	return do(here, there)
}

// target returns the settings of the other end: those asked for, or those that the
// record of this host's ledger names.
func (w *Switching) target(here synchronization.Stance) (Settings, error) {
	s := w.Settings
	if s.Storage = w.To; s.Storage == "" {
		if here.Move == nil {
			return s, switchover.ErrNothing
		}
		s.Storage = here.Move.To.Storage
		if s.Synchronization == "" {
			s.Synchronization = plainLedger(here.Move.To.Ledger)
		}
	}
	if s.Storage == Local {
		return s, &SettingError{"--to", errors.New("the stages are in " + Local + " already"), "name a repository of a registry"}
	}
	return s, s.Check()
}

func (w *Switching) open(ctx context.Context, s Settings) (*switchEnd, error) {
	st, err := w.Storages.Open(ctx, w.Project, s.Storage)
	if err != nil {
		return nil, err
	}
	l, err := s.openLedger(ctx, w.Host, w.Project, new(atomic.Int64), nil)
	if err != nil {
		return nil, err
	}
	uid, err := l.UID(ctx)
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	binding, err := build.Binding(ctx, st)
	if err != nil {
		return nil, errors.Join(err, l.close())
	}
	place := synchronization.Place{Storage: s.Storage, Ledger: plainLedger(s.LedgerAddress(w.Host)), UID: uid}
	if place.Ledger == Local {
		place.Host = hostName()
	}
	return &switchEnd{switchover.Side{Place: place, Storage: st, Ledger: l.Ledger, Binding: binding}, l}, nil
}

func (w *Switching) options(from, to *switchEnd) switchover.Options {
	return switchover.Options{
		From: from.Side, To: to.Side, Copier: switchover.NewCopier(from.Storage, to.Storage, w.Passes),
		Check: func(ctx context.Context) error {
			if err := build.CheckOwner(ctx, from.Storage, from.Ledger); err != nil {
				return fmt.Errorf("what is to be left: %w", err)
			}
			return build.CheckOwner(ctx, to.Storage, to.Ledger)
		},
		Mark:  func(ctx context.Context) error { return build.Own(ctx, to.Storage, to.Ledger) },
		By:    holder(),
		Drain: w.Drain, Grace: w.Grace, Patience: w.Settings.SynchronizationTimeout, Observe: w.Observe, Waiting: w.Waiting, Reached: w.Reached, Now: w.Host.Now,
	}
}
