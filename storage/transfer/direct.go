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

// lookEvery is how old what is known of the target's marker and names may be when a
// name is put.
const lookEvery = 2 * time.Second

// Direct names without a ledger: for storages in which nobody publishes but
// copies do. Before a name is put it makes sure that nothing has it, by asking for it or
// by a listing that was begun two seconds before at most, and, by a look at the
// marker that is no older, that no runner has begun to publish there. What somebody
// else names otherwise within that time may be moved.
type Direct struct {
	target  Target
	project string
	now     func() time.Time
	free    *free

	mu     sync.Mutex
	looked time.Time // when the last look at the marker began; zero before the first
	// shared: names of stages are given by others, under a ledger.
	shared bool
}

// NewDirect returns a Direct for the storage of a project, whose marker is there.
// shared says that stages are named otherwise, under the storage's ledger, so that
// runners may publish there; indexes, which are the same whoever writes them, need none.
func NewDirect(target Target, project string, shared bool, now func() time.Time) *Direct {
	return &Direct{target: target, project: project, shared: shared, now: now, free: &free{target: target, now: now}}
}

// Name implements [Namer].
func (d *Direct) Name(ctx context.Context, tag string, m storage.Manifest) error {
	if err := d.look(ctx); err != nil {
		return err
	}
	if d.free.has(ctx, tag) {
		return d.put(ctx, tag, m)
	}
	found, err := d.target.Resolve(ctx, tag)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return d.put(ctx, tag, m)
	case err != nil:
		return err
	case found.Digest != m.Descriptor.Digest:
		return &DifferentError{Tag: tag, Ours: m.Descriptor.Digest, Theirs: found.Digest}
	}
	return nil
}

func (d *Direct) put(ctx context.Context, tag string, m storage.Manifest) error {
	err := d.target.Publish(ctx, tag, m)
	if err == nil {
		d.free.given(tag)
	}
	return err
}

// look makes sure that the target is the project's and not in use by builds. Who
// waited for the look of another relies on that one.
func (d *Direct) look(ctx context.Context) error {
	called := d.now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.looked.IsZero() && called.Sub(d.looked) < lookEvery {
		return nil
	}
	began := d.now()
	owner, err := Owner(ctx, d.target, d.project)
	if err != nil {
		return err
	}
	if owner.Ledger != "" && !d.shared {
		return &InUseError{Storage: d.target.Address()}
	}
	d.looked = began
	return nil
}
