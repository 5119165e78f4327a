package build

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// storageFormat is the version of what tags and annotations mean.
const storageFormat = 1

const (
	markerType    = "application/vnd.cairn.project"
	markerProject = "dev.cairn.project"
	markerFormat  = "dev.cairn.format"
	markerLedger  = "dev.cairn.ledger"
	markerReason  = "dev.cairn.reason" // why the ledger is another one than before
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
		if err := r.compareMarker(m, ledger); err != nil {
			return err
		}
		return l.Bind(ctx, r.Storage.Address())
	})
}

// mark binds the ledger to a storage that nobody has, and puts the marker there.
func (r *run) mark(ctx context.Context, l *synchronization.Ledger, ledger string) error {
	if err := l.Bind(ctx, r.Storage.Address()); err != nil {
		return err
	}
	err := putMarker(ctx, r.Storage, map[string]string{
		markerProject: r.Plan.Project, markerFormat: strconv.Itoa(storageFormat), markerLedger: ledger,
	})
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

// checkOwner is the part of checkMarker that needs no ledger, for a run that has
// found all stages and only names the build.
func (r *run) checkOwner(ctx context.Context) error {
	return r.marked.do(ctx, func() error {
		m, err := r.Storage.Manifest(ctx, storage.ProjectTag)
		if errors.Is(err, storage.ErrNotFound) {
			return nil // it comes with the next stage
		}
		if err != nil {
			return err
		}
		return r.compareMarker(m, "")
	})
}

func (r *run) compareMarker(m storage.Manifest, ledger string) error {
	return compareMarker(r.Storage, m, r.Plan.Project, ledger)
}

// compareMarker compares a storage's marker with what a run is; a ledger that is ""
// is not compared.
func compareMarker(st storage.Storage, m storage.Manifest, project, ledger string) error {
	img, err := m.Image()
	if err != nil {
		return fmt.Errorf("the marker of storage %s: %w", st.Address(), err)
	}
	for _, c := range []struct{ what, key, ours string }{
		{"format", markerFormat, strconv.Itoa(storageFormat)},
		{"project", markerProject, project},
		{"ledger", markerLedger, ledger},
	} {
		theirs := img.Annotations[c.key]
		if theirs != c.ours && c.ours != "" {
			return &ForeignStorageError{Storage: st.Address(), What: c.what, Theirs: theirs, Ours: c.ours}
		}
	}
	return nil
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
	img, err := m.Image()
	if err != nil {
		return "", err
	}
	if err := l.Bind(ctx, st.Address()); err != nil {
		return "", err
	}
	was = img.Annotations[markerLedger]
	if was == ours {
		return was, nil
	}
	return was, putMarker(ctx, st, map[string]string{
		markerProject: l.Project(), markerFormat: strconv.Itoa(storageFormat), markerLedger: ours, markerReason: reason,
	})
}

func putMarker(ctx context.Context, st storage.Storage, annotations map[string]string) error {
	empty := ocispec.DescriptorEmptyJSON
	err := st.PushBlob(ctx, empty, bytesContent(empty.Data))
	if err != nil {
		return err
	}
	empty.Data = nil
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: markerType,
		Config:       empty,
		Layers:       []ocispec.Descriptor{empty},
		Annotations:  annotations,
	})
	if err != nil {
		return err
	}
	return st.Publish(ctx, storage.ProjectTag, m)
}
