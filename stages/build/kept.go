package build

import (
	"context"
	"errors"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/storage"
)

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
	for _, layer := range v.Layers[1:] {
		// Whoever made room in the cache may have begun with the layers.
		if ok, err := r.pad.HasBlob(ctx, layer); err != nil || !ok {
			return nil
		}
	}
	c := &candidate{image: img, basis: []digest.Digest{}, fresh: v.Layers[1:], from: r.pad, result: ResultAssembled, old: true}
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

// damaged reports whether a result of an earlier run could not be pushed because
// the cache has lost it meanwhile, and drops it then, so that it is made again.
func (r *run) damaged(ctx context.Context, n *node, c *candidate, err error) bool {
	if !c.old || !errors.Is(err, storage.ErrCorrupt) && !errors.Is(err, storage.ErrNotFound) {
		return false
	}
	r.forget(ctx, n)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.candidate, n.inPad = nil, false
	return true
}

// sameBasis reports whether a result was made from what n's needs became.
func (r *run) sameBasis(ctx context.Context, n *node, basis []digest.Digest) (bool, error) {
	if err := r.waitNeeds(ctx, n); err != nil {
		return false, err
	}
	var now []digest.Digest
	for _, need := range n.stage.Needs() {
		now = append(now, r.node(need).standing())
	}
	return slices.Equal(now, basis), nil
}

// forget removes n from the local cache's list of results to publish.
func (r *run) forget(ctx context.Context, n *node) {
	// It is only a hint for a later run, which would find the stage published.
	_ = r.pad.DeleteTag(ctx, keptTag(n))
}

// unsynchronized makes n without a ledger, for the local cache only.
func (r *run) unsynchronized(ctx context.Context, n *node) error {
	if err := r.offeredUnlessKept(ctx, n); err != nil {
		return err
	}
	for _, need := range n.stage.Needs() {
		r.ensure(r.node(need))
	}
	for _, need := range n.stage.Needs() {
		if err := r.node(need).ready(ctx); err != nil {
			return err
		}
	}
	cand, err := r.candidateFor(ctx, n, generation{})
	if err != nil {
		return err
	}
	r.endLocally(n, cand)
	return nil
}
