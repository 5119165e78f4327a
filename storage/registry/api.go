package registry

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
)

// tagAPI is how a product removes names beside the distribution API. Which of the two
// it can do it says by an error of class [storage.ErrUnsupported] for the other.
type tagAPI interface {
	// deleteTag removes a tag and leaves what else names its manifest.
	deleteTag(ctx context.Context, op operation, tag string) error
	// deleteManifest removes a manifest with all its tags.
	deleteManifest(ctx context.Context, op operation, d digest.Digest) error
}

// tagsOnly is a [tagAPI] that removes no manifests.
type tagsOnly struct{}

func (tagsOnly) deleteManifest(ctx context.Context, op operation, _ digest.Digest) error {
	return op.fail(ctx, &fault{storage.ErrUnsupported, "manifests are not deleted by this API"})
}

// maxAPIBody bounds the answer of an API, in bytes.
const maxAPIBody = 8 << 20

// ask sends a request to a product's API, tries again what may pass and waits as it
// is asked to, and reads the answer into into, which may be nil. It follows no
// redirect: the request carries credentials.
func (s *Storage) ask(ctx context.Context, op operation, r request, into any) error {
	r.kind = KindRegistry
	return s.host.persist(ctx, op, func(attempt int) error {
		resp, err := s.host.send(ctx, r)
		if err != nil {
			return err
		}
		if resp.StatusCode/100 != 2 {
			refused := refusalOf(resp)
			refused.attempt = attempt
			return refused
		}
		defer discard(resp)
		if into == nil {
			return nil
		}
		body, err := readBounded(resp, maxAPIBody)
		if err != nil {
			return err
		}
		if err := json.Unmarshal(body, into); err != nil {
			return corrupt("the answer of the API is no JSON of the expected form")
		}
		return nil
	})
}

// gone makes a deletion of what is not there, after an attempt whose answer was lost,
// a success.
func gone(err error) error {
	var r *refusal
	if errors.As(err, &r) && r.status == http.StatusNotFound && r.attempt > 1 {
		return nil
	}
	return err
}

// basic returns a header with the keychain's login for the registry.
func (s *Storage) basic(ctx context.Context) (http.Header, error) {
	cred, err := s.host.auth.credentials(ctx)
	if err != nil {
		return nil, err
	}
	if cred.Auth == "" {
		return nil, &fault{storage.ErrUnauthorized, "there is no login with a password for " + s.host.name}
	}
	return withHeader("Authorization", "Basic "+cred.Auth), nil
}

// secret returns the keychain's user and password or token for the registry.
func (s *Storage) secret(ctx context.Context) (user, password string, err error) {
	cred, err := s.host.auth.credentials(ctx)
	if err != nil {
		return "", "", err
	}
	if cred.Password == "" {
		return "", "", &fault{storage.ErrUnauthorized, "there is no login with a password or token for " + s.host.name}
	}
	return cred.Username, cred.Password, nil
}

// escaped returns an address whose path has been escaped already.
func escaped(base *url.URL, path string) (*url.URL, error) {
	u, err := url.Parse(strings.TrimSuffix(base.String(), "/") + path)
	if err != nil {
		return nil, invalid("the address of the API cannot be made")
	}
	return u, nil
}

func jsonPayload(v any) (payload, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return payload{}, fmt.Errorf("encode a request: %w", err)
	}
	return bytesPayload(b), nil
}

func bytesPayload(b []byte) payload {
	return payload{open: func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }, size: int64(len(b))}
}

func readPayload(p payload) ([]byte, error) {
	if p.size == 0 {
		return nil, nil
	}
	r, err := p.open()
	if err != nil {
		return nil, err
	}
	defer r.Close() // it was only read
	return io.ReadAll(r)
}

// harbor is the API of Harbor 2: DELETE …/artifacts/TAG/tags/TAG. Its distribution API
// deletes by digest only, and the tags with it.
type harbor struct {
	tagsOnly
	s *Storage
}

func newHarbor(s *Storage, _ *url.URL) tagAPI { return harbor{s: s} }

