package registry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// chunkServer takes blobs by PATCH only and checks ranges.
type chunkServer struct {
	mu     sync.Mutex
	got    bytes.Buffer
	max    int64
	stored []byte
}

func (c *chunkServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	body, _ := io.ReadAll(r.Body)
	w.Header().Set("Location", "/v2/x/session?state=a%2Bb")
	switch {
	case r.Method == http.MethodHead:
		w.WriteHeader(http.StatusNotFound)
	case r.Method == http.MethodPost:
		c.got.Reset()
		w.WriteHeader(http.StatusAccepted)
	case int64(len(body)) > c.max:
		w.WriteHeader(http.StatusRequestEntityTooLarge)
	case r.Method == http.MethodPatch:
		if r.Header.Get("Content-Range") != fmt.Sprintf("%d-%d", c.got.Len(), c.got.Len()+len(body)-1) {
			w.WriteHeader(http.StatusRequestedRangeNotSatisfiable)
			return
		}
		c.got.Write(body)
		w.WriteHeader(http.StatusAccepted)
	case r.Method == http.MethodPut && len(body) > 0:
		w.WriteHeader(http.StatusBadRequest)
	case !strings.HasPrefix(r.URL.RawQuery, "state=a%2Bb&digest=") || digest.FromBytes(c.got.Bytes()).String() != r.URL.Query().Get("digest"):
		w.WriteHeader(http.StatusNotFound)
	default:
		c.stored = bytes.Clone(c.got.Bytes())
		w.WriteHeader(http.StatusCreated)
	}
}

func TestBlobsGoInChunksWhereTheyAreRefusedWhole(t *testing.T) {
	small, large := noise(1, 1000), noise(2, 2*smallBlob+5)
	server := &chunkServer{max: smallBlob}
	f := newFaulty(t, server)
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	s.host.chunk = smallBlob
	steps := []struct {
		name string
		b    []byte
		sent string
	}{
		{"a small one, after a try", small, "POST PUT POST PATCH PUT"},
		{"the next one at once", small, "POST PATCH PUT"},
		{"a large one in several", large, "HEAD POST PATCH PATCH PATCH PUT"},
	}
	for _, step := range steps {
		f.fault(nil)
		wantClass(t, s.PushBlob(t.Context(), blobOf(step.b), content(step.b)), nil)
		if got := f.requests(); got != step.sent {
			t.Errorf("%s: sent %s, want %s", step.name, got, step.sent)
		}
		if !bytes.Equal(server.stored, step.b) {
			t.Errorf("%s: other bytes were stored", step.name)
		}
	}
	f.fault(times(1, answer("PATCH", 503, nil, "")))
	wantClass(t, s.PushBlob(t.Context(), blobOf(large), content(large)), nil)
	if !bytes.Equal(server.stored, large) {
		t.Error("after a failure other bytes were stored")
	}
}

func TestARegistryThatRefusesChunksTooNamesTheFirstCause(t *testing.T) {
	f := newFaulty(t, &chunkServer{max: 10})
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	s.host.chunk = smallBlob
	b := noise(1, smallBlob+1)
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), storage.ErrTooLarge)
	if s.host.chunked.Load() {
		t.Error("chunks are tried for ever")
	}
}

func TestAnEmptyBlobCanBeSent(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	wantClass(t, s.PushBlob(t.Context(), blobOf(nil), content(nil)), nil)
	got, err := read(t, s, blobOf(nil))
	if err != nil || len(got) != 0 {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestABlobThatIsOnItsWayIsNotSentASecondTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var p pushes
		var calls atomic.Int32
		release := make(chan struct{})
		var g errgroup.Group
		for range 5 {
			g.Go(func() error {
				return p.once(t.Context(), "a", func() error { calls.Add(1); <-release; return nil })
			})
		}
		synctest.Wait()
		ended, cancel := context.WithCancelCause(t.Context())
		cancel(io.ErrNoProgress)
		if err := p.once(ended, "a", func() error { return nil }); !errors.Is(err, io.ErrNoProgress) {
			t.Errorf("a caller whose context has ended gets %v", err)
		}
		close(release)
		if err := g.Wait(); err != nil || calls.Load() != 1 {
			t.Errorf("sent %d times, %v", calls.Load(), err)
		}
	})
}

