package registry

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
)

const (
	// maxTokenBody bounds a token server's answer, in bytes.
	maxTokenBody = 64 << 10
	// tokenLife is what a token lives that says nothing, by Docker's specification.
	tokenLife = 60 * time.Second
)

// exchange gets a token for scopes from the server that the challenge names:
// by GET, or with an identity token by POST as OAuth 2 has it.
func (a *authorizer) exchange(ctx context.Context, ch challenge, cred authn.AuthConfig, scopes []string) (string, time.Time, error) {
	realm, err := follow(&url.URL{Scheme: a.host.scheme(), Host: a.host.name}, ch.params["realm"])
	if err != nil {
		return "", time.Time{}, err
	}
	service := ch.params["service"]
	if cred.IdentityToken != "" {
		header, expires, err := a.token(ctx, oauthRequest(realm, service, scopes, cred))
		if status := refusedStatus(err); status != http.StatusNotFound && status != http.StatusMethodNotAllowed {
			return header, expires, err
		}
	}
	return a.token(ctx, tokenRequest(realm, service, scopes, cred))
}

func tokenRequest(realm *url.URL, service string, scopes []string, cred authn.AuthConfig) request {
	u := *realm
	q := u.Query()
	if service != "" {
		q.Set("service", service)
	}
	for _, s := range scopes {
		q.Add("scope", s)
	}
	u.RawQuery = q.Encode()
	r := request{method: http.MethodGet, url: &u, kind: KindAuth, unlimited: true}
	if cred.Auth != "" {
		r.header = withHeader("Authorization", "Basic "+cred.Auth)
	}
	return r
}

func oauthRequest(realm *url.URL, service string, scopes []string, cred authn.AuthConfig) request {
	form := url.Values{
		"grant_type":    {"refresh_token"},
		"refresh_token": {cred.IdentityToken},
		"client_id":     {"cairn"},
		"scope":         {strings.Join(scopes, " ")},
	}
	if service != "" {
		form.Set("service", service)
	}
	body := form.Encode()
	return request{
		method: http.MethodPost, url: realm, kind: KindAuth, unlimited: true,
		header: withHeader("Content-Type", "application/x-www-form-urlencoded"),
		body: payload{
			open: func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(body)), nil },
			size: int64(len(body)),
		},
	}
}

// token sends r, which has the credentials already, and reads the token. It
// follows no redirect: the credentials are for the realm alone.
func (a *authorizer) token(ctx context.Context, r request) (string, time.Time, error) {
	resp, err := a.host.send(ctx, r)
	if err != nil {
		return "", time.Time{}, err
	}
	if resp.StatusCode != http.StatusOK {
		refused := refusalOf(resp)
		refused.token = true
		return "", time.Time{}, refused
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxTokenBody))
	if err != nil {
		return "", time.Time{}, err
	}
	token, life, err := parseToken(body)
	if err != nil {
		return "", time.Time{}, err
	}
	return "Bearer " + token, a.expiry(life), nil
}

// expiry leaves a part of the token's life unused, for the way of the request.
func (a *authorizer) expiry(life time.Duration) time.Time {
	if a.host.o.Now == nil {
		return time.Time{}
	}
	return a.host.o.Now().Add(life - min(life/10, 10*time.Second))
}

func parseToken(body []byte) (token string, life time.Duration, err error) {
	var v struct {
		Token       string `json:"token"`
		AccessToken string `json:"access_token"`
		ExpiresIn   int64  `json:"expires_in"`
	}
	if json.Unmarshal(body, &v) != nil {
		return "", 0, invalid("the token server's answer is no JSON")
	}
	token = v.Token
	if token == "" {
		token = v.AccessToken
	}
	if token == "" || strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return "", 0, invalid("the token server's answer holds no usable token")
	}
	life = tokenLife
	if v.ExpiresIn > 0 {
		life = time.Duration(min(v.ExpiresIn, 7*24*3600)) * time.Second
	}
	return token, life, nil
}

func refusedStatus(err error) int {
	var r *refusal
	if errors.As(err, &r) {
		return r.status
	}
	return 0
}
