package archive

import (
	"archive/tar"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// writer is what an archive that is made has beside one that is read.
type writer struct {
	tar  *tar.Writer
	done bool // it has its place
	// old is the file whose content it has taken over, nil where there was none.
	old fs.FileInfo
}

// Create begins an archive that takes its place at path with [Archive.Commit]. It
// begins with what an archive there holds. The same content in the same order makes
// the same bytes.
func Create(ctx context.Context, path string) (*Archive, error) {
	a := newArchive(path)
	f, err := os.CreateTemp(filepath.Dir(path), "."+filepath.Base(path)+".")
	if err != nil {
		return nil, a.fail("create", "", err)
	}
	a.f = f
	a.w = &writer{tar: tar.NewWriter(f)}
	if err := a.begin(ctx); err != nil {
		return nil, errors.Join(a.fail("create", "", err), a.Close())
	}
	return a, nil
}

func (a *Archive) begin(ctx context.Context) error {
	layout, err := json.Marshal(ocispec.ImageLayout{Version: ocispec.ImageLayoutVersion})
	if err != nil {
		return err
	}
	if err := a.writeSmall(ocispec.ImageLayoutFile, layout); err != nil {
		return err
	}
	old, err := Open(a.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if a.w.old, err = old.f.Stat(); err == nil {
		err = a.takeOver(ctx, old)
	}
	return errors.Join(err, old.Close())
}

// takeOver copies what another archive holds.
func (a *Archive) takeOver(ctx context.Context, old *Archive) error {
	for _, d := range slices.Sorted(maps.Keys(old.blobs)) {
		desc := ocispec.Descriptor{Digest: d, Size: old.blobs[d].size}
		err := a.PushBlob(ctx, desc, storage.ContentFunc(func() (io.ReadCloser, error) { return old.Blob(ctx, desc) }))
		if err != nil {
			return err
		}
	}
	maps.Copy(a.tags, old.tags)
	return nil
}

// readOnly returns an error unless the archive is being made.
func (a *Archive) readOnly() error {
	if a.w == nil || a.w.done {
		return fmt.Errorf("%w: the archive is read", storage.ErrDenied)
	}
	return nil
}

// PushBlob implements [storage.Pusher]. Blobs are written one after another.
func (a *Archive) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if err := a.pushBlob(ctx, d, c); err != nil {
		return a.fail("push blob", d.Digest.String(), err)
	}
	return nil
}

func (a *Archive) pushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if at, there, err := a.find(ctx, d.Digest); err != nil || there {
		if err == nil && at.size != d.Size {
			err = fmt.Errorf("%w: the archive has %d bytes of it and not %d", storage.ErrCorrupt, at.size, d.Size)
		}
		return err
	}
	r, err := c.Open()
	if err != nil {
		return &contentError{err}
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.blobs[d.Digest]; ok { // another was faster
		return r.Close()
	}
	err = a.readOnly()
	if err == nil {
		err = a.append(ctx, d, r)
	}
	return errors.Join(err, r.Close())
}

// append writes a blob at the end, or leaves the archive as it was.
func (a *Archive) append(ctx context.Context, d ocispec.Descriptor, r io.ReadCloser) error {
	start, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return err
	}
	name := strings.Join([]string{ocispec.ImageBlobsDir, d.Digest.Algorithm().String(), d.Digest.Encoded()}, "/")
	at, err := a.entry(name, d.Size, &bound{ctx, storage.VerifyReader(r, d)})
	if err != nil {
		return errors.Join(err, a.rewind(start))
	}
	a.blobs[d.Digest] = span{at, d.Size}
	return nil
}

// entry writes an entry and returns where its content begins.
func (a *Archive) entry(name string, size int64, content io.Reader) (int64, error) {
	h := &tar.Header{Typeflag: tar.TypeReg, Name: name, Size: size, Mode: 0o644, ModTime: time.Unix(0, 0)}
	if err := a.w.tar.WriteHeader(h); err != nil {
		return 0, err
	}
	at, err := a.f.Seek(0, io.SeekCurrent)
	if err != nil {
		return 0, err
	}
	counted := &failing{r: content}
	n, err := io.Copy(a.w.tar, counted)
	switch {
	case counted.err != nil:
		return 0, &contentError{counted.err}
	case err != nil:
		return 0, err
	case n != size:
		return 0, fmt.Errorf("%w: %s has %d bytes and not %d", storage.ErrCorrupt, name, n, size)
	}
	return at, a.w.tar.Flush()
}

