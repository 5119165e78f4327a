package registry

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// serveCut serves b, ranges included where ranges is true, and breaks the
// connection after each step bytes.
func serveCut(b []byte, step int, ranges bool) hook {
	return func(w http.ResponseWriter, r *http.Request) bool {
		from, status := 0, http.StatusOK
		if _, err := fmt.Sscanf(r.Header.Get("Range"), "bytes=%d-", &from); err == nil && !ranges {
			from = 0
		}
		if from > 0 {
			status = http.StatusPartialContent
			w.Header().Set("Content-Range", fmt.Sprintf("bytes %d-%d/%d", from, len(b)-1, len(b)))
		}
		w.Header().Set("Content-Length", fmt.Sprint(len(b)-from))
		w.WriteHeader(status)
		_, _ = w.Write(b[from:min(from+step, len(b))])
		if from+step < len(b) {
			w.(http.Flusher).Flush()
			panic(http.ErrAbortHandler)
		}
		return true
	}
}

func TestABrokenDownloadGoesOn(t *testing.T) {
	b := noise(1, 300_000)
	big := noise(2, 4*progressStep)
	inTheMiddle := func(b []byte) hook { return times(1, serveCut(b, len(b)/2, false)) }
	tests := []struct {
		name  string
		bytes []byte
		hook  hook
		sent  string
		class error
	}{
		{"with a range", b, serveCut(b, 100_000, true), "GET GET GET", nil},
		{"and skips what it has where ranges are ignored", b, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return serveCut(b, 100_000, false)(w, r)
			}
			return serveCut(b, len(b), false)(w, r)
		}, "GET GET", nil},
		{"as often as it makes progress", big, serveCut(big, progressStep/2, true), "GET GET GET GET GET GET GET GET", nil},
		{"and ends without progress", b, serveCut(b, 0, true), "GET GET GET GET GET", storage.ErrTransient},
		{"and ends where the rest is not there", b, func(w http.ResponseWriter, r *http.Request) bool {
			return inTheMiddleOr416(w, r, inTheMiddle(b))
		}, "GET GET", storage.ErrCorrupt},
		{"and ends where another range comes", b, func(w http.ResponseWriter, r *http.Request) bool {
			if r.Header.Get("Range") == "" {
				return serveCut(b, 1000, true)(w, r)
			}
			return answer("", 206, map[string]string{"Content-Range": "bytes 7-9/10"}, "abc")(w, r)
		}, "GET GET", storage.ErrInvalid},
		{"but not with wrong bytes", b, answer("GET", 200, nil, strings.Repeat("x", len(b))), "GET", storage.ErrCorrupt},
		{"but not with more bytes", b, answer("GET", 200, nil, string(b)+"x"), "GET", storage.ErrCorrupt},
	}
	f := newFaulty(t, nil)
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
			f.fault(tt.hook)
			got, err := read(t, s, blobOf(tt.bytes))
			wantClass(t, err, tt.class)
			if tt.class == nil && string(got) != string(tt.bytes) {
				t.Errorf("read %d other bytes", len(got))
			}
			if _, ok := asError(err); tt.class != nil && !ok {
				t.Errorf("%v is no storage.Error", err)
			}
			if got := f.requests(); got != tt.sent {
				t.Errorf("sent %s, want %s", got, tt.sent)
			}
		})
	}
}

func inTheMiddleOr416(w http.ResponseWriter, r *http.Request, first hook) bool {
	if r.Header.Get("Range") == "" {
		return first(w, r)
	}
	return answer("", http.StatusRequestedRangeNotSatisfiable, nil, "")(w, r)
}

// stream is n bytes that need no memory.
type stream struct{ left int64 }

func (s *stream) Read(p []byte) (int, error) {
	if s.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), s.left)
	clear(p[:n])
	s.left -= n
	return int(n), nil
}

func streamOf(n int64) (ocispec.Descriptor, storage.Content) {
	h := digest.Canonical.Digester()
	_, _ = io.Copy(h.Hash(), &stream{n})
	open := storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(&stream{n}), nil })
	return ocispec.Descriptor{Digest: h.Digest(), Size: n}, open
}

