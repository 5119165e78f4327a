package registry

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	inprocess "github.com/google/go-containerregistry/pkg/registry"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// tokens is a token server and a registry that wants its tokens.
type tokens struct {
	*httptest.Server
	registry *faulty

	mu     sync.Mutex
	serial int
	// valid is what each token allows.
	valid map[string]string
	// asked are the scopes of each request for a token, with the way of asking.
	asked []string
	// refuse is the status with which requests for tokens are refused; 0 does not.
	refuse int
}

func newTokens(t *testing.T) *tokens {
	t.Helper()
	k := &tokens{valid: map[string]string{}}
	k.Server = httptest.NewServer(http.HandlerFunc(k.issue))
	t.Cleanup(k.Close)
	k.registry = newFaulty(t, k.guard(inprocess.New(inprocess.Logger(log.New(io.Discard, "", 0)))))
	return k
}

func (k *tokens) issue(w http.ResponseWriter, r *http.Request) {
	k.mu.Lock()
	defer k.mu.Unlock()
	scope, how := strings.Join(r.URL.Query()["scope"], " "), "GET"
	if r.Method == http.MethodPost {
		scope, how = r.FormValue("scope"), "POST "+r.FormValue("refresh_token")
	} else if user, _, ok := r.BasicAuth(); ok {
		how += " " + user
	}
	k.asked = append(k.asked, how+" "+scope)
	if k.refuse != 0 {
		w.WriteHeader(k.refuse)
		_, _ = io.WriteString(w, `{"details":"no such user"}`)
		return
	}
	k.serial++
	token := fmt.Sprintf("token-%d", k.serial)
	k.valid[token] = scope
	_ = json.NewEncoder(w).Encode(map[string]any{"token": token, "expires_in": 300})
}

