package registry

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"github.com/google/go-containerregistry/pkg/name"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Base is an image to build upon, for one platform.
type Base struct {
	// Address is that of the repository, for [Client.Open].
	Address string
	// Digest is the digest of the platform's image manifest.
	Digest string
	// MediaType is that manifest's.
	MediaType string
}

// Bases resolves and opens base images through the client's connections.
type Bases struct{ client *Client }

// Bases returns the base images that c can reach.
func (c *Client) Bases() Bases { return Bases{c} }

// Resolve returns the digest of the image manifest, "sha256:<64 hex>", that
// reference names for the platform. See [Client.ResolveBase].
func (b Bases) Resolve(ctx context.Context, reference string, p stages.Platform) (string, error) {
	base, err := b.client.ResolveBase(ctx, reference, p)
	return base.Digest, err
}

// Open returns the repository of reference, which may have a tag and a digest.
// Base images are read only: whoever hands it on wraps it so.
func (b Bases) Open(reference string) (storage.Storage, error) {
	ref, err := parseReference(reference)
	if err != nil {
		return nil, err
	}
	return b.client.storage(ref.Context()), nil
}

// ResolveBase finds the image manifest that reference ("alpine:3.20",
// "host:5000/path@sha256:…") names for the platform: one HEAD, and one GET where
// it names an index. An index without the platform gives [storage.ErrNotFound]
// with those that it has. An image manifest is taken as it is: what platform it
// is for stands in its config, which is not read here.
func (c *Client) ResolveBase(ctx context.Context, reference string, p stages.Platform) (Base, error) {
	ref, err := parseReference(reference)
	if err != nil {
		return Base{}, err
	}
	s := c.storage(ref.Context())
	op := operation{op: "resolve base", address: s.Address(), subject: ref.Identifier()}
	d, err := s.Resolve(ctx, ref.Identifier())
	if err != nil {
		return Base{}, err
	}
	if (storage.Manifest{Descriptor: d}).IsIndex() {
		// By digest: the tag may move between the two requests.
		m, err := s.Manifest(ctx, d.Digest.String())
		if err != nil {
			return Base{}, err
		}
		index, err := m.Index()
		if err != nil {
			return Base{}, op.fail(ctx, err)
		}
		if d, err = choosePlatform(index, p); err != nil {
			return Base{}, op.fail(ctx, err)
		}
	}
	return Base{Address: s.Address(), Digest: d.Digest.String(), MediaType: d.MediaType}, nil
}

func parseReference(s string) (name.Reference, error) {
	if strings.Contains(s, "://") {
		return nil, fmt.Errorf("%w: %q: leave out the scheme; write host[:port]/path:tag", ErrAddress, redactReference(s))
	}
	ref, err := name.ParseReference(s)
	if err != nil {
		// The parser's error repeats the reference, with a login that may be in it.
		return nil, fmt.Errorf("%w: %q: write [host[:port]/]path[:tag][@sha256:…], in lower case and without a login", ErrAddress, redactReference(s))
	}
	return ref, nil
}

// digestAtEnd is what rightly follows an @, also where it is cut short.
var digestAtEnd = regexp.MustCompile(`@sha256:[^@/]*$`)

// redactReference is redactText for references: what stands before any other @
// than that of a digest may be a login.
func redactReference(s string) string {
	digest := digestAtEnd.FindString(s)
	s = strings.TrimSuffix(s, digest)
	if i := strings.LastIndex(s, "@"); i >= 0 {
		s = "REDACTED" + s[i:]
	}
	return redactText(s + digest)
}

// choosePlatform returns the image manifest of the index for p. Without a
// variant in p, the only one that there is for the architecture is meant.
func choosePlatform(index ocispec.Index, p stages.Platform) (ocispec.Descriptor, error) {
	var there []string
	var near []ocispec.Descriptor
	for _, d := range index.Manifests {
		q, ok := platformOf(d)
		if !ok {
			continue
		}
		if q == p {
			return checked(d)
		}
		if q.OS() == p.OS() && q.Architecture() == p.Architecture() {
			near = append(near, d)
		}
		if !slices.Contains(there, string(q)) {
			there = append(there, string(q))
		}
	}
	if p.Variant() == "" && len(near) == 1 {
		return checked(near[0])
	}
	if len(there) == 0 {
		there = []string{"none"}
	}
	slices.Sort(there)
	return ocispec.Descriptor{}, &fault{storage.ErrNotFound, fmt.Sprintf("no image for %s; there is: %s", p, strings.Join(there, ", "))}
}

// platformOf returns the platform of an image in an index. Attestations and the
// like are there under platforms that do not exist.
func platformOf(d ocispec.Descriptor) (stages.Platform, bool) {
	image := d.MediaType == ocispec.MediaTypeImageManifest || d.MediaType == storage.MediaTypeDockerManifest
	if !image || d.Platform == nil || d.Platform.OS == "unknown" {
		return "", false
	}
	s := d.Platform.OS + "/" + d.Platform.Architecture
	if d.Platform.Variant != "" {
		s += "/" + d.Platform.Variant
	}
	p, err := stages.ParsePlatform(s)
	return p, err == nil
}

func checked(d ocispec.Descriptor) (ocispec.Descriptor, error) {
	if err := d.Digest.Validate(); err != nil {
		return d, corrupt("the index names an unusable digest: %q", tidy(d.Digest.String()))
	}
	return d, nil
}
