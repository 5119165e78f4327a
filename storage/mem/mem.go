// Package mem is a stages storage in memory, for tests and trials. It can be as
// strict as registries are: immutable tags, tags that cannot be deleted.
package mem

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"iter"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Options are the manners of a [Storage]. The zero value is the most liberal one.
type Options struct {
	// Address is what [Storage.Address] returns, ":mem" when it is empty.
	Address string
	// ImmutableTags has Publish return [storage.ErrExists] for a tag that names
	// another manifest.
	ImmutableTags bool
	// KeepTags has DeleteTag return [storage.ErrUnsupported], as registries do
	// that only delete manifests.
	KeepTags bool
	// LooseReferences accepts manifests whose config, layers or members are
	// missing; otherwise they give [storage.ErrInvalid].
	LooseReferences bool
}

// Storage is a [storage.Storage] in memory, safe for concurrent use.
type Storage struct {
	opts Options

	mu        sync.RWMutex
	blobs     map[digest.Digest][]byte
	manifests map[digest.Digest]storage.Manifest
	tags      map[string]digest.Digest
}

var _ storage.Storage = (*Storage)(nil)

// New returns an empty storage.
func New(opts Options) *Storage {
	if opts.Address == "" {
		opts.Address = ":mem"
	}
	return &Storage{
		opts:      opts,
		blobs:     map[digest.Digest][]byte{},
		manifests: map[digest.Digest]storage.Manifest{},
		tags:      map[string]digest.Digest{},
	}
}

// Address implements [storage.Storage].
func (s *Storage) Address() string { return s.opts.Address }

func (s *Storage) fail(op, subject string, class, err error) error {
	return &storage.Error{Op: op, Storage: s.opts.Address, Subject: subject, Class: class, Err: err}
}

// Resolve implements [storage.Resolver].
func (s *Storage) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	m, err := s.Manifest(ctx, ref)
	return m.Descriptor, err
}

// Manifest implements [storage.Fetcher].
func (s *Storage) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return storage.Manifest{}, err
	}
	tag, d, err := storage.ParseRef(ref)
	if err != nil {
		return storage.Manifest{}, s.fail("fetch manifest", ref, storage.ErrInvalid, err)
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	if tag != "" {
		d = s.tags[tag]
	}
	m, ok := s.manifests[d]
	if !ok {
		return storage.Manifest{}, s.fail("fetch manifest", ref, storage.ErrNotFound, nil)
	}
	m.Bytes = bytes.Clone(m.Bytes)
	return m, nil
}

// Blob implements [storage.Fetcher].
func (s *Storage) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[d.Digest]
	if !ok {
		return nil, s.fail("fetch blob", d.Digest.String(), storage.ErrNotFound, nil)
	}
	r := &reader{ctx: ctx, r: bytes.NewReader(b)}
	return storage.VerifyReader(io.NopCloser(r), d), nil
}

// reader ends with its context.
type reader struct {
	ctx context.Context
	r   io.Reader
}

func (r *reader) Read(p []byte) (int, error) {
	if err := r.ctx.Err(); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// HasBlob implements [storage.Pusher].
func (s *Storage) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	s.mu.RLock()
	defer s.mu.RUnlock()
	b, ok := s.blobs[d.Digest]
	return ok && int64(len(b)) == d.Size, nil
}

// PushBlob implements [storage.Pusher].
func (s *Storage) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if ok, err := s.HasBlob(ctx, d); ok || err != nil {
		return err
	}
	r, err := c.Open()
	if err != nil {
		return fmt.Errorf("push blob %s: %w", d.Digest, err)
	}
	b, err := io.ReadAll(storage.VerifyReader(readCloser{&reader{ctx: ctx, r: r}, r}, d))
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("push blob %s: %w", d.Digest, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[d.Digest] = b
	return nil
}

type readCloser struct {
	io.Reader
	io.Closer
}

// PushManifest implements [storage.Pusher].
func (s *Storage) PushManifest(ctx context.Context, m storage.Manifest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.push(m)
}

// push is PushManifest for those who hold the lock.
func (s *Storage) push(m storage.Manifest) error {
	if err := m.Verify(); err != nil {
		return fmt.Errorf("push manifest: %w", err)
	}
	subject := m.Descriptor.Digest.String()
	if storage.DetectMediaType(m.Bytes) == "" {
		return s.fail("push manifest", subject, storage.ErrInvalid, nil)
	}
	if err := s.checkReferences(m); err != nil && !s.opts.LooseReferences {
		return s.fail("push manifest", subject, storage.ErrInvalid, err)
	}
	m.Bytes = bytes.Clone(m.Bytes)
	m.Descriptor = ocispec.Descriptor{MediaType: m.Descriptor.MediaType, Digest: m.Descriptor.Digest, Size: m.Descriptor.Size}
	s.manifests[m.Descriptor.Digest] = m
	return nil
}

func (s *Storage) checkReferences(m storage.Manifest) error {
	manifests, blobs, err := m.References()
	if err != nil {
		return err
	}
	for _, d := range manifests {
		if _, ok := s.manifests[d.Digest]; !ok {
			return fmt.Errorf("it needs manifest %s, which is not there", d.Digest)
		}
	}
	for _, d := range blobs {
		if _, ok := s.blobs[d.Digest]; !ok {
			return fmt.Errorf("it needs blob %s, which is not there", d.Digest)
		}
	}
	return nil
}

// Publish implements [storage.Publisher]: the last write wins, unless tags are immutable.
func (s *Storage) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := storage.CheckTag(tag); err != nil {
		return s.fail("publish", tag, storage.ErrInvalid, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.tags[tag]; ok && s.opts.ImmutableTags && d != m.Descriptor.Digest {
		return s.fail("publish", tag, storage.ErrExists, nil)
	}
	if err := s.push(m); err != nil {
		return err
	}
	s.tags[tag] = m.Descriptor.Digest
	return nil
}

// Tags implements [storage.Lister] with the tags of one moment.
func (s *Storage) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		s.mu.RLock()
		tags := slices.Sorted(maps.Keys(s.tags))
		s.mu.RUnlock()
		if err := ctx.Err(); err != nil {
			yield("", err)
			return
		}
		for _, tag := range tags {
			if !yield(tag, nil) {
				return
			}
		}
	}
}

// DeleteTag implements [storage.Deleter].
func (s *Storage) DeleteTag(ctx context.Context, tag string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if s.opts.KeepTags {
		return s.fail("delete tag", tag, storage.ErrUnsupported, nil)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.tags[tag]; !ok {
		return s.fail("delete tag", tag, storage.ErrNotFound, nil)
	}
	delete(s.tags, tag)
	return nil
}

// DeleteManifest implements [storage.Deleter].
func (s *Storage) DeleteManifest(ctx context.Context, d digest.Digest) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.manifests[d]; !ok {
		return s.fail("delete manifest", d.String(), storage.ErrNotFound, nil)
	}
	delete(s.manifests, d)
	maps.DeleteFunc(s.tags, func(_ string, named digest.Digest) bool { return named == d })
	return nil
}

// DropBlob removes a blob behind the back of the manifests that need it, as a
// registry's garbage collection does. It reports whether it was there.
func (s *Storage) DropBlob(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	_, ok := s.blobs[d]
	delete(s.blobs, d)
	return ok
}

// CorruptBlob flips a bit of a blob, as a bad disk does. It reports whether there
// was one to flip.
func (s *Storage) CorruptBlob(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := bytes.Clone(s.blobs[d])
	if len(b) == 0 {
		return false
	}
	b[len(b)/2] ^= 1
	s.blobs[d] = b
	return true
}
