package registry

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"net/http"
	"net/url"
	"strings"

	"github.com/cairnbuild/cairn/storage"
)

const (
	// tagsPage is how many tags are asked for at once.
	tagsPage = "1000"
	// maxTagsBody bounds one page, in bytes. Some registries ignore how much is
	// asked for: this is more than 900,000 stages.
	maxTagsBody = 64 << 20
	// maxTagPages bounds a listing by a registry that never ends.
	maxTagPages = 100_000
)

// Tags implements [storage.Lister] with one GET for each page. A repository that
// does not exist yet has no tags.
func (s *Storage) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		c := s.call("list tags", "", http.MethodGet, "tags/list", actionPull)
		c.url.RawQuery = "n=" + tagsPage
		for range maxTagPages {
			tags, next, err := s.tagsPage(ctx, c)
			if errors.Is(err, storage.ErrNotFound) {
				return
			}
			if err != nil {
				yield("", err)
				return
			}
			for _, t := range tags {
				if !yield(t, nil) {
					return
				}
			}
			if next == nil {
				return
			}
			c.url = next
		}
		yield("", c.fail(ctx, invalid("more than %d pages", maxTagPages)))
	}
}

// tagsPage fetches one page and returns the address of the next, nil for the last.
func (s *Storage) tagsPage(ctx context.Context, c call) (tags []string, next *url.URL, err error) {
	err = s.host.persist(ctx, c.operation, func(attempt int) error {
		resp, err := s.host.try(ctx, c, attempt)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := readBounded(resp, maxTagsBody)
		if err != nil {
			return err
		}
		if tags, err = parseTags(body); err != nil {
			return err
		}
		next, err = nextPage(resp.Request.URL, resp.Header)
		return err
	})
	return tags, next, err
}

func parseTags(body []byte) ([]string, error) {
	var v struct {
		Tags []string `json:"tags"`
	}
	if err := json.Unmarshal(body, &v); err != nil {
		return nil, corrupt("the list of tags is no JSON")
	}
	for _, t := range v.Tags {
		if storage.CheckTag(t) != nil {
			return nil, corrupt("the list of tags holds %q", tidy(t))
		}
	}
	return v.Tags, nil
}

// nextPage returns the address of the page after the one at u, nil for none. It
// stays on the same host.
func nextPage(u *url.URL, h http.Header) (*url.URL, error) {
	link := nextLink(h.Values("Link"))
	if link == "" {
		return nil, nil
	}
	next, err := follow(u, link)
	if err != nil {
		return nil, err
	}
	if !sameHost(u, next) || next.String() == u.String() {
		return nil, invalid("the list of tags goes on at an address that cannot be its next page")
	}
	return next, nil
}

// nextLink returns the target of the link with relation "next" (RFC 8288), or "".
func nextLink(fields []string) string {
	for _, s := range fields {
		for {
			_, rest, ok := strings.Cut(s, "<")
			if !ok {
				break
			}
			target, params, ok := strings.Cut(rest, ">")
			if !ok {
				break
			}
			own, _, _ := strings.Cut(params, "<")
			if isNext(own) {
				return target
			}
			s = params
		}
	}
	return ""
}

func isNext(params string) bool {
	for p := range strings.SplitSeq(params, ";") {
		name, value, _ := strings.Cut(strings.Trim(p, " \t,"), "=")
		if !strings.EqualFold(strings.TrimSpace(name), "rel") {
			continue
		}
		for rel := range strings.FieldsSeq(strings.Trim(strings.TrimSpace(value), `"`)) {
			if strings.EqualFold(rel, "next") {
				return true
			}
		}
	}
	return false
}