func (k *tokens) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		k.mu.Lock()
		scope, ok := k.valid[strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")]
		k.mu.Unlock()
		write := r.Method != http.MethodGet && r.Method != http.MethodHead
		if !ok || write && !strings.Contains(scope, "push") {
			w.Header().Add("Www-Authenticate", `Negotiate, Basic realm="x"`)
			w.Header().Add("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="test, registry"`, k.URL))
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// revoke has the registry forget all tokens.
func (k *tokens) revoke() {
	k.mu.Lock()
	defer k.mu.Unlock()
	clear(k.valid)
}

func (k *tokens) requests() []string {
	k.mu.Lock()
	defer k.mu.Unlock()
	out := k.asked
	k.asked = nil
	return out
}

func wantAsked(t *testing.T, k *tokens, want ...string) {
	t.Helper()
	if got := k.requests(); !slices.Equal(got, want) {
		t.Errorf("asked for tokens %q, want %q", got, want)
	}
}

func TestTokensAreKeptUntilTheyExpireOrAreRefused(t *testing.T) {
	k := newTokens(t)
	rec := &recorder{}
	o := rec.options()
	now := time.Unix(1e9, 0)
	o.Now = func() time.Time { return now }
	o.Keychain = credentials{Username: "ann", Password: "s3cret-pass"}
	s := newStorage(t, k.registry.address("shop/stages"), o)

	_, err := s.Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrNotFound)
	wantAsked(t, k, "GET ann repository:shop/stages:pull")

	m := pushImage(t, s, 1)
	wantAsked(t, k, "GET ann repository:shop/stages:pull,push")
	wantClass(t, s.Publish(t.Context(), "one", m), nil)
	_, err = s.Resolve(t.Context(), "one")
	wantClass(t, err, nil)
	wantAsked(t, k)

	now = now.Add(5 * time.Minute)
	k.registry.fault(nil)
	_, err = s.Resolve(t.Context(), "one")
	wantClass(t, err, nil)
	wantAsked(t, k, "GET ann repository:shop/stages:pull")
	if got := k.registry.requests(); got != "HEAD" {
		t.Errorf("sent %s, want no request with a token known to have expired", got)
	}

	k.revoke()
	k.registry.fault(nil)
	_, err = s.Resolve(t.Context(), "one")
	wantClass(t, err, nil)
	wantAsked(t, k, "GET ann repository:shop/stages:pull")
	if got := k.registry.requests(); got != "HEAD HEAD" {
		t.Errorf("sent %s, want one more than was refused", got)
	}
	b := noise(5, 10)
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
	if got := rec.slept(); len(got) != 0 {
		t.Errorf("slept %v for tokens", got)
	}
}

func TestATokenThatEndsInTheMiddleOfAnUploadIsRenewed(t *testing.T) {
	k := newTokens(t)
	s := newStorage(t, k.registry.address("shop/stages"), (&recorder{}).options())
	revoke := sync.OnceFunc(k.revoke)
	k.registry.fault(func(_ http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodPut {
			revoke()
		}
		return false
	})
	b := noise(1, 100_000)
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
	if got, err := read(t, s, blobOf(b)); err != nil || string(got) != string(b) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
}

func TestConcurrentRequestsShareOneToken(t *testing.T) {
	k := newTokens(t)
	s := newStorage(t, k.registry.address("shop/stages"), (&recorder{}).options())
	var g errgroup.Group
	for i := range 20 {
		g.Go(func() error { return is(storage.ErrNotFound)(s.Resolve(t.Context(), fmt.Sprint("tag", i))) })
	}
	if err := g.Wait(); err != nil {
		t.Error(err)
	}
	wantAsked(t, k, "GET repository:shop/stages:pull")
}

func TestARefusedTokenIsUnauthorizedForAllWhoWait(t *testing.T) {
	k := newTokens(t)
	k.refuse = http.StatusForbidden
	o := (&recorder{}).options()
	o.Keychain = credentials{Username: "ann", Password: "s3cret-pass"}
	s := newStorage(t, k.registry.address("shop/stages"), o)
	_, err := s.Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrUnauthorized)
	if !strings.Contains(err.Error(), "no such user") || strings.Contains(err.Error(), "s3cret") {
		t.Errorf("got %v", err)
	}
	wantAsked(t, k, "GET ann repository:shop/stages:pull")
}

func TestATokenServerThatIsBusyIsAskedAgain(t *testing.T) {
	k := newTokens(t)
	k.refuse = http.StatusServiceUnavailable
	rec := &recorder{}
	s := newStorage(t, k.registry.address("shop/stages"), rec.options())
	_, err := s.Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrTransient)
	if got := k.requests(); len(got) != 5 || len(rec.slept()) != 4 {
		t.Errorf("asked %q and slept %v", got, rec.slept())
	}
}

func TestAnIdentityTokenIsPosted(t *testing.T) {
	k := newTokens(t)
	o := (&recorder{}).options()
	o.Keychain = credentials{IdentityToken: "identity"}
	s := newStorage(t, k.registry.address("shop/stages"), o)
	wantClass(t, is(storage.ErrNotFound)(s.Resolve(t.Context(), "one")), nil)
	wantAsked(t, k, "POST identity repository:shop/stages:pull")
}

func TestAMountNeedsTheNeighbourToo(t *testing.T) {
	k := newTokens(t)
	s := newStorage(t, k.registry.address("shop/stages"), (&recorder{}).options())
	_, err := s.MountBlob(t.Context(), blobOf([]byte("x")), k.registry.address("base/image"))
	wantClass(t, err, nil)
	wantAsked(t, k, "GET repository:base/image:pull repository:shop/stages:pull,push")
}

func TestARegistryTokenIsUsedAsItIs(t *testing.T) {
	k := newTokens(t)
	k.valid["ready-made"] = "pull,push"
	o := (&recorder{}).options()
	o.Keychain = credentials{RegistryToken: "ready-made"}
	s := newStorage(t, k.registry.address("shop/stages"), o)
	pushImage(t, s, 1)
	wantAsked(t, k)
}

