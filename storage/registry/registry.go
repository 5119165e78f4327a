package registry

import (
	"context"
	"errors"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Storage is a repository of a registry. It is safe for concurrent use.
type Storage struct {
	repo   name.Repository
	host   *host
	hints  hints
	pushes pushes
	// deletions is how tags go.
	deletions *deletions
	// unmountable has the neighbours that the registry refuses to mount from.
	unmountable *sync.Map
}

var (
	_ storage.Storage = (*Storage)(nil)
	_ storage.Mounter = (*Storage)(nil)
)

// The actions of a scope.
const (
	actionPull   = "pull"
	actionPush   = "push"
	actionDelete = "delete"
)

// Address implements [storage.Storage]; it is "host[:port]/path".
func (s *Storage) Address() string { return s.repo.Name() }

// call returns a call to the address path below the repository's.
func (s *Storage) call(op, subject, method, path string, actions ...string) call {
	return call{
		operation: operation{op: op, address: s.Address(), subject: subject},
		method:    method,
		url:       s.url(path),
		scope:     scope{s.repo.RepositoryStr(): actions},
	}
}

func (s *Storage) url(path string) *url.URL {
	return &url.URL{Scheme: s.host.scheme(), Host: s.host.name, Path: "/v2/" + s.repo.RepositoryStr() + "/" + path}
}

// acceptManifests are the media types that a manifest may have.
func acceptManifests() http.Header {
	return withHeader("Accept", strings.Join([]string{
		ocispec.MediaTypeImageManifest, ocispec.MediaTypeImageIndex,
		storage.MediaTypeDockerManifest, storage.MediaTypeDockerIndex,
	}, ", "))
}

// Resolve implements [storage.Resolver] with one HEAD. Where a registry answers
// it without the digest, a GET follows.
func (s *Storage) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	c := s.call("resolve", ref, http.MethodHead, "manifests/"+ref, actionPull)
	c.header = acceptManifests()
	c.accept = []int{http.StatusMethodNotAllowed}
	tag, want, err := storage.ParseRef(ref)
	if err != nil {
		return ocispec.Descriptor{}, c.fail(ctx, err)
	}
	resp, err := s.host.do(ctx, c)
	if err != nil {
		return ocispec.Descriptor{}, err
	}
	discard(resp)
	if d, ok := described(resp, want); ok {
		if err := unlessBuried(tag, d.Digest); err != nil {
			return ocispec.Descriptor{}, c.fail(ctx, err)
		}
		return d, nil
	}
	m, err := s.Manifest(ctx, ref)
	return m.Descriptor, err
}

// described reads the descriptor from the headers of an answer to a HEAD, and
// reports whether they say all of it and nothing that cannot be.
func described(resp *http.Response, want digest.Digest) (ocispec.Descriptor, bool) {
	d := ocispec.Descriptor{
		MediaType: mediaType(resp),
		Digest:    digest.Digest(resp.Header.Get("Docker-Content-Digest")),
		Size:      resp.ContentLength,
	}
	ok := resp.StatusCode/100 == 2 && d.Digest.Validate() == nil && (want == "" || want == d.Digest) &&
		d.Size > 0 && strings.Contains(acceptManifests().Get("Accept"), d.MediaType) && d.MediaType != ""
	return d, ok
}

func mediaType(resp *http.Response) string {
	t, _, _ := strings.Cut(resp.Header.Get("Content-Type"), ";")
	return strings.TrimSpace(t)
}

// Manifest implements [storage.Fetcher] with one GET.
func (s *Storage) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	c := s.call("fetch manifest", ref, http.MethodGet, "manifests/"+ref, actionPull)
	c.header = acceptManifests()
	tag, want, err := storage.ParseRef(ref)
	if err != nil {
		return storage.Manifest{}, c.fail(ctx, err)
	}
	var m storage.Manifest
	err = s.host.persist(ctx, c.operation, func(attempt int) error {
		m, err = s.manifest(ctx, c, want, attempt)
		if err != nil && errors.Is(classOf(err), storage.ErrCorrupt) {
			// A proxy may have cut or mixed up the answer; once more tells.
			m, err = s.manifest(ctx, c, want, attempt)
		}
		return err
	})
	if err == nil {
		if err = unlessBuried(tag, m.Descriptor.Digest); err != nil {
			return storage.Manifest{}, c.fail(ctx, err)
		}
	}
	return m, err
}

func (s *Storage) manifest(ctx context.Context, c call, want digest.Digest, attempt int) (storage.Manifest, error) {
	resp, err := s.host.try(ctx, c, attempt)
	if err != nil {
		return storage.Manifest{}, err
	}
	defer resp.Body.Close()
	body, err := readBounded(resp, storage.MaxManifest)
	if err != nil {
		return storage.Manifest{}, err
	}
	if want == "" {
		want = digest.Digest(resp.Header.Get("Docker-Content-Digest"))
	}
	if want == "" {
		want = digest.FromBytes(body)
	}
	if err := want.Validate(); err != nil {
		return storage.Manifest{}, corrupt("the registry names an unusable digest: %q", tidy(want.String()))
	}
	m := storage.Manifest{
		Descriptor: ocispec.Descriptor{MediaType: storage.DetectMediaType(body), Digest: want, Size: int64(len(body))},
		Bytes:      body,
		Modified:   modified(resp),
	}
	if err := m.Verify(); err != nil {
		return storage.Manifest{}, err
	}
	if m.Descriptor.MediaType == "" {
		return storage.Manifest{}, corrupt("the answer of type %q is neither an image manifest nor an index", tidy(mediaType(resp)))
	}
	return m, nil
}

// modified is the time of the header Last-Modified, zero where there is none that
// can be read.
func modified(resp *http.Response) time.Time {
	t, err := http.ParseTime(resp.Header.Get("Last-Modified"))
	if err != nil {
		return time.Time{}
	}
	return t.UTC()
}

// HasBlob implements [storage.Pusher] with one HEAD.
func (s *Storage) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	c := s.call("look for blob", d.Digest.String(), http.MethodHead, "blobs/"+d.Digest.String(), actionPull)
	// Where the registry sends to an object storage, it has the blob. Asking there
	// would cost a request, and addresses signed for GET refuse HEAD.
	c.stay = true
	c.accept = []int{http.StatusNotFound, http.StatusFound, http.StatusSeeOther, http.StatusTemporaryRedirect}
	if err := d.Digest.Validate(); err != nil {
		return false, c.fail(ctx, invalid("digest %q: %v", tidy(d.Digest.String()), err))
	}
	resp, err := s.host.do(ctx, c)
	if err != nil {
		return false, err
	}
	discard(resp)
	lies := resp.StatusCode == http.StatusOK && resp.ContentLength >= 0 && resp.ContentLength != d.Size
	if resp.StatusCode == http.StatusNotFound || lies {
		s.hints.put(d.Digest, hint{absent: true})
		return false, nil
	}
	return true, nil
}
