// Package faulty makes a storage misbehave on purpose, as networks, registries
// and disks do: errors, delays, answers lost after the work was done, cut and
// damaged reads, reads that lag behind writes, lists that end early. Tests use it
// to see that what stands above survives.
package faulty

import (
	"context"
	"errors"
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

// Call is one call of a method, before it is done.
type Call struct {
	Operation Operation
	// Subject is the tag or digest.
	Subject string
	// N counts the calls of this operation, from 1.
	N int
}

// Fault is what goes wrong with a call.
type Fault struct {
	// Wait, where set, is called first: a hook for delays and for letting others
	// go ahead. Its error is returned instead of doing anything.
	Wait func(ctx context.Context) error
	// Err is returned instead of doing anything, or with After set while reading.
	Err error
	// Lost is returned after the operation has been done: the answer got lost.
	Lost error
	// After is how many bytes of a blob, or how many tags, come before Err, or
	// before a premature end when Err is nil.
	After int64
	// Corrupt changes a byte of the manifest or blob that is read. This happens
	// below the verification that every storage does: the reader gets
	// [storage.ErrCorrupt], as it does for a blob that ends early without an error.
	Corrupt bool
	// Stale has a read not see the last write to its subject through this storage.
	Stale bool
}

// Script decides what goes wrong: nil for nothing. It is asked about one call at
// a time.
type Script func(c Call) *Fault

// On returns the script in which f befalls the nth call of an operation.
func On(op Operation, n int, f Fault) Script {
	return func(c Call) *Fault {
		if c.Operation == op && c.N == n {
			return &f
		}
		return nil
	}
}

// Always returns the script in which f befalls every call of an operation.
func Always(op Operation, f Fault) Script {
	return func(c Call) *Fault {
		if c.Operation == op {
			return &f
		}
		return nil
	}
}

// Scripts returns the script in which the first of several that has a fault decides.
func Scripts(all ...Script) Script {
	return func(c Call) *Fault {
		for _, s := range all {
			if f := s(c); f != nil {
				return f
			}
		}
		return nil
	}
}

// Storage is a [storage.Storage] that misbehaves by a script.
type Storage struct {
	inner storage.Storage

	mu     sync.Mutex
	script Script
	counts map[Operation]int
	past   past
}

var (
	_ storage.Storage        = (*Storage)(nil)
	_ storage.Mounter        = (*Storage)(nil)
	_ storage.DeletionProber = (*Storage)(nil)
)

// New returns inner, misbehaving by script; nil misbehaves in nothing.
func New(inner storage.Storage, script Script) *Storage {
	return &Storage{inner: inner, script: script, counts: map[Operation]int{}, past: newPast()}
}

// Follow has the storage misbehave by another script from now on.
func (s *Storage) Follow(script Script) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.script = script
}

// begin counts a call and returns its fault. An error means that nothing is done.
func (s *Storage) begin(ctx context.Context, op Operation, subject string) (Fault, error) {
	f := s.ask(op, subject)
	if f.Wait != nil {
		if err := f.Wait(ctx); err != nil {
			return f, err
		}
	}
	if f.Err != nil && f.After == 0 {
		return f, f.Err
	}
	return f, nil
}

func (s *Storage) ask(op Operation, subject string) Fault {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.counts[op]++
	if s.script == nil {
		return Fault{}
	}
	if f := s.script(Call{Operation: op, Subject: subject, N: s.counts[op]}); f != nil {
		return *f
	}
	return Fault{}
}

// done returns what the caller is told when an operation that ended with err is over.
func (f Fault) done(err error) error {
	if err == nil {
		return f.Lost
	}
	return err
}

// Address implements [storage.Storage].
func (s *Storage) Address() string { return s.inner.Address() }

// Resolve implements [storage.Resolver].
func (s *Storage) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	f, err := s.begin(ctx, Resolve, ref)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	if f.Stale {
		if m, ok, err := s.before(Resolve, ref); ok {
			return m.Descriptor, err
		}
	}
	d, err := s.inner.Resolve(ctx, ref)
	return d, f.done(err)
}

// Manifest implements [storage.Fetcher].
func (s *Storage) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	f, err := s.begin(ctx, FetchManifest, ref)
	if err != nil {
		return storage.Manifest{}, err
	}
	if f.Stale {
		if m, ok, err := s.before(FetchManifest, ref); ok {
			return m, err
		}
	}
	m, err := s.inner.Manifest(ctx, ref)
	if err == nil && f.Corrupt {
		m.Bytes = append([]byte{'?'}, m.Bytes[1:]...)
		err = m.Verify()
	}
	if err := f.done(err); err != nil {
		return storage.Manifest{}, err
	}
	return m, nil
}

