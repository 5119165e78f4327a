package registry

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"

	"github.com/cairnbuild/cairn/storage"
)

// scope is what a request needs: for repositories, actions in Docker's order.
type scope map[string][]string

// String returns the scope as token servers read it, sorted.
func (s scope) String() string { return strings.Join(s.strings(), " ") }

func (s scope) strings() []string {
	var out []string
	for _, repo := range slices.Sorted(maps.Keys(s)) {
		out = append(out, "repository:"+repo+":"+strings.Join(s[repo], ","))
	}
	return out
}

// covers reports whether a token for s serves a request that needs want.
func (s scope) covers(want scope) bool {
	for repo, actions := range want {
		for _, a := range actions {
			if !slices.Contains(s[repo], a) {
				return false
			}
		}
	}
	return true
}

// authorizer knows how to convince one registry host.
type authorizer struct {
	host     *host
	resource authn.Resource

	mu sync.Mutex
	// learned is the last challenge of the registry; nil before the first.
	learned *challenge
	grants  map[string]*grant
}

// grant is what was obtained for one scope. Only who holds turn obtains it anew.
type grant struct {
	scope scope
	turn  chan struct{}

	// What follows is guarded by the authorizer's mutex.
	header  string
	expires time.Time // zero: not known
	// worked: the registry has accepted a token for this scope.
	worked bool
	// hint is a scope that the registry asked for in other words than ours.
	hint string
	// round counts the times it was asked for, err is the last one's result.
	round int
	err   error
}

func newAuthorizer(h *host, resource authn.Resource) *authorizer {
	return &authorizer{host: h, resource: resource, grants: map[string]*grant{}}
}

// renewals bounds how often one request asks for another token.
const renewals = 4

// authorized sends c, and once more when the registry wants to know who asks, or
// does not accept a token any longer. Where it has accepted one for the same, the
// new token may have been used up by other requests at once, so it asks again.
func (h *host) authorized(ctx context.Context, c call) (*http.Response, error) {
	r := request{method: c.method, url: c.url, header: c.header, body: c.body, kind: KindRegistry, stream: c.stream, unlimited: c.unlimited}
	if !h.owns(c.url) {
		// An upload to another host: credentials are not for it.
		r.kind = KindRedirected
		return h.hop(ctx, r, "", c.stay)
	}
	header, err := h.auth.header(ctx, c.scope)
	if err != nil {
		return nil, err
	}
	for tries := 0; ; tries++ {
		resp, err := h.hopPlain(ctx, r, header, c.stay)
		if err != nil || resp.StatusCode != http.StatusUnauthorized || !h.owns(resp.Request.URL) {
			if err == nil {
				h.auth.accepted(c.scope, header)
			}
			return resp, err
		}
		if tries > 0 && (tries == renewals || !h.auth.worked(c.scope)) {
			return resp, nil
		}
		challenges := parseChallenges(resp.Header)
		refused := refusalOf(resp)
		header, err = h.auth.renew(ctx, c.scope, challenges, header)
		if errors.Is(err, errNoWay) {
			return nil, fmt.Errorf("%w (%w)", refused, err)
		}
		if err != nil {
			return nil, err
		}
	}
}

// accepted notes that the registry took header for what s allows.
func (a *authorizer) accepted(s scope, header string) {
	if header == "" {
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	a.grant(s).worked = true
}

func (a *authorizer) worked(s scope) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.grant(s).worked
}

// errNoWay: there is nothing with which the registry could be convinced.
var errNoWay = errors.New("no usable credentials")

// header returns the Authorization for a request before the registry has been
// asked: what is known to work, or nothing while the registry is not known.
func (a *authorizer) header(ctx context.Context, want scope) (string, error) {
	a.mu.Lock()
	learned := a.learned
	for _, g := range a.grants {
		if learned != nil && g.header != "" && g.scope.covers(want) && a.fresh(g) {
			a.mu.Unlock()
			return g.header, nil
		}
	}
	a.mu.Unlock()
	if learned == nil {
		return "", nil
	}
	header, err := a.obtain(ctx, want, *learned, "")
	if errors.Is(err, errNoWay) {
		return "", nil // perhaps this request needs none
	}
	return header, err
}

