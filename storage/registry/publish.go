package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// MountBlob implements [storage.Mounter] with one POST. Only repositories of the
// same registry can be mounted from; for others nothing is sent.
func (s *Storage) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	repo, err := parseAddress(from)
	if err != nil || repo.RegistryStr() != s.repo.RegistryStr() || repo.RepositoryStr() == s.repo.RepositoryStr() {
		return false, nil // such as ":local": no neighbour here
	}
	if _, ok := s.unmountable.Load(repo.RepositoryStr()); ok {
		return false, nil
	}
	c := s.call("mount blob", d.Digest.String(), http.MethodPost, "blobs/uploads/", actionPull, actionPush)
	if err := d.Digest.Validate(); err != nil {
		return false, c.fail(ctx, invalid("digest %q: %v", tidy(d.Digest.String()), err))
	}
	q := c.url.Query()
	q.Set("mount", d.Digest.String())
	q.Set("from", repo.RepositoryStr())
	c.url.RawQuery = q.Encode()
	c.scope[repo.RepositoryStr()] = []string{actionPull}
	resp, err := s.host.do(ctx, c)
	if err != nil {
		return false, s.unmounted(repo.RepositoryStr(), err)
	}
	discard(resp)
	if resp.StatusCode == http.StatusCreated {
		return true, nil
	}
	u := upload{s: s}
	if u.moved(resp) == nil {
		s.hints.put(d.Digest, hint{absent: true, session: u.session})
	}
	return false, nil
}

// unmounted returns nil for refusals that a copy has to deal with, and remembers
// neighbours that are refused as such.
func (s *Storage) unmounted(from string, err error) error {
	is := func(class error) bool { return errors.Is(classOf(err), class) }
	switch {
	case is(storage.ErrDenied), is(storage.ErrUnsupported), is(storage.ErrUnauthorized):
		s.unmountable.Store(from, true)
		return nil
	case is(storage.ErrNotFound), is(storage.ErrInvalid):
		return nil
	}
	return err
}

// PushManifest implements [storage.Pusher] with one PUT.
func (s *Storage) PushManifest(ctx context.Context, m storage.Manifest) error {
	return s.putManifest(ctx, "push manifest", m.Descriptor.Digest.String(), m)
}

// Publish implements [storage.Publisher] with one PUT, and one HEAD where the
// registry refuses to move the tag.
func (s *Storage) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	op := operation{"publish", s.Address(), tag}
	if err := storage.CheckTag(tag); err != nil {
		return op.fail(ctx, err)
	}
	err := s.putManifest(ctx, op.op, tag, m)
	if !perhapsImmutable(err) {
		return err
	}
	there, rerr := s.Resolve(ctx, tag)
	switch {
	case rerr != nil:
		return err // the refusal has another reason, or it cannot be known
	case there.Digest == m.Descriptor.Digest:
		return nil
	}
	return &storage.Error{
		Op: op.op, Storage: op.address, Subject: tag, Class: storage.ErrExists,
		Err: fmt.Errorf("it names %s; the registry refused with status %d", there.Digest, statusOf(err)),
	}
}

// perhapsImmutable reports whether err can be the refusal to move a tag. The
// specification has no status for it, and registries differ.
func perhapsImmutable(err error) bool {
	var r *refusal
	return errors.As(err, &r) && !invalidCode(r.code) && slices.Contains([]int{
		http.StatusBadRequest, http.StatusForbidden, http.StatusConflict, http.StatusPreconditionFailed,
	}, statusOf(err))
}

func (s *Storage) putManifest(ctx context.Context, op, ref string, m storage.Manifest) error {
	c := s.call(op, ref, http.MethodPut, "manifests/"+ref, actionPull, actionPush)
	if err := m.Verify(); err != nil {
		return c.fail(ctx, err)
	}
	c.sound = true
	c.header = withHeader("Content-Type", m.Descriptor.MediaType)
	c.body = payload{
		open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(m.Bytes)), nil },
		size: int64(len(m.Bytes)),
	}
	resp, err := s.host.do(ctx, c)
	if err != nil {
		return missingParts(err)
	}
	discard(resp)
	if got := resp.Header.Get("Docker-Content-Digest"); got != "" && got != m.Descriptor.Digest.String() {
		return c.fail(ctx, corrupt("the registry has stored %s", tidy(got)))
	}
	return nil
}

// missingParts has a manifest refused as not found where a registry means what
// the manifest refers to: there is nothing else that a PUT could not find.
func missingParts(err error) error {
	var e *storage.Error
	if errors.As(err, &e) && errors.Is(e.Class, storage.ErrNotFound) {
		e.Class = storage.ErrInvalid
	}
	return err
}

// DeleteManifest implements [storage.Deleter] with one DELETE.
func (s *Storage) DeleteManifest(ctx context.Context, d digest.Digest) error {
	op := operation{"delete manifest", s.Address(), d.String()}
	if err := d.Validate(); err != nil {
		return op.fail(ctx, invalid("digest %q: %v", tidy(d.String()), err))
	}
	return s.delete(ctx, op, d.String())
}

func (s *Storage) delete(ctx context.Context, op operation, ref string) error {
	c := s.call(op.op, op.subject, http.MethodDelete, "manifests/"+ref, actionPull, actionPush, actionDelete)
	resp, err := s.host.do(ctx, c)
	if err == nil {
		discard(resp)
		return nil
	}
	var r *refusal
	if errors.As(err, &r) && statusOf(err) == http.StatusNotFound && r.attempt > 1 {
		return nil // an earlier attempt has worked, and its answer was lost
	}
	return err
}