// Blob implements [storage.Fetcher].
func (s *Storage) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	f, err := s.begin(ctx, FetchBlob, d.Digest.String())
	if err != nil {
		return nil, err
	}
	if f.Stale && s.isNew(d.Digest) {
		return nil, s.notFound(FetchBlob, d.Digest.String())
	}
	r, err := s.inner.Blob(ctx, d)
	if err != nil {
		return nil, err
	}
	return storage.VerifyReader(f.reader(r), d), nil
}

// HasBlob implements [storage.Pusher].
func (s *Storage) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	f, err := s.begin(ctx, HasBlob, d.Digest.String())
	if err != nil || (f.Stale && s.isNew(d.Digest)) {
		return false, err
	}
	ok, err := s.inner.HasBlob(ctx, d)
	return ok, f.done(err)
}

// PushBlob implements [storage.Pusher].
func (s *Storage) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	f, err := s.begin(ctx, PushBlob, d.Digest.String())
	if err != nil {
		return err
	}
	content := storage.ContentFunc(func() (io.ReadCloser, error) {
		r, err := c.Open()
		if err != nil {
			return nil, err
		}
		return f.reader(r), nil
	})
	s.add(d.Digest)
	return f.done(s.inner.PushBlob(ctx, d, content))
}

// MountBlob implements [storage.Mounter] as the storage below does.
func (s *Storage) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	m, ok := s.inner.(storage.Mounter)
	if !ok {
		return false, nil
	}
	f, err := s.begin(ctx, MountBlob, d.Digest.String())
	if err != nil {
		return false, err
	}
	s.add(d.Digest)
	ok, err = m.MountBlob(ctx, d, from)
	return ok, f.done(err)
}

// PushManifest implements [storage.Pusher].
func (s *Storage) PushManifest(ctx context.Context, m storage.Manifest) error {
	f, err := s.begin(ctx, PushManifest, m.Descriptor.Digest.String())
	if err != nil {
		return err
	}
	s.keep(ctx, m.Descriptor.Digest.String())
	return f.done(s.inner.PushManifest(ctx, m))
}

// Publish implements [storage.Publisher].
func (s *Storage) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	f, err := s.begin(ctx, Publish, tag)
	if err != nil {
		return err
	}
	s.keep(ctx, tag, m.Descriptor.Digest.String())
	return f.done(s.inner.Publish(ctx, tag, m))
}

// Tags implements [storage.Lister].
func (s *Storage) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		f, err := s.begin(ctx, ListTags, "")
		if err != nil {
			yield("", err)
			return
		}
		var n int64
		for tag, err := range s.inner.Tags(ctx) {
			if err == nil && f.Stale && s.absentBefore(tag) {
				continue
			}
			if n++; f.After > 0 && n > f.After {
				if f.Err != nil {
					yield("", f.Err)
				}
				return
			}
			if !yield(tag, err) {
				return
			}
		}
		if f.Lost != nil {
			yield("", f.Lost)
		}
	}
}

// DeleteTag implements [storage.Deleter].
func (s *Storage) DeleteTag(ctx context.Context, tag string) error {
	f, err := s.begin(ctx, DeleteTag, tag)
	if err != nil {
		return err
	}
	s.keep(ctx, tag)
	return f.done(s.inner.DeleteTag(ctx, tag))
}

// DeleteManifest implements [storage.Deleter].
func (s *Storage) DeleteManifest(ctx context.Context, d digest.Digest) error {
	f, err := s.begin(ctx, DeleteManifest, d.String())
	if err != nil {
		return err
	}
	s.keep(ctx, append(s.tagsOf(ctx, d), d.String())...)
	return f.done(s.inner.DeleteManifest(ctx, d))
}

// ProbeDeletion implements [storage.DeletionProber] as the storage below does.
func (s *Storage) ProbeDeletion(ctx context.Context) error {
	f, err := s.begin(ctx, ProbeDeletion, "")
	if err != nil {
		return err
	}
	return f.done(storage.ProbeDeletion(ctx, s.inner))
}

func (s *Storage) notFound(op Operation, subject string) error {
	return &storage.Error{
		Op: string(op), Storage: s.Address(), Subject: subject, Class: storage.ErrNotFound,
		Err: errors.New("the read lags behind"),
	}
}
