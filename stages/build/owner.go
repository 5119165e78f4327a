package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// placed is a storage that has its address in common with others: on each host there
// is one.
type placed interface {
	// Place names the storage among them.
	Place(ctx context.Context) (string, error)
}

// Binding returns what a ledger is bound to for a storage: its address, or its own name
// where hosts have each one of that address. A ledger that several hosts reach must not
// be taken for the one of all of them: what it says was published is in one only.
func Binding(ctx context.Context, st storage.Storage) (string, error) {
	if p, ok := st.(placed); ok {
		return p.Place(ctx)
	}
	return st.Address(), nil
}

// Bind binds a ledger to a storage, see [synchronization.Ledger.Bind].
func Bind(ctx context.Context, st storage.Storage, l *synchronization.Ledger) error {
	binding, err := Binding(ctx, st)
	if err != nil {
		return err
	}
	return l.Bind(ctx, binding)
}

// CheckOwner fails with [*ForeignStorageError] where a storage is not the project's
// of the ledger, or belongs to another ledger. It writes nothing, and succeeds for
// one that nobody decides about yet.
func CheckOwner(ctx context.Context, st storage.Storage, l *synchronization.Ledger) error {
	_, err := owned(ctx, st, l)
	return err
}

// owned is CheckOwner that also reports whether the marker names the ledger.
func owned(ctx context.Context, st storage.Storage, l *synchronization.Ledger) (bool, error) {
	ours, err := ledgerIdentity(ctx, l)
	if err != nil {
		return false, err
	}
	m, err := st.Manifest(ctx, storage.ProjectTag)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	marker, err := storage.ParseMarker(m)
	if err != nil {
		return false, fmt.Errorf("the marker of storage %s: %w", st.Address(), err)
	}
	if marker.Ledger == "" { // stages have only been copied there
		ours = ""
	}
	return ours != "", compareMarker(st, m, l.Project(), ours)
}

// Own has a storage's marker name the ledger, after [CheckOwner], and binds the
// ledger to it: what a build does before it publishes there first.
func Own(ctx context.Context, st storage.Storage, l *synchronization.Ledger) error {
	named, err := owned(ctx, st, l)
	if err != nil {
		return err
	}
	if err := Bind(ctx, st, l); err != nil || named {
		return err
	}
	ours, err := ledgerIdentity(ctx, l)
	if err != nil {
		return err
	}
	if err := storage.WriteMarker(ctx, st, storage.Marker{Project: l.Project(), Ledger: ours}); err != nil {
		return fmt.Errorf("mark the storage as this project's: %w", err)
	}
	return CheckOwner(ctx, st, l) // another may have put its own at the same moment
}
