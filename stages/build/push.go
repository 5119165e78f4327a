package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/storage"
)

// pushing is how many blobs of one stage travel at once.
const pushing = 4

// pushBlobs is the first half of step 4: what the storage may not have yet.
func (r *run) pushBlobs(ctx context.Context, n *node, c *candidate) error {
	if c.basis == nil {
		return nil // the secondary storage has brought it
	}
	defer r.timed(n)()
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(pushing)
	for _, d := range c.fresh {
		g.Go(func() error { return r.pushBlob(gctx, n, c, d) })
	}
	config := bytesDescriptor(ocispec.MediaTypeImageConfig, c.image.ConfigBlob())
	g.Go(func() error {
		defer n.sent(config.Size)
		return r.Storage.PushBlob(gctx, config, bytesContent(c.image.ConfigBlob()))
	})
	return g.Wait()
}

// pushBlob brings one layer into the storage, from a neighbour without moving
// bytes where that can be.
func (r *run) pushBlob(ctx context.Context, n *node, c *candidate, d ocispec.Descriptor) error {
	if c.origin == "" {
		defer n.sent(d.Size)
		return r.Storage.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) { return c.from.Blob(ctx, d) }))
	}
	how, err := storage.CopyBlob(ctx, r.Storage, c.from, d, c.origin)
	if how == storage.Copied {
		n.sent(d.Size)
	}
	return err
}

func (n *node) sent(bytes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pushed += bytes
}

// pushManifest is the second half of step 4: the manifest by digest, then a read
// of it. What the stage is built upon is published by now, so a storage that
// refuses the manifest has lost a layer; that is repaired once.
func (r *run) pushManifest(ctx context.Context, n *node, c *candidate) error {
	defer r.timed(n)()
	m := c.image.Manifest()
	err := r.Storage.PushManifest(ctx, m)
	if errors.Is(err, storage.ErrInvalid) || errors.Is(err, storage.ErrNotFound) {
		if err = r.restore(ctx, n, c, err); err == nil {
			err = r.Storage.PushManifest(ctx, m)
		}
	}
	if err != nil {
		return err
	}
	n.sent(m.Descriptor.Size)
	got, err := r.Storage.Resolve(ctx, m.Descriptor.Digest.String())
	if err != nil {
		return fmt.Errorf("manifest %s was pushed and cannot be read back: %w", m.Descriptor.Digest, err)
	}
	if got.Digest != m.Descriptor.Digest {
		return fmt.Errorf("manifest %s was pushed and reads as %s: %w", m.Descriptor.Digest, got.Digest, storage.ErrCorrupt)
	}
	return nil
}

func bytesDescriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func bytesContent(b []byte) storage.Content {
	return storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}

// fromSecond takes n over from the secondary storage, nil when it is not there.
func (r *run) fromSecond(ctx context.Context, n *node) (*candidate, error) {
	if r.Second == nil {
		return nil, nil
	}
	m, err := r.Second.Find(ctx, storage.StageTag(n.stage.Digest))
	if errors.Is(err, storage.ErrNotFound) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("secondary storage: %w", err)
	}
	if err := r.Second.Adopt(ctx, m); err != nil {
		return nil, fmt.Errorf("secondary storage: %w", err)
	}
	img, err := assemble.Load(ctx, r.Storage, m)
	if err != nil {
		return nil, err
	}
	return &candidate{image: img, result: ResultAdopted}, nil
}
