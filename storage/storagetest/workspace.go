package storagetest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// TagPrefix begins all tags that checks make.
const TagPrefix = "cairn-check-"

// Workspace makes contents and names for one run of one check and remembers what
// to remove. Its methods are safe for concurrent use.
type Workspace struct {
	run, check string

	mu        sync.Mutex
	count     int
	tags      []string
	manifests []digest.Digest
	notes     []string
}

func newWorkspace(run, check string) *Workspace { return &Workspace{run: run, check: check} }

// Note records a choice of the storage that is worth knowing.
func (w *Workspace) Note(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.notes = append(w.notes, fmt.Sprintf(format, args...))
}

// Tag returns a tag that is new in the storage.
func (w *Workspace) Tag() string { return w.TagNamed("") }

// TagNamed returns a new tag that ends with suffix.
func (w *Workspace) TagNamed(suffix string) string {
	n := w.next()
	w.mu.Lock()
	defer w.mu.Unlock()
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%s", w.run, w.check))
	tag := fmt.Sprintf("%s%x-%d%s", TagPrefix, sum[:5], n, suffix)
	w.tags = append(w.tags, tag)
	return tag
}

func (w *Workspace) next() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.count++
	return w.count
}

// Bytes returns n bytes that no other call, check or run returns (for n of 16 and more).
func (w *Workspace) Bytes(n int) []byte {
	seed := sha256.Sum256(fmt.Appendf(nil, "%s/%s/%d", w.run, w.check, w.next()))
	b := make([]byte, n)
	rand.NewChaCha8(seed).Read(b) // never fails
	return b
}

// Layer returns the descriptor of b as a layer.
func Layer(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// Content returns b as content.
func Content(b []byte) storage.Content {
	return storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}

// Push pushes b and returns its descriptor.
func (w *Workspace) Push(ctx context.Context, s storage.Storage, b []byte) (ocispec.Descriptor, error) {
	d := Layer(b)
	if err := s.PushBlob(ctx, d, Content(b)); err != nil {
		return d, fmt.Errorf("push a blob of %d bytes: %w", len(b), err)
	}
	return d, nil
}

// Image pushes a config and a layer and returns a new image manifest of them,
// with the annotations, that is still to be pushed.
func (w *Workspace) Image(ctx context.Context, s storage.Storage, annotations map[string]string) (storage.Manifest, error) {
	layer, err := w.Push(ctx, s, w.Bytes(1000))
	if err != nil {
		return storage.Manifest{}, err
	}
	raw := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","rootfs":{"type":"layers","diff_ids":[%q]}}`, layer.Digest)
	config, err := w.Push(ctx, s, raw)
	if err != nil {
		return storage.Manifest{}, err
	}
	config.MediaType = ocispec.MediaTypeImageConfig
	return w.Manifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:   specs.Versioned{SchemaVersion: 2},
		MediaType:   ocispec.MediaTypeImageManifest,
		Config:      config,
		Layers:      []ocispec.Descriptor{layer},
		Annotations: annotations,
	})
}

// Manifest encodes v and has its manifest removed in the end.
func (w *Workspace) Manifest(mediaType string, v any) (storage.Manifest, error) {
	m, err := storage.NewManifest(mediaType, v)
	if err != nil {
		return m, err
	}
	w.Remove(m.Descriptor.Digest)
	return m, nil
}

// Remove has the manifest d removed in the end.
func (w *Workspace) Remove(d digest.Digest) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.manifests = append(w.manifests, d)
}

// cleanUp removes all tags and manifests and returns those that stay. Manifests
// go in reverse, an index before its members; most registries take their tags along,
// which is far quicker than one tag after another.
func (w *Workspace) cleanUp(ctx context.Context, s storage.Storage) []string {
	var left []string
	for _, d := range slices.Backward(w.manifests) {
		if err := s.DeleteManifest(ctx, d); err != nil && !errors.Is(err, storage.ErrNotFound) {
			left = append(left, d.String())
		}
	}
	for _, tag := range w.tags {
		if err := s.DeleteTag(ctx, tag); err != nil && !errors.Is(err, storage.ErrNotFound) {
			left = append(left, tag)
		}
	}
	// Where tags cannot be deleted alone they went with their manifests.
	return slices.DeleteFunc(left, func(ref string) bool {
		_, err := s.Resolve(ctx, ref)
		return errors.Is(err, storage.ErrNotFound)
	})
}

// sameBlob returns an error unless the storage yields exactly want for d.
func sameBlob(ctx context.Context, s storage.Fetcher, d ocispec.Descriptor, want []byte) error {
	r, err := s.Blob(ctx, d)
	if err != nil {
		return fmt.Errorf("fetch the blob of %d bytes: %w", d.Size, err)
	}
	got, err := io.ReadAll(r)
	if cerr := r.Close(); err == nil {
		err = cerr
	}
	if err != nil {
		return fmt.Errorf("read the blob of %d bytes: %w", d.Size, err)
	}
	if !bytes.Equal(got, want) {
		return fmt.Errorf("the blob of %d bytes came back as %d other bytes", len(want), len(got))
	}
	return nil
}

// sameManifest returns an error unless ref yields exactly m, resolved and fetched.
func sameManifest(ctx context.Context, s storage.Storage, ref string, m storage.Manifest) error {
	what := "tag"
	if strings.Contains(ref, ":") {
		what = "digest"
	}
	d, err := s.Resolve(ctx, ref)
	if err != nil {
		return fmt.Errorf("resolve by %s: %w", what, err)
	}
	if err := sameDescriptor(d, m.Descriptor); err != nil {
		return fmt.Errorf("resolve by %s: %w", what, err)
	}
	got, err := s.Manifest(ctx, ref)
	if err != nil {
		return fmt.Errorf("fetch by %s: %w", what, err)
	}
	if err := sameDescriptor(got.Descriptor, m.Descriptor); err != nil {
		return fmt.Errorf("fetch by %s: %w", what, err)
	}
	if !bytes.Equal(got.Bytes, m.Bytes) {
		return fmt.Errorf("fetch by %s: the bytes are not those that were pushed", what)
	}
	return nil
}

func sameDescriptor(got, want ocispec.Descriptor) error {
	if got.Digest != want.Digest || got.Size != want.Size || got.MediaType != want.MediaType {
		return fmt.Errorf("got %s, %s, %d bytes; want %s, %s, %d bytes",
			got.Digest, got.MediaType, got.Size, want.Digest, want.MediaType, want.Size)
	}
	return nil
}
