package assemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Errors about images of foreign making.
var (
	// ErrUnsupported: the image has a form that stages cannot be built upon.
	ErrUnsupported = errors.New("unsupported image")
	// ErrPlatform: the image is made for another platform.
	ErrPlatform = errors.New("image is for another platform")
)

// Media types of Docker's own image format, version 2 schema 2.
const (
	dockerManifest    = "application/vnd.docker.distribution.manifest.v2+json"
	dockerConfig      = dockerspec.DockerOCIImageMediaType
	dockerLayer       = "application/vnd.docker.image.rootfs.diff.tar"
	dockerLayerGzip   = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	dockerLayerZstd   = "application/vnd.docker.image.rootfs.diff.tar.zstd"
	dockerForeign     = "application/vnd.docker.image.rootfs.foreign.diff.tar"
	dockerForeignGzip = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip"
)

// Load reads a published stage. Its config comes with the manifest, or is
// fetched when it is too large for that; its tables come with it too, or are
// read off the layers when they are first needed.
func Load(ctx context.Context, f storage.Fetcher, m storage.Manifest) (*Image, error) {
	i, err := read(ctx, f, m)
	if err != nil {
		return nil, fmt.Errorf("load image %s: %w", m.Descriptor.Digest, err)
	}
	return i, nil
}

// From makes the stage that stands for a base of foreign making: the same
// layers under OCI media types, and the config without history, so that bases
// which differ in their telling alone give equal stages. Its tables are read
// off the layers, once and as a stream.
//
// Triggers (ONBUILD) are dropped: they are meant for the next Dockerfile, and
// there is none. The error for an image that is not for p wraps [ErrPlatform].
func From(ctx context.Context, f storage.Fetcher, m storage.Manifest, p stages.Platform) (*Image, error) {
	i, err := from(ctx, f, m, p)
	if err != nil {
		return nil, fmt.Errorf("base image %s: %w", m.Descriptor.Digest, err)
	}
	return i, nil
}

// Borrow returns a base image as the FROM of a Dockerfile sees it: with its
// triggers, which are meant for that Dockerfile. None of its layers is read. The
// error for an image that is not for p wraps [ErrPlatform].
func Borrow(ctx context.Context, f storage.Fetcher, m storage.Manifest, p stages.Platform) (*Image, error) {
	i, err := read(ctx, f, m)
	if err == nil {
		err = checkPlatform(i.config.Platform, p)
	}
	if err != nil {
		return nil, fmt.Errorf("base image %s: %w", m.Descriptor.Digest, err)
	}
	c := i.config
	c.OS, c.Architecture, c.Variant = p.OS(), p.Architecture(), p.Variant()
	return makeImage(c, i.layers, i.tables, false), nil
}

// Triggers returns what ONBUILD of the image says, in order.
func (i *Image) Triggers() []string { return slices.Clone(i.config.Config.OnBuild) }

func from(ctx context.Context, f storage.Fetcher, m storage.Manifest, p stages.Platform) (*Image, error) {
	i, err := read(ctx, f, m)
	if err != nil {
		return nil, err
	}
	if err := checkPlatform(i.config.Platform, p); err != nil {
		return nil, err
	}
	c := i.config
	c.OS, c.Architecture, c.Variant = p.OS(), p.Architecture(), p.Variant()
	c.Config.OnBuild = nil
	// Not off an annotation: whoever made the base could have it say anything.
	t, err := scanLayers(ctx, f, i.layers, c.RootFS.DiffIDs)
	if err != nil {
		return nil, err
	}
	return makeImage(c, i.layers, knownTables(t), true), nil
}

// checkPlatform accepts a config that names no variant: many images of arm do not.
func checkPlatform(has ocispec.Platform, want stages.Platform) error {
	s := has.OS + "/" + has.Architecture
	if has.Variant != "" {
		s += "/" + has.Variant
	}
	p, err := stages.ParsePlatform(s)
	if err != nil {
		return fmt.Errorf("%w: its config names %q", ErrPlatform, s)
	}
	if p.OS() != want.OS() || p.Architecture() != want.Architecture() ||
		p.Variant() != "" && want.Variant() != "" && p.Variant() != want.Variant() {
		return fmt.Errorf("%w: it is %s, wanted is %s", ErrPlatform, p, want)
	}
	return nil
}

