package faulty

import (
	"context"
	"errors"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
)

// past is what a lagging read sees: each subject before its last write.
type past struct {
	// manifests by tag or digest; nil for one that did not exist.
	manifests map[string]*storage.Manifest
	blobs     map[digest.Digest]bool
}

func newPast() past {
	return past{manifests: map[string]*storage.Manifest{}, blobs: map[digest.Digest]bool{}}
}

// keep notes what refs name now, before they are written. A ref whose present is
// unknown, because it cannot be read, keeps the past that it had.
func (s *Storage) keep(ctx context.Context, refs ...string) {
	for _, ref := range refs {
		m, err := s.inner.Manifest(ctx, ref)
		switch {
		case err == nil:
			s.setBefore(ref, &m)
		case errors.Is(err, storage.ErrNotFound):
			s.setBefore(ref, nil)
		}
	}
}

func (s *Storage) setBefore(ref string, m *storage.Manifest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past.manifests[ref] = m
}

// before returns what a lagging read of ref gets; false when ref was never
// written here, so that there is nothing to lag behind.
func (s *Storage) before(op Operation, ref string) (_ storage.Manifest, written bool, err error) {
	s.mu.Lock()
	m, written := s.past.manifests[ref]
	s.mu.Unlock()
	if !written {
		return storage.Manifest{}, false, nil
	}
	if m == nil {
		return storage.Manifest{}, true, s.notFound(op, ref)
	}
	return *m, true, nil
}

func (s *Storage) absentBefore(tag string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, written := s.past.manifests[tag]
	return written && m == nil
}

func (s *Storage) add(d digest.Digest) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.past.blobs[d] = true
}

func (s *Storage) isNew(d digest.Digest) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.past.blobs[d]
}

// tagsOf returns the tags that name d. Those that cannot be read are left out:
// this only serves lagging reads of them.
func (s *Storage) tagsOf(ctx context.Context, d digest.Digest) []string {
	var tags []string
	for tag, err := range s.inner.Tags(ctx) {
		if err != nil {
			return tags
		}
		if named, err := s.inner.Resolve(ctx, tag); err == nil && named.Digest == d {
			tags = append(tags, tag)
		}
	}
	return tags
}
