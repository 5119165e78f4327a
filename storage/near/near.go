// Package near has the blobs of a storage read from closer places first: a cache
// on this host, which keeps what was read, and a mirror near by, which is filled
// from that cache.
//
// Both serve blobs by digest alone. What a name stands for, and whether something
// is published, only the storage itself says: names, manifests and the question
// whether a blob is there are always its own. Neither place can fail a read: where
// one does not work the storage is asked, and a warning is given once.
package near

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// Cache keeps blobs on this host; storage/local is one.
type Cache interface {
	// HasBlob reports whether d is there, and keeps it from eviction then.
	HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error)
	PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error
	Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Mirror keeps blobs near by, for several hosts.
type Mirror interface {
	Cache
	// Publish has a tag keep a blob's manifest, so that a registry does not collect it.
	Publish(ctx context.Context, tag string, m storage.Manifest) error
}

// Options are what [New] needs.
type Options struct {
	// Cache opens the cache. It is called when a blob is read for the first time.
	Cache func(ctx context.Context) (Cache, error)
	// Admit says whether the cache has room for a blob of so many bytes; nil says yes.
	Admit func(size int64) bool
	// Mirror is the mirror; nil is none.
	Mirror Mirror
	// Warn is told of the first failure of each place; what is "the local cache" or
	// "the cache storage".
	Warn func(what string, err error)
}

// Counts are what was read from closer places since the start.
type Counts struct {
	// Blobs were read from the cache, and have Bytes together.
	Blobs, Bytes int64
	// Mirrored are those of them that the mirror had and the cache had not.
	Mirrored int64
}

// Near are the places of one process. Its methods may be called concurrently.
type Near struct {
	o Options

	mu     sync.Mutex
	opened bool
	cache  Cache // nil before it is opened, and when it does not work
	// whole are blobs in the cache whose bytes were checked by this process.
	whole map[digest.Digest]bool
	// behind are blobs that the mirror may lack.
	behind       map[digest.Digest]ocispec.Descriptor
	mirrorFailed bool
	counts       Counts
}

// New returns the places; it opens none of them.
func New(o Options) *Near {
	return &Near{o: o, whole: make(map[digest.Digest]bool), behind: make(map[digest.Digest]ocispec.Descriptor)}
}

// Over returns s with its blobs read from closer places first.
func (n *Near) Over(s storage.Storage) storage.Storage { return &near{s, n} }

// Counts returns what was read from closer places so far.
func (n *Near) Counts() Counts {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.counts
}

// near is a storage with closer places.
type near struct {
	storage.Storage
	places *Near
}

var (
	_ storage.Storage        = (*near)(nil)
	_ storage.Mounter        = (*near)(nil)
	_ storage.DeletionProber = (*near)(nil)
)

// ProbeDeletion implements [storage.DeletionProber] as the storage below does.
func (s *near) ProbeDeletion(ctx context.Context) error {
	return storage.ProbeDeletion(ctx, s.Storage)
}

// MountBlob implements [storage.Mounter] as the storage does.
func (s *near) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	return storage.Mount(ctx, s.Storage, d, from)
}

// Blob implements [storage.Fetcher].
func (s *near) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	n := s.places
	cache := n.open(ctx)
	if cache == nil {
		return s.Storage.Blob(ctx, d)
	}
	if r := n.cached(ctx, cache, d); r != nil {
		return r, nil
	}
	if !n.admits(d.Size) {
		return s.Storage.Blob(ctx, d)
	}
	if n.fromMirror(ctx, cache, d) {
		if r := n.cached(ctx, cache, d); r != nil {
			return r, nil
		}
	}
	r, err := s.Storage.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	return n.keep(ctx, cache, d, r), nil
}

func (n *Near) admits(size int64) bool { return n.o.Admit == nil || n.o.Admit(size) }

// open returns the cache, nil where there is none that works.
func (n *Near) open(ctx context.Context) Cache {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.opened || ctx.Err() != nil {
		return n.cache
	}
	n.opened = true
	c, err := n.o.Cache(ctx)
	if err != nil {
		n.warn("the local cache", err)
		return nil
	}
	n.cache = c
	return c
}

func (n *Near) warn(what string, err error) {
	if n.o.Warn != nil {
		n.o.Warn(what, err)
	}
}

// cacheFailed has the cache not used any more.
func (n *Near) cacheFailed(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return // it is the reader that has ended
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.cache != nil {
		n.cache = nil
		n.warn("the local cache", err)
	}
}

