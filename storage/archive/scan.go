package archive

import (
	"archive/tar"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Bounds of what is read of an archive.
const (
	maxEntries    = 4 << 20
	maxLayoutFile = 4 << 10
	maxIndexFile  = 64 << 20
)

// scan finds out what lies where. Entries that belong to no layout are passed over.
func (a *Archive) scan() error {
	r := tar.NewReader(a.f)
	var layout, index []byte
	for entries := 0; ; entries++ {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return damaged(err)
		}
		if entries >= maxEntries {
			return fmt.Errorf("%w: more than %d entries", storage.ErrTooLarge, maxEntries)
		}
		if h.Typeflag != tar.TypeReg || sparse(h) {
			continue
		}
		switch name := strings.TrimPrefix(h.Name, "./"); name {
		case ocispec.ImageLayoutFile:
			layout, err = readSmall(r, maxLayoutFile)
		case ocispec.ImageIndexFile:
			index, err = readSmall(r, maxIndexFile)
		default:
			err = a.place(name, h.Size)
		}
		if err != nil {
			return err
		}
	}
	if err := checkLayout(layout); err != nil {
		return err
	}
	return a.takeNames(index)
}

// sparse reports whether an entry's content does not lie in the file as it is.
func sparse(h *tar.Header) bool {
	for key := range h.PAXRecords {
		if strings.HasPrefix(key, "GNU.sparse.") {
			return true
		}
	}
	return false
}

// damaged makes an error of reading one of what was read, unless the file itself
// could not be.
func damaged(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %s", storage.ErrCorrupt, err.Error())
	}
	return err
}

func readSmall(r io.Reader, limit int64) ([]byte, error) {
	b, err := io.ReadAll(io.LimitReader(r, limit+1))
	if err == nil && int64(len(b)) > limit {
		err = fmt.Errorf("%w: a description of more than %d bytes", storage.ErrTooLarge, limit)
	}
	if err != nil {
		return nil, damaged(err)
	}
	return b, nil
}

// place notes the entry whose content begins where the file is read now, if it is a
// blob. Of two with the same name the first counts: only one can be right, and
// reading tells.
func (a *Archive) place(name string, size int64) error {
	dir, hex := path.Split(name)
	top, algorithm, ok := strings.Cut(strings.TrimSuffix(dir, "/"), "/")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	if !ok || top != ocispec.ImageBlobsDir || d.Validate() != nil || size < 0 {
		return nil
	}
	if _, ok := a.blobs[d]; ok {
		return nil
	}
	at, err := a.f.Seek(0, io.SeekCurrent)
	a.blobs[d] = span{at, size}
	return err
}

func checkLayout(b []byte) error {
	var v ocispec.ImageLayout
	if b == nil {
		return fmt.Errorf("%w: there is no OCI image layout in it", storage.ErrInvalid)
	}
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%w: %s: %s", storage.ErrCorrupt, ocispec.ImageLayoutFile, err.Error())
	}
	if v.Version != ocispec.ImageLayoutVersion {
		return fmt.Errorf("%w: layout of version %q, want %s", storage.ErrUnsupported, v.Version, ocispec.ImageLayoutVersion)
	}
	return nil
}

// takeNames reads the index: names that are tags, of manifests that are here.
func (a *Archive) takeNames(b []byte) error {
	var v ocispec.Index
	if err := json.Unmarshal(b, &v); err != nil {
		return fmt.Errorf("%w: %s: %s", storage.ErrCorrupt, ocispec.ImageIndexFile, err.Error())
	}
	for _, d := range v.Manifests {
		tag := d.Annotations[ocispec.AnnotationRefName]
		if _, ok := a.blobs[d.Digest]; ok && storage.CheckTag(tag) == nil {
			a.tags[tag] = ocispec.Descriptor{MediaType: d.MediaType, Digest: d.Digest, Size: d.Size}
		}
	}
	return nil
}

// index returns the index of the archive's names, in their order.
func index(tags []string, named map[string]ocispec.Descriptor) ([]byte, error) {
	v := ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: make([]ocispec.Descriptor, 0, len(tags)),
	}
	for _, tag := range tags {
		d := named[tag]
		d.Annotations = map[string]string{ocispec.AnnotationRefName: tag}
		v.Manifests = append(v.Manifests, d)
	}
	return json.Marshal(v)
}
