// Package observed counts what is asked of a storage and how many bytes move,
// whatever its kind. It counts calls: how many requests a registry was sent for
// them, only the registry client knows, and a build's report asks that.
package observed

import (
	"context"
	"io"
	"iter"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Operation is a method of a storage.
type Operation string

// The operations.
const (
	Resolve        Operation = "resolve"
	FetchManifest  Operation = "fetch manifest"
	FetchBlob      Operation = "fetch blob"
	HasBlob        Operation = "has blob"
	PushBlob       Operation = "push blob"
	MountBlob      Operation = "mount blob"
	PushManifest   Operation = "push manifest"
	Publish        Operation = "publish"
	ListTags       Operation = "list tags"
	DeleteTag      Operation = "delete tag"
	DeleteManifest Operation = "delete manifest"
	ProbeDeletion  Operation = "probe deletion"
)

// Event is one finished operation.
type Event struct {
	Operation Operation
	// Subject is the tag or digest.
	Subject string
	// Pulled and Pushed are bytes of content that moved, also of attempts that
	// failed: a blob that was there already moved none.
	Pulled, Pushed int64
	// Err is what the caller got, nil for success.
	Err error
}

// Recorder is told of each operation as it ends, that of a blob when its reader is
// closed. It is called from several goroutines.
type Recorder interface {
	Record(e Event)
}

// Storage is a [storage.Storage] whose use is recorded.
type Storage struct {
	inner storage.Storage
	to    Recorder
}

var (
	_ storage.Storage        = (*Storage)(nil)
	_ storage.Mounter        = (*Storage)(nil)
	_ storage.DeletionProber = (*Storage)(nil)
)

// New returns inner, whose use is told to the recorder.
func New(inner storage.Storage, to Recorder) *Storage { return &Storage{inner: inner, to: to} }

// Address implements [storage.Storage].
func (s *Storage) Address() string { return s.inner.Address() }

// Resolve implements [storage.Resolver].
func (s *Storage) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	d, err := s.inner.Resolve(ctx, ref)
	s.to.Record(Event{Operation: Resolve, Subject: ref, Err: err})
	return d, err
}

// Manifest implements [storage.Fetcher].
func (s *Storage) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	m, err := s.inner.Manifest(ctx, ref)
	s.to.Record(Event{Operation: FetchManifest, Subject: ref, Pulled: int64(len(m.Bytes)), Err: err})
	return m, err
}

// Blob implements [storage.Fetcher].
func (s *Storage) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	e := Event{Operation: FetchBlob, Subject: d.Digest.String()}
	r, err := s.inner.Blob(ctx, d)
	if err != nil {
		e.Err = err
		s.to.Record(e)
		return nil, err
	}
	c := &counter{ReadCloser: r}
	c.closed = func(n int64, err error) {
		e.Pulled, e.Err = n, err
		s.to.Record(e)
	}
	return c, nil
}

// counter counts what is read and tells it, once, when it is closed.
type counter struct {
	io.ReadCloser
	n      int64
	err    error
	once   sync.Once
	closed func(n int64, err error)
}

func (c *counter) Read(p []byte) (int, error) {
	n, err := c.ReadCloser.Read(p)
	c.n += int64(n)
	if err != nil && err != io.EOF {
		c.err = err
	}
	return n, err
}

func (c *counter) Close() error {
	err := c.ReadCloser.Close()
	c.once.Do(func() { c.closed(c.n, c.err) })
	return err
}

// HasBlob implements [storage.Pusher].
func (s *Storage) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	ok, err := s.inner.HasBlob(ctx, d)
	s.to.Record(Event{Operation: HasBlob, Subject: d.Digest.String(), Err: err})
	return ok, err
}

// PushBlob implements [storage.Pusher].
func (s *Storage) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	var mu sync.Mutex
	var pushed int64
	err := s.inner.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) {
		r, err := c.Open()
		if err != nil {
			return nil, err
		}
		return &counter{ReadCloser: r, closed: func(n int64, _ error) {
			mu.Lock()
			defer mu.Unlock()
			pushed += n
		}}, nil
	}))
	mu.Lock()
	defer mu.Unlock()
	s.to.Record(Event{Operation: PushBlob, Subject: d.Digest.String(), Pushed: pushed, Err: err})
	return err
}

// MountBlob implements [storage.Mounter] as the storage below does.
func (s *Storage) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	m, ok := s.inner.(storage.Mounter)
	if !ok {
		return false, nil
	}
	ok, err := m.MountBlob(ctx, d, from)
	s.to.Record(Event{Operation: MountBlob, Subject: d.Digest.String(), Err: err})
	return ok, err
}

// PushManifest implements [storage.Pusher].
func (s *Storage) PushManifest(ctx context.Context, m storage.Manifest) error {
	err := s.inner.PushManifest(ctx, m)
	s.to.Record(Event{Operation: PushManifest, Subject: m.Descriptor.Digest.String(), Pushed: int64(len(m.Bytes)), Err: err})
	return err
}

// Publish implements [storage.Publisher].
func (s *Storage) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	err := s.inner.Publish(ctx, tag, m)
	s.to.Record(Event{Operation: Publish, Subject: tag, Pushed: int64(len(m.Bytes)), Err: err})
	return err
}

// Tags implements [storage.Lister].
func (s *Storage) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		e := Event{Operation: ListTags}
		defer func() { s.to.Record(e) }()
		for tag, err := range s.inner.Tags(ctx) {
			e.Err = err
			if !yield(tag, err) {
				return
			}
		}
	}
}

// DeleteTag implements [storage.Deleter].
func (s *Storage) DeleteTag(ctx context.Context, tag string) error {
	err := s.inner.DeleteTag(ctx, tag)
	s.to.Record(Event{Operation: DeleteTag, Subject: tag, Err: err})
	return err
}

// DeleteManifest implements [storage.Deleter].
func (s *Storage) DeleteManifest(ctx context.Context, d digest.Digest) error {
	err := s.inner.DeleteManifest(ctx, d)
	s.to.Record(Event{Operation: DeleteManifest, Subject: d.String(), Err: err})
	return err
}

// ProbeDeletion implements [storage.DeletionProber] as the storage below does.
func (s *Storage) ProbeDeletion(ctx context.Context) error {
	p, ok := s.inner.(storage.DeletionProber)
	if !ok {
		return nil
	}
	err := p.ProbeDeletion(ctx)
	s.to.Record(Event{Operation: ProbeDeletion, Err: err})
	return err
}
