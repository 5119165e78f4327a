// Package transfer moves images between storages and out of them.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/partial"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// ErrExists is returned where a file or directory that would be written exists.
var ErrExists = errors.New("exists already")

// Image shows an image manifest of a storage as the image type of
// go-containerregistry, with layers read when they are asked for. Bytes are
// verified by the storage.
func Image(ctx context.Context, f storage.Fetcher, m storage.Manifest) (v1.Image, error) {
	v, err := m.Image()
	if err != nil {
		return nil, err
	}
	config, err := storage.ReadBlob(ctx, f, v.Config, storage.MaxConfig)
	if err != nil {
		return nil, err
	}
	return partial.CompressedToImage(&stored{ctx: ctx, from: f, manifest: m, layers: v.Layers, config: config})
}

// stored implements [partial.CompressedImageCore]. The interface has no contexts
// in its calls, so the one of the export is kept.
type stored struct {
	ctx      context.Context //nolint:containedctx // see above
	from     storage.Fetcher
	manifest storage.Manifest
	layers   []ocispec.Descriptor
	config   []byte
}

func (s *stored) RawConfigFile() ([]byte, error) { return s.config, nil }
func (s *stored) RawManifest() ([]byte, error)   { return s.manifest.Bytes, nil }
func (s *stored) MediaType() (types.MediaType, error) {
	return types.MediaType(s.manifest.Descriptor.MediaType), nil
}

func (s *stored) LayerByDigest(h v1.Hash) (partial.CompressedLayer, error) {
	for _, l := range s.layers {
		if l.Digest == digest.Digest(h.String()) {
			return &storedLayer{s, l}, nil
		}
	}
	return nil, fmt.Errorf("layer %s: %w", h, storage.ErrNotFound)
}

type storedLayer struct {
	image *stored
	d     ocispec.Descriptor
}

func (l *storedLayer) Digest() (v1.Hash, error) { return v1.NewHash(l.d.Digest.String()) }
func (l *storedLayer) Compressed() (io.ReadCloser, error) {
	return l.image.from.Blob(l.image.ctx, l.d)
}
func (l *storedLayer) Size() (int64, error) { return l.d.Size, nil }
func (l *storedLayer) MediaType() (types.MediaType, error) {
	return types.MediaType(l.d.MediaType), nil
}

// WriteTar writes the image as the archive that "docker load" and "podman load"
// read, under the reference ref ("name:tag").
func WriteTar(w io.Writer, img v1.Image, ref string) error {
	tag, err := name.NewTag(ref, name.WithDefaultRegistry(""))
	if err != nil {
		return err
	}
	return tarball.Write(tag, img, w)
}

// WriteTarFile is [WriteTar] into a new file, which appears when it is complete.
func WriteTarFile(path string, img v1.Image, ref string) (err error) {
	if _, err := os.Lstat(path); err == nil {
		return fmt.Errorf("%s: %w", path, ErrExists)
	}
	tmp, err := os.CreateTemp(filepath.Dir(path), ".cairn-export-")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(tmp.Name()))
		}
	}()
	err = WriteTar(tmp, img, ref)
	if err = errors.Join(err, tmp.Chmod(0o644), tmp.Close()); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// Index returns an index of images for several platforms, of which each says in
// its config which one it is for.
func Index(images ...v1.Image) (v1.ImageIndex, error) {
	index := mutate.IndexMediaType(empty.Index, types.OCIImageIndex)
	for _, img := range images {
		config, err := img.ConfigFile()
		if err != nil {
			return nil, err
		}
		index = mutate.AppendManifests(index, mutate.IndexAddendum{Add: img, Descriptor: v1.Descriptor{Platform: config.Platform()}})
	}
	return index, nil
}

// WriteLayout adds the image to the OCI image layout in dir, which is made when
// missing, under the reference name ref.
func WriteLayout(dir string, img v1.Image, ref string) error {
	p, err := openLayout(dir)
	if err != nil {
		return err
	}
	return p.ReplaceImage(img, named(ref), annotated(ref))
}

// WriteLayoutIndex is [WriteLayout] for images of several platforms.
func WriteLayoutIndex(dir string, index v1.ImageIndex, ref string) error {
	p, err := openLayout(dir)
	if err != nil {
		return err
	}
	return p.ReplaceIndex(index, named(ref), annotated(ref))
}

func openLayout(dir string) (layout.Path, error) {
	p, err := layout.FromPath(dir)
	if !errors.Is(err, os.ErrNotExist) {
		return p, err
	}
	if entries, err := os.ReadDir(dir); err == nil && len(entries) > 0 {
		return "", fmt.Errorf("%s: %w and is no OCI image layout", dir, ErrExists)
	}
	return layout.Write(dir, empty.Index)
}

func annotated(ref string) layout.Option {
	return layout.WithAnnotations(map[string]string{ocispec.AnnotationRefName: ref})
}

func named(ref string) func(v1.Descriptor) bool {
	return func(d v1.Descriptor) bool { return d.Annotations[ocispec.AnnotationRefName] == ref }
}