// failing remembers why its content could not be read.
type failing struct {
	r   io.Reader
	err error
}

func (f *failing) Read(p []byte) (int, error) {
	n, err := f.r.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		f.err = err
	}
	return n, err
}

// rewind drops what was written from start on.
func (a *Archive) rewind(start int64) error {
	a.w.tar = tar.NewWriter(a.f)
	if err := a.f.Truncate(start); err != nil {
		return err
	}
	_, err := a.f.Seek(start, io.SeekStart)
	return err
}

func (a *Archive) writeSmall(name string, b []byte) error {
	_, err := a.entry(name, int64(len(b)), bytes.NewReader(b))
	return err
}

// PushManifest implements [storage.Pusher].
func (a *Archive) PushManifest(ctx context.Context, m storage.Manifest) error {
	if err := m.Verify(); err != nil {
		return a.fail("push manifest", m.Descriptor.Digest.String(), err)
	}
	return a.PushBlob(ctx, m.Descriptor, storage.ContentFunc(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(m.Bytes)), nil
	}))
}

// Publish implements [storage.Publisher].
func (a *Archive) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	if err := storage.CheckTag(tag); err != nil {
		return a.fail("publish", tag, err)
	}
	if err := a.PushManifest(ctx, m); err != nil {
		return err
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.readOnly(); err != nil {
		return a.fail("publish", tag, err)
	}
	a.tags[tag] = m.Descriptor
	return nil
}

// Commit completes a created archive and gives it its place, in one step. It fails
// with [storage.ErrExists] where another has taken that since [Create].
func (a *Archive) Commit(ctx context.Context) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.commit(ctx); err != nil {
		return a.fail("complete", "", err)
	}
	return nil
}

func (a *Archive) commit(ctx context.Context) error {
	if err := a.readOnly(); err != nil {
		return err
	}
	b, err := index(slices.Sorted(maps.Keys(a.tags)), a.tags)
	if err == nil {
		err = a.writeSmall(ocispec.ImageIndexFile, b)
	}
	if err == nil {
		err = a.w.tar.Close()
	}
	if err == nil {
		err = a.f.Chmod(0o644)
	}
	if err == nil {
		err = a.f.Sync()
	}
	if err == nil {
		err = a.settle(ctx)
	}
	a.w.done = err == nil
	return err
}

// How long another process may take that is about to do the same: it looks for one
// file and renames another.
const (
	lockLimit = 10 * time.Second
	lockPause = 2 * time.Millisecond
)

// settle renames the file to its place unless another has been put there. All who do
// so look and rename under one lock.
func (a *Archive) settle(ctx context.Context) error {
	unlock, err := lock(ctx, a.path)
	if err != nil {
		return err
	}
	defer unlock()
	if err := a.unchanged(); err != nil {
		return err
	}
	return os.Rename(a.f.Name(), a.path)
}

// lock waits for the lock on the place at path.
func lock(ctx context.Context, path string) (unlock func(), err error) {
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	ticks := time.NewTicker(lockPause)
	defer ticks.Stop()
	for {
		if unlock, err := tryLock(path); unlock != nil || err != nil {
			return unlock, err
		}
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil, fmt.Errorf("another process is putting a file there: %w", context.Cause(ctx))
		}
	}
}

// unchanged makes sure that nobody else has put an archive in the place, whose
// content would be lost.
func (a *Archive) unchanged() error {
	there, err := os.Stat(a.path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return err
	case a.w.old == nil || !os.SameFile(a.w.old, there) || !there.ModTime().Equal(a.w.old.ModTime()): // a number of a file is used again
		return fmt.Errorf("%w: another archive was put there meanwhile", storage.ErrExists)
	}
	return nil
}

// Digest returns the digest of the whole file, for people who carry it.
func (a *Archive) Digest() (digest.Digest, error) {
	info, err := a.f.Stat()
	if err != nil {
		return "", err
	}
	return digest.FromReader(io.NewSectionReader(a.f, 0, info.Size()))
}
