package registry

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
)

// maxRedirects bounds the hops of one request.
const maxRedirects = 5

// isRedirect reports whether the status names another address for the same request.
func isRedirect(status int) bool {
	return slices.Contains([]int{
		http.StatusMovedPermanently, http.StatusFound, http.StatusSeeOther,
		http.StatusTemporaryRedirect, http.StatusPermanentRedirect,
	}, status)
}

// hop sends r, with authorization where it is not empty, and follows redirects of
// reads. Credentials never go to another host than the one that r names. With
// stay, a temporary redirect to another host is returned as the answer.
func (h *host) hop(ctx context.Context, r request, authorization string, stay bool) (*http.Response, error) {
	origin := r.url
	plain := r.header
	for range maxRedirects {
		r.header = plain
		if authorization != "" && sameHost(origin, r.url) {
			r.header = withAuthorization(plain, authorization)
		}
		resp, err := h.send(ctx, r)
		if err != nil {
			return nil, err
		}
		reads := r.method == http.MethodGet || r.method == http.MethodHead
		if !reads || !isRedirect(resp.StatusCode) {
			return resp, nil
		}
		next, err := follow(r.url, resp.Header.Get("Location"))
		moved := resp.StatusCode == http.StatusMovedPermanently || resp.StatusCode == http.StatusPermanentRedirect
		if err == nil && stay && !moved && !sameHost(origin, next) {
			return resp, nil
		}
		discard(resp)
		if err != nil {
			return nil, err
		}
		r.url = next
		if !sameHost(origin, next) && r.kind == KindRegistry {
			r.kind = KindRedirected
		}
	}
	return nil, fmt.Errorf("%w: more than %d redirects", errUnsafeURL, maxRedirects)
}

func withAuthorization(plain http.Header, authorization string) http.Header {
	h := plain.Clone()
	if h == nil {
		h = http.Header{}
	}
	h.Set("Authorization", authorization)
	return h
}

// hopPlain is [host.hop] for an address on the registry itself. Addresses of this
// machine are asked with TLS first: where that meets a plain HTTP server, no
// request was sent, and plain HTTP is spoken from then on.
func (h *host) hopPlain(ctx context.Context, r request, authorization string, stay bool) (*http.Response, error) {
	h.adapt(&r)
	resp, err := h.hop(ctx, r, authorization, stay)
	if err == nil || !notTLS(err) || r.url.Scheme != "https" || !loopback(h.name) || !h.owns(r.url) {
		return resp, err
	}
	h.plain.Store(true)
	h.adapt(&r)
	return h.hop(ctx, r, authorization, stay)
}

// adapt gives an address on this host the scheme that the host was found to speak.
func (h *host) adapt(r *request) {
	if h.owns(r.url) && r.url.Scheme != h.scheme() {
		u := *r.url
		u.Scheme = h.scheme()
		r.url = &u
	}
}

// owns reports whether u is on this host.
func (h *host) owns(u *url.URL) bool {
	return u.Host == h.name || sameHost(u, &url.URL{Scheme: h.scheme(), Host: h.name})
}

func notTLS(err error) bool {
	return errors.Is(err, http.ErrSchemeMismatch) || errors.As(err, new(tls.RecordHeaderError))
}