// fresh reports whether the grant may be used; the mutex is held.
func (a *authorizer) fresh(g *grant) bool {
	now := a.host.o.Now
	return g.expires.IsZero() || now == nil || now().Before(g.expires)
}

// renew returns another Authorization than stale, which the registry refused.
func (a *authorizer) renew(ctx context.Context, want scope, offered []challenge, stale string) (string, error) {
	ch, ok := choose(offered)
	if !ok {
		return "", fmt.Errorf("%w: the registry names no way that is known here (Bearer, Basic)", errNoWay)
	}
	a.mu.Lock()
	a.learned = &ch
	for _, g := range a.grants {
		if g.header == stale {
			g.header = ""
		}
	}
	a.grant(want).hint = ch.params["scope"]
	a.mu.Unlock()
	return a.obtain(ctx, want, ch, stale)
}

// choose prefers a token over a password on the way.
func choose(offered []challenge) (challenge, bool) {
	for _, scheme := range []string{"bearer", "basic"} {
		for _, c := range offered {
			if c.scheme == scheme && (scheme == "basic" || c.params["realm"] != "") {
				return c, true
			}
		}
	}
	return challenge{}, false
}

// grant returns the one for s; the mutex is held.
func (a *authorizer) grant(s scope) *grant {
	key := s.String()
	g, ok := a.grants[key]
	if !ok {
		g = &grant{scope: s, turn: make(chan struct{}, 1)}
		a.grants[key] = g
	}
	return g
}

// obtain gets an Authorization other than stale. Of concurrent callers one asks,
// and the others take its result.
func (a *authorizer) obtain(ctx context.Context, want scope, ch challenge, stale string) (string, error) {
	a.mu.Lock()
	g := a.grant(want)
	round := g.round
	a.mu.Unlock()
	select {
	case g.turn <- struct{}{}:
		defer func() { <-g.turn }()
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
	a.mu.Lock()
	header, err, hint, other := g.header, g.err, g.hint, g.round != round
	usable := header != "" && (header != stale || other) && a.fresh(g)
	a.mu.Unlock()
	if usable || other && err != nil {
		return header, err
	}
	header, expires, err := a.ask(ctx, want, hint, ch)
	if ctx.Err() != nil {
		return "", context.Cause(ctx) // says nothing to those who wait
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	g.header, g.expires, g.err = header, expires, err
	g.round++
	return header, err
}

// ask makes an Authorization from the keychain and, for tokens, the token server.
func (a *authorizer) ask(ctx context.Context, want scope, hint string, ch challenge) (string, time.Time, error) {
	cred, err := a.credentials(ctx)
	if err != nil {
		return "", time.Time{}, err
	}
	switch {
	case cred.RegistryToken != "":
		return "Bearer " + cred.RegistryToken, time.Time{}, nil
	case ch.scheme == "basic" && cred.Auth != "":
		return "Basic " + cred.Auth, time.Time{}, nil
	case ch.scheme == "basic":
		return "", time.Time{}, fmt.Errorf("%w for %s; log in first, for instance with docker login %s", errNoWay, a.host.name, a.host.name)
	}
	scopes := want.strings()
	if hint != "" && !slices.Contains(scopes, hint) {
		scopes = append(scopes, hint)
	}
	return a.exchange(ctx, ch, cred, scopes)
}

// credentials asks the keychain anew each time: a helper may have fresher ones.
func (a *authorizer) credentials(ctx context.Context) (authn.AuthConfig, error) {
	found, err := authn.Resolve(ctx, a.host.o.Keychain, a.resource)
	var cred *authn.AuthConfig
	if err == nil {
		cred, err = authn.Authorization(ctx, found)
	}
	if err != nil {
		// The text may be a helper's output: it is left out, for what it may hold.
		return authn.AuthConfig{}, &fault{storage.ErrUnauthorized, "the keychain has failed for " + a.host.name + "; check Docker's configuration and its credential helpers"}
	}
	out := *cred
	if out.Auth == "" && out.Username != "" {
		out.Auth = base64.StdEncoding.EncodeToString([]byte(out.Username + ":" + out.Password))
	}
	return out, nil
}
