package wire

import (
	"context"
	"io"
	"iter"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// nothing is a storage that is not there yet, for looking at it without making it.
type nothing struct{ storage.Storage }

// Address implements [storage.Storage].
func (nothing) Address() string { return "" }

// Resolve implements [storage.Resolver].
func (nothing) Resolve(context.Context, string) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, storage.ErrNotFound
}

// Manifest implements [storage.Fetcher].
func (nothing) Manifest(context.Context, string) (storage.Manifest, error) {
	return storage.Manifest{}, storage.ErrNotFound
}

// Blob implements [storage.Fetcher].
func (nothing) Blob(context.Context, ocispec.Descriptor) (io.ReadCloser, error) {
	return nil, storage.ErrNotFound
}

// Tags implements [storage.Lister].
func (nothing) Tags(context.Context) iter.Seq2[string, error] {
	return func(func(string, error) bool) {}
}
