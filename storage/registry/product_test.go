package registry

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	inprocess "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
)

// fakeProduct is a registry with a product's manners: how it asks who is there, what
// its distribution API deletes, and an API beside it.
type fakeProduct struct {
	*faulty
	inner http.Handler
	// realm and service are those of the challenge.
	realm, service string
	// plain answers deletions of the distribution API, api what is no such request;
	// they report whether they did.
	plain, api func(w http.ResponseWriter, r *http.Request) bool
	// calls are the requests to the API, with their escaped paths.
	calls []string
}

func newFakeProduct(t *testing.T, f *fakeProduct) *fakeProduct {
	t.Helper()
	f.inner = inprocess.New(inprocess.Logger(log.New(io.Discard, "", 0)))
	f.faulty = newFaulty(t, http.HandlerFunc(f.serve))
	return f
}

func (f *fakeProduct) serve(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.URL.Path == f.realm:
		fmt.Fprint(w, `{"token":"a-token","expires_in":300}`)
	case !strings.HasPrefix(r.URL.Path, "/v2/"):
		f.mu.Lock()
		f.calls = append(f.calls, r.Method+" "+r.URL.EscapedPath())
		f.mu.Unlock()
		if !f.api(w, r) {
			http.NotFound(w, r)
		}
	case r.Header.Get("Authorization") != "Bearer a-token":
		w.Header().Set("WWW-Authenticate", fmt.Sprintf(`Bearer realm="http://%s%s",service=%q`, r.Host, f.realm, f.service))
		w.WriteHeader(http.StatusUnauthorized)
	case r.Method == http.MethodDelete && f.plain(w, r):
	default:
		f.inner.ServeHTTP(w, r)
	}
}

// remove deletes a tag alone, as a product's own database would.
func (f *fakeProduct) remove(w http.ResponseWriter, r *http.Request, repository, tag string) {
	rec := httptest.NewRecorder()
	req := httptest.NewRequestWithContext(r.Context(), http.MethodDelete, "/v2/"+repository+"/manifests/"+tag, nil)
	f.inner.ServeHTTP(rec, req)
	if rec.Code != http.StatusAccepted {
		w.WriteHeader(http.StatusNotFound)
	}
}

// removeAll deletes a manifest with all its tags.
func (f *fakeProduct) removeAll(w http.ResponseWriter, r *http.Request, repository, digest string) {
	rec := httptest.NewRecorder()
	f.inner.ServeHTTP(rec, httptest.NewRequestWithContext(r.Context(), http.MethodGet, "/v2/"+repository+"/tags/list", nil))
	var list struct{ Tags []string }
	_ = json.Unmarshal(rec.Body.Bytes(), &list) // without a repository there are none
	for _, tag := range list.Tags {
		rec := httptest.NewRecorder()
		f.inner.ServeHTTP(rec, httptest.NewRequestWithContext(r.Context(), http.MethodHead, "/v2/"+repository+"/manifests/"+tag, nil))
		if rec.Header().Get("Docker-Content-Digest") == digest {
			f.remove(httptest.NewRecorder(), r, repository, tag)
		}
	}
	f.remove(w, r, repository, digest)
}

