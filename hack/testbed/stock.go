package testbed

import (
	"context"
	"crypto/sha256"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Stock is what a project has published in a long time: builds of some images, each
// an index of final stages, each of these on a stage of its own that stands on a base
// which all share.
type Stock struct {
	// Images are those of one build; each has two stages.
	Images int
	// First and Builds are the numbers of the builds: First, First+1, …
	First, Builds int
}

// Sizes of the blobs of a [Stock], in bytes. They do not compress.
const (
	stockBase = 64 << 10
	stockOwn  = 1 << 10
)

// Stages returns how many stages there are.
func (s Stock) Stages() int { return 2 * s.Images * s.Builds }

// Names returns how many tags there are: those of stages, and one of each build.
func (s Stock) Names() int { return s.Stages() + s.Builds }

// Tag returns the tag of a build's index.
func (s Stock) Tag(build int) string { return storage.BuildTag(stockDigest("build", build, 0)) }

func stockDigest(what string, build, image int) stages.Digest {
	return stages.DigestOf(fmt.Appendf(nil, "stock %s/%d/%d", what, build, image))
}

// Fill has a repository hold a stock, and leaves what it has already. It writes the
// files that the server would have written, for a hundred thousand uploads take long
// and are not what is looked at. The server may run.
func (r *Registry) Fill(ctx context.Context, repository string, s Stock) error {
	v2 := filepath.Join(r.storage(), "docker", "registry", "v2")
	w := stockWriter{blobs: filepath.Join(v2, "blobs"), repository: filepath.Join(v2, "repositories", filepath.FromSlash(repository))}
	var shared stockShared
	var err error
	if shared.base, err = w.blob(ocispec.MediaTypeImageLayer, stockContent(stockBase, "base", 0, 0)); err != nil {
		return err
	}
	if shared.config, err = w.blob(ocispec.MediaTypeImageConfig, []byte(`{"architecture":"amd64","os":"linux"}`)); err != nil {
		return err
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for build := s.First; build < s.First+s.Builds && ctx.Err() == nil; build++ {
		g.Go(func() error { return w.build(shared, build, s) })
	}
	return g.Wait()
}

// stockShared is what all images of a stock have.
type stockShared struct{ base, config ocispec.Descriptor }

// stockWriter writes into a repository as the file system driver of distribution 2 lays it out.
type stockWriter struct{ blobs, repository string }

// build writes a build with its images.
func (w stockWriter) build(shared stockShared, build int, s Stock) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for image := range s.Images {
		layers := []ocispec.Descriptor{shared.base}
		var final ocispec.Descriptor
		for _, stage := range []string{"lower", "upper"} {
			own, err := w.blob(ocispec.MediaTypeImageLayer, stockContent(stockOwn, stage, build, image))
			if err != nil {
				return err
			}
			layers = append(layers, own)
			d := stockDigest(stage, build, image)
			final, err = w.manifest(storage.StageTag(d), ocispec.MediaTypeImageManifest, ocispec.Manifest{
				Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: shared.config, Layers: layers,
			})
			if err != nil {
				return err
			}
			final.Annotations = map[string]string{storage.AnnotationImage: fmt.Sprint("image-", image), storage.AnnotationStage: d.String()}
		}
		index.Manifests = append(index.Manifests, final)
	}
	_, err := w.manifest(s.Tag(build), ocispec.MediaTypeImageIndex, index)
	return err
}

func stockContent(size int, what string, build, image int) []byte {
	b := make([]byte, size)
	rand.NewChaCha8(sha256.Sum256(fmt.Appendf(nil, "%s/%d/%d", what, build, image))).Read(b) // never fails
	return b
}

func (w stockWriter) blob(mediaType string, content []byte) (ocispec.Descriptor, error) {
	d, err := w.content(mediaType, content)
	if err != nil {
		return d, err
	}
	return d, writeLink(filepath.Join(w.repository, "_layers", "sha256", d.Digest.Encoded()), d.Digest)
}

func (w stockWriter) manifest(tag, mediaType string, v any) (ocispec.Descriptor, error) {
	m, err := storage.NewManifest(mediaType, v)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	d, err := w.content(mediaType, m.Bytes)
	if err != nil {
		return d, err
	}
	manifests := filepath.Join(w.repository, "_manifests")
	for _, dir := range []string{
		filepath.Join(manifests, "revisions", "sha256", d.Digest.Encoded()),
		filepath.Join(manifests, "tags", tag, "index", "sha256", d.Digest.Encoded()),
		filepath.Join(manifests, "tags", tag, "current"),
	} {
		if err := writeLink(dir, d.Digest); err != nil {
			return d, err
		}
	}
	return d, nil
}

// content writes the bytes of a blob or a manifest.
func (w stockWriter) content(mediaType string, content []byte) (ocispec.Descriptor, error) {
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(content), Size: int64(len(content))}
	hex := d.Digest.Encoded()
	return d, writeAt(filepath.Join(w.blobs, "sha256", hex[:2], hex), "data", content)
}

func writeLink(dir string, d digest.Digest) error { return writeAt(dir, "link", []byte(d)) }

func writeAt(dir, name string, content []byte) error {
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, name), content, 0o644)
}