func TestRealmsThatAreNotSafeAreNotAsked(t *testing.T) {
	for _, realm := range []string{"http://192.0.2.1/token", "ftp://127.0.0.1/", "http://%zz"} {
		f := newFaulty(t, nil)
		f.fault(answer("", 401, map[string]string{"Www-Authenticate": `Bearer realm="` + realm + `"`}, ""))
		_, err := newStorage(t, f.address("shop/stages"), (&recorder{}).options()).Resolve(t.Context(), "one")
		wantClass(t, err, storage.ErrInvalid)
	}
}

type brokenKeychain struct{}

func (brokenKeychain) Resolve(authn.Resource) (authn.Authenticator, error) {
	return nil, errors.New("helper said: password=s3cret-pass")
}

func TestABrokenKeychainIsUnauthorizedAndShowsNothing(t *testing.T) {
	k := newTokens(t)
	o := (&recorder{}).options()
	o.Keychain = brokenKeychain{}
	_, err := newStorage(t, k.registry.address("shop/stages"), o).Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrUnauthorized)
	if strings.Contains(err.Error(), "s3cret") {
		t.Errorf("the error shows what the helper said: %v", err)
	}
}

func TestCredentialsStayOnTheirHost(t *testing.T) {
	b := noise(1, 1000)
	var mu sync.Mutex
	var leaked []string
	bucket := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		if r.Header.Get("Authorization") != "" {
			leaked = append(leaked, r.Method)
		}
		if r.Method == http.MethodPut {
			w.WriteHeader(http.StatusCreated)
			return
		}
		_, _ = w.Write(b)
	}))
	t.Cleanup(bucket.Close)
	k := newTokens(t)
	rec := &recorder{}
	o := rec.options()
	o.Keychain = credentials{Username: "ann", Password: "s3cret-pass"}
	s := newStorage(t, k.registry.address("shop/stages"), o)
	_, err := s.Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrNotFound)

	away := func(method string, status int) hook {
		return answer(method, status, map[string]string{"Location": bucket.URL + "/blob?sig=secret"}, "")
	}
	k.registry.fault(away("GET", 307))
	if got, err := read(t, s, blobOf(b)); err != nil || string(got) != string(b) {
		t.Errorf("read %d bytes, %v", len(got), err)
	}
	k.registry.fault(away("HEAD", 307))
	wantClass(t, truth(s.HasBlob(t.Context(), blobOf(b))), nil)
	k.registry.fault(away("POST", 202))
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
	mu.Lock()
	defer mu.Unlock()
	if len(leaked) > 0 {
		t.Errorf("credentials went to another host with %v", leaked)
	}
	if got := rec.sent(KindRedirected); !slices.Equal(got, []string{"GET OK", "PUT Created"}) {
		t.Errorf("redirected were %q", got)
	}
}

func TestAnUploadIsNotSentDownToPlainHTTP(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	f.fault(answer("POST", 202, map[string]string{"Location": "http://192.0.2.1/upload?sig=secret"}, ""))
	b := noise(1, 10)
	err := s.PushBlob(t.Context(), blobOf(b), content(b))
	wantClass(t, err, storage.ErrInvalid)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("the error shows the signature: %v", err)
	}
}

func TestDockersCredentialHelpersAreAsked(t *testing.T) {
	k := newTokens(t)
	dir := t.TempDir()
	host := strings.TrimSuffix(k.registry.address(""), "/")
	files := map[string]string{
		"config.json":             fmt.Sprintf(`{"credHelpers":{%q:"shelf"}}`, host),
		"docker-credential-shelf": "#!/bin/sh\necho '{\"Username\":\"ann\",\"Secret\":\"s3cret-pass\"}'\n",
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("DOCKER_CONFIG", dir)
	t.Setenv("PATH", dir+string(os.PathListSeparator)+os.Getenv("PATH"))
	o := (&recorder{}).options()
	o.Keychain = nil
	s := newStorage(t, host+"/shop/stages", o)
	wantClass(t, is(storage.ErrNotFound)(s.Resolve(t.Context(), "one")), nil)
	wantAsked(t, k, "GET ann repository:shop/stages:pull")
}
