package local

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// publishAttempts is how often a manifest is pushed again that a deleter removes
// before its tag is written.
const publishAttempts = 5

// Resolve implements [storage.Resolver]. The manifest is read and verified: a
// name whose manifest is gone names nothing.
func (s *Storage) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	m, err := s.manifest(ctx, ref)
	if err != nil {
		return ocispec.Descriptor{}, s.fail("resolve", ref, err)
	}
	return m.Descriptor, nil
}

// Manifest implements [storage.Fetcher].
func (s *Storage) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	m, err := s.manifest(ctx, ref)
	if err != nil {
		return storage.Manifest{}, s.fail("fetch manifest", ref, err)
	}
	return m, nil
}

func (s *Storage) manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	if err := ctx.Err(); err != nil {
		return storage.Manifest{}, err
	}
	tag, d, err := storage.ParseRef(ref)
	if err != nil {
		return storage.Manifest{}, err
	}
	var named ocispec.Descriptor
	if tag != "" {
		if named, err = s.readTag(tag); err != nil {
			return storage.Manifest{}, err
		}
		d = named.Digest
	}
	m, err := s.readManifest(ctx, d)
	if named.MediaType != "" {
		m.Descriptor.MediaType = named.MediaType
	}
	return m, err
}

func (s *Storage) readManifest(ctx context.Context, d digest.Digest) (storage.Manifest, error) {
	b, err := readFile(s.Path(d), storage.MaxManifest)
	if err != nil {
		return storage.Manifest{}, err
	}
	if got := d.Algorithm().FromBytes(b); got != d {
		err := fmt.Errorf("%w: %s has the bytes of %s", storage.ErrCorrupt, d, got)
		return storage.Manifest{}, errors.Join(err, s.removeCorrupt(ctx, d))
	}
	mediaType := storage.DetectMediaType(b)
	if mediaType == "" {
		return storage.Manifest{}, fmt.Errorf("%w: %s is a blob and no manifest", storage.ErrNotFound, d)
	}
	return storage.Manifest{
		Descriptor: ocispec.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(b))},
		Bytes:      b,
	}, nil
}

// PushManifest implements [storage.Pusher]. A manifest whose config, layers or
// members are not there gives [storage.ErrInvalid].
func (s *Storage) PushManifest(ctx context.Context, m storage.Manifest) error {
	if err := s.pushManifest(ctx, m); err != nil {
		return s.fail("push manifest", m.Descriptor.Digest.String(), err)
	}
	return nil
}

func (s *Storage) pushManifest(ctx context.Context, m storage.Manifest) error {
	if err := m.Verify(); err != nil {
		return err
	}
	if storage.DetectMediaType(m.Bytes) == "" {
		return fmt.Errorf("%w: neither an image manifest nor an index", storage.ErrInvalid)
	}
	if err := s.claimReferences(ctx, m); err != nil {
		return err
	}
	// A damaged copy would pass for present: reading it here removes it.
	if _, err := s.readManifest(ctx, m.Descriptor.Digest); err != nil && !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	content := storage.ContentFunc(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(m.Bytes)), nil
	})
	if err := s.pushBlob(ctx, m.Descriptor, content); err != nil {
		return err
	}
	// From here on a name may lead to the blobs: they must outlive a crash.
	return syncDir(filepath.Dir(s.Path(m.Descriptor.Digest)))
}

// claimReferences marks all that m needs as used, so that nothing of it is swept
// before m is named.
func (s *Storage) claimReferences(ctx context.Context, m storage.Manifest) error {
	manifests, blobs, err := m.References()
	if err != nil {
		return err
	}
	l, err := s.lock(ctx, lockFile, shared)
	if err != nil {
		return err
	}
	defer l.unlock()
	for _, d := range append(manifests, blobs...) {
		ok, err := s.touchBlob(d)
		if err != nil {
			return err
		}
		if !ok {
			return fmt.Errorf("%w: it needs %s, which is not there", storage.ErrInvalid, d.Digest)
		}
	}
	return nil
}