func TestAPushThatFailedIsTriedByTheNextCaller(t *testing.T) {
	var p pushes
	failed := errors.New("failed")
	begun := make(chan struct{})
	release := make(chan struct{})
	var g errgroup.Group
	g.Go(func() error {
		err := p.once(t.Context(), "a", func() error { close(begun); <-release; return failed })
		if !errors.Is(err, failed) {
			return fmt.Errorf("the first got %w", err)
		}
		return nil
	})
	<-begun
	calls := 0
	g.Go(func() error { return p.once(t.Context(), "a", func() error { calls++; return nil }) })
	close(release)
	if err := g.Wait(); err != nil || calls != 1 {
		t.Errorf("called %d times, %v", calls, err)
	}
}

func TestALostAnswerOfALargeBlobIsNotSentTwice(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	b := noise(1, smallBlob+1)
	first := times(1, answer("HEAD", 404, nil, ""))
	lost := times(1, answer("PUT", 502, nil, ""))
	f.fault(func(w http.ResponseWriter, r *http.Request) bool {
		return first(w, r) || lost(w, r) || r.Method == http.MethodHead && answer("", 200, map[string]string{"Content-Length": fmt.Sprint(len(b))}, "")(w, r)
	})
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
	if got := f.requests(); got != "HEAD POST PUT HEAD" {
		t.Errorf("sent %s", got)
	}
}

func TestAHeadWithAnotherSizeIsNotBelieved(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	f.fault(answer("HEAD", 200, map[string]string{"Content-Length": "7"}, ""))
	if ok, err := s.HasBlob(t.Context(), blobOf([]byte("four"))); ok || err != nil {
		t.Errorf("got %v, %v", ok, err)
	}
}

func TestMountsThatAreRefused(t *testing.T) {
	b := noise(1, 2*smallBlob)
	tests := []struct {
		name string
		hook hook
		// again is what the second mount sends, push what the blob costs then.
		again, push string
		class       error
	}{
		{"by an upload, which is used", nil, "POST", "PUT", nil},
		{"as denied", answer("POST", 403, nil, ""), "", "HEAD POST PUT", nil},
		{"as not allowed", answer("POST", 405, nil, ""), "", "HEAD POST PUT", nil},
		{"as not found", answer("POST", 404, nil, ""), "POST", "HEAD POST PUT", nil},
		{"by a server that is away", answer("POST", 502, nil, ""), "POST POST POST POST POST", "HEAD POST PUT", storage.ErrTransient},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFaulty(t, nil)
			s := newStorage(t, f.address("x/y"), (&recorder{}).options())
			var ok bool
			var err error
			for range 2 {
				f.fault(tt.hook)
				ok, err = s.MountBlob(t.Context(), blobOf(b), f.address("absent/base"))
			}
			wantClass(t, err, tt.class)
			if got := f.requests(); ok || got != tt.again {
				t.Errorf("mounted %v, the second time sent %q, want %q", ok, got, tt.again)
			}
			f.fault(nil)
			wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
			if got := f.requests(); got != tt.push {
				t.Errorf("pushed with %s, want %s", got, tt.push)
			}
		})
	}
}

func TestNothingIsMountedFromWhatIsNoNeighbour(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	for _, from := range []string{":local", "", "other.example.com/x", s.Address()} {
		if ok, err := s.MountBlob(t.Context(), blobOf([]byte("x")), from); ok || err != nil {
			t.Errorf("%q: got %v, %v", from, ok, err)
		}
	}
	if got := f.requests(); got != "" {
		t.Errorf("sent %s", got)
	}
}

func TestAnUploadThatWasAskedForIsNotAskedForAgain(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	b := noise(1, smallBlob+1)
	if ok, err := s.HasBlob(t.Context(), blobOf(b)); ok || err != nil {
		t.Fatal(ok, err)
	}
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
	if got := f.requests(); got != "HEAD POST PUT" {
		t.Errorf("sent %s, want one HEAD in all", got)
	}
}

func TestConnectionsAreUsedAgain(t *testing.T) {
	f := newFaulty(t, nil)
	var mu sync.Mutex
	peers := map[string]bool{}
	f.fault(func(_ http.ResponseWriter, r *http.Request) bool {
		mu.Lock()
		defer mu.Unlock()
		peers[r.RemoteAddr] = true
		return false
	})
	s := newStorage(t, f.address("x/y"), (&recorder{}).options())
	for i := range 20 {
		b := noise(uint64(i), 100_000)
		wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
		if _, err := read(t, s, blobOf(b)); err != nil {
			t.Error(err)
		}
		_, err := s.Resolve(t.Context(), "absent")
		wantClass(t, err, storage.ErrNotFound)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(peers) > 1 {
		t.Errorf("80 requests took %d connections", len(peers))
	}
}
