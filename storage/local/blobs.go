package local

import (
	"context"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

const blobsDir = ocispec.ImageBlobsDir

// Path returns where the content with digest d lies or would lie, for programs on
// this machine that take files. It is "" for what is no digest. What lies there
// has not been verified.
func (s *Storage) Path(d digest.Digest) string {
	if d.Validate() != nil {
		return ""
	}
	return filepath.Join(s.dir, blobsDir, d.Algorithm().String(), d.Encoded())
}

// HasBlob implements [storage.Pusher]. A blob that is found counts as used now,
// which keeps [Storage.Sweep] from it.
func (s *Storage) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	ok, err := s.claim(ctx, d)
	if err != nil {
		return false, s.fail("look for blob", d.Digest.String(), err)
	}
	return ok, nil
}

// claim reports whether d is there and marks it as used, in one step for those
// who remove.
func (s *Storage) claim(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if err := checkDigest(d.Digest); err != nil {
		return false, err
	}
	l, err := s.lock(ctx, lockFile, shared)
	if err != nil {
		return false, err
	}
	defer l.unlock()
	return s.touchBlob(d)
}

// touchBlob is claim for those who hold the lock.
func (s *Storage) touchBlob(d ocispec.Descriptor) (bool, error) {
	if err := checkDigest(d.Digest); err != nil {
		return false, err
	}
	path := s.Path(d.Digest)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if info.Size() != d.Size {
		return false, nil // torn: the next push replaces it
	}
	return true, touch(path)
}

func checkDigest(d digest.Digest) error {
	if err := d.Validate(); err != nil {
		return fmt.Errorf("%w: digest %q: %w", storage.ErrInvalid, d, err)
	}
	return nil
}

// PushBlob implements [storage.Pusher]. It does not open c when the blob is there.
// Content that is not d gives [storage.ErrCorrupt] and is not stored.
func (s *Storage) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if err := s.pushBlob(ctx, d, c); err != nil {
		return s.fail("push blob", d.Digest.String(), err)
	}
	return nil
}

func (s *Storage) pushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	ok, err := s.claim(ctx, d)
	if ok || err != nil {
		return err
	}
	r, err := c.Open()
	if err != nil {
		return &contentError{err}
	}
	_, err = s.ingest(ctx, &d, func(w io.Writer) error {
		_, err := io.Copy(w, storage.VerifyReader(r, d))
		return err
	})
	return errors.Join(err, r.Close())
}

// WriteBlob stores what write writes and returns its digest and size; the media
// type is the caller's to know. When write or ctx fails, nothing is stored.
func (s *Storage) WriteBlob(ctx context.Context, write func(w io.Writer) error) (ocispec.Descriptor, error) {
	d, err := s.ingest(ctx, nil, write)
	if err != nil {
		return ocispec.Descriptor{}, s.fail("write blob", "", err)
	}
	return d, nil
}

// ingest has write fill a file that then becomes the blob that it is, or the blob
// want where write verifies what it writes as that.
func (s *Storage) ingest(ctx context.Context, want *ocispec.Descriptor, write func(io.Writer) error) (_ ocispec.Descriptor, err error) {
	f, err := s.newIngest(ctx)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	defer func() {
		if err != nil {
			f.Close() // the error that matters is err
			err = errors.Join(err, removeIfThere(f.Name()))
		}
	}()
	w := &ingestWriter{ctx: ctx, f: f}
	if want == nil {
		w.hash = digest.SHA256.Hash()
	}
	if err := write(w); err != nil {
		if w.err == nil {
			err = &contentError{err}
		}
		return ocispec.Descriptor{}, err
	}
	if w.err != nil { // write overlooked it
		return ocispec.Descriptor{}, w.err
	}
	d, err := w.written(want)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if err := f.Sync(); err != nil {
		return ocispec.Descriptor{}, err
	}
	return d, s.settle(ctx, f, s.Path(d.Digest))
}

// newIngest returns a new file that nobody takes for a leftover while it is open.
func (s *Storage) newIngest(ctx context.Context) (*os.File, error) {
	l, err := s.lock(ctx, lockFile, shared)
	if err != nil {
		return nil, err
	}
	defer l.unlock()
	f, err := os.CreateTemp(s.path(ingestDir), "blob-*")
	if err != nil {
		return nil, err
	}
	ok, err := tryLock(f, alone)
	if err == nil && !ok {
		err = fmt.Errorf("%s, just created, is locked by another", f.Name())
	}
	if err != nil {
		f.Close() // it is empty
		return nil, errors.Join(err, removeIfThere(f.Name()))
	}
	return f, nil
}

