package build

import (
	"context"
	"errors"
	"fmt"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// storageFormat is the version of what tags and annotations mean.
const storageFormat = 1

const (
	markerType    = "application/vnd.cairn.project"
	markerProject = "dev.cairn.project"
	markerFormat  = "dev.cairn.format"
	markerLedger  = "dev.cairn.ledger"
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

// checkMarker makes sure, before the first publication, that the storage is this
// project's and that all its runners use one ledger: two ledgers on one storage
// would each let somebody publish the same stage.
func (r *run) checkMarker(ctx context.Context) error {
	return r.marked.do(ctx, func() error {
		ledger, err := r.ledger.identity(ctx)
		if err != nil {
			return err
		}
		m, err := r.Storage.Manifest(ctx, storage.ProjectTag)
		if errors.Is(err, storage.ErrNotFound) {
			if err := r.putMarker(ctx, ledger); err != nil {
				return fmt.Errorf("mark the storage as this project's: %w", err)
			}
			m, err = r.Storage.Manifest(ctx, storage.ProjectTag)
		}
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

// compareMarker compares a marker with what this run is; a ledger that is "" is
// not compared.
func (r *run) compareMarker(m storage.Manifest, ledger string) error {
	img, err := m.Image()
	if err != nil {
		return fmt.Errorf("the marker of storage %s: %w", r.Storage.Address(), err)
	}
	for _, c := range []struct{ what, key, ours string }{
		{"format", markerFormat, strconv.Itoa(storageFormat)},
		{"project", markerProject, r.Plan.Project},
		{"ledger", markerLedger, ledger},
	} {
		theirs := img.Annotations[c.key]
		if theirs != c.ours && c.ours != "" {
			return &ForeignStorageError{Storage: r.Storage.Address(), What: c.what, Theirs: theirs, Ours: c.ours}
		}
	}
	return nil
}

func (r *run) putMarker(ctx context.Context, ledger string) error {
	empty := ocispec.DescriptorEmptyJSON
	err := r.Storage.PushBlob(ctx, empty, bytesContent(empty.Data))
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
		Annotations: map[string]string{
			markerProject: r.Plan.Project, markerFormat: strconv.Itoa(storageFormat), markerLedger: ledger,
		},
	})
	if err != nil {
		return err
	}
	return r.Storage.Publish(ctx, storage.ProjectTag, m)
}
