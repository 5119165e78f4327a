package build

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// pushing is how many blobs of one stage travel at once.
const pushing = 4

// push is step 4: blobs, then the manifest by digest, then a read of it. What
// the stage is built upon is in the storage already.
func (r *run) push(ctx context.Context, n *node, c *candidate) error {
	began := r.Now()
	defer func() { n.spent(r.Now().Sub(began)) }()
	if c.basis == nil {
		return nil // the secondary storage has brought it
	}
	if err := r.pushBlobs(ctx, n, c); err != nil {
		return err
	}
	m := c.image.Manifest()
	for _, need := range n.stage.Needs() {
		// A registry refuses a manifest whose layers it does not have.
		if err := r.node(need).wait(ctx); err != nil {
			return err
		}
	}
	if err := r.Storage.PushManifest(ctx, m); err != nil {
		return err
	}
	got, err := r.Storage.Resolve(ctx, m.Descriptor.Digest.String())
	if err != nil {
		return fmt.Errorf("manifest %s was pushed and cannot be read back: %w", m.Descriptor.Digest, err)
	}
	if got.Digest != m.Descriptor.Digest {
		return fmt.Errorf("manifest %s was pushed and reads as %s: %w", m.Descriptor.Digest, got.Digest, storage.ErrCorrupt)
	}
	n.mu.Lock()
	n.pushed += m.Descriptor.Size
	n.mu.Unlock()
	return nil
}

func (r *run) pushBlobs(ctx context.Context, n *node, c *candidate) error {
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
	if c.origin != "" {
		how, err := storage.CopyBlob(ctx, r.Storage, c.from, d, c.origin)
		if how == storage.Copied {
			n.sent(d.Size)
		}
		return err
	}
	defer n.sent(d.Size)
	return r.Storage.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) { return c.from.Blob(ctx, d) }))
}

func (n *node) sent(bytes int64) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.pushed += bytes
}

// Results wait in the local cache under a name of their own: an artifact that
// holds the new layers, the config and the manifest as plain blobs, annotated
// with what the result was made from. The name is not the stage's, since the
// cache may be the storage itself, where a stage's name publishes it; and it
// does not refer to layers below, which the cache need not have.
const (
	keptPrefix   = "kept-"
	keptType     = "application/vnd.cairn.kept"
	keptManifest = "application/vnd.cairn.kept.manifest"
	basisKey     = "dev.cairn.basis"
	basisParted  = ","
)

func keptTag(n *node) string { return keptPrefix + n.stage.Digest.Hex() }

// keepInPad stores a candidate in the local cache before anything is sent: a run
// that is killed or cut off after this has lost nothing.
func (r *run) keepInPad(ctx context.Context, n *node, c *candidate) error {
	if c.origin != "" {
		return nil // taken over from a base, which stays where it is
	}
	m := c.image.Manifest()
	v := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, ArtifactType: keptType,
		Config: bytesDescriptor(ocispec.MediaTypeImageConfig, c.image.ConfigBlob()),
		Layers: append([]ocispec.Descriptor{bytesDescriptor(keptManifest, m.Bytes)}, c.fresh...),
	}
	basis := make([]string, len(c.basis))
	for i, b := range c.basis {
		basis[i] = b.String()
	}
	v.Annotations = map[string]string{basisKey: strings.Join(basis, basisParted)}
	if err := r.pad.PushBlob(ctx, v.Config, bytesContent(c.image.ConfigBlob())); err != nil {
		return err
	}
	if err := r.pad.PushBlob(ctx, v.Layers[0], bytesContent(m.Bytes)); err != nil {
		return err
	}
	artifact, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	if err != nil {
		return err
	}
	return r.pad.Publish(ctx, keptTag(n), artifact)
}

func bytesDescriptor(mediaType string, b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

func bytesContent(b []byte) storage.Content {
	return storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}

// fromPad returns what an earlier run kept of n, nil when there is nothing that
// can be used. Damage in the cache is no reason to fail: the stage is made again.
func (r *run) fromPad(ctx context.Context, n *node) *candidate {
	artifact, err := r.pad.Manifest(ctx, keptTag(n))
	if err != nil {
		return nil
	}
	v, err := artifact.Image()
	if err != nil || len(v.Layers) == 0 || v.Layers[0].MediaType != keptManifest {
		return nil
	}
	b, err := storage.ReadBlob(ctx, r.pad, v.Layers[0], storage.MaxManifest)
	if err != nil {
		return nil
	}
	d := v.Layers[0]
	d.MediaType = ocispec.MediaTypeImageManifest
	img, err := assemble.Load(ctx, r.pad, storage.Manifest{Descriptor: d, Bytes: b})
	if err != nil {
		return nil
	}
	c := &candidate{image: img, basis: []digest.Digest{}, fresh: v.Layers[1:], from: r.pad, result: ResultAssembled}
	if n.stage.NeedsEngine() {
		c.result = ResultBuilt
	}
	if b := v.Annotations[basisKey]; b != "" {
		for s := range strings.SplitSeq(b, basisParted) {
			c.basis = append(c.basis, digest.Digest(s))
		}
	}
	return c
}

// sameBasis reports whether a kept result was made from what is published now.
func (r *run) sameBasis(ctx context.Context, n *node, basis []digest.Digest) (bool, error) {
	if err := r.waitNeeds(ctx, n); err != nil {
		return false, err
	}
	var now []digest.Digest
	for _, need := range n.stage.Needs() {
		now = append(now, r.node(need).publishedDigest())
	}
	return slices.Equal(now, basis), nil
}

// forget removes n from the local cache's list of results to publish.
func (r *run) forget(ctx context.Context, n *node) {
	// It is only a hint for a later run, which would find the stage published.
	_ = r.pad.DeleteTag(ctx, keptTag(n))
}

// keep notes that n was made and is not published. With KeepLocal a ledger that
// is away is no failure then.
func (r *run) keep(n *node, err error) error {
	n.mu.Lock()
	n.kept = true
	n.mu.Unlock()
	if r.KeepLocal && (errors.Is(err, synchronization.ErrUnavailable) || errors.Is(err, errKeptBelow)) {
		return nil
	}
	return err
}

// unsynchronized makes n without a ledger, for the local cache only.
func (r *run) unsynchronized(ctx context.Context, n *node, err error) error {
	if !r.KeepLocal || !errors.Is(err, synchronization.ErrUnavailable) {
		return err
	}
	for _, need := range n.stage.Needs() {
		dep := r.node(need)
		r.ensure(ctx, dep)
		if err := dep.ready(ctx); err != nil {
			return err
		}
	}
	if _, err := r.candidateFor(ctx, n); err != nil {
		return err
	}
	n.mu.Lock()
	n.kept = true
	n.mu.Unlock()
	return nil
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
