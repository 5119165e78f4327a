package build

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// ForeignStorageError says that a storage belongs to something else.
type ForeignStorageError struct {
	Storage string
	// What is "project", "ledger" or "format".
	What string
	// Theirs is what the storage's marker says, Ours what this run has.
	Theirs, Ours string
}

// Error implements error.
func (e *ForeignStorageError) Error() string {
	return fmt.Sprintf("storage %s belongs to %s %q, and this is %s %q", e.Storage, e.What, e.Theirs, e.What, e.Ours)
}

// checkMarker makes sure, before anything is written to the ledger, that the storage
// is this project's and that all its runners use one ledger: two ledgers on one
// storage would each let somebody publish the same stage. Then it binds the ledger
// to the storage, which is for good: a mistyped storage must be refused before that.
func (r *run) checkMarker(ctx context.Context, l *synchronization.Ledger) error {
	return r.marked.do(ctx, func() error {
		ledger, err := ledgerIdentity(ctx, l)
		if err != nil {
			return err
		}
		m, err := r.Storage.Manifest(ctx, storage.ProjectTag)
		if errors.Is(err, storage.ErrNotFound) {
			return r.mark(ctx, l, ledger)
		}
		if err != nil {
			return err
		}
		if marker, err := storage.ParseMarker(m); err == nil && marker.Ledger == "" {
			return r.takeIntoUse(ctx, l, m, ledger)
		}
		if err := r.compareMarker(m, ledger); err != nil {
			return err
		}
		return Bind(ctx, r.Storage, l)
	})
}

// takeIntoUse has this project's storage, into which stages have only been copied
// so far, decided about in the run's ledger from now on.
func (r *run) takeIntoUse(ctx context.Context, l *synchronization.Ledger, m storage.Manifest, ledger string) error {
	if err := r.compareMarker(m, ""); err != nil {
		return err
	}
	return r.mark(ctx, l, ledger)
}

// mark binds the ledger to a storage that nobody decides about, and puts the marker there.
func (r *run) mark(ctx context.Context, l *synchronization.Ledger, ledger string) error {
	if err := Bind(ctx, r.Storage, l); err != nil {
		return err
	}
	err := storage.WriteMarker(ctx, r.Storage, storage.Marker{Project: r.Plan.Project, Ledger: ledger})
	if err != nil {
		return fmt.Errorf("mark the storage as this project's: %w", err)
	}
	r.newMarker.Store(true)
	m, err := r.Storage.Manifest(ctx, storage.ProjectTag)
	if err != nil {
		return err
	}
	return r.compareMarker(m, ledger)
}

// checkNewMarker reads a marker that this run has put once more before it decides
// anything: another run may have found none at the same moment and put its own.
func (r *run) checkNewMarker(ctx context.Context) error {
	if !r.newMarker.Load() {
		return nil
	}
	return r.remarked.do(ctx, func() error {
		ledger, err := r.ledger.identity(ctx)
		if err != nil {
			return err
		}
		m, err := r.Storage.Manifest(ctx, storage.ProjectTag)
		if err != nil {
			return err
		}
		return r.compareMarker(m, ledger)
	})
}

func (r *run) compareMarker(m storage.Manifest, ledger string) error {
	return compareMarker(r.Storage, m, r.Plan.Project, ledger)
}

// compareMarker compares a storage's marker with what a run is; a ledger that is ""
// is not compared.
func compareMarker(st storage.Storage, m storage.Manifest, project, ledger string) error {
	marker, err := storage.ParseMarker(m)
	if err != nil {
		return fmt.Errorf("the marker of storage %s: %w", st.Address(), err)
	}
	for _, c := range []struct{ what, theirs, ours string }{
		{"format", marker.Format, strconv.Itoa(storage.MarkerFormat)},
		{"project", marker.Project, project},
		{"ledger", marker.Ledger, ledger},
	} {
		if c.theirs != c.ours && c.ours != "" {
			return &ForeignStorageError{Storage: st.Address(), What: c.what, Theirs: c.theirs, Ours: c.ours}
		}
	}
	return nil
}

// CheckLedger makes sure that a ledger is the one in which the stages of a storage
// are decided, for whoever publishes there beside builds. It fails with
// [*ForeignStorageError] where the storage's marker names another, and with
// [storage.ErrNotFound] where there is no marker.
func CheckLedger(ctx context.Context, st storage.Storage, l *synchronization.Ledger) error {
	ours, err := ledgerIdentity(ctx, l)
	if err != nil {
		return err
	}
	m, err := st.Manifest(ctx, storage.ProjectTag)
	if err != nil {
		return err
	}
	return compareMarker(st, m, l.Project(), ours)
}

// AdoptLedger has a storage accept another ledger than its marker names, for good,
// and binds that one to it: runs that coordinate in the old one are refused from then
// on. It returns the ledger that the marker named; where there is no marker, or it
// names this ledger, none is written. It fails with [*ForeignStorageError] for the
// storage of another project, to which nothing is bound.
//
// Nobody may publish into the storage meanwhile or have done so within Δ: what is
// in flight in the old ledger is not known to the new one.
func AdoptLedger(ctx context.Context, st storage.Storage, l *synchronization.Ledger, reason string) (was string, err error) {
	ours, err := ledgerIdentity(ctx, l)
	if err != nil {
		return "", err
	}
	m, err := st.Manifest(ctx, storage.ProjectTag)
	if errors.Is(err, storage.ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	if err := compareMarker(st, m, l.Project(), ""); err != nil {
		return "", err
	}
	marker, err := storage.ParseMarker(m)
	if err != nil {
		return "", err
	}
	if err := Bind(ctx, st, l); err != nil {
		return "", err
	}
	was = marker.Ledger
	if was == ours {
		return was, nil
	}
	return was, storage.WriteMarker(ctx, st, storage.Marker{Project: l.Project(), Ledger: ours, Reason: reason})
}
