package engine

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// imageStore is the content store from which the engine reads published images.
// It only ever grows: an engine may ask again for what it has evicted.
type imageStore struct {
	refusingStore
	// ctx is that of the session. A blob is read in many small requests, so that
	// the context of a request is not that of the reader.
	ctx     context.Context
	mu      sync.Mutex
	blobs   map[digest.Digest]blob
	readers map[position]io.ReadCloser
	// failed tells why a blob could not be read when it was last asked for.
	failed map[digest.Digest]error
}

type blob struct {
	desc ocispec.Descriptor
	open func(context.Context) (io.ReadCloser, error)
}

// position says which byte of which blob an open reader gives next.
type position struct {
	blob   digest.Digest
	offset int64
}

func newImageStore(ctx context.Context) *imageStore {
	return &imageStore{ctx: ctx, blobs: map[digest.Digest]blob{}, readers: map[position]io.ReadCloser{}, failed: map[digest.Digest]error{}}
}

// add makes the image readable and returns how many layers it has.
func (s *imageStore) add(i *Image) (int, error) {
	m, err := i.manifest()
	if err != nil {
		return 0, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.blobs[i.Manifest.Digest] = held(i.Manifest, i.Bytes)
	s.blobs[m.Config.Digest] = held(m.Config, i.Config)
	for _, l := range m.Layers {
		delete(s.failed, l.Digest)
		s.blobs[l.Digest] = blob{l, func(ctx context.Context) (io.ReadCloser, error) { return i.Blobs.Blob(ctx, l) }}
	}
	return len(m.Layers), nil
}

func held(d ocispec.Descriptor, b []byte) blob {
	d.Size = int64(len(b))
	return blob{d, func(context.Context) (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }}
}

func (s *imageStore) find(d digest.Digest) (blob, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, ok := s.blobs[d]
	if !ok {
		return b, fmt.Errorf("blob %s: %w", d, errdefs.ErrNotFound)
	}
	return b, nil
}

// Info implements [content.InfoProvider].
func (s *imageStore) Info(_ context.Context, d digest.Digest) (content.Info, error) {
	b, err := s.find(d)
	return content.Info{Digest: d, Size: b.desc.Size}, err
}

// ReaderAt implements [content.Provider].
func (s *imageStore) ReaderAt(_ context.Context, d ocispec.Descriptor) (content.ReaderAt, error) {
	b, err := s.find(d.Digest)
	if err != nil {
		return nil, err
	}
	return &sequential{store: s, blob: b}, nil
}

// failure returns why a layer that the job needs could not be read, nil where none
// failed. The engine itself passes on no more than a text.
func (s *imageStore) failure(j *Job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	// The function given here never fails.
	_ = j.visit(map[*Job]bool{}, func(j *Job) error {
		for _, i := range j.images() {
			m, err := i.manifest()
			if err != nil {
				continue // it was read before
			}
			for _, l := range m.Layers {
				if failed == nil {
					failed = s.failed[l.Digest]
				}
			}
		}
		return nil
	})
	return failed
}

func (s *imageStore) fail(d digest.Digest, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.failed[d] = err
}

// Close closes the readers of blobs that the engine did not read to their end.
func (s *imageStore) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var err error
	for p, r := range s.readers {
		err = errors.Join(err, r.Close())
		delete(s.readers, p)
	}
	return err
}

// take returns a reader that stands at p: one that an earlier request left
// there, else a new one whose first bytes are skipped.
func (s *imageStore) take(b blob, p position) (io.ReadCloser, error) {
	s.mu.Lock()
	r, ok := s.readers[p]
	delete(s.readers, p)
	s.mu.Unlock()
	if ok {
		return r, nil
	}
	r, err := b.open(s.ctx)
	if err != nil {
		return nil, err
	}
	if _, err := io.CopyN(io.Discard, r, p.offset); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

// leave keeps r for the request that continues at p.
func (s *imageStore) leave(r io.ReadCloser, p position) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, taken := s.readers[p]; taken || s.ctx.Err() != nil {
		return r.Close()
	}
	s.readers[p] = r
	return nil
}

// sequential reads a blob at any offset from readers that only go forward. The
// engine reads from the front to the end, one request after the other.
type sequential struct {
	store *imageStore
	blob  blob
}

func (r *sequential) Size() int64  { return r.blob.desc.Size }
func (r *sequential) Close() error { return nil }

// ReadAt implements [io.ReaderAt].
func (r *sequential) ReadAt(p []byte, off int64) (int, error) {
	if off >= r.Size() {
		return 0, io.EOF
	}
	rc, err := r.store.take(r.blob, position{r.blob.desc.Digest, off})
	if err != nil {
		r.store.fail(r.blob.desc.Digest, err)
		return 0, err
	}
	want := min(int64(len(p)), r.Size()-off)
	n, err := io.ReadFull(rc, p[:want])
	end := off+int64(n) == r.Size()
	if err == nil && end {
		// A verifying reader speaks up where it meets the end.
		_, err = io.Copy(io.Discard, rc)
	}
	if err != nil || end {
		err = errors.Join(err, rc.Close())
	} else {
		err = r.store.leave(rc, position{r.blob.desc.Digest, off + int64(n)})
	}
	switch {
	case err != nil:
		r.store.fail(r.blob.desc.Digest, err)
	case n < len(p):
		err = io.EOF
	}
	return n, err
}

// refusingStore is a content store that can do nothing.
type refusingStore struct{}

func (refusingStore) Info(context.Context, digest.Digest) (content.Info, error) {
	return content.Info{}, errdefs.ErrNotFound
}

func (refusingStore) Update(context.Context, content.Info, ...string) (content.Info, error) {
	return content.Info{}, errdefs.ErrNotImplemented
}

func (refusingStore) Walk(context.Context, content.WalkFunc, ...string) error {
	return errdefs.ErrNotImplemented
}

func (refusingStore) Delete(context.Context, digest.Digest) error { return errdefs.ErrNotImplemented }

func (refusingStore) ReaderAt(context.Context, ocispec.Descriptor) (content.ReaderAt, error) {
	return nil, errdefs.ErrNotFound
}

func (refusingStore) Status(context.Context, string) (content.Status, error) {
	return content.Status{}, errdefs.ErrNotFound
}

func (refusingStore) ListStatuses(context.Context, ...string) ([]content.Status, error) {
	return nil, errdefs.ErrNotImplemented
}

func (refusingStore) Abort(context.Context, string) error { return nil }

func (refusingStore) Writer(context.Context, ...content.WriterOpt) (content.Writer, error) {
	return nil, errdefs.ErrNotImplemented
}
