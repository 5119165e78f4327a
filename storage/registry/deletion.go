package registry

import (
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Some registries delete by digest only, and with a manifest all its tags (distribution
// before 3.0); others delete the manifest when they are asked to delete one of its tags.
// There, a tag that is to go is put on the tomb first: a manifest that nothing else is
// ever put on. From then on it reads as not found, here and in every other process. The
// tomb can then be deleted by its digest, with all tags that lie in it, and no other tag
// of what they named before is touched.

// tomb returns the manifest that deleted tags are put on. It is the same everywhere.
func tomb() (storage.Manifest, error) { return emptyIndex("deleted", "true") }

// emptyIndex returns an index of nothing, which needs no blob to be there.
func emptyIndex(key, value string) (storage.Manifest, error) {
	return storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{}, Annotations: map[string]string{"dev.cairn." + key: value},
	})
}

// unlessBuried returns the error for a tag that lies in the tomb.
func unlessBuried(tag string, d digest.Digest) error {
	if tag == "" {
		return nil
	}
	if m, err := tomb(); err != nil || m.Descriptor.Digest != d {
		return err
	}
	return &fault{storage.ErrNotFound, "it was deleted"}
}

// deletions is what is known of how a repository deletes, and what it deletes.
type deletions struct {
	turn chan struct{} // had by who finds out how, or empties the tomb
	// how is "" until it was found out, api then the product's where that is used.
	how deletion
	api tagAPI
	// found has what an API calls repositories.
	found sync.Map
	// buried counts the tags that were put on the tomb, cleared those that had been when
	// it was emptied last, which who has the turn changes.
	buried  atomic.Int64
	cleared int64
}

// deletion is how tags can be deleted.
type deletion string

const (
	byTag  deletion = "tag"
	byTomb deletion = "tomb"
	byAPI  deletion = "api" // that of the product
)

func newDeletions() *deletions { return &deletions{turn: make(chan struct{}, 1)} }

