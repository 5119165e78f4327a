package inventory

import (
	"fmt"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Bounds of one manifest, against storages that would exhaust their reader.
const (
	maxLayers  = 1024
	maxMembers = 4096
	// maxSize is what a blob can take, in bytes: the sum over all of them must fit.
	maxSize = 1 << 40
	// maxText bounds names of images and platforms.
	maxText = 512
)

// describe returns what a verified manifest says. What cannot be is
// [storage.ErrCorrupt] or [storage.ErrTooLarge].
func describe(m storage.Manifest) (*Manifest, error) {
	members, blobs, err := m.References()
	if err != nil {
		return nil, err
	}
	out := &Manifest{Digest: m.Descriptor.Digest, Size: int64(len(m.Bytes)), Index: m.IsIndex()}
	if len(members) > maxMembers || len(blobs) > maxLayers {
		return nil, fmt.Errorf("%w: manifest %s has %d members and %d blobs", storage.ErrTooLarge, out.Digest, len(members), len(blobs))
	}
	for _, d := range members {
		if err := d.Digest.Validate(); err != nil {
			return nil, fmt.Errorf("%w: index %s: member %q: %w", storage.ErrCorrupt, out.Digest, d.Digest, err)
		}
		out.Members = append(out.Members, memberOf(d))
	}
	for i, d := range blobs {
		b := Blob{d.Digest, d.Size}
		if err := b.check(); err != nil {
			return nil, fmt.Errorf("%w: manifest %s: %w", storage.ErrCorrupt, out.Digest, err)
		}
		if i == 0 {
			out.Config = b
		} else {
			out.Layers = append(out.Layers, b)
		}
	}
	return out, nil
}

func (b Blob) check() error {
	if err := b.Digest.Validate(); err != nil {
		return fmt.Errorf("blob %q: %w", b.Digest, err)
	}
	return b.checkSize()
}

func (b Blob) checkSize() error {
	if b.Size < 0 || b.Size > maxSize {
		return fmt.Errorf("blob %s of %d bytes", b.Digest, b.Size)
	}
	return nil
}

func memberOf(d ocispec.Descriptor) Member {
	m := Member{Digest: d.Digest, Image: text(d.Annotations[storage.AnnotationImage])}
	// A foreign index has no such annotation; nonsense is as good as none.
	m.Stage, _ = stages.ParseDigest(d.Annotations[storage.AnnotationStage])
	if p := d.Platform; p != nil {
		m.Platform = text(p.OS + "/" + p.Architecture)
		if p.Variant != "" {
			m.Platform = text(m.Platform + "/" + p.Variant)
		}
	}
	return m
}

func text(s string) string {
	if len(s) > maxText {
		return ""
	}
	return s
}

// fit returns the kind of a name that leads to m, or why m cannot be what the name
// promises.
func fit(tag string, m *Manifest) (Kind, error) {
	k := KindOf(tag)
	switch {
	case k == KindBuild && !m.Index:
		return k, fmt.Errorf("%w: the tag of a build names an image and no index", storage.ErrCorrupt)
	case k != KindBuild && m.Index:
		return k, fmt.Errorf("%w: the tag of a %s names an index", storage.ErrCorrupt, k)
	case k == KindBuild && oneImage(m.Members):
		return KindPlatforms, nil
	}
	return k, nil
}

// oneImage reports whether the members are one image for several platforms.
func oneImage(all []Member) bool {
	for _, m := range all {
		if m.Image != all[0].Image || m.Stage.IsZero() {
			return false
		}
	}
	return len(all) > 1
}

// interned keeps one copy of each digest: layers repeat in thousands of manifests.
type interned map[digest.Digest]digest.Digest

func (in interned) one(d digest.Digest) digest.Digest {
	if known, ok := in[d]; ok {
		return known
	}
	in[d] = d
	return d
}

func (in interned) manifest(m *Manifest) {
	m.Digest, m.Config.Digest = in.one(m.Digest), in.one(m.Config.Digest)
	for i := range m.Layers {
		m.Layers[i].Digest = in.one(m.Layers[i].Digest)
	}
	for i := range m.Members {
		m.Members[i].Digest = in.one(m.Members[i].Digest)
	}
}