func TestLargeBlobsNeedLittleMemory(t *testing.T) {
	const size = 64 << 20
	d, c := streamOf(size)
	for name, chunked := range map[string]bool{"whole": false, "in chunks": true} {
		t.Run(name, func(t *testing.T) {
			sink := newFaulty(t, http.NotFoundHandler())
			sink.fault(func(w http.ResponseWriter, r *http.Request) bool {
				w.Header().Set("Location", "/upload")
				switch r.Method {
				case http.MethodGet:
					_, _ = io.Copy(w, &stream{size})
				case http.MethodHead:
					w.WriteHeader(http.StatusNotFound)
				case http.MethodPost, http.MethodPatch:
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(http.StatusAccepted)
				default:
					_, _ = io.Copy(io.Discard, r.Body)
					w.WriteHeader(http.StatusCreated)
				}
				return true
			})
			s := newStorage(t, sink.address("shop/stages"), (&recorder{}).options())
			s.host.chunked.Store(chunked)
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			wantClass(t, s.PushBlob(t.Context(), d, c), nil)
			r, err := s.Blob(t.Context(), d)
			wantClass(t, err, nil)
			if n, err := io.Copy(io.Discard, r); n != size || err != nil {
				t.Errorf("read %d bytes, %v", n, err)
			}
			wantClass(t, r.Close(), nil)
			runtime.ReadMemStats(&after)
			if got := after.TotalAlloc - before.TotalAlloc; got > 4<<20 {
				t.Errorf("%d bytes were allocated for a blob of %d", got, size)
			}
		})
	}
}

func TestReadersTakeNoSlots(t *testing.T) {
	f := newFaulty(t, nil)
	o := (&recorder{}).options()
	o.Concurrency = 1
	s := newStorage(t, f.address("shop/stages"), o)
	a, b := noise(1, 200_000), noise(2, 1000)
	wantClass(t, s.PushBlob(t.Context(), blobOf(a), content(a)), nil)
	r, err := s.Blob(t.Context(), blobOf(a))
	if err != nil {
		t.Fatal(err)
	}
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), content(b)), nil)
	copied := storage.ContentFunc(func() (io.ReadCloser, error) { return s.Blob(t.Context(), blobOf(b)) })
	neighbour := s.host
	if got := neighbour.budget.inFlight(); got != 0 {
		t.Errorf("%d slots are taken while a blob is read", got)
	}
	wantClass(t, s.PushBlob(t.Context(), blobOf(b), copied), nil)
	wantClass(t, r.Close(), nil)
}

func TestSlotsBoundWhatIsInFlight(t *testing.T) {
	f := newFaulty(t, nil)
	o := (&recorder{}).options()
	o.Concurrency = 2
	s := newStorage(t, f.address("shop/stages"), o)
	entered, leave := make(chan struct{}, 10), make(chan struct{})
	f.fault(func(http.ResponseWriter, *http.Request) bool {
		entered <- struct{}{}
		<-leave
		return false
	})
	done := make(chan error)
	for range 3 {
		go func() { _, err := s.Resolve(t.Context(), "one"); done <- err }()
	}
	<-entered
	<-entered
	select {
	case <-entered:
		t.Error("a third request was sent")
	case <-time.After(50 * time.Millisecond):
	}
	close(leave)
	for range 3 {
		wantClass(t, <-done, storage.ErrNotFound)
	}
}

var errSource = errors.New("disk is gone")

func TestWhatCannotBeSent(t *testing.T) {
	b := noise(1, 100_000)
	tests := []struct {
		name  string
		c     storage.Content
		class error
	}{
		{"content that does not open", storage.ContentFunc(func() (io.ReadCloser, error) { return nil, errSource }), errSource},
		{"content that cannot be read to its end", storage.ContentFunc(func() (io.ReadCloser, error) {
			return io.NopCloser(io.MultiReader(strings.NewReader("abc"), failing{})), nil
		}), errSource},
		{"content with other bytes", content(noise(2, len(b))), storage.ErrCorrupt},
		{"content with fewer bytes", content(b[1:]), storage.ErrCorrupt},
		{"content with more bytes", content(append(b[:len(b):len(b)], 'x')), storage.ErrCorrupt},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f := newFaulty(t, nil)
			rec := &recorder{}
			s := newStorage(t, f.address("shop/stages"), rec.options())
			wantClass(t, s.PushBlob(t.Context(), blobOf(b), tt.c), tt.class)
			if len(rec.slept()) > 0 {
				t.Error("it was tried again")
			}
			if got, err := read(t, s, blobOf(b)); err == nil && !bytes.Equal(got, b) {
				t.Error("other bytes were stored")
			}
		})
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errSource }