// take waits for the turn.
func (d *deletions) take(ctx context.Context) error {
	select {
	case d.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (d *deletions) give() { <-d.turn }

// DeleteTag implements [storage.Deleter]. How the registry deletes is found out, with
// a tag made for it, before the first.
func (s *Storage) DeleteTag(ctx context.Context, tag string) error {
	op := operation{"delete tag", s.Address(), tag}
	if err := storage.CheckTag(tag); err != nil {
		return op.fail(ctx, err)
	}
	how, err := s.howToDelete(ctx)
	if err != nil {
		return err
	}
	switch how {
	case byTag:
		return s.delete(ctx, op, tag)
	case byAPI:
		return s.deletions.api.deleteTag(ctx, op, tag)
	}
	return s.bury(ctx, op, tag)
}

// ProbeDeletion implements [storage.DeletionProber]. That tags can be deleted is found
// out once.
func (s *Storage) ProbeDeletion(ctx context.Context) error {
	_, err := s.howToDelete(ctx)
	return err
}

func (s *Storage) howToDelete(ctx context.Context) (deletion, error) {
	if err := s.deletions.take(ctx); err != nil {
		return "", err
	}
	defer s.deletions.give()
	if s.deletions.how != "" {
		return s.deletions.how, nil
	}
	how, err := s.probe(ctx)
	if err == nil {
		s.deletions.how = how
	}
	return how, err
}

// probe finds out how tags can be deleted: with what the distribution API has, or else
// with the API that the product is known to have. Nothing is written where the registry
// deletes nothing at all.
func (s *Storage) probe(ctx context.Context) (deletion, error) {
	op := operation{"find out how to delete in", s.Address(), ""}
	refused := s.delete(ctx, op, digest.FromString(s.probeID()).String())
	if errors.Is(refused, storage.ErrNotFound) {
		refused = nil
	}
	api := s.api()
	if refused != nil && api == nil {
		return "", s.undeletable(op, refused)
	}
	var how deletion
	var err error
	if refused == nil {
		if how, err = s.probePlain(ctx, op); err == nil && how == byTag || api == nil {
			return how, err
		}
	}
	other, apiErr := s.probeAPI(ctx, op, api)
	switch {
	case apiErr == nil:
		s.deletions.api = api
		return other, nil
	case how != "":
		return how, nil // the tomb is as good, only slower
	}
	return "", errors.Join(s.undeletable(op, apiErr), err, refused)
}

// api returns how the product deletes beside the distribution API; nil for none.
func (s *Storage) api() tagAPI {
	p := s.Product()
	if p.api == nil {
		return nil
	}
	realm := &url.URL{}
	s.host.auth.mu.Lock()
	if learned := s.host.auth.learned; learned != nil {
		if u, err := follow(&url.URL{Scheme: s.host.scheme(), Host: s.host.name}, learned.params["realm"]); err == nil {
			realm = u
		}
	}
	s.host.auth.mu.Unlock()
	return p.api(s, realm)
}

func (s *Storage) probeID() string { return fmt.Sprintf("%016x", math.Float64bits(s.host.o.Jitter())) }

// probeTags publishes a manifest under two tags.
func (s *Storage) probeTags(ctx context.Context, suffix string) (m storage.Manifest, tags []string, err error) {
	id := s.probeID() + suffix
	if m, err = emptyIndex("probe", id); err != nil {
		return m, nil, err
	}
	tags = []string{"cairn-probe-" + id + "-1", "cairn-probe-" + id + "-2"}
	for _, tag := range tags {
		if err := s.Publish(ctx, tag, m); err != nil {
			return m, nil, err
		}
	}
	return m, tags, nil
}

// probePlain tries the distribution API.
func (s *Storage) probePlain(ctx context.Context, op operation) (deletion, error) {
	m, tags, err := s.probeTags(ctx, "")
	if err != nil {
		return "", err
	}
	err = s.delete(ctx, op, tags[0])
	if err == nil {
		_, err = s.Resolve(ctx, tags[1])
		switch {
		case err == nil:
			return byTag, s.delete(ctx, op, tags[1])
		case errors.Is(err, storage.ErrNotFound):
			return byTomb, nil // its other tag has gone with it
		}
		return "", err
	}
	if !refusesTags(err) {
		return "", s.undeletable(op, err)
	}
	if err := s.delete(ctx, op, m.Descriptor.Digest.String()); err != nil {
		return "", s.undeletable(op, err)
	}
	return byTomb, nil
}

// probeAPI tries the API of the product, first on what is not there: where it refuses
// that, nothing is written. One that takes other tags along is of no use.
func (s *Storage) probeAPI(ctx context.Context, op operation, api tagAPI) (deletion, error) {
	absent := digest.FromString(s.probeID())
	how := byAPI
	err := api.deleteTag(ctx, op, absent.Encoded())
	if errors.Is(err, storage.ErrUnsupported) {
		how, err = byTomb, api.deleteManifest(ctx, op, absent)
	}
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return "", err
	}
	m, tags, err := s.probeTags(ctx, "a")
	if err != nil {
		return "", err
	}
	if how == byTomb {
		return how, api.deleteManifest(ctx, op, m.Descriptor.Digest)
	}
	if err := api.deleteTag(ctx, op, tags[0]); err != nil {
		return "", err
	}
	if _, err := s.Resolve(ctx, tags[0]); !errors.Is(err, storage.ErrNotFound) {
		return "", op.fail(ctx, errors.Join(&fault{storage.ErrUnsupported, "a tag is there after its deletion"}, err))
	}
	if _, err := s.Resolve(ctx, tags[1]); err != nil {
		return "", err
	}
	return how, api.deleteTag(ctx, op, tags[1])
}

// refusesTags reports whether err is how a registry refuses to delete by tag.
func refusesTags(err error) bool {
	return slices.Contains([]int{
		http.StatusBadRequest, http.StatusNotFound, http.StatusMethodNotAllowed, http.StatusNotImplemented,
	}, statusOf(err))
}

// undeletable says in the words of who can mend it why nothing can be deleted.
func (s *Storage) undeletable(op operation, err error) error {
	var class error
	for _, c := range []error{storage.ErrUnsupported, storage.ErrDenied, storage.ErrUnauthorized} {
		if errors.Is(err, c) {
			class = c
		}
	}
	if class == nil {
		return err
	}
	why := "the credentials lack the permission to delete in the repository (scope repository:" + s.repo.RepositoryStr() + ":delete)"
	if errors.Is(class, storage.ErrUnsupported) {
		why = "the registry has deletion switched off (docker-registry: storage.delete.enabled)"
	}
	if p := s.Product(); p.Name != "" {
		why = p.Name + " needs for deletions " + p.Needs
	}
	return &storage.Error{Op: op.op, Storage: op.address, Class: class, Err: fmt.Errorf("%s: %w", why, err)}
}

// deleteTomb deletes a manifest with all its tags.
func (s *Storage) deleteTomb(ctx context.Context, op operation, d digest.Digest) error {
	if s.deletions.api != nil {
		return s.deletions.api.deleteManifest(ctx, op, d)
	}
	return s.delete(ctx, op, d.String())
}

// bury puts a tag on the tomb, which deletes it, and empties the tomb, which takes it
// from the list. Who buries while another empties it shares the next time: the
// registry looks through all its tags for each.
func (s *Storage) bury(ctx context.Context, op operation, tag string) error {
	if _, err := s.Resolve(ctx, tag); err != nil {
		return err
	}
	m, err := tomb()
	if err != nil {
		return err
	}
	if err := s.putManifest(ctx, op.op, tag, m); err != nil {
		return err
	}
	return s.empty(ctx, op, m, s.deletions.buried.Add(1))
}

// empty deletes the tomb, unless that was done since the nth tag was put on it.
func (s *Storage) empty(ctx context.Context, op operation, m storage.Manifest, nth int64) error {
	if err := s.deletions.take(ctx); err != nil {
		return err
	}
	defer s.deletions.give()
	if s.deletions.cleared >= nth {
		return nil
	}
	upTo := s.deletions.buried.Load()
	for try := 1; ; try++ {
		err := s.emptyOnce(ctx, op, m)
		switch {
		case err == nil, errors.Is(err, storage.ErrNotFound):
			s.deletions.cleared = upTo
			return nil
		case statusOf(err) != http.StatusBadRequest:
			return err
		case try == emptyTries:
			return nil // the tags are deleted, though listed; whoever deletes next tries again
		}
	}
}

// emptyTries bounds the attempts to delete the tomb. docker-registry looks through
// the files of all tags for that, and takes one that is just being written, by
// anybody, for a digest that is invalid.
const emptyTries = 3

func (s *Storage) emptyOnce(ctx context.Context, op operation, m storage.Manifest) error {
	// Another process may have deleted it under tags that came later: then it is
	// missing, and cannot be deleted, and the tags stay.
	if err := s.PushManifest(ctx, m); err != nil {
		return err
	}
	return s.deleteTomb(ctx, op, m.Descriptor.Digest)
}
