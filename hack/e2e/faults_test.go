package e2e

import (
	"bytes"
	"fmt"
	"io"
	"log"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
)

// faultyProject has a layer of commands that is more than one piece on the wire,
// and gives the same image each time that it is built.
const faultyProject = `
-- cairn.yaml --
project: faulty
configVersion: 1
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- add: /src
  to: /src
  stageDependencies:
    install: [a]
    setup: [c]
shell:
  install:
  - cp /src/a /installed
  - seq 1 400000 > /numbers
  - echo @NAME@ > /name
  setup:
  - cat /src/c /name > /more
-- src/a --
a
-- src/c --
c
-- src/b --
b
`

// badFront is a server that misbehaves before the shared registry while trouble is
// set. It is asked from several goroutines.
type badFront struct {
	*httptest.Server
	mu      sync.Mutex
	dice    *rand.Rand
	trouble trouble
	bend    func(f *badFront, r *http.Response) error
	asked   int
	// met is how often there was trouble.
	met int
}

// trouble may answer a request itself: then it returns true.
type trouble func(f *badFront, w http.ResponseWriter, r *http.Request) bool

func newBadFront(t *testing.T) *badFront {
	t.Helper()
	target, err := url.Parse(shared.registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	f := &badFront{dice: rand.New(rand.NewPCG(1, 2))}
	transport := &http.Transport{}
	proxy := &httputil.ReverseProxy{
		Transport: transport, ErrorLog: log.New(io.Discard, "", 0),
		Rewrite: func(r *httputil.ProxyRequest) {
			r.SetURL(target)
			r.Out.Host = r.In.Host
		},
		ModifyResponse: func(r *http.Response) error {
			if _, bend := f.faults(); bend != nil {
				return bend(f, r)
			}
			return nil
		},
	}
	f.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		f.mu.Lock()
		f.asked++
		f.mu.Unlock()
		trouble, _ := f.faults()
		if trouble == nil || !trouble(f, w, r) {
			proxy.ServeHTTP(w, r)
			return
		}
		f.meet()
	}))
	f.Config.ErrorLog = log.New(io.Discard, "", 0)
	f.Start()
	t.Cleanup(transport.CloseIdleConnections)
	t.Cleanup(f.Close)
	return f
}

func (f *badFront) faults() (trouble, func(*badFront, *http.Response) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.trouble, f.bend
}

// misbehave begins the trouble, and counts from now on.
func (f *badFront) misbehave(answers trouble, bend func(*badFront, *http.Response) error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble, f.bend = answers, bend
	f.asked, f.met = 0, 0
}

// behave ends the trouble, and returns how many requests there were, and how
// many of them met trouble.
func (f *badFront) behave() (asked, met int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.trouble, f.bend = nil, nil
	return f.asked, f.met
}

func (f *badFront) meet() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.met++
}

// happens is true in that many of a hundred cases.
func (f *badFront) happens(percent int) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.dice.IntN(100) < percent
}

// shortTokens are good for so many requests each.
func shortTokens(t *testing.T, each int) trouble {
	var mu sync.Mutex
	left, serial := map[string]int{}, 0
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		serial++
		token := fmt.Sprint("token-", serial)
		left[token] = each
		fmt.Fprintf(w, `{"token":%q,"expires_in":300}`, token)
	}))
	t.Cleanup(server.Close)
	return func(_ *badFront, w http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
		if left[token] > 0 {
			left[token]--
			r.Header.Del("Authorization")
			return false
		}
		w.Header().Set("Www-Authenticate", `Bearer realm="`+server.URL+`/token",service="front"`)
		w.WriteHeader(http.StatusUnauthorized)
		return true
	}
}

func tooMany(f *badFront, w http.ResponseWriter, _ *http.Request) bool {
	if !f.happens(10) {
		return false
	}
	w.Header().Set("Retry-After", "1")
	w.WriteHeader(http.StatusTooManyRequests)
	return true
}

func resets(f *badFront, _ http.ResponseWriter, r *http.Request) bool {
	if !f.happens(10) {
		return false
	}
	f.meet()
	_, _ = io.CopyN(io.Discard, r.Body, r.ContentLength/2)
	panic(http.ErrAbortHandler)
}

