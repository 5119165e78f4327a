package storage

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Docker's media types, which base images still have.
const (
	MediaTypeDockerManifest = "application/vnd.docker.distribution.manifest.v2+json"
	MediaTypeDockerIndex    = "application/vnd.docker.distribution.manifest.list.v2+json"
)

// ParseRef tells a digest from a tag: exactly one of the results is set. What is
// neither by the rules of the OCI distribution specification gives [ErrInvalid].
func ParseRef(ref string) (tag string, d digest.Digest, err error) {
	if strings.Contains(ref, ":") {
		d, err := digest.Parse(ref)
		if err != nil {
			return "", "", fmt.Errorf("%w: digest %q: %w", ErrInvalid, ref, err)
		}
		return "", d, nil
	}
	if err := CheckTag(ref); err != nil {
		return "", "", err
	}
	return ref, "", nil
}

// maxTag is the longest tag of the distribution specification, in bytes.
const maxTag = 128

// CheckTag returns [ErrInvalid] unless tag is one by the rules of the OCI
// distribution specification: 1 to 128 letters, digits, '_', '.', '-', the first
// neither '.' nor '-'.
func CheckTag(tag string) error {
	if tag == "" || len(tag) > maxTag || tag[0] == '.' || tag[0] == '-' || strings.ContainsFunc(tag, notInTag) {
		return fmt.Errorf("%w: %q is no tag", ErrInvalid, tag)
	}
	return nil
}

func notInTag(r rune) bool {
	switch {
	case r >= 'a' && r <= 'z', r >= 'A' && r <= 'Z', r >= '0' && r <= '9', r == '_', r == '.', r == '-':
		return false
	}
	return true
}

// DetectMediaType returns the media type of a manifest or index from its bytes:
// what they say themselves, else what their shape says, and "" for bytes that
// are neither. A layout on disk keeps no media type beside a blob.
func DetectMediaType(b []byte) string {
	var v struct {
		MediaType string          `json:"mediaType"`
		Config    json.RawMessage `json:"config"`
		Layers    json.RawMessage `json:"layers"`
		Manifests json.RawMessage `json:"manifests"`
	}
	if json.Unmarshal(b, &v) != nil {
		return ""
	}
	switch {
	case v.Manifests != nil && v.Layers == nil:
		return orElse(v.MediaType, ocispec.MediaTypeImageIndex)
	case v.Config != nil && v.Layers != nil && v.Manifests == nil:
		return orElse(v.MediaType, ocispec.MediaTypeImageManifest)
	}
	return ""
}

func orElse(s, otherwise string) string {
	if s == "" {
		return otherwise
	}
	return s
}

// References returns what m cannot be used without: the manifests of an index,
// or the config and layers of an image, each once. Layers that are by definition
// kept elsewhere (foreign, with URLs) are not among them.
func (m Manifest) References() (manifests, blobs []ocispec.Descriptor, err error) {
	if m.IsIndex() {
		v, err := m.Index()
		if err != nil {
			return nil, nil, err
		}
		return unique(v.Manifests), nil, nil
	}
	v, err := m.Image()
	if err != nil {
		return nil, nil, err
	}
	blobs = append(blobs, v.Config)
	for _, l := range v.Layers {
		if !foreign(l) {
			blobs = append(blobs, l)
		}
	}
	return nil, unique(blobs), nil
}

func foreign(d ocispec.Descriptor) bool {
	return len(d.URLs) > 0 && (strings.Contains(d.MediaType, ".foreign.") || strings.Contains(d.MediaType, ".nondistributable."))
}

func unique(ds []ocispec.Descriptor) []ocispec.Descriptor {
	seen := make(map[digest.Digest]bool, len(ds))
	out := make([]ocispec.Descriptor, 0, len(ds))
	for _, d := range ds {
		if !seen[d.Digest] {
			seen[d.Digest] = true
			out = append(out, d)
		}
	}
	return out
}
