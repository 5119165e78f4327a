package registry

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"net/url"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

var _ storage.Attacher = (*Storage)(nil)

// maxReferrerPages bounds a listing of referrers by a registry that never ends.
const maxReferrerPages = 1000

// Referrers implements [storage.Attacher] with one GET for each page. A registry
// without the API answers 404, where one that has it lists none.
func (s *Storage) Referrers(ctx context.Context, d digest.Digest) ([]ocispec.Descriptor, error) {
	c := s.call("list referrers", d.String(), http.MethodGet, "referrers/"+d.String(), actionPull)
	c.header = withHeader("Accept", ocispec.MediaTypeImageIndex)
	if err := d.Validate(); err != nil {
		return nil, c.fail(ctx, invalid("digest %q: %v", tidy(d.String()), err))
	}
	var all []ocispec.Descriptor
	for range maxReferrerPages {
		page, next, err := s.referrersPage(ctx, c)
		var e *storage.Error
		if errors.As(err, &e) && (errors.Is(e.Class, storage.ErrNotFound) || errors.Is(e.Class, storage.ErrInvalid)) {
			e.Class = storage.ErrUnsupported
		}
		if err != nil {
			return nil, err
		}
		all = append(all, page...)
		if next == nil {
			return all, nil
		}
		c.url = next
	}
	return nil, c.fail(ctx, invalid("more than %d pages", maxReferrerPages))
}

func (s *Storage) referrersPage(ctx context.Context, c call) (page []ocispec.Descriptor, next *url.URL, err error) {
	err = s.host.persist(ctx, c.operation, func(attempt int) error {
		resp, err := s.host.try(ctx, c, attempt)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := readBounded(resp, storage.MaxManifest)
		if err != nil {
			return err
		}
		var index ocispec.Index
		if json.Unmarshal(body, &index) != nil {
			return corrupt("the list of referrers is no JSON")
		}
		for _, d := range index.Manifests {
			if d.Digest.Validate() != nil {
				return corrupt("the list of referrers holds %q", tidy(d.Digest.String()))
			}
		}
		page = index.Manifests
		next, err = nextPage(resp.Request.URL, resp.Header)
		return err
	})
	return page, next, err
}
