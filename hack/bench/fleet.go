package main

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// fleet is what a project has published after many builds: in each build every
// image has a new final stage with one layer of its own, above layers that it shares
// with ten builds before and after, and above a base that all images share.
type fleet struct {
	images, builds int
	project        string
	// manifests and blobs are how many different ones there are, indexes among the former.
	manifests, blobs int
}

// Sizes of layers in bytes.
const (
	fleetBase   = 256 << 10
	fleetShared = 32 << 10
	fleetOwn    = 4 << 10
)

// publish puts the fleet into a storage.
func (f *fleet) publish(ctx context.Context, s storage.Storage) error {
	base, err := f.blob(ctx, s, ocispec.MediaTypeImageLayer, fleetBase, "base")
	if err != nil {
		return err
	}
	f.blobs++
	finals := make([][]ocispec.Descriptor, f.builds)
	g, inner := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for build := range f.builds {
		finals[build] = make([]ocispec.Descriptor, f.images)
	}
	for image := range f.images {
		g.Go(func() error { return f.image(inner, s, base, image, finals) })
	}
	if err := g.Wait(); err != nil {
		return err
	}
	f.manifests, f.blobs = f.images*f.builds+f.builds, f.blobs+f.images*(2*f.builds+(f.builds+9)/10)
	for build, list := range finals {
		if err := f.index(ctx, s, build, list); err != nil {
			return err
		}
	}
	return storage.WriteMarker(ctx, s, storage.Marker{Project: f.project})
}

// image publishes the stages of one image.
func (f *fleet) image(ctx context.Context, s storage.Storage, base ocispec.Descriptor, image int, finals [][]ocispec.Descriptor) error {
	var shared ocispec.Descriptor
	for build := range f.builds {
		var err error
		if build%10 == 0 {
			if shared, err = f.blob(ctx, s, ocispec.MediaTypeImageLayer, fleetShared, "shared", image, build); err != nil {
				return err
			}
		}
		own, err := f.blob(ctx, s, ocispec.MediaTypeImageLayer, fleetOwn, "own", image, build)
		if err != nil {
			return err
		}
		config, err := f.blob(ctx, s, ocispec.MediaTypeImageConfig, 1<<10, "config", image, build)
		if err != nil {
			return err
		}
		m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: config, Layers: []ocispec.Descriptor{base, shared, own},
		})
		if err != nil {
			return err
		}
		d := f.stage(image, build)
		if err := s.Publish(ctx, storage.StageTag(d), m); err != nil {
			return err
		}
		desc := m.Descriptor
		desc.Annotations = map[string]string{storage.AnnotationImage: fmt.Sprint("image-", image), storage.AnnotationStage: d.String()}
		finals[build][image] = desc
	}
	return nil
}

func (f *fleet) stage(image, build int) stages.Digest {
	return stages.DigestOf(fmt.Appendf(nil, "%s/%d/%d", f.project, image, build))
}

func (f *fleet) index(ctx context.Context, s storage.Storage, build int, list []ocispec.Descriptor) error {
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
	if err != nil {
		return err
	}
	return s.Publish(ctx, storage.BuildTag(stages.DigestOf(fmt.Appendf(nil, "%s/build/%d", f.project, build))), m)
}

// blob pushes content that does not compress and that its key alone determines.
func (f *fleet) blob(ctx context.Context, s storage.Storage, mediaType string, size int, key ...any) (ocispec.Descriptor, error) {
	b := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256(fmt.Append(nil, append([]any{f.project}, key...)...))).Read(b) // never fails
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(size)}
	return d, s.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	}))
}
