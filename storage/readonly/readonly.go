// Package readonly makes a storage that can be read and not written, for runs
// that may take stages from a storage and must not leave anything there. Real
// protection are the credentials; this says clearly and early what they enforce.
package readonly

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// errReadOnly is why writes are denied.
var errReadOnly = errors.New("this run uses the storage read-only")

type readOnly struct{ storage.Storage }

var (
	_ storage.Mounter        = readOnly{}
	_ storage.DeletionProber = readOnly{}
)

// New returns inner without its writes: they give [storage.ErrDenied] and do not
// reach it.
func New(inner storage.Storage) storage.Storage { return readOnly{inner} }

func (s readOnly) denied(op, subject string) error {
	return &storage.Error{Op: op, Storage: s.Address(), Subject: subject, Class: storage.ErrDenied, Err: errReadOnly}
}

func (s readOnly) PushBlob(_ context.Context, d ocispec.Descriptor, _ storage.Content) error {
	return s.denied("push blob", d.Digest.String())
}

func (s readOnly) MountBlob(_ context.Context, d ocispec.Descriptor, _ string) (bool, error) {
	return false, s.denied("mount blob", d.Digest.String())
}

func (s readOnly) PushManifest(_ context.Context, m storage.Manifest) error {
	return s.denied("push manifest", m.Descriptor.Digest.String())
}

func (s readOnly) Publish(_ context.Context, tag string, _ storage.Manifest) error {
	return s.denied("publish", tag)
}

func (s readOnly) DeleteTag(_ context.Context, tag string) error {
	return s.denied("delete tag", tag)
}

func (s readOnly) DeleteManifest(_ context.Context, d digest.Digest) error {
	return s.denied("delete manifest", d.String())
}

func (s readOnly) ProbeDeletion(context.Context) error {
	return s.denied("find out how to delete in", "")
}
