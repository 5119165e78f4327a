package transfer

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// OwnerError says that a storage is not one into which stages of this project may
// be copied.
type OwnerError struct {
	Storage string
	// Project is what the storage's marker names, Ours what is copied.
	Project, Ours string
	// Format is set where the storage's tags mean something else than ours.
	Format string
}

// Error implements error.
func (e *OwnerError) Error() string {
	if e.Format != "" {
		return fmt.Sprintf("storage %s has format %q, and this is format %d", e.Storage, e.Format, storage.MarkerFormat)
	}
	return fmt.Sprintf("storage %s belongs to project %q, and this is project %q", e.Storage, e.Project, e.Ours)
}

// InUseError says that runners have begun to publish in a storage while names were
// put there without their ledger.
type InUseError struct{ Storage string }

// Error implements error.
func (e *InUseError) Error() string {
	return fmt.Sprintf("storage %s has been taken into use by builds while stages were copied there", e.Storage)
}

// CheckOwner returns the target's marker, and puts one that names the project and
// no ledger where there is none. It fails with [*OwnerError] for the storage of
// another project.
func CheckOwner(ctx context.Context, target Target, project string) (storage.Marker, error) {
	m, err := Owner(ctx, target, project)
	if errors.Is(err, storage.ErrNotFound) {
		if err := storage.WriteMarker(ctx, asking{target}, storage.Marker{Project: project}); err != nil {
			return storage.Marker{}, fmt.Errorf("mark %s as the project's: %w", target.Address(), err)
		}
		return Owner(ctx, target, project) // another may have put its own meanwhile
	}
	return m, err
}

// asking asks before it sends: a copy that was killed may have sent it before.
type asking struct{ Target }

// PushBlob implements [storage.Pusher].
func (a asking) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if there, err := a.HasBlob(ctx, d); err != nil || there {
		return err
	}
	return a.Target.PushBlob(ctx, d, c)
}

// Owner is [CheckOwner] that puts no marker: it fails with [storage.ErrNotFound]
// where there is none.
func Owner(ctx context.Context, target Source, project string) (storage.Marker, error) {
	m, err := storage.ReadMarker(ctx, target)
	if err != nil {
		return m, err
	}
	if m.Project != project {
		return m, &OwnerError{Storage: target.Address(), Project: m.Project, Ours: project}
	}
	if m.Format != fmt.Sprint(storage.MarkerFormat) {
		return m, &OwnerError{Storage: target.Address(), Project: m.Project, Ours: project, Format: m.Format}
	}
	return m, nil
}

// lookEvery is how old what is known of the target's names may be when one is put.
const lookEvery = 2 * time.Second

// lookShare is how much longer than it takes to look what was seen is relied on.
const lookShare = 10

// Direct names without a ledger: for storages in which nobody publishes but
// copies do. Before a name is put it makes sure, by a listing and a look at the
// marker that are two seconds old at most where the target is not slow, that there is none, and that no runner
// has begun to publish there.
type Direct struct {
	target  Target
	project string
	now     func() time.Time

	mu    sync.Mutex
	there map[string]bool
	until time.Time // until when there may be relied on
	// shared: names of stages are given by others, under a ledger.
	shared bool
}

// NewDirect returns a Direct for the storage of a project, whose marker is there.
// shared says that stages are named otherwise, under the storage's ledger, so that
// runners may publish there; indexes, which are the same whoever writes them, need none.
func NewDirect(target Target, project string, shared bool, now func() time.Time) *Direct {
	return &Direct{target: target, project: project, shared: shared, now: now}
}

// Name implements [Namer].
func (d *Direct) Name(ctx context.Context, tag string, m storage.Manifest) error {
	there, err := d.look(ctx, tag)
	if err != nil {
		return err
	}
	if there {
		found, err := d.target.Resolve(ctx, tag)
		switch {
		case errors.Is(err, storage.ErrNotFound): // and gone again
		case err != nil:
			return err
		case found.Digest == m.Descriptor.Digest:
			return nil
		default:
			return &DifferentError{Tag: tag, Ours: m.Descriptor.Digest, Theirs: found.Digest}
		}
	}
	return d.target.Publish(ctx, tag, m)
}

// look reports whether the target lists the tag, looking anew where that is old.
func (d *Direct) look(ctx context.Context, tag string) (bool, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.there != nil && d.now().Before(d.until) {
		return d.there[tag], nil
	}
	began := d.now()
	owner, err := Owner(ctx, d.target, d.project)
	if err != nil {
		return false, err
	}
	if owner.Ledger != "" && !d.shared {
		return false, &InUseError{Storage: d.target.Address()}
	}
	tags, err := tagsOf(ctx, d.target)
	if err != nil {
		return false, err
	}
	d.there = make(map[string]bool, len(tags))
	for _, t := range tags {
		d.there[t] = true
	}
	// A listing that takes long is not made all the time.
	d.until = began.Add(max(lookEvery, lookShare*d.now().Sub(began)))
	return d.there[tag], nil
}
