package registry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	inprocess "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// anonymous has no credentials, whatever the machine's Docker configuration says.
type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// credentials are the same for every host.
type credentials authn.AuthConfig

func (c credentials) Resolve(authn.Resource) (authn.Authenticator, error) {
	return authn.FromConfig(authn.AuthConfig(c)), nil
}

// recorder keeps what a client waited for and sent, and lets no time pass.
type recorder struct {
	mu        sync.Mutex
	sleeps    []time.Duration
	exchanges []Exchange
}

func (r *recorder) sleep(ctx context.Context, d time.Duration) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.sleeps = append(r.sleeps, d)
	return ctx.Err()
}

func (r *recorder) observe(e Exchange) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.exchanges = append(r.exchanges, e)
}

func (r *recorder) slept() []time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.sleeps)
}

// sent returns "METHOD status" of each request of the kind.
func (r *recorder) sent(k Kind) []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []string
	for _, e := range r.exchanges {
		if e.Kind == k {
			out = append(out, e.Method+" "+http.StatusText(e.Status))
		}
	}
	return out
}

func (r *recorder) options() Options {
	return Options{
		Keychain: anonymous{}, Sleep: r.sleep, Observe: r.observe,
		Timeouts: Timeouts{Connect: 5 * time.Second, Answer: 5 * time.Second, Idle: 5 * time.Second},
	}
}

func newClient(t *testing.T, o Options) *Client {
	t.Helper()
	c, err := NewClient(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(c.Close)
	return c
}

func newStorage(t *testing.T, address string, o Options) *Storage {
	t.Helper()
	s, err := newClient(t, o).Open(address)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// faulty is an in-process registry behind a hook that may answer itself.
type faulty struct {
	*httptest.Server
	mu   sync.Mutex
	hook hook
	seen []string
}

func newFaulty(t *testing.T, next http.Handler) *faulty {
	t.Helper()
	if next == nil {
		next = inprocess.New(inprocess.Logger(log.New(io.Discard, "", 0)))
	}
	f := &faulty{}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		hook := f.hook
		f.seen = append(f.seen, r.Method)
		f.mu.Unlock()
		if hook == nil || !hook(w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.Start()
	t.Cleanup(f.Close)
	return f
}

func (f *faulty) address(path string) string {
	return strings.TrimPrefix(f.URL, "http://") + "/" + path
}

// fault sets the hook and forgets the requests so far.
func (f *faulty) fault(hook hook) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.hook, f.seen = hook, nil
}

func (f *faulty) requests() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return strings.Join(f.seen, " ")
}

// times has a hook answer only the first n requests that it would answer.
func times(n int, h hook) hook {
	var mu sync.Mutex
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		if n == 0 {
			return false
		}
		n-- // before the hook, which may panic
		if h(w, r) {
			return true
		}
		n++
		return false
	}
}

// answer is a hook for requests of the method; "" means any.
func answer(method string, status int, header map[string]string, body string) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		if method != "" && method != r.Method {
			return false
		}
		for k, v := range header {
			w.Header().Set(k, v)
		}
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
		return true
	}
}

// reset cuts the connection without an answer.
func reset(method string) hook {
	return func(_ http.ResponseWriter, r *http.Request) bool {
		if method != "" && method != r.Method {
			return false
		}
		panic(http.ErrAbortHandler)
	}
}

func content(b []byte) storage.Content {
	return storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}

func blobOf(b []byte) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromBytes(b), Size: int64(len(b))}
}

// noise returns n bytes that do not compress, the same for the same seed.
func noise(seed uint64, n int) []byte {
	b := make([]byte, n)
	src := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = src.Read(b)
	return b
}

// pushImage stores a config and one layer and returns their manifest, which is not stored.
func pushImage(t *testing.T, s *Storage, seed uint64) storage.Manifest {
	t.Helper()
	layer, config := noise(seed, 1000), []byte(`{"os":"linux","architecture":"amd64"}`)
	for _, b := range [][]byte{layer, config} {
		if err := s.PushBlob(t.Context(), blobOf(b), content(b)); err != nil {
			t.Fatal(err)
		}
	}
	c := blobOf(config)
	c.MediaType = ocispec.MediaTypeImageConfig
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: c, Layers: []ocispec.Descriptor{blobOf(layer)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func read(t *testing.T, s *Storage, d ocispec.Descriptor) ([]byte, error) {
	t.Helper()
	r, err := s.Blob(t.Context(), d)
	if err != nil {
		return nil, err
	}
	defer r.Close()
	return io.ReadAll(r)
}

func wantClass(t *testing.T, err, class error) {
	t.Helper()
	if class == nil {
		if err != nil {
			t.Errorf("got error %v, want none", err)
		}
		return
	}
	if !errors.Is(err, class) {
		t.Errorf("got error %v, want class %v", err, class)
	}
}

func parseURL(t *testing.T, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

var errTest = errors.New("the test has ended it")

func contextWithCause(t *testing.T) (context.Context, context.CancelCauseFunc) {
	t.Helper()
	ctx, cancel := context.WithCancelCause(t.Context())
	t.Cleanup(func() { cancel(nil) })
	return ctx, cancel
}

func asError(err error) (*storage.Error, bool) {
	var e *storage.Error
	ok := errors.As(err, &e)
	return e, ok
}

type hook = func(http.ResponseWriter, *http.Request) bool