// Publish implements [storage.Publisher]. Tags can be moved: the last write wins.
func (s *Storage) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	if err := s.publish(ctx, tag, m); err != nil {
		return s.fail("publish", tag, err)
	}
	return nil
}

func (s *Storage) publish(ctx context.Context, tag string, m storage.Manifest) error {
	if err := storage.CheckTag(tag); err != nil {
		return err
	}
	record, err := encodeTag(tag, m.Descriptor)
	if err != nil {
		return err
	}
	for range publishAttempts {
		if err := s.pushManifest(ctx, m); err != nil {
			return err
		}
		ok, err := s.writeTag(ctx, tag, record, m.Descriptor)
		if err != nil {
			return err
		}
		if ok {
			return syncDir(s.path(tagsDir))
		}
	}
	return fmt.Errorf("its manifest %s was deleted %d times while it was published", m.Descriptor.Digest, publishAttempts)
}

// writeTag writes the tag's file, unless what it names has just been removed.
func (s *Storage) writeTag(ctx context.Context, tag string, record []byte, d ocispec.Descriptor) (_ bool, err error) {
	f, err := s.newIngest(ctx)
	if err != nil {
		return false, err
	}
	settled := false
	defer func() {
		if !settled {
			f.Close() // the file is thrown away
			err = errors.Join(err, removeIfThere(f.Name()))
		}
	}()
	if _, err := f.Write(record); err != nil {
		return false, err
	}
	if err := f.Sync(); err != nil {
		return false, err
	}
	l, err := s.lock(ctx, lockFile, shared)
	if err != nil {
		return false, err
	}
	defer l.unlock()
	if ok, err := s.touchBlob(d); !ok || err != nil {
		return false, err
	}
	if err := f.Close(); err != nil {
		return false, err
	}
	if err := rename(f.Name(), s.tagPath(tag)); err != nil {
		return false, err
	}
	settled = true
	return true, nil
}

// DeleteTag implements [storage.Deleter].
func (s *Storage) DeleteTag(ctx context.Context, tag string) error {
	err := ctx.Err()
	if err == nil {
		err = storage.CheckTag(tag)
	}
	if err == nil {
		err = os.Remove(s.tagPath(tag))
	}
	if err == nil {
		err = syncDir(s.path(tagsDir))
	}
	if err != nil {
		return s.fail("delete tag", tag, err)
	}
	return nil
}

// DeleteManifest implements [storage.Deleter]. It reads every tag, about 6 µs
// each; to remove many, delete tags and then sweep.
func (s *Storage) DeleteManifest(ctx context.Context, d digest.Digest) error {
	if err := s.deleteManifest(ctx, d); err != nil {
		return s.fail("delete manifest", d.String(), err)
	}
	return nil
}

func (s *Storage) deleteManifest(ctx context.Context, d digest.Digest) error {
	if err := checkDigest(d); err != nil {
		return err
	}
	if _, err := s.readManifest(ctx, d); err != nil && !errors.Is(err, storage.ErrCorrupt) {
		return err
	}
	var tags []string
	for n, err := range s.Names(ctx) {
		if err != nil && n.Tag == "" {
			return err
		}
		if n.Descriptor.Digest == d {
			tags = append(tags, n.Tag)
		}
	}
	return s.removeNamed(ctx, d, tags)
}

// removeNamed removes the manifest d and those of tags that still name it. The
// tags were read without the lock, which would have kept writers waiting; one
// that was published since names a missing manifest, which reads as not found.
func (s *Storage) removeNamed(ctx context.Context, d digest.Digest, tags []string) error {
	l, err := s.lock(ctx, lockFile, alone)
	if err != nil {
		return err
	}
	defer l.unlock()
	for _, tag := range tags {
		now, err := s.readTag(tag)
		if errors.Is(err, fs.ErrNotExist) || (err == nil && now.Digest != d) {
			continue
		}
		if err == nil {
			err = removeIfThere(s.tagPath(tag))
		}
		if err != nil {
			return err
		}
	}
	if err := syncDir(s.path(tagsDir)); err != nil {
		return err
	}
	return removeIfThere(s.Path(d))
}
