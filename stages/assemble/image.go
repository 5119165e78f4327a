package assemble

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	dockerspec "github.com/moby/docker-image-spec/specs-go/v1"
	"github.com/opencontainers/go-digest"
	specs "github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Epoch is the time of creation that every image has, and the latest time that
// a file made by commands keeps, in seconds since 1970: the start of 2010. It
// is not zero because some tools take such files for missing ones.
const Epoch = 1262304000

// MaxLayers is how many layers an image may have: engines mount them all at
// once, and the length of mount options is limited.
const MaxLayers = 100

// Annotations of manifests.
const (
	// AnnotationTables holds an image's encoded [Tables].
	AnnotationTables = "dev.cairn.tables"
	// AnnotationGeneration tells apart manifests that would else be equal.
	AnnotationGeneration = "dev.cairn.generation"
)

// maxInline is the size up to which a config is repeated inside the manifest,
// in bytes, so that reading an image takes one request.
const maxInline = 16 << 10

// ErrTooManyLayers is returned for an image of more than [MaxLayers] layers.
var ErrTooManyLayers = errors.New("too many layers")

// Image is an immutable image, in the making or as read: manifest, config and
// tables. Its manifest depends on layers and config alone, whatever the image
// is a stage of: equal results have equal digests.
type Image struct {
	manifest storage.Manifest
	layers   []ocispec.Descriptor
	config   dockerspec.DockerOCIImage
	blob     []byte // config, encoded
	tables   *tablesMemo
	// annotation is the encoded tables; empty where they are too large, which
	// they then are for all images on top, too.
	annotation string
}

// Manifest returns the OCI image manifest.
func (i *Image) Manifest() storage.Manifest { return i.manifest }

// Config returns the OCI part of the config. What Docker adds to it, health
// checks for instance, is in [Image.ConfigBlob].
func (i *Image) Config() ocispec.Image {
	c := i.config.Image
	c.Config = i.config.Config.ImageConfig
	c.Config.Env = slices.Clone(c.Config.Env)
	c.RootFS.DiffIDs = slices.Clone(c.RootFS.DiffIDs)
	return c
}

// ConfigBlob returns the bytes that the manifest's config descriptor names. They
// are shared: do not change them.
func (i *Image) ConfigBlob() []byte { return i.blob }

// Layers returns the descriptors of the layers, lowest first.
func (i *Image) Layers() []ocispec.Descriptor { return slices.Clone(i.layers) }

// Tables returns the image's tables. Where they are not known yet, all layers
// are read once.
func (i *Image) Tables(ctx context.Context) (*Tables, error) { return i.tables.get(ctx) }

// StandsOn reports whether the image's layers begin with all of the parent's.
func (i *Image) StandsOn(parent *Image) bool {
	n := len(parent.layers)
	return len(i.layers) >= n && slices.EqualFunc(i.layers[:n], parent.layers, func(a, b ocispec.Descriptor) bool {
		return a.Digest == b.Digest
	})
}

// WithGeneration returns the same image with another manifest digest: a
// manifest that was withdrawn must not come back, even where making the stage
// anew gives the same bytes. An empty n takes the mark away.
func (i *Image) WithGeneration(n string) *Image {
	out := *i
	out.manifest = encodeManifest(&out, n)
	return &out
}

// Scratch returns the image without layers.
func Scratch(p stages.Platform) *Image {
	c := dockerspec.DockerOCIImage{}
	c.Platform = ocispec.Platform{OS: p.OS(), Architecture: p.Architecture(), Variant: p.Variant()}
	return makeImage(c, nil, knownTables(emptyTables()), true)
}

// Layer is a layer that was written to a [Scratchpad], by [SourceLayers] or
// [CommandLayer] and nothing else: it knows what it does to the tables.
type Layer struct {
	// Descriptor of the compressed blob.
	Descriptor ocispec.Descriptor
	// DiffID is the digest of the uncompressed archive.
	DiffID digest.Digest

	changes *changes
}

// Append returns an image with layers on top, lowest first, and cfg folded into
// the config; both may be empty. It fails with [ErrTooManyLayers], and for a
// cfg that makes no sense.
func (i *Image) Append(layers []Layer, cfg *stages.Config) (*Image, error) {
	c, err := fold(i.config, cfg)
	if err != nil {
		return nil, err
	}
	all := slices.Clone(i.layers)
	c.RootFS.DiffIDs = slices.Clone(c.RootFS.DiffIDs)
	for _, l := range layers {
		if l.changes == nil {
			return nil, fmt.Errorf("layer %s was not made by this package", l.Descriptor.Digest)
		}
		all = append(all, bare(l.Descriptor))
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, l.DiffID)
	}
	if len(layers) > 0 && len(all) > MaxLayers {
		return nil, fmt.Errorf("%w: %d of at most %d", ErrTooManyLayers, len(all), MaxLayers)
	}
	return makeImage(c, all, i.tables.with(layers), i.annotation != ""), nil
}

