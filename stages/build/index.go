package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

func newIndex(manifests []ocispec.Descriptor) ocispec.Index {
	return ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: manifests,
	}
}

// findBuild looks for the index of this very build, which answers for all images
// with one request.
func (r *run) findBuild(ctx context.Context, root stages.Digest) (bool, error) {
	m, err := r.Storage.Manifest(ctx, storage.BuildTag(root))
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	idx, err := m.Index()
	if err != nil {
		return false, r.foreignIndex(root, "it is none: %w", err)
	}
	if len(idx.Manifests) != len(r.Plan.Images) {
		return false, r.foreignIndex(root, "it lists %d images and not %d", len(idx.Manifests), len(r.Plan.Images))
	}
	for i, img := range r.Plan.Images {
		d := idx.Manifests[i]
		if d.Annotations[storage.AnnotationStage] != img.Final().Digest.String() {
			return false, r.foreignIndex(root, "image %q is stage %q in it", img.Name, d.Annotations[storage.AnnotationStage])
		}
		if err := d.Digest.Validate(); err != nil {
			return false, r.foreignIndex(root, "image %q is manifest %q in it: %w", img.Name, d.Digest, err)
		}
	}
	for i, img := range r.Plan.Images {
		r.published(r.node(img.Final()), storage.Manifest{Descriptor: idx.Manifests[i]}, ResultCached)
	}
	return true, nil
}

func (r *run) foreignIndex(root stages.Digest, why string, args ...any) error {
	return &storage.Error{
		Op: "read build index", Storage: r.Storage.Address(), Subject: storage.BuildTag(root),
		Class: storage.ErrCorrupt, Err: fmt.Errorf(why, args...),
	}
}

// publishBuild gives the build its index, and every image for several platforms
// one of its own. They are the same whoever writes them, so they need no lock.
// The one of the build comes last: it tells later builds that all is there.
func (r *run) publishBuild(ctx context.Context, root stages.Digest) error {
	if err := r.checkOwner(ctx); err != nil {
		return err
	}
	for _, images := range severalPlatforms(r.Plan.Images) {
		part := stages.Plan{Project: r.Plan.Project, Images: images}
		own, err := part.Root()
		if err != nil {
			return err
		}
		if own == root {
			continue // there is no other image, and both indexes are one
		}
		if err := r.publishIndex(ctx, own, images); err != nil {
			return fmt.Errorf("index of image %q: %w", images[0].Name, err)
		}
	}
	if err := r.publishIndex(ctx, root, r.Plan.Images); err != nil {
		return fmt.Errorf("index of the build: %w", err)
	}
	return nil
}

// severalPlatforms returns, in order, the images that are for more than one
// platform. The platforms of one image stand together in a plan.
func severalPlatforms(images []*stages.Image) [][]*stages.Image {
	var out [][]*stages.Image
	for len(images) > 0 {
		n := 1
		for n < len(images) && images[n].Name == images[0].Name {
			n++
		}
		if n > 1 {
			out = append(out, images[:n])
		}
		images = images[n:]
	}
	return out
}

func (r *run) publishIndex(ctx context.Context, root stages.Digest, images []*stages.Image) error {
	m, err := r.indexOf(images)
	if err != nil {
		return err
	}
	tag := storage.BuildTag(root)
	if r.inCompany.Load() { // others end the same build, and one of them may be through
		desc, err := r.Storage.Resolve(ctx, tag)
		if err == nil && desc.Digest == m.Descriptor.Digest {
			return nil
		}
		if err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return r.Storage.Publish(ctx, tag, m)
}

// indexOf returns the index of images that are published.
func (r *run) indexOf(images []*stages.Image) (storage.Manifest, error) {
	var list []ocispec.Descriptor
	for _, img := range images {
		n := r.node(img.Final())
		n.mu.Lock()
		d := n.manifest.Descriptor
		n.mu.Unlock()
		list = append(list, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: d.Digest, Size: d.Size,
			Platform: &ocispec.Platform{
				OS: img.Platform.OS(), Architecture: img.Platform.Architecture(), Variant: img.Platform.Variant(),
			},
			Annotations: map[string]string{storage.AnnotationImage: img.Name, storage.AnnotationStage: img.Final().Digest.String()},
		})
	}
	return storage.NewManifest(ocispec.MediaTypeImageIndex, newIndex(list))
}