// read returns the image that a manifest describes, with the manifest as it is
// and media types of layers in their OCI form.
func read(ctx context.Context, f storage.Fetcher, m storage.Manifest) (*Image, error) {
	if m.IsIndex() {
		return nil, fmt.Errorf("%w: it is an index of several platforms, not an image", ErrUnsupported)
	}
	v, err := m.Image()
	if err != nil {
		return nil, err
	}
	if err := checkManifest(m, v); err != nil {
		return nil, err
	}
	layers := make([]ocispec.Descriptor, 0, len(v.Layers))
	for _, l := range v.Layers {
		if l.MediaType, err = layerType(l.MediaType); err != nil {
			return nil, err
		}
		layers = append(layers, bare(l))
	}
	blob, err := fetchConfig(ctx, f, v.Config)
	if err != nil {
		return nil, err
	}
	i := &Image{manifest: m, layers: layers, blob: blob}
	if err := json.Unmarshal(blob, &i.config); err != nil {
		return nil, fmt.Errorf("%w: config %s: %w", storage.ErrCorrupt, v.Config.Digest, err)
	}
	diffs := i.config.RootFS.DiffIDs
	if len(diffs) != len(layers) {
		return nil, fmt.Errorf("%w: %d layers, and its config names %d", storage.ErrCorrupt, len(layers), len(diffs))
	}
	if err := validDigests(diffs...); err != nil {
		return nil, err
	}
	i.annotation, i.tables = readTables(f, v.Annotations[AnnotationTables], layers, diffs)
	return i, nil
}

// readTables prefers the annotation. One that cannot be read, of a later
// version for instance, is no loss: the layers say the same.
func readTables(f storage.Fetcher, note string, layers []ocispec.Descriptor, diffs []digest.Digest) (string, *tablesMemo) {
	if t, err := DecodeTables(note); err == nil {
		return note, knownTables(t)
	}
	return "", laterTables(func(ctx context.Context) (*Tables, error) {
		return scanLayers(ctx, f, layers, diffs)
	})
}

func checkManifest(m storage.Manifest, v ocispec.Manifest) error {
	switch m.Descriptor.MediaType {
	case ocispec.MediaTypeImageManifest, dockerManifest:
	default:
		return fmt.Errorf("%w: its manifest is %q", ErrUnsupported, m.Descriptor.MediaType)
	}
	switch v.Config.MediaType {
	case ocispec.MediaTypeImageConfig, dockerConfig:
	default:
		return fmt.Errorf("%w: it is not a container image: its config is %q", ErrUnsupported, v.Config.MediaType)
	}
	all := []digest.Digest{v.Config.Digest}
	for _, l := range v.Layers {
		all = append(all, l.Digest)
		if l.Size < 0 {
			return fmt.Errorf("%w: layer %s has a size of %d", storage.ErrCorrupt, l.Digest, l.Size)
		}
	}
	return validDigests(all...)
}

func validDigests(all ...digest.Digest) error {
	for _, d := range all {
		if err := d.Validate(); err != nil {
			return fmt.Errorf("%w: %q: %w", storage.ErrCorrupt, d, err)
		}
	}
	return nil
}

// layerType returns the OCI name of a layer's media type.
func layerType(t string) (string, error) {
	switch t {
	case ocispec.MediaTypeImageLayer, dockerLayer:
		return ocispec.MediaTypeImageLayer, nil
	case ocispec.MediaTypeImageLayerGzip, dockerLayerGzip:
		return ocispec.MediaTypeImageLayerGzip, nil
	case ocispec.MediaTypeImageLayerZstd, dockerLayerZstd:
		return ocispec.MediaTypeImageLayerZstd, nil
	case dockerForeign, dockerForeignGzip,
		ocispec.MediaTypeImageLayerNonDistributable,     //nolint:staticcheck // deprecated, still met
		ocispec.MediaTypeImageLayerNonDistributableGzip, //nolint:staticcheck // see above
		ocispec.MediaTypeImageLayerNonDistributableZstd: //nolint:staticcheck // see above
		return "", fmt.Errorf("%w: it has a layer that may not be distributed (%s)", ErrUnsupported, t)
	}
	return "", fmt.Errorf("%w: it has a layer of type %q", ErrUnsupported, t)
}

func fetchConfig(ctx context.Context, f storage.Fetcher, d ocispec.Descriptor) ([]byte, error) {
	if d.Size < 0 || d.Size > storage.MaxConfig {
		return nil, fmt.Errorf("%w: config %s of %d bytes", storage.ErrTooLarge, d.Digest, d.Size)
	}
	if len(d.Data) > 0 {
		if int64(len(d.Data)) != d.Size || d.Digest.Algorithm().FromBytes(d.Data) != d.Digest {
			return nil, fmt.Errorf("%w: config inside the manifest is not %s", storage.ErrCorrupt, d.Digest)
		}
		return d.Data, nil
	}
	r, err := f.Blob(ctx, d)
	if err != nil {
		return nil, fmt.Errorf("fetch config: %w", err)
	}
	b, err := io.ReadAll(io.LimitReader(r, storage.MaxConfig+1))
	if err := errors.Join(err, r.Close()); err != nil {
		return nil, fmt.Errorf("fetch config: %w", err)
	}
	if d.Digest.Algorithm().FromBytes(b) != d.Digest {
		return nil, fmt.Errorf("%w: config is not %s", storage.ErrCorrupt, d.Digest)
	}
	return b, nil
}
