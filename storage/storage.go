// Package storage is the contract of a stages storage: where manifests and
// blobs of stages live. Implementations are its siblings (registry, local, mem);
// decorators of the same interfaces add memory, limits or faults.
//
// What an implementation returns is verified: the bytes of a manifest or a blob
// have the digest that they were asked for, or the read fails with [ErrCorrupt].
package storage

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// Limits of what is read from a storage, in bytes.
const (
	MaxManifest = 4 << 20
	MaxConfig   = 8 << 20
)

// ProjectTag is the tag of the marker that names the storage's project.
const ProjectTag = "cairn-project"

// StageTag returns the tag under which stage d is published.
func StageTag(d stages.Digest) string { return d.Hex() }

// IsStageTag reports whether tag is one that [StageTag] returns.
func IsStageTag(tag string) bool {
	return digest.NewDigestFromEncoded(digest.SHA256, tag).Validate() == nil
}

// BuildTag returns the tag of the index of all images of the build with this root.
func BuildTag(root stages.Digest) string { return buildPrefix + root.Hex() }

const buildPrefix = "build-"

// Annotations of a build index, on each of its manifests: the name of the image,
// and the digest of its final stage.
const (
	AnnotationImage = "dev.cairn.image"
	AnnotationStage = "dev.cairn.stage"
)

// IsBuildTag reports whether tag is one that [BuildTag] returns.
func IsBuildTag(tag string) bool {
	hex, ok := strings.CutPrefix(tag, buildPrefix)
	return ok && digest.NewDigestFromEncoded(digest.SHA256, hex).Validate() == nil
}

// Manifest is an image manifest or an index as bytes, with its descriptor.
type Manifest struct {
	// Descriptor has MediaType, Digest and Size of Bytes.
	Descriptor ocispec.Descriptor
	Bytes      []byte
	// Modified is when the storage says that it got the manifest, by its own clock;
	// zero where it does not say. Most registries do not.
	Modified time.Time
}

// NewManifest returns v, an [ocispec.Manifest] or [ocispec.Index], encoded.
func NewManifest(mediaType string, v any) (Manifest, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return Manifest{}, fmt.Errorf("encode manifest: %w", err)
	}
	return Manifest{
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))},
		Bytes:      b,
	}, nil
}

// Image decodes an image manifest.
func (m Manifest) Image() (ocispec.Manifest, error) {
	var v ocispec.Manifest
	if err := json.Unmarshal(m.Bytes, &v); err != nil {
		return v, fmt.Errorf("%w: manifest %s: %w", ErrCorrupt, m.Descriptor.Digest, err)
	}
	return v, nil
}

// Index decodes an index.
func (m Manifest) Index() (ocispec.Index, error) {
	var v ocispec.Index
	if err := json.Unmarshal(m.Bytes, &v); err != nil {
		return v, fmt.Errorf("%w: index %s: %w", ErrCorrupt, m.Descriptor.Digest, err)
	}
	return v, nil
}

// IsIndex reports whether m is an index and not an image manifest.
func (m Manifest) IsIndex() bool {
	return m.Descriptor.MediaType == ocispec.MediaTypeImageIndex ||
		m.Descriptor.MediaType == "application/vnd.docker.distribution.manifest.list.v2+json"
}

// Resolver asks what a name stands for, without fetching it.
type Resolver interface {
	// Resolve returns the descriptor of the manifest that ref, a tag or a
	// digest, names. It returns [ErrNotFound] where there is none.
	Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error)
}

// Fetcher reads.
type Fetcher interface {
	// Manifest returns the manifest that ref, a tag or a digest, names, with its
	// bytes verified. It returns [ErrNotFound] where there is none.
	Manifest(ctx context.Context, ref string) (Manifest, error)
	// Blob opens a blob. The reader fails with [ErrCorrupt], at the latest at the
	// end, when the bytes do not have d's digest and size. The caller closes it.
	Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)
}

// Content is a blob that can be opened as often as a retry needs.
type Content interface {
	Open() (io.ReadCloser, error)
}

// ContentFunc makes a function a [Content].
type ContentFunc func() (io.ReadCloser, error)

// Open implements [Content].
func (f ContentFunc) Open() (io.ReadCloser, error) { return f() }

// Pusher writes content that nothing names yet.
type Pusher interface {
	// HasBlob reports whether the blob is there.
	HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error)
	// PushBlob stores a blob; it is no error when it is there already.
	PushBlob(ctx context.Context, d ocispec.Descriptor, c Content) error
	// PushManifest stores m under its digest alone.
	PushManifest(ctx context.Context, m Manifest) error
}

// Mounter takes blobs from a neighbour without moving bytes. Storages that
// cannot do not implement it.
type Mounter interface {
	// MountBlob makes the blob of another storage, named by its Address, appear
	// here. It returns false, without error, where this needs a copy instead.
	MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error)
}

// Publisher gives names.
type Publisher interface {
	// Publish has tag name m, which is stored with it where needed. A storage
	// whose tags are immutable returns [ErrExists] for a tag that names another
	// manifest; for the same one it succeeds.
	Publish(ctx context.Context, tag string, m Manifest) error
}

// Lister lists names. Builds never do.
type Lister interface {
	// Tags yields all tags in no particular order and ends with the first error.
	Tags(ctx context.Context) iter.Seq2[string, error]
}

// Attacher finds what is attached to a manifest: signatures, bills of materials.
// Storages that cannot do not implement it.
type Attacher interface {
	// Referrers returns the manifests whose subject is d. It returns
	// [ErrUnsupported] where the storage keeps no account of them, and a tag of
	// the OCI distribution specification's tag schema has to do, see [ReferrersTag].
	Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error)
}

// ReferrersTag returns the tag of the index of what refers to manifest d, in
// storages that keep no account of it themselves.
func ReferrersTag(d digest.Digest) string { return d.Algorithm().String() + "-" + d.Encoded() }

// Deleter removes.
type Deleter interface {
	// DeleteTag removes the name and leaves the manifest, or returns
	// [ErrUnsupported] where a registry cannot do that.
	DeleteTag(ctx context.Context, tag string) error
	// DeleteManifest removes a manifest and with it every tag that names it.
	DeleteManifest(ctx context.Context, d digest.Digest) error
}

// Storage is what every implementation offers. Code that needs less asks for less.
type Storage interface {
	Resolver
	Fetcher
	Pusher
	Publisher
	Lister
	Deleter
	// Address names the storage for people and for image references:
	// "registry.example.com/shop/stages" or ":local".
	Address() string
}