func (h harbor) deleteTag(ctx context.Context, op operation, tag string) error {
	project, repository, _ := strings.Cut(h.s.repo.RepositoryStr(), "/")
	// A slash in a repository's name is escaped twice, as Harbor's documents want it.
	name := url.PathEscape(url.PathEscape(repository))
	base := &url.URL{Scheme: h.s.host.scheme(), Host: h.s.host.name}
	u, err := escaped(base, "/api/v2.0/projects/"+url.PathEscape(project)+"/repositories/"+name+"/artifacts/"+tag+"/tags/"+tag)
	if err != nil {
		return op.fail(ctx, err)
	}
	header, err := h.s.basic(ctx)
	if err != nil {
		return op.fail(ctx, err)
	}
	err = h.s.ask(ctx, op, request{method: http.MethodDelete, url: u, header: header}, nil)
	if statusOf(err) == http.StatusPreconditionFailed {
		return op.fail(ctx, &fault{storage.ErrDenied, "an immutability rule of the project keeps the tag: have it not match Cairn's tags"})
	}
	return gone(err)
}

// gitlab is GitLab's API, for servers whose registry does not delete tags itself. It is
// where tokens come from. Its bulk deletion runs later, at most once an hour, and may
// be cut short, so nobody would know when a tag has gone: tags go one by one.
type gitlab struct {
	tagsOnly
	s    *Storage
	base *url.URL
}

func newGitLab(s *Storage, realm *url.URL) tagAPI {
	base := *realm
	base.Path, base.RawPath, base.RawQuery = strings.TrimSuffix(realm.Path, "/jwt/auth"), "", ""
	return gitlab{s: s, base: &base}
}

func (g gitlab) deleteTag(ctx context.Context, op operation, tag string) error {
	_, token, err := g.s.secret(ctx)
	if err != nil {
		return op.fail(ctx, err)
	}
	header := withHeader("Private-Token", token)
	path, err := g.repository(ctx, op, header)
	if err != nil {
		return err
	}
	u, err := escaped(g.base, path+"/tags/"+tag)
	if err != nil {
		return op.fail(ctx, err)
	}
	return gone(g.s.ask(ctx, op, request{method: http.MethodDelete, url: u, header: header}, nil))
}

// repository finds the repository's path in the API. Which part of its name is the
// project's only GitLab knows.
func (g gitlab) repository(ctx context.Context, op operation, header http.Header) (string, error) {
	name := g.s.repo.RepositoryStr()
	if known, ok := g.s.deletions.found.Load(name); ok {
		return known.(string), nil //nolint:forcetypeassert // nothing else is stored
	}
	parts := strings.Split(name, "/")
	for n := len(parts); n >= 2; n-- {
		project := "/api/v4/projects/" + url.PathEscape(strings.Join(parts[:n], "/")) + "/registry/repositories"
		for page := 1; page <= maxAPIPages; page++ {
			u, err := escaped(g.base, fmt.Sprintf("%s?per_page=%d&page=%d", project, apiPage, page))
			if err != nil {
				return "", op.fail(ctx, err)
			}
			var all []struct {
				ID   int64  `json:"id"`
				Path string `json:"path"`
			}
			err = g.s.ask(ctx, op, request{method: http.MethodGet, url: u, header: header}, &all)
			if errors.Is(err, storage.ErrNotFound) {
				break // no such project
			}
			if err != nil {
				return "", err
			}
			for _, r := range all {
				if r.Path == name {
					path := fmt.Sprintf("%s/%d", project, r.ID)
					g.s.deletions.found.Store(name, path)
					return path, nil
				}
			}
			if len(all) < apiPage {
				break
			}
		}
	}
	return "", op.fail(ctx, &fault{storage.ErrDenied, "the token sees no project of GitLab with the repository " + name + " (scope api)"})
}

// Pages of APIs that list.
const (
	apiPage     = 100
	maxAPIPages = 1000
)

// acr is the API of Azure, which takes the tokens of the registry itself.
type acr struct {
	tagsOnly
	s *Storage
}

func newACR(s *Storage, _ *url.URL) tagAPI { return acr{s: s} }

