package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cairnbuild/cairn/storage/local"
)

// manifest has the references of an image and of an index.
type manifest struct {
	Config            *v1.Descriptor
	Layers, Manifests []v1.Descriptor
	Annotations       map[string]string
}

// opener returns the bytes of a manifest or blob, checked against its digest.
type opener func(d v1.Hash, isManifest bool) ([]byte, error)

// checkReferences reads all that a manifest needs.
func checkReferences(raw []byte, open opener) error {
	var m manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return err
	}
	for _, d := range m.Manifests {
		below, err := open(d.Digest, true)
		if err != nil {
			return err
		}
		if err := checkReferences(below, open); err != nil {
			return err
		}
	}
	blobs := m.Layers
	if m.Config != nil {
		blobs = append(blobs, *m.Config)
	}
	for _, d := range blobs {
		b, err := open(d.Digest, false)
		if err != nil {
			return err
		}
		if int64(len(b)) != d.Size {
			return fmt.Errorf("%s has %d bytes, %d are promised", d.Digest, len(b), d.Size)
		}
	}
	return nil
}

func decode(t *testing.T, raw []byte, into any) {
	t.Helper()
	if err := json.Unmarshal(raw, into); err != nil {
		t.Fatal(err)
	}
}

// tagsOf returns the tags of a repository and the bytes of their manifests.
func tagsOf(t *testing.T, repo string, opts ...remote.Option) map[string][]byte {
	t.Helper()
	r, err := name.NewRepository(repo)
	if err != nil {
		t.Fatal(err)
	}
	opts = append(opts, remote.WithContext(t.Context()))
	tags, err := remote.List(r, opts...)
	if err != nil {
		return nil // nothing was ever pushed there
	}
	out := make(map[string][]byte)
	for _, tag := range tags {
		d, err := remote.Get(r.Tag(tag), opts...)
		if err != nil {
			t.Fatalf("tag %s: %v", tag, err)
		}
		out[tag] = d.Manifest
	}
	return out
}

// checkRepository fails the test unless all that the tags of a repository name is
// there and has the right digests.
func checkRepository(t *testing.T, repo string, opts ...remote.Option) {
	t.Helper()
	for tag, raw := range tagsOf(t, repo, opts...) {
		if err := checkReferences(raw, remoteOpener(t, repo, opts...)); err != nil {
			t.Errorf("%s:%s: %v", repo, tag, err)
		}
	}
}

func remoteOpener(t *testing.T, repo string, opts ...remote.Option) opener {
	opts = append(opts, remote.WithContext(t.Context()))
	return func(h v1.Hash, isManifest bool) ([]byte, error) {
		d, err := name.NewDigest(repo + "@" + h.String())
		if err != nil {
			return nil, err
		}
		if isManifest {
			got, err := remote.Get(d, opts...)
			if err != nil {
				return nil, err
			}
			return got.Manifest, nil
		}
		l, err := remote.Layer(d, opts...)
		if err != nil {
			return nil, err
		}
		rc, err := l.Compressed()
		if err != nil {
			return nil, err
		}
		defer rc.Close()
		return io.ReadAll(rc)
	}
}

// layoutTags is tagsOf for a local storage.
func layoutTags(t *testing.T, dir string) map[string][]byte {
	t.Helper()
	out := make(map[string][]byte)
	if _, err := os.Stat(dir); errors.Is(err, fs.ErrNotExist) {
		return out
	}
	s, err := local.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	for n, err := range s.Names(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		h, err := v1.NewHash(n.Descriptor.Digest.String())
		if err != nil {
			t.Fatal(err)
		}
		if out[n.Tag], err = readBlob(dir, h); err != nil {
			t.Errorf("tag %s: %v", n.Tag, err)
		}
	}
	return out
}

// readBlob reads a file of a layout, not by the code that is tested.
func readBlob(dir string, h v1.Hash) ([]byte, error) {
	b, err := os.ReadFile(filepath.Join(dir, "blobs", h.Algorithm, h.Hex))
	if err != nil {
		return nil, err
	}
	if sum := sha256.Sum256(b); hex.EncodeToString(sum[:]) != h.Hex {
		return nil, fmt.Errorf("blob %s has another digest", h)
	}
	return b, nil
}

// checkLayout is checkRepository for a local storage.
func checkLayout(t *testing.T, dir string) {
	t.Helper()
	open := func(h v1.Hash, _ bool) ([]byte, error) { return readBlob(dir, h) }
	for tag, raw := range layoutTags(t, dir) {
		if err := checkReferences(raw, open); err != nil {
			t.Errorf("%s: %s: %v", dir, tag, err)
		}
	}
}