// refuse answers as registries do.
func refuse(status int, code string) func(http.ResponseWriter, *http.Request) bool {
	return func(w http.ResponseWriter, _ *http.Request) bool {
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"errors":[{"code":%q,"message":"no"}]}`, code)
		return true
	}
}

func robot() Options {
	return Options{Keychain: credentials(authn.AuthConfig{Username: "robot$cairn", Password: "key"})}
}

// newHarborFake deletes manifests by digest, with their tags, and tags by its API only.
func newHarborFake(t *testing.T, repository string, api func(*fakeProduct, http.ResponseWriter, *http.Request) bool) *fakeProduct {
	f := &fakeProduct{realm: "/service/token", service: "harbor-registry"}
	f.plain = func(w http.ResponseWriter, r *http.Request) bool {
		reference := r.URL.Path[strings.LastIndex(r.URL.Path, "/")+1:]
		if !strings.HasPrefix(reference, "sha256:") {
			return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED")(w, r)
		}
		f.removeAll(w, r, repository, reference)
		return true
	}
	f.api = func(w http.ResponseWriter, r *http.Request) bool {
		if want := "Basic " + base64.StdEncoding.EncodeToString([]byte("robot$cairn:key")); r.Header.Get("Authorization") != want {
			return refuse(http.StatusUnauthorized, "UNAUTHORIZED")(w, r)
		}
		return api(f, w, r)
	}
	return newFakeProduct(t, f)
}

const harborRepository = "shop/team/stages"

func harborTags(f *fakeProduct, w http.ResponseWriter, r *http.Request) bool {
	rest, ok := strings.CutPrefix(r.URL.EscapedPath(), "/api/v2.0/projects/shop/repositories/team%252Fstages/artifacts/")
	artifact, tag, both := strings.Cut(rest, "/tags/")
	if !ok || !both || artifact != tag || r.Method != http.MethodDelete {
		return false
	}
	f.remove(w, r, harborRepository, tag)
	return true
}

func TestHarborDeletesTagsByItsAPI(t *testing.T) {
	f := newHarborFake(t, harborRepository, harborTags)
	s := newStorage(t, f.address(harborRepository), robot())
	deletesOneTagAlone(t, s)
	if p := s.Product(); p.Name != ProductHarbor || !p.Verified {
		t.Errorf("it is taken for %q", p.Name)
	}
	wantClass(t, s.DeleteTag(t.Context(), "never"), storage.ErrNotFound)
}

// deletesOneTagAlone publishes a manifest under two tags and deletes one of them.
func deletesOneTagAlone(t *testing.T, s *Storage) {
	t.Helper()
	m := pushImage(t, s, 5)
	for _, tag := range []string{"gone", "kept"} {
		if err := s.Publish(t.Context(), tag, m); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.DeleteTag(t.Context(), "gone"); err != nil {
		t.Fatal(err)
	}
	if got := tagsOf(t, s); !slices.Equal(got, []string{"kept"}) {
		t.Errorf("the tags are %v", got)
	}
	if d, err := s.Resolve(t.Context(), "kept"); err != nil || d.Digest != m.Descriptor.Digest {
		t.Errorf("the tag that stays shows %s: %v", d.Digest, err)
	}
}

func TestHarborWithoutTheAPIDeletesByDigest(t *testing.T) {
	f := newHarborFake(t, harborRepository, func(_ *fakeProduct, w http.ResponseWriter, r *http.Request) bool {
		return refuse(http.StatusForbidden, "FORBIDDEN")(w, r)
	})
	deletesOneTagAlone(t, newStorage(t, f.address(harborRepository), robot()))
}

func TestWhatHarborRefusesIsNamed(t *testing.T) {
	for _, c := range []struct {
		name, want string
		status     int
		code       string
	}{
		{"a robot without the permission", `the permission "Delete Tag" in the project`, http.StatusForbidden, "FORBIDDEN"},
		{"an immutability rule", "an immutability rule of the project keeps the tag", http.StatusPreconditionFailed, "PRECONDITION"},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newHarborFake(t, harborRepository, func(_ *fakeProduct, w http.ResponseWriter, r *http.Request) bool {
				return refuse(c.status, c.code)(w, r)
			})
			f.plain = refuse(c.status, c.code)
			s := newStorage(t, f.address(harborRepository), robot())
			err := s.ProbeDeletion(t.Context())
			wantClass(t, err, storage.ErrDenied)
			if !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("it says: %v", err)
			}
		})
	}
}

func TestAnAPIThatIsAskedTooMuchIsLeftAloneForAsLongAsItSays(t *testing.T) {
	refused := false
	f := newHarborFake(t, harborRepository, func(f *fakeProduct, w http.ResponseWriter, r *http.Request) bool {
		if !refused {
			refused = true
			w.Header().Set("Retry-After", "7")
			return refuse(http.StatusTooManyRequests, "TOO_MANY_REQUESTS")(w, r)
		}
		return harborTags(f, w, r)
	})
	rec := &recorder{}
	o := rec.options()
	o.Keychain = robot().Keychain
	deletesOneTagAlone(t, newStorage(t, f.address(harborRepository), o))
	if !slices.Contains(rec.slept(), 7*time.Second) {
		t.Errorf("it waited %v", rec.slept())
	}
}

const gitlabRepository = "group/sub/shop/stages"

// gitlabAPI is what GitLab's documents say of its container registry API.
func gitlabAPI(f *fakeProduct, w http.ResponseWriter, r *http.Request) bool {
	const list = "/api/v4/projects/group%2Fsub%2Fshop/registry/repositories"
	if r.Header.Get("Private-Token") != "key" {
		return refuse(http.StatusUnauthorized, "401 Unauthorized")(w, r)
	}
	path := r.URL.EscapedPath()
	switch tag, ok := strings.CutPrefix(path, list+"/42/tags/"); {
	case ok && r.Method == http.MethodDelete:
		f.remove(w, r, gitlabRepository, tag)
	case path == list && r.URL.Query().Get("page") == "1":
		first := make([]map[string]any, 100)
		for i := range first {
			first[i] = map[string]any{"id": i + 100, "path": fmt.Sprint("group/sub/shop/other", i)}
		}
		_ = json.NewEncoder(w).Encode(first) // a failure shows in the test
	case path == list:
		fmt.Fprintf(w, `[{"id": 42, "path": %q}]`, gitlabRepository)
	default:
		return false
	}
	return true
}

func newGitLabFake(t *testing.T, plain func(*fakeProduct, http.ResponseWriter, *http.Request) bool, api func(*fakeProduct, http.ResponseWriter, *http.Request) bool) *fakeProduct {
	f := &fakeProduct{realm: "/jwt/auth", service: "container_registry"}
	f.plain = func(w http.ResponseWriter, r *http.Request) bool { return plain(f, w, r) }
	f.api = func(w http.ResponseWriter, r *http.Request) bool { return api(f, w, r) }
	return newFakeProduct(t, f)
}

func noDeletions(_ *fakeProduct, w http.ResponseWriter, r *http.Request) bool {
	return refuse(http.StatusMethodNotAllowed, "UNSUPPORTED")(w, r)
}

func TestGitLabsRegistryDeletesTagsItself(t *testing.T) {
	f := newGitLabFake(t, func(*fakeProduct, http.ResponseWriter, *http.Request) bool { return false }, gitlabAPI)
	s := newStorage(t, f.address(gitlabRepository), robot())
	deletesOneTagAlone(t, s)
	if len(f.calls) != 0 {
		t.Errorf("the API was asked: %v", f.calls)
	}
	if s.Product().Name != ProductGitLab {
		t.Errorf("it is taken for %q", s.Product().Name)
	}
}

func TestGitLabsAPIDeletesWhereItsRegistryDoesNot(t *testing.T) {
	f := newGitLabFake(t, noDeletions, gitlabAPI)
	s := newStorage(t, f.address(gitlabRepository), robot())
	deletesOneTagAlone(t, s)
	lists := 0
	for _, c := range f.calls {
		if strings.HasPrefix(c, "GET ") {
			lists++
		}
	}
	if lists != 3 { // the name as a project, and two pages of the right one, once
		t.Errorf("it was asked %v", f.calls)
	}
}

func TestAGitLabTokenThatSeesNothingIsTold(t *testing.T) {
	f := newGitLabFake(t, noDeletions, func(*fakeProduct, http.ResponseWriter, *http.Request) bool { return false })
	err := newStorage(t, f.address(gitlabRepository), robot()).ProbeDeletion(t.Context())
	wantClass(t, err, storage.ErrDenied)
	if !strings.Contains(fmt.Sprint(err), "scope api") {
		t.Errorf("it says: %v", err)
	}
	if strings.Contains(f.requests(), "PUT") {
		t.Errorf("it has written what it cannot remove: %s", f.requests())
	}
}

// The others are tried as their documents have them; nobody has run them there yet.
func TestAPIsOfHostedRegistriesAreAskedAsTheirDocumentsSay(t *testing.T) {
	tag, d := "0123", digest.FromString("tomb")
	for _, c := range []struct {
		name string
		make func(s *Storage, base *url.URL) tagAPI
		// answers are what the API says, by request.
		answers map[string]string
		want    []string
		byTag   bool
	}{
		{"Azure", func(s *Storage, _ *url.URL) tagAPI { return newACR(s, nil) },
			map[string]string{"DELETE /acr/v1/shop/stages/_tags/0123": ""}, []string{"DELETE /acr/v1/shop/stages/_tags/0123"}, true},
		{"Docker Hub", func(s *Storage, base *url.URL) tagAPI { return hub{s: s, base: base} },
			map[string]string{"POST /v2/auth/token": `{"access_token":"x"}`, "DELETE /v2/repositories/shop/stages/tags/0123/": ""},
			[]string{"POST /v2/auth/token", "DELETE /v2/repositories/shop/stages/tags/0123/"}, true},
		{"GitHub", func(s *Storage, base *url.URL) tagAPI { return ghcr{s: s, base: base} },
			map[string]string{"GET /users/shop/packages/container/stages/versions": fmt.Sprintf(`[{"id":1,"name":"sha256:0"},{"id":7,"name":%q}]`, d), "DELETE /users/shop/packages/container/stages/versions/7": ""},
			[]string{"GET /orgs/shop/packages/container/stages/versions", "GET /users/shop/packages/container/stages/versions", "DELETE /users/shop/packages/container/stages/versions/7"}, false},
		{"Amazon", func(s *Storage, base *url.URL) tagAPI {
			return ecr{s: s, base: base, account: "1", region: "eu-west-1"}
		},
			map[string]string{"POST /": `{"imageIds":[{"imageTag":"0123"}],"failures":[]}`}, []string{"POST /"}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			var asked []string
			f := newFaulty(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				request := r.Method + " " + r.URL.EscapedPath()
				asked = append(asked, request)
				if answer, ok := c.answers[request]; ok {
					fmt.Fprint(w, answer)
					return
				}
				http.NotFound(w, r)
			}))
			base, err := url.Parse(f.URL)
			if err != nil {
				t.Fatal(err)
			}
			base.Path = "/"
			o := robot()
			o.Now = time.Now
			o.Getenv = func(name string) string { return "value of " + name }
			s := newStorage(t, f.address("shop/stages"), o)
			api, op := c.make(s, base), operation{"delete tag", s.Address(), tag}
			err = api.deleteTag(t.Context(), op, tag)
			if !c.byTag {
				wantClass(t, err, storage.ErrUnsupported)
				err = api.deleteManifest(t.Context(), op, d)
			}
			if err != nil || !slices.Equal(asked, c.want) {
				t.Errorf("it asked %v: %v", asked, err)
			}
		})
	}
}

func TestAmazonsAnswerToATagThatIsNotThere(t *testing.T) {
	f := newFaulty(t, http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprint(w, `{"failures":[{"failureCode":"ImageNotFound","failureReason":"Requested image not found"}]}`)
	}))
	base, err := url.Parse(f.URL + "/")
	if err != nil {
		t.Fatal(err)
	}
	s := newStorage(t, f.address("shop"), Options{Now: time.Now, Getenv: func(string) string { return "key" }})
	wantClass(t, ecr{s: s, base: base}.deleteTag(t.Context(), operation{}, "0"), storage.ErrNotFound)
	s = newStorage(t, f.address("shop"), Options{})
	wantClass(t, ecr{s: s, base: base}.deleteTag(t.Context(), operation{}, "0"), storage.ErrUnauthorized)
}

// The example of AWS's own test suite for Signature Version 4, get-vanilla.
func TestRequestsToAmazonAreSignedAsItsExampleIs(t *testing.T) {
	keys := awsKeys{id: "AKIDEXAMPLE", secret: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"}
	r := request{method: http.MethodGet, url: &url.URL{Scheme: "https", Host: "example.amazonaws.com", Path: "/"}, header: http.Header{}}
	if err := keys.sign(&r, "us-east-1", "service", time.Date(2015, 8, 30, 12, 36, 0, 0, time.UTC)); err != nil {
		t.Fatal(err)
	}
	const want = "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, SignedHeaders=host;x-amz-date, " +
		"Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
	if got := r.header.Get("Authorization"); got != want {
		t.Errorf("signed as\n%s, want\n%s", got, want)
	}
}

func TestRegistriesAreKnownByTheirNames(t *testing.T) {
	for host, want := range map[string]string{
		"123456789012.dkr.ecr.eu-west-1.amazonaws.com": ProductECR, "shop.azurecr.io": ProductACR, "europe-docker.pkg.dev": ProductGoogle,
		"eu.gcr.io": ProductGoogle, "gcr.io": ProductGoogle, "ghcr.io": ProductGHCR, "index.docker.io": ProductHub, "quay.io": ProductQuay,
		"registry.example.com:5000": "", "azurecr.io.example.com": "", "notquay.io": "",
	} {
		p := productOf(host, nil)
		if p.Name != want || p.Verified || want != "" && p.Needs == "" {
			t.Errorf("%s is %q, want %q", host, p.Name, want)
		}
	}
	s := newStorage(t, "123456789012.dkr.ecr.eu-west-1.amazonaws.com/shop", Options{})
	if e, ok := newECR(s, nil).(ecr); !ok || e.account != "123456789012" || e.region != "eu-west-1" || e.base.Host != "api.ecr.eu-west-1.amazonaws.com" {
		t.Errorf("the API is %+v", e)
	}
}
