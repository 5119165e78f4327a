// Package memo remembers what a storage has answered, so that one run asks for
// each stage once: manifests by digest, which never change, and what tags name,
// which in a stages storage is written once. Misses and errors are never
// remembered. Questions that are asked at the same time are asked once.
//
// A decision that another runner may have made must not be read from here: that
// is what [Storage.Fresh] is for.
package memo

import (
	"bytes"
	"context"
	"fmt"
	"sync"

	"github.com/hashicorp/golang-lru/v2/simplelru"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Limits bound what is remembered; the least recently used goes first.
type Limits struct {
	// Entries is how many names and how many manifests are kept, 4096 when it is 0.
	Entries int
	// Bytes is how many bytes of manifests are kept, 64 MiB when it is 0.
	Bytes int64
}

const (
	defaultEntries = 4096
	defaultBytes   = 64 << 20
)

// Storage is a [storage.Storage] with a memory, safe for concurrent use.
type Storage struct {
	storage.Storage
	limit int64

	manifestFlights flights[storage.Manifest]
	resolveFlights  flights[ocispec.Descriptor]

	mu        sync.Mutex
	names     *simplelru.LRU[string, ocispec.Descriptor]
	manifests *simplelru.LRU[digest.Digest, storage.Manifest]
	// bytes is the size of all manifests.
	bytes int64
	// changes counts what this process wrote: an answer to a question that was
	// asked before a change is not remembered after it.
	changes uint64
}

var (
	_ storage.Storage        = (*Storage)(nil)
	_ storage.Mounter        = (*Storage)(nil)
	_ storage.DeletionProber = (*Storage)(nil)
)

// New returns inner with a memory. Negative limits are an error.
func New(inner storage.Storage, l Limits) (*Storage, error) {
	if l.Entries == 0 {
		l.Entries = defaultEntries
	}
	if l.Bytes == 0 {
		l.Bytes = defaultBytes
	}
	if l.Bytes < 0 {
		return nil, fmt.Errorf("memory of %d bytes", l.Bytes)
	}
	s := &Storage{Storage: inner, limit: l.Bytes}
	var err error
	if s.names, err = simplelru.NewLRU[string, ocispec.Descriptor](l.Entries, nil); err != nil {
		return nil, fmt.Errorf("memory of %d names: %w", l.Entries, err)
	}
	forgotten := func(_ digest.Digest, m storage.Manifest) { s.bytes -= int64(len(m.Bytes)) }
	if s.manifests, err = simplelru.NewLRU(l.Entries, forgotten); err != nil {
		return nil, fmt.Errorf("memory of %d manifests: %w", l.Entries, err)
	}
	return s, nil
}

// Fresh returns the storage below, which remembers nothing.
func (s *Storage) Fresh() storage.Storage { return s.Storage }

// Resolve implements [storage.Resolver].
func (s *Storage) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	if d, ok := s.known(ref); ok {
		return d, nil
	}
	return s.resolveFlights.do(ctx, ref, func() (ocispec.Descriptor, error) {
		before := s.now()
		d, err := s.Storage.Resolve(ctx, ref)
		if err == nil {
			s.remember(before, ref, d, nil)
		}
		return d, err
	})
}

// Manifest implements [storage.Fetcher].
func (s *Storage) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	m, ok := s.knownManifest(ref)
	if !ok {
		var err error
		m, err = s.manifestFlights.do(ctx, ref, func() (storage.Manifest, error) {
			before := s.now()
			m, err := s.Storage.Manifest(ctx, ref)
			if err == nil {
				s.remember(before, ref, m.Descriptor, m.Bytes)
			}
			return m, err
		})
		if err != nil {
			return m, err
		}
	}
	m.Bytes = bytes.Clone(m.Bytes) // what is remembered must not change
	return m, nil
}

func (s *Storage) known(ref string) (ocispec.Descriptor, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.names.Get(ref); ok {
		return d, true
	}
	m, ok := s.manifests.Get(digest.Digest(ref))
	return m.Descriptor, ok
}

func (s *Storage) knownManifest(ref string) (storage.Manifest, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := digest.Digest(ref)
	if d, ok := s.names.Get(ref); ok {
		key = d.Digest
	}
	return s.manifests.Get(key)
}

func (s *Storage) now() uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.changes
}

// remember keeps an answer unless something was written since the moment before.
// b is nil when only the descriptor is known.
func (s *Storage) remember(before uint64, ref string, d ocispec.Descriptor, b []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.changes != before {
		return
	}
	s.names.Add(ref, d)
	if b == nil || int64(len(b)) > s.limit || s.manifests.Contains(d.Digest) {
		return
	}
	s.bytes += int64(len(b))
	s.manifests.Add(d.Digest, storage.Manifest{Descriptor: d, Bytes: bytes.Clone(b)})
	for s.bytes > s.limit {
		s.manifests.RemoveOldest()
	}
}

// change runs a write. What is gone after it is forgotten before and after,
// however it ends: an error may hide a success.
func (s *Storage) change(gone func(ref string, d digest.Digest) bool, write func() error) error {
	s.forget(gone)
	defer s.forget(gone)
	return write()
}

func (s *Storage) forget(gone func(ref string, d digest.Digest) bool) {
	s.manifestFlights.leaveAll()
	s.resolveFlights.leaveAll()
	s.mu.Lock()
	defer s.mu.Unlock()
	s.changes++
	for _, ref := range s.names.Keys() {
		if d, ok := s.names.Peek(ref); ok && gone(ref, d.Digest) {
			s.names.Remove(ref)
		}
	}
	for _, d := range s.manifests.Keys() {
		if gone("", d) {
			s.manifests.Remove(d)
		}
	}
}

func named(tag string) func(string, digest.Digest) bool {
	return func(ref string, _ digest.Digest) bool { return ref == tag }
}

// Publish implements [storage.Publisher] and forgets what the tag named.
func (s *Storage) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	return s.change(named(tag), func() error { return s.Storage.Publish(ctx, tag, m) })
}

// DeleteTag implements [storage.Deleter] and forgets the tag.
func (s *Storage) DeleteTag(ctx context.Context, tag string) error {
	return s.change(named(tag), func() error { return s.Storage.DeleteTag(ctx, tag) })
}

// DeleteManifest implements [storage.Deleter] and forgets the manifest with all its tags.
func (s *Storage) DeleteManifest(ctx context.Context, d digest.Digest) error {
	gone := func(_ string, of digest.Digest) bool { return of == d }
	return s.change(gone, func() error { return s.Storage.DeleteManifest(ctx, d) })
}

// ProbeDeletion implements [storage.DeletionProber] as the storage below does.
func (s *Storage) ProbeDeletion(ctx context.Context) error {
	return storage.ProbeDeletion(ctx, s.Storage)
}

// MountBlob implements [storage.Mounter] as the storage below does.
func (s *Storage) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	return storage.Mount(ctx, s.Storage, d, from)
}
