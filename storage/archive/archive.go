// Package archive keeps stages in one file: a tar of an OCI image layout, to be
// carried to where no network leads. An archive is read where it lies, nothing is
// unpacked; one is written from front to back and appears when it is complete.
//
// An archive comes from elsewhere: what its entries are called leads nowhere but
// to digests, sizes are bounded, and what is read is verified.
package archive

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Scheme begins the address of an archive.
const Scheme = "oci-archive:"

// Archive is a [storage.Storage] in a file. It is safe for concurrent use; who
// opened or created it closes it.
type Archive struct {
	path string

	mu    sync.Mutex
	f     *os.File
	w     *writer // nil for one that is only read
	blobs map[digest.Digest]span
	tags  map[string]ocispec.Descriptor
}

var _ storage.Storage = (*Archive)(nil)

// span is where the content of an entry lies in the file.
type span struct{ at, size int64 }

// Open opens the archive at path to be read.
func Open(path string) (*Archive, error) {
	a := newArchive(path)
	f, err := os.Open(path)
	if err != nil {
		return nil, a.fail("open", "", err)
	}
	a.f = f
	if err := a.scan(); err != nil {
		return nil, errors.Join(a.fail("open", "", err), f.Close())
	}
	return a, nil
}

func newArchive(path string) *Archive {
	return &Archive{path: path, blobs: map[digest.Digest]span{}, tags: map[string]ocispec.Descriptor{}}
}

// Address implements [storage.Storage].
func (a *Archive) Address() string { return Scheme + a.path }

// Resolve implements [storage.Resolver].
func (a *Archive) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	m, err := a.Manifest(ctx, ref)
	return m.Descriptor, err
}

// Manifest implements [storage.Fetcher].
func (a *Archive) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	m, err := a.manifest(ctx, ref)
	if err != nil {
		return storage.Manifest{}, a.fail("fetch manifest", ref, err)
	}
	return m, nil
}

func (a *Archive) manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	tag, d, err := storage.ParseRef(ref)
	if err != nil {
		return storage.Manifest{}, err
	}
	a.mu.Lock()
	if tag != "" {
		d = a.tags[tag].Digest
	}
	at, ok := a.blobs[d]
	a.mu.Unlock()
	if !ok {
		return storage.Manifest{}, storage.ErrNotFound
	}
	if at.size > storage.MaxManifest {
		return storage.Manifest{}, fmt.Errorf("%w: it has %d bytes", storage.ErrTooLarge, at.size)
	}
	b, err := io.ReadAll(a.open(ctx, ocispec.Descriptor{Digest: d, Size: at.size}, at))
	if err != nil {
		return storage.Manifest{}, err
	}
	t := storage.DetectMediaType(b)
	if t == "" {
		return storage.Manifest{}, storage.ErrNotFound // there is a blob, and it is no manifest
	}
	return storage.Manifest{Descriptor: ocispec.Descriptor{MediaType: t, Digest: d, Size: at.size}, Bytes: b}, nil
}

// Blob implements [storage.Fetcher].
func (a *Archive) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	at, ok, err := a.find(ctx, d.Digest)
	if err == nil && !ok {
		err = storage.ErrNotFound
	}
	if err != nil {
		return nil, a.fail("fetch blob", d.Digest.String(), err)
	}
	return &reader{ReadCloser: a.open(ctx, d, at), a: a, d: d.Digest}, nil
}

// HasBlob implements [storage.Pusher].
func (a *Archive) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	at, ok, err := a.find(ctx, d.Digest)
	if err != nil {
		return false, a.fail("look for blob", d.Digest.String(), err)
	}
	return ok && at.size == d.Size, nil
}

func (a *Archive) find(ctx context.Context, d digest.Digest) (span, bool, error) {
	if err := ctx.Err(); err != nil {
		return span{}, false, err
	}
	if err := d.Validate(); err != nil {
		return span{}, false, fmt.Errorf("%w: digest %q: %w", storage.ErrInvalid, d, err)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	at, ok := a.blobs[d]
	return at, ok, nil
}

// open returns the verified content of d, which lies at at.
func (a *Archive) open(ctx context.Context, d ocispec.Descriptor, at span) io.ReadCloser {
	return storage.VerifyReader(io.NopCloser(&bound{ctx, io.NewSectionReader(a.f, at.at, at.size)}), d)
}

// bound reads as long as ctx lasts.
type bound struct {
	ctx context.Context // of the operation that reads
	r   io.Reader
}

func (b *bound) Read(p []byte) (int, error) {
	if err := b.ctx.Err(); err != nil {
		return 0, err
	}
	return b.r.Read(p)
}

// reader gives the errors of a blob their class.
type reader struct {
	io.ReadCloser
	a *Archive
	d digest.Digest
}

// Verifies implements [storage.Verifying].
func (r *reader) Verifies(d ocispec.Descriptor) bool { return storage.Verifies(r.ReadCloser, d) }

func (r *reader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = r.a.fail("fetch blob", r.d.String(), err)
	}
	return n, err
}

// Tags implements [storage.Lister].
func (a *Archive) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		a.mu.Lock()
		tags := slices.Sorted(maps.Keys(a.tags))
		a.mu.Unlock()
		for _, t := range tags {
			if err := ctx.Err(); err != nil {
				yield("", a.fail("list tags", "", err))
				return
			}
			if !yield(t, nil) {
				return
			}
		}
	}
}

// DeleteTag implements [storage.Deleter]: an archive is written from front to back.
func (a *Archive) DeleteTag(_ context.Context, tag string) error {
	return a.fail("delete tag", tag, storage.ErrUnsupported)
}

// DeleteManifest implements [storage.Deleter] as [Archive.DeleteTag] does.
func (a *Archive) DeleteManifest(_ context.Context, d digest.Digest) error {
	return a.fail("delete manifest", d.String(), storage.ErrUnsupported)
}

// Close closes the file. An archive that was created and not completed with
// [Archive.Commit] is removed.
func (a *Archive) Close() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	err := a.f.Close()
	if errors.Is(err, os.ErrClosed) {
		err = nil
	}
	if a.w != nil && !a.w.done {
		err = errors.Join(err, os.Remove(a.f.Name()))
	}
	return err
}

// contentError is an error of what is to be stored, not of the archive.
type contentError struct{ err error }

func (e *contentError) Error() string { return "content: " + e.err.Error() }
func (e *contentError) Unwrap() error { return e.err }

// fail classifies err and says what was tried.
func (a *Archive) fail(op, subject string, err error) error {
	var typed *storage.Error
	if errors.As(err, &typed) {
		return err
	}
	c := classOf(err)
	if c == nil {
		return fmt.Errorf("%s %s %s: %w", op, a.Address(), subject, err)
	}
	return &storage.Error{Op: op, Storage: a.Address(), Subject: subject, Class: c, Err: err}
}

// classOf returns the class of an error, nil for one that is not the archive's own.
func classOf(err error) error {
	for _, c := range []error{storage.ErrCorrupt, storage.ErrInvalid, storage.ErrTooLarge, storage.ErrUnsupported, storage.ErrNotFound, storage.ErrDenied} {
		if errors.Is(err, c) {
			return c
		}
	}
	switch {
	case errors.As(err, new(*contentError)), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return nil
	case errors.Is(err, syscall.ENOSPC):
		return storage.ErrFull
	case errors.Is(err, fs.ErrPermission):
		return storage.ErrDenied
	case errors.Is(err, fs.ErrNotExist):
		return storage.ErrNotFound
	}
	return storage.ErrTransient
}
