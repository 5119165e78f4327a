package registry

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/storage"
)

// front is a misbehaving server before a real registry: hooks answer in its place,
// and change bends what it answers.
type front struct {
	*faulty
	server *testbed.Registry
	change func(*http.Response) error
}

func newFront(t *testing.T, server *testbed.Registry) *front {
	t.Helper()
	f := &front{server: server}
	target := parseURL(t, server.URL())
	transport := &http.Transport{}
	t.Cleanup(transport.CloseIdleConnections)
	f.faulty = newFaulty(t, &httputil.ReverseProxy{
		Transport: transport, ErrorLog: log.New(io.Discard, "", 0), FlushInterval: -1,
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host // uploads go on at the front
		},
		ModifyResponse: func(r *http.Response) error {
			if f.change == nil {
				return nil
			}
			return f.change(r)
		},
	})
	return f
}

// sent is how many requests have come.
func (f *front) sent() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.seen)
}

// to has a hook see only requests of the method whose path holds part.
func to(method, part string, h hook) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		return (method == "" || r.Method == method) && strings.Contains(r.URL.Path, part) && h(w, r)
	}
}

// status answers with a status alone.
func status(n int, header ...string) hook {
	h := map[string]string{}
	for i := 0; i+1 < len(header); i += 2 {
		h[header[i]] = header[i+1]
	}
	return answer("", n, h, "")
}

// everyThird has a hook answer one of three requests.
func everyThird(h hook) hook {
	var mu sync.Mutex
	n := 0
	return func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		n++
		mine := n%3 == 1
		mu.Unlock()
		return mine && h(w, r)
	}
}

// swallow reads half of what is sent and cuts the connection.
func swallow(_ http.ResponseWriter, r *http.Request) bool {
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	panic(http.ErrAbortHandler)
}

// without takes headers out of answers.
func without(names ...string) func(*http.Response) error {
	return func(r *http.Response) error {
		for _, n := range names {
			r.Header.Del(n)
		}
		return nil
	}
}

// with sets a header of answers to requests of the method whose path holds part.
func with(method, part, name, value string) func(*http.Response) error {
	return func(r *http.Response) error {
		if r.Request.Method == method && strings.Contains(r.Request.URL.Path, part) && r.StatusCode < 300 {
			r.Header.Set(name, value)
		}
		return nil
	}
}

// bend changes the bodies of GETs whose path holds part, and their length with them.
func bend(part string, f func([]byte) []byte) func(*http.Response) error {
	return func(r *http.Response) error {
		if r.Request.Method != http.MethodGet || !strings.Contains(r.Request.URL.Path, part) || r.StatusCode != http.StatusOK {
			return nil
		}
		b, err := io.ReadAll(r.Body)
		if err != nil {
			return err
		}
		b = f(b)
		r.Body = io.NopCloser(bytes.NewReader(b))
		r.ContentLength = int64(len(b))
		r.Header.Set("Content-Length", fmt.Sprint(len(b)))
		return nil
	}
}

func half(b []byte) []byte { return b[:len(b)/2] }

func flipped(b []byte) []byte {
	b = bytes.Clone(b)
	b[len(b)/2] ^= 1
	return b
}

func zipped(b []byte) []byte {
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, _ = w.Write(b)
	_ = w.Close()
	return out.Bytes()
}

// locations rewrites where uploads go on.
func locations(f func(*url.URL) string) func(*http.Response) error {
	return func(r *http.Response) error {
		if u, err := r.Location(); err == nil {
			u.Scheme, u.Host = "http", r.Request.Host
			r.Header.Set("Location", f(u))
		}
		return nil
	}
}

// drip sends content slowly, but steadily.
func drip(content []byte, pieces int, pause time.Duration) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Length", fmt.Sprint(len(content)))
		tick := time.NewTicker(pause)
		defer tick.Stop()
		for i := range pieces {
			_, _ = w.Write(content[i*len(content)/pieces : (i+1)*len(content)/pieces])
			w.(http.Flusher).Flush()
			select {
			case <-tick.C:
			case <-r.Context().Done():
				return true
			}
		}
		return true
	}
}

// endless sends without end, and fails the test where somebody listens for ever.
func endless(t *testing.T, code int) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(code)
		junk := bytes.Repeat([]byte(" "), 1<<16)
		for range 1 << 10 { // 64 MiB
			if _, err := w.Write(junk); err != nil {
				return true
			}
		}
		t.Error("64 MiB were read")
		return true
	}
}