// cached opens a blob of the cache, nil where that has none that is whole. A reader
// cannot take back what it has given, so the bytes are checked before the first one
// is: once in a process, and the system then has them in memory.
func (n *Near) cached(ctx context.Context, cache Cache, d ocispec.Descriptor) io.ReadCloser {
	ok, err := cache.HasBlob(ctx, d)
	if err != nil {
		n.cacheFailed(ctx, err)
	}
	if err != nil || !ok || !n.check(ctx, cache, d) {
		return nil
	}
	r, err := cache.Blob(ctx, d)
	if err != nil {
		return nil // evicted by hand, or the reader has ended
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.counts.Blobs++
	n.counts.Bytes += d.Size
	return r
}

// check reads a blob of the cache to its end, the first time.
func (n *Near) check(ctx context.Context, cache Cache, d ocispec.Descriptor) bool {
	n.mu.Lock()
	whole := n.whole[d.Digest]
	n.mu.Unlock()
	if whole {
		return true
	}
	r, err := cache.Blob(ctx, d)
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, r)
	if err = errors.Join(err, r.Close()); err != nil {
		return false // the cache drops what is corrupt
	}
	n.isWhole(d)
	return true
}

func (n *Near) isWhole(d ocispec.Descriptor) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.whole[d.Digest] = true
}

// mirror returns the mirror, nil where there is none that works.
func (n *Near) mirror() Mirror {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.mirrorFailed {
		return nil
	}
	return n.o.Mirror
}

// fromMirror brings a blob from the mirror into the cache, and reports whether it did.
func (n *Near) fromMirror(ctx context.Context, cache Cache, d ocispec.Descriptor) bool {
	m := n.mirror()
	if m == nil {
		return false
	}
	var failed error
	asked := false
	err := cache.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) {
		r, err := m.Blob(ctx, d)
		asked, failed = true, err
		return r, err
	}))
	if err == nil && !asked {
		return true // somebody else has brought it meanwhile
	}
	if err == nil {
		n.isWhole(d)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.counts.Mirrored++
		return true
	}
	if errors.Is(failed, storage.ErrNotFound) {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.behind[d.Digest] = d
		return false
	}
	n.failMirror(ctx, fmt.Errorf("read %s: %w", d.Digest, err))
	return false
}

func (n *Near) failMirror(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	if !n.mirrorFailed {
		n.mirrorFailed = true
		n.warn("the cache storage", err)
	}
}

// mirroring is how many blobs travel to the mirror at once.
const mirroring = 4

// Fill sends to the mirror what it was found to lack and the cache has, until ctx
// ends. A failure is told as a warning.
func (n *Near) Fill(ctx context.Context) {
	m := n.mirror()
	n.mu.Lock()
	cache, behind := n.cache, n.behind
	n.behind = make(map[digest.Digest]ocispec.Descriptor)
	n.mu.Unlock()
	if m == nil || cache == nil || len(behind) == 0 {
		return
	}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(mirroring)
	for _, d := range behind {
		g.Go(func() error {
			if ok, err := cache.HasBlob(gctx, d); err != nil || !ok {
				return nil // it was not read to its end
			}
			return mirrorBlob(gctx, m, cache, d)
		})
	}
	if err := g.Wait(); err != nil {
		n.mu.Lock()
		defer n.mu.Unlock()
		n.mirrorFailed = true
		n.warn("the cache storage", fmt.Errorf("fill it: %w", err))
	}
}

// blobTag is the tag under which a mirror keeps a blob.
func blobTag(d digest.Digest) string { return "blob-" + d.Encoded() }

// mirrorBlob sends a blob with a manifest that holds nothing else: a registry may
// collect what no manifest refers to.
func mirrorBlob(ctx context.Context, m Mirror, cache Cache, d ocispec.Descriptor) error {
	empty := ocispec.DescriptorEmptyJSON
	layer := ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
	if layer.MediaType == "" {
		layer.MediaType = "application/octet-stream"
	}
	v := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		ArtifactType: "application/vnd.cairn.blob", Config: empty, Layers: []ocispec.Descriptor{layer},
	}
	v.Config.Data = nil
	manifest, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	if err != nil {
		return err
	}
	if err := m.PushBlob(ctx, layer, storage.ContentFunc(func() (io.ReadCloser, error) { return cache.Blob(ctx, d) })); err != nil {
		return err
	}
	config := storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(empty.Data)), nil })
	if err := m.PushBlob(ctx, v.Config, config); err != nil {
		return err
	}
	return m.Publish(ctx, blobTag(d.Digest), manifest)
}