func (a acr) deleteTag(ctx context.Context, op operation, tag string) error {
	c := a.s.call(op.op, op.subject, http.MethodDelete, "", actionPull, actionDelete)
	c.url.Path = "/acr/v1/" + a.s.repo.RepositoryStr() + "/_tags/" + tag
	resp, err := a.s.host.do(ctx, c)
	if err != nil {
		return gone(err)
	}
	discard(resp)
	return nil
}

// hub is the API of Docker Hub, whose registry deletes nothing.
type hub struct {
	tagsOnly
	s    *Storage
	base *url.URL
}

func newHub(s *Storage, _ *url.URL) tagAPI {
	return hub{s: s, base: &url.URL{Scheme: "https", Host: "hub.docker.com"}}
}

func (h hub) deleteTag(ctx context.Context, op operation, tag string) error {
	user, password, err := h.s.secret(ctx)
	if err != nil {
		return op.fail(ctx, err)
	}
	body, err := jsonPayload(map[string]string{"identifier": user, "secret": password})
	if err != nil {
		return err
	}
	var token struct {
		Access string `json:"access_token"`
	}
	login := request{method: http.MethodPost, url: h.base.JoinPath("v2", "auth", "token"), header: withHeader("Content-Type", "application/json"), body: body}
	if err := h.s.ask(ctx, op, login, &token); err != nil {
		return err
	}
	u := h.base.JoinPath("v2", "repositories", h.s.repo.RepositoryStr(), "tags", tag, "/")
	return gone(h.s.ask(ctx, op, request{method: http.MethodDelete, url: u, header: withHeader("Authorization", "Bearer "+token.Access)}, nil))
}

// ghcr is GitHub's API of packages. It deletes versions, which are manifests with all
// their tags, so a tag is put on the tomb first.
type ghcr struct {
	s    *Storage
	base *url.URL
}

func newGHCR(s *Storage, _ *url.URL) tagAPI {
	return ghcr{s: s, base: &url.URL{Scheme: "https", Host: "api.github.com"}}
}

func (g ghcr) deleteTag(ctx context.Context, op operation, _ string) error {
	return op.fail(ctx, &fault{storage.ErrUnsupported, "GitHub deletes versions of packages, and no single tag"})
}

func (g ghcr) deleteManifest(ctx context.Context, op operation, d digest.Digest) error {
	_, token, err := g.s.secret(ctx)
	if err != nil {
		return op.fail(ctx, err)
	}
	header := withHeader("Authorization", "Bearer "+token)
	header.Set("Accept", "application/vnd.github+json")
	header.Set("X-Github-Api-Version", "2022-11-28")
	owner, name, _ := strings.Cut(g.s.repo.RepositoryStr(), "/")
	for _, kind := range []string{"orgs", "users"} {
		path := "/" + kind + "/" + url.PathEscape(owner) + "/packages/container/" + url.PathEscape(name) + "/versions"
		id, err := g.version(ctx, op, header, path, d)
		if errors.Is(err, storage.ErrNotFound) {
			continue // it is the other kind of owner, or not there
		}
		if err != nil {
			return err
		}
		u, err := escaped(g.base, fmt.Sprintf("%s/%d", path, id))
		if err != nil {
			return op.fail(ctx, err)
		}
		return gone(g.s.ask(ctx, op, request{method: http.MethodDelete, url: u, header: header}, nil))
	}
	return op.fail(ctx, &fault{storage.ErrNotFound, "the package has no such version"})
}

// version finds the number of a manifest, the newest first.
func (g ghcr) version(ctx context.Context, op operation, header http.Header, path string, d digest.Digest) (int64, error) {
	for page := 1; page <= maxAPIPages; page++ {
		u, err := escaped(g.base, fmt.Sprintf("%s?per_page=%d&page=%d", path, apiPage, page))
		if err != nil {
			return 0, op.fail(ctx, err)
		}
		var all []struct {
			ID   int64         `json:"id"`
			Name digest.Digest `json:"name"`
		}
		if err := g.s.ask(ctx, op, request{method: http.MethodGet, url: u, header: header}, &all); err != nil {
			return 0, err
		}
		for _, v := range all {
			if v.Name == d {
				return v.ID, nil
			}
		}
		if len(all) < apiPage {
			break
		}
	}
	return 0, op.fail(ctx, &fault{storage.ErrNotFound, "the package has no such version"})
}