// cargo is an image that travels.
type cargo struct {
	layer, config []byte
	manifest      storage.Manifest
}

func newCargo(t *testing.T, seed uint64, size int) cargo {
	t.Helper()
	c := cargo{layer: noise(seed, size), config: []byte(`{"os":"linux","architecture":"amd64"}`)}
	config := blobOf(c.config)
	config.MediaType = ocispec.MediaTypeImageConfig
	var err error
	c.manifest, err = storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: config, Layers: []ocispec.Descriptor{blobOf(c.layer)},
	})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

const cargoTag = "cargo"

// push brings all of it into s and names it.
func (c cargo) push(t *testing.T, s *Storage) error {
	for _, b := range [][]byte{c.layer, c.config} {
		if err := s.PushBlob(t.Context(), blobOf(b), content(b)); err != nil {
			return err
		}
	}
	if err := s.PushManifest(t.Context(), c.manifest); err != nil {
		return err
	}
	return s.Publish(t.Context(), cargoTag, c.manifest)
}

// pull reads all of it from s, and fails where it is something else.
func (c cargo) pull(t *testing.T, s *Storage) error {
	d, err := s.Resolve(t.Context(), cargoTag)
	if err != nil {
		return err
	}
	m, err := s.Manifest(t.Context(), cargoTag)
	if err != nil {
		return err
	}
	if d.Digest != c.manifest.Descriptor.Digest || !bytes.Equal(m.Bytes, c.manifest.Bytes) {
		return errWrongImage
	}
	for _, want := range [][]byte{c.layer, c.config} {
		got, err := read(t, s, blobOf(want))
		if err != nil {
			return err
		}
		if !bytes.Equal(got, want) {
			return errWrongImage
		}
	}
	return nil
}

var errWrongImage = errors.New("another image than was pushed")

// bucket is an object storage that takes signed addresses only, and no credentials.
type bucket struct {
	*httptest.Server
}

// newBucket serves the parts of an image by their digests. Signatures are numbered,
// and those up to expired are refused. Whoever shows it credentials fails the test.
func newBucket(t *testing.T, expired int, c cargo) bucket {
	t.Helper()
	b := bucket{httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" || r.Header.Get("Cookie") != "" {
			t.Error("credentials went to the object storage")
		}
		var n int
		if _, err := fmt.Sscanf(r.URL.Query().Get("X-Signature"), "sig-%d", &n); err != nil || n <= expired {
			w.WriteHeader(http.StatusForbidden)
			_, _ = io.WriteString(w, "<Error><Code>AccessDenied</Code><Message>Request has expired</Message></Error>")
			return
		}
		for _, o := range [][]byte{c.layer, c.config} {
			if strings.HasSuffix(r.URL.Path, blobOf(o).Digest.Encoded()) {
				http.ServeContent(w, r, "", time.Time{}, bytes.NewReader(o))
				return
			}
		}
		w.WriteHeader(http.StatusNotFound)
	}))}
	t.Cleanup(b.Close)
	return b
}

// redirect sends reads of blobs to the bucket, with a new signature each time.
func (b bucket) redirect() hook {
	var mu sync.Mutex
	n := 0
	return to(http.MethodGet, "/blobs/sha256:", func(w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		n++
		_, hex, _ := strings.Cut(r.URL.Path, "sha256:")
		w.Header().Set("Location", fmt.Sprintf("%s/objects/%s?X-Signature=sig-%d", b.URL, hex, n))
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	})
}

// guard lets each token be used for a number of requests.
type guard struct {
	*httptest.Server
	mu           sync.Mutex
	uses         map[string]int
	issued, each int
}

func newGuard(t *testing.T, each int) *guard {
	t.Helper()
	g := &guard{uses: map[string]int{}, each: each}
	g.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		g.mu.Lock()
		defer g.mu.Unlock()
		g.issued++
		token := fmt.Sprintf("token-%d", g.issued)
		g.uses[token] = 0
		fmt.Fprintf(w, `{"access_token":%q,"expires_in":300}`, token)
	}))
	t.Cleanup(g.Close)
	return g
}

// check refuses requests without a token that has uses left.
func (g *guard) check(w http.ResponseWriter, r *http.Request) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if used, ok := g.uses[token]; ok && used < g.each {
		g.uses[token]++
		r.Header.Del("Authorization")
		return false
	}
	w.Header().Set("Www-Authenticate", fmt.Sprintf(`Bearer realm="%s/token",service="front"`, g.URL))
	w.WriteHeader(http.StatusUnauthorized)
	return true
}
