package build

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/storage"
)

// generationKey marks an index that was published anew after its equal was deleted,
// and in the index of the build the images whose own index is marked.
const generationKey = assemble.AnnotationGeneration

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
		r.marks[img.Name] = idx.Manifests[i].Annotations[generationKey]
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

// indexOf returns the index of images that are published. It is the same whoever
// makes it, but for the generation: with a mark it is told from the one before.
func (r *run) indexOf(images []*stages.Image, mark string) (storage.Manifest, error) {
	var list []ocispec.Descriptor
	for _, img := range images {
		n := r.node(img.Final())
		n.mu.Lock()
		d := n.manifest.Descriptor
		n.mu.Unlock()
		notes := map[string]string{storage.AnnotationImage: img.Name, storage.AnnotationStage: img.Final().Digest.String()}
		if own := r.marks[img.Name]; own != "" && len(images) == len(r.Plan.Images) {
			notes[generationKey] = own
		}
		list = append(list, ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageManifest, Digest: d.Digest, Size: d.Size,
			Platform: &ocispec.Platform{
				OS: img.Platform.OS(), Architecture: img.Platform.Architecture(), Variant: img.Platform.Variant(),
			},
			Annotations: notes,
		})
	}
	idx := newIndex(list)
	if mark != "" {
		idx.Annotations = map[string]string{generationKey: mark}
	}
	return storage.NewManifest(ocispec.MediaTypeImageIndex, idx)
}