// toStorage sends reads of blobs to a server that takes signed addresses only.
// Some signatures have expired when they arrive.
func toStorage(t *testing.T) trouble {
	blobs := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "" {
			t.Error("credentials went to the object storage")
		}
		if r.URL.Query().Get("sig") != "good" {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		res, err := http.Get(shared.registry.URL() + r.URL.Path)
		if err != nil {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		defer res.Body.Close()
		w.WriteHeader(res.StatusCode)
		_, _ = io.Copy(w, res.Body)
	}))
	t.Cleanup(blobs.Close)
	var mu sync.Mutex
	n := 0
	return func(_ *badFront, w http.ResponseWriter, r *http.Request) bool {
		if r.Method != http.MethodGet || !strings.Contains(r.URL.Path, "/blobs/sha256:") {
			return false
		}
		mu.Lock()
		n++
		sig := "good"
		if n%3 == 1 {
			sig = "expired"
		}
		mu.Unlock()
		w.Header().Set("Location", blobs.URL+r.URL.Path+"?sig="+sig)
		w.WriteHeader(http.StatusTemporaryRedirect)
		return true
	}
}

// damaging changes every second thing that is read: it is cut, with a length to
// match, or has a wrong byte, by turns.
func damaging() func(*badFront, *http.Response) error {
	var mu sync.Mutex
	n := 0
	turn := func() int {
		mu.Lock()
		defer mu.Unlock()
		n++
		return n
	}
	return func(f *badFront, r *http.Response) error {
		if r.Request.Method != http.MethodGet || r.StatusCode != http.StatusOK {
			return nil
		}
		turn := turn()
		if turn%2 == 0 {
			return nil
		}
		b, err := io.ReadAll(r.Body)
		if err != nil || len(b) == 0 {
			return err
		}
		if turn%4 == 1 {
			b = b[:len(b)/2]
		} else {
			b[len(b)/2] ^= 1
		}
		f.meet()
		r.Body = io.NopCloser(bytes.NewReader(b))
		r.ContentLength = int64(len(b))
		r.Header.Set("Content-Length", fmt.Sprint(len(b)))
		return nil
	}
}

// Trouble begins after a build of a first version, so that the second one has to
// read what the first has published, on an engine that has never seen it.
func TestBuildsThroughARegistryThatMisbehaves(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		trouble trouble
		bend    func(*badFront, *http.Response) error
		// mayFail: an error is as right as the image.
		mayFail bool
	}{
		{"tokens are good for four requests", shortTokens(t, 4), nil, false},
		{"one of ten requests is one too many", tooMany, nil, false},
		{"one of ten connections breaks", resets, nil, false},
		{"blobs come from an object storage whose addresses expire", toStorage(t), nil, false},
		{"every second answer is damaged", nil, damaging(), true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			f := newBadFront(t)
			p, name := newProject(t, faultyProject, shared.registry), repository(t)
			storage := strings.TrimPrefix(f.URL, "http://") + "/" + name
			newHost(t, 0).build(t, p, storage, "--synchronization", ":local")
			p.change(t, "src/c", "changed")
			want := digestIn(newHost(t, 0).build(t, p, storageOf(t, shared.registry, "-reference")).ref(t, "app"))

			f.misbehave(tt.trouble, tt.bend)
			h := newHost(t, 1)
			res := h.startBuild(t, p, storage, "--synchronization", ":local").wait(t)
			asked, met := f.behave()
			t.Logf("%d of %d requests met trouble, and cairn ended with %d", met, asked, res.code)
			if met == 0 || asked > 300 {
				t.Errorf("%d of %d requests met trouble", met, asked)
			}
			switch {
			case res.code == 0:
				if got := digestIn(res.report.ref(t, "app")); got != want {
					t.Errorf("the image is %s, want %s", got, want)
				}
			case !tt.mayFail || res.code != 6 && res.code != 9:
				t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
			}
			if got := digestIn(h.build(t, p, storage, "--synchronization", ":local").ref(t, "app")); got != want {
				t.Errorf("the next build has image %s, want %s", got, want)
			}
			checkRepository(t, shared.registry.Address()+"/"+name)
		})
	}
}

// digestIn returns the digest of a reference by digest.
func digestIn(ref string) string { return ref[strings.LastIndex(ref, "@")+1:] }
