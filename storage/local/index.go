package local

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Bounds of what is read of a layout that another tool may have written, in bytes.
const (
	maxLayoutFile = 4 << 10
	maxIndexFile  = 64 << 20
)

// checkLayout reads the oci-layout file.
func checkLayout(b []byte) error {
	var v ocispec.ImageLayout
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%w: %s: %w", storage.ErrCorrupt, ocispec.ImageLayoutFile, err)
	}
	if v.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: layout of version %q, want %s", storage.ErrUnsupported, v.Version, ocispec.ImageLayoutVersion)
	}
	return nil
}

// decodeIndex returns the names in an index.json. Names that are no tags, which
// the specification allows there, are left out; of two equal ones the last counts.
func decodeIndex(b []byte) (map[string]ocispec.Descriptor, error) {
	var v ocispec.Index
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", storage.ErrCorrupt, ocispec.ImageIndexFile, err)
	}
	names := map[string]ocispec.Descriptor{}
	for _, d := range v.Manifests {
		tag := d.Annotations[ocispec.AnnotationRefName]
		if storage.CheckTag(tag) != nil || checkRecord(d) != nil {
			continue
		}
		names[tag] = d
	}
	return names, nil
}

func encodeIndex(names []Name) ([]byte, error) {
	slices.SortFunc(names, func(a, b Name) int { return cmp.Compare(a.Tag, b.Tag) })
	v := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageIndex,
		Manifests: make([]ocispec.Descriptor, 0, len(names)),
	}
	for _, n := range names {
		d := n.Descriptor
		d.Annotations = map[string]string{ocispec.AnnotationRefName: n.Tag}
		v.Manifests = append(v.Manifests, d)
	}
	return json.Marshal(v)
}

// createIndex writes an empty index.json where there is none.
func (s *Storage) createIndex() error {
	_, err := os.Stat(s.path(ocispec.ImageIndexFile))
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := encodeIndex(nil)
	if err != nil {
		return err
	}
	return s.replaceFile(ocispec.ImageIndexFile, b)
}

// takeOverNames makes the tags' directory from index.json where there is none.
// The caller holds the lock alone.
func (s *Storage) takeOverNames() error {
	if _, err := os.Stat(s.path(tagsDir)); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	b, err := readFile(s.path(ocispec.ImageIndexFile), maxIndexFile)
	if err != nil {
		return err
	}
	names, err := decodeIndex(b)
	if err != nil {
		return err
	}
	dir := s.path(newTagsDir)
	if err := os.RemoveAll(dir); err != nil { // left by one who was killed here
		return err
	}
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	for tag, d := range names {
		record, err := encodeTag(tag, d)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, tagFile(tag)), record, 0o600); err != nil {
			return err
		}
	}
	return os.Rename(dir, s.path(tagsDir))
}

// WriteIndex brings index.json up to date with the tags, for tools that read OCI
// layouts; this package does not need it. Tags without a manifest are left out.
func (s *Storage) WriteIndex(ctx context.Context) error {
	if err := s.writeIndex(ctx); err != nil {
		return s.fail("write index", s.dir, err)
	}
	return nil
}

func (s *Storage) writeIndex(ctx context.Context) error {
	l, err := s.lock(ctx, indexLock, alone)
	if err != nil {
		return err
	}
	defer l.unlock()
	var names []Name
	for n, err := range s.Names(ctx) {
		if err != nil {
			return err
		}
		if _, err := os.Stat(s.Path(n.Descriptor.Digest)); err == nil {
			names = append(names, n)
		}
	}
	b, err := encodeIndex(names)
	if err != nil {
		return err
	}
	return s.replaceFile(ocispec.ImageIndexFile, b)
}