// ErrOtherLayers is returned by [Image.WithLayersOf] for a source that does not
// begin with the image's own layers.
var ErrOtherLayers = errors.New("the source does not begin with the layers of the image")

// WithLayersOf returns an image with the layers of source, which begin with i's
// own, and the config of i.
func (i *Image) WithLayersOf(source *Image) (*Image, error) {
	if !source.StandsOn(i) {
		return nil, ErrOtherLayers
	}
	c := i.config
	c.RootFS.DiffIDs = slices.Clone(source.config.RootFS.DiffIDs)
	return makeImage(c, source.layers, source.tables, source.annotation != ""), nil
}

// Build returns the image that a Dockerfile made on top of i: layers, lowest
// first, and a config of its own in the place of i's. It fails with
// [ErrTooManyLayers] and for a config that is none.
func (i *Image) Build(layers []Layer, config []byte) (*Image, error) {
	out, err := i.Append(layers, nil)
	if err != nil {
		return nil, err
	}
	var c dockerspec.DockerOCIImage
	if err := json.Unmarshal(config, &c); err != nil {
		return nil, fmt.Errorf("config of the Dockerfile's image: %w", err)
	}
	c.RootFS = out.config.RootFS
	return makeImage(c, out.layers, out.tables, i.annotation != ""), nil
}

// bare leaves what a layer is and drops what is told of it, so that equal
// layers are equal in every manifest.
func bare(d ocispec.Descriptor) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
}

// makeImage encodes config and manifest; the tables go with it when annotate
// says so and they are known. Encoding does not fail: these are structures of
// text and numbers.
func makeImage(c dockerspec.DockerOCIImage, layers []ocispec.Descriptor, t *tablesMemo, annotate bool) *Image {
	created := time.Unix(Epoch, 0).UTC()
	c.Created, c.Author, c.History, c.RootFS.Type = &created, "", nil, "layers"
	if c.RootFS.DiffIDs == nil {
		c.RootFS.DiffIDs = []digest.Digest{}
	}
	i := &Image{layers: layers, config: c, tables: t}
	i.blob, _ = json.Marshal(c)
	if annotate && t.known != nil {
		i.annotation, _ = t.known.Encode()
	}
	i.manifest = encodeManifest(i, "")
	return i
}

func encodeManifest(i *Image, generation string) storage.Manifest {
	m := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config: ocispec.Descriptor{
			MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(i.blob), Size: int64(len(i.blob)),
		},
		Layers: i.layers,
	}
	if len(i.blob) <= maxInline {
		m.Config.Data = i.blob
	}
	if m.Layers == nil {
		m.Layers = []ocispec.Descriptor{}
	}
	notes := map[string]string{AnnotationTables: i.annotation, AnnotationGeneration: generation}
	maps.DeleteFunc(notes, func(_, v string) bool { return v == "" })
	if len(notes) > 0 {
		m.Annotations = notes
	}
	out, _ := storage.NewManifest(ocispec.MediaTypeImageManifest, m)
	return out
}

// tablesMemo is tables that are known, or can be had by reading.
type tablesMemo struct {
	known *Tables
	// turn is held by the one that reads; the others can stop waiting for it.
	turn chan struct{}
	read func(context.Context) (*Tables, error)
	memo *Tables // under turn
}

func knownTables(t *Tables) *tablesMemo { return &tablesMemo{known: t} }

func laterTables(read func(context.Context) (*Tables, error)) *tablesMemo {
	return &tablesMemo{turn: make(chan struct{}, 1), read: read}
}

// get reads at most once at a time and remembers success only.
func (m *tablesMemo) get(ctx context.Context) (*Tables, error) {
	if m.known != nil {
		return m.known, nil
	}
	select {
	case m.turn <- struct{}{}:
		defer func() { <-m.turn }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if m.memo == nil {
		t, err := m.read(ctx)
		if err != nil {
			return nil, fmt.Errorf("read the tables of the image: %w", err)
		}
		m.memo = t
	}
	return m.memo, nil
}

// with returns the tables of an image with layers on top.
func (m *tablesMemo) with(layers []Layer) *tablesMemo {
	apply := func(t *Tables) *Tables {
		for _, l := range layers {
			t = t.apply(l.changes)
		}
		return t
	}
	if m.known != nil {
		return knownTables(apply(m.known))
	}
	if len(layers) == 0 {
		return m
	}
	return laterTables(func(ctx context.Context) (*Tables, error) {
		t, err := m.get(ctx)
		if err != nil {
			return nil, err
		}
		return apply(t), nil
	})
}
