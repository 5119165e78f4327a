// Package secondary has a storage look for stages in a second one that it only
// reads: the project's storage for a fork's runs, or the storage before a switch.
//
// The methods of the interface are those of the primary alone, so that nobody
// takes a stage that lies elsewhere for one that is published here. A miss is
// looked up with Find, brought over with Adopt, and published by the caller.
package secondary

import (
	"context"
	"errors"
	"fmt"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Source is what is needed of the second storage: nothing that writes.
type Source interface {
	storage.Fetcher
	// Address names the storage, for mounting from it.
	Address() string
}

// Storage is the primary storage together with a second one to look into.
type Storage struct {
	storage.Storage
	second Source
	opts   storage.CopyOptions
}

var (
	_ storage.Storage        = (*Storage)(nil)
	_ storage.Mounter        = (*Storage)(nil)
	_ storage.DeletionProber = (*Storage)(nil)
)

// New returns primary with second behind it. opts are those of copies.
func New(primary storage.Storage, second Source, opts storage.CopyOptions) *Storage {
	return &Storage{Storage: primary, second: second, opts: opts}
}

// Find returns the manifest that ref names in the primary storage or, where that
// has none, in the second, and which of the two has it. It returns
// [storage.ErrNotFound] when neither has. The second is not asked when the primary
// fails otherwise: what cannot be read there may well exist.
func (s *Storage) Find(ctx context.Context, ref string) (m storage.Manifest, from storage.Fetcher, err error) {
	m, err = s.Storage.Manifest(ctx, ref)
	if err == nil {
		return m, s.Storage, nil
	}
	if !errors.Is(err, storage.ErrNotFound) {
		return storage.Manifest{}, nil, err
	}
	m, err = s.second.Manifest(ctx, ref)
	if err != nil {
		return storage.Manifest{}, nil, fmt.Errorf("second storage: %w", err)
	}
	return m, s.second, nil
}

// Adopt brings all that m needs and m itself, by digest, from the second storage
// to the primary: mounted where possible, else copied. To name it is up to the
// caller.
func (s *Storage) Adopt(ctx context.Context, m storage.Manifest) error {
	return storage.CopyImage(ctx, s.Storage, s.second, m, s.second.Address(), s.opts)
}

// ProbeDeletion implements [storage.DeletionProber] as the storage below does.
func (s *Storage) ProbeDeletion(ctx context.Context) error {
	return storage.ProbeDeletion(ctx, s.Storage)
}

// MountBlob implements [storage.Mounter] as the primary does.
func (s *Storage) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	return storage.Mount(ctx, s.Storage, d, from)
}