// settle gives a written file its place. Between closing and renaming the file is
// protected by the layout's lock alone: some systems cannot rename an open file.
//
// The directory is not flushed here but once before something names the blob.
func (s *Storage) settle(ctx context.Context, f *os.File, path string) error {
	l, err := s.lock(ctx, lockFile, shared)
	if err != nil {
		return err
	}
	defer l.unlock()
	if err := f.Close(); err != nil {
		return err
	}
	err = rename(f.Name(), path)
	if isBusy(err) {
		// Somebody has been reading the same content for so long that it was
		// there all along: a reader checks what it reads.
		return removeIfThere(f.Name())
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil { // a rare algorithm
		return err
	}
	return rename(f.Name(), path)
}

// written returns what has been written.
func (w *ingestWriter) written(want *ocispec.Descriptor) (ocispec.Descriptor, error) {
	switch {
	case want == nil:
		return ocispec.Descriptor{Digest: digest.NewDigest(digest.SHA256, w.hash), Size: w.size}, nil
	case w.size != want.Size:
		return ocispec.Descriptor{}, fmt.Errorf("%w: %d bytes of %s were written, want %d", storage.ErrCorrupt, w.size, want.Digest, want.Size)
	}
	return ocispec.Descriptor{Digest: want.Digest, Size: want.Size}, nil
}

// ingestWriter writes to f as long as ctx lasts and remembers its first error.
type ingestWriter struct {
	ctx  context.Context
	f    *os.File
	hash hash.Hash // nil where what comes was hashed on its way
	size int64
	err  error
}

func (w *ingestWriter) Write(p []byte) (int, error) {
	if w.err == nil {
		w.err = w.ctx.Err()
	}
	if w.err != nil {
		return 0, w.err
	}
	n, err := w.f.Write(p)
	if w.hash != nil {
		w.hash.Write(p[:n]) // never fails
	}
	w.size += int64(n)
	w.err = err
	return n, err
}

// Blob implements [storage.Fetcher]. Content that turns out to be corrupt is
// removed, so that pushing it again repairs it.
func (s *Storage) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := s.openBlob(ctx, d)
	if err != nil {
		return nil, s.fail("fetch blob", d.Digest.String(), err)
	}
	return &blobReader{ReadCloser: storage.VerifyReader(f, d), ctx: ctx, s: s, d: d.Digest}, nil
}

func (s *Storage) openBlob(ctx context.Context, d ocispec.Descriptor) (*os.File, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if err := checkDigest(d.Digest); err != nil {
		return nil, err
	}
	return os.Open(s.Path(d.Digest))
}

type blobReader struct {
	io.ReadCloser
	ctx context.Context
	s   *Storage
	d   digest.Digest
}

// Verifies implements [storage.Verifying].
func (r *blobReader) Verifies(d ocispec.Descriptor) bool { return storage.Verifies(r.ReadCloser, d) }

func (r *blobReader) Read(p []byte) (int, error) {
	err := r.ctx.Err()
	n := 0
	if err == nil {
		n, err = r.ReadCloser.Read(p)
	}
	if err == nil || errors.Is(err, io.EOF) {
		return n, err
	}
	if errors.Is(err, storage.ErrCorrupt) {
		err = errors.Join(err, r.s.removeCorrupt(r.ctx, r.d))
	}
	return n, r.s.fail("fetch blob", r.d.String(), err)
}

// removeCorrupt removes the content of d if it is not d. Reading the whole file
// again, alone, tells it from a caller who asked with a wrong size, and from one
// that was replaced in the meantime.
func (s *Storage) removeCorrupt(ctx context.Context, d digest.Digest) error {
	l, err := s.lock(ctx, lockFile, alone)
	if err != nil {
		return err
	}
	defer l.unlock()
	f, err := os.Open(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	got, err := d.Algorithm().FromReader(f)
	f.Close() // it was only read
	if err != nil || got == d {
		return err
	}
	return removeIfThere(s.Path(d))
}
