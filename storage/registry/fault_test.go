package registry

import (
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/storage"
)

func TestFaultsGetTheirClass(t *testing.T) {
	json := map[string]string{"Content-Type": "application/json"}
	errorBody := func(code, message string) string {
		return fmt.Sprintf(`{"errors":[{"code":%q,"message":%q}]}`, code, message)
	}
	f := newFaulty(t, nil)
	plain := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	m := pushImage(t, plain, 1)
	if err := plain.Publish(t.Context(), "one", m); err != nil {
		t.Fatal(err)
	}
	other := pushImage(t, plain, 2)
	small := noise(3, 100)

	resolve := func(s *Storage) error { _, err := s.Resolve(t.Context(), "one"); return err }
	fetch := func(s *Storage) error {
		got, err := s.Manifest(t.Context(), "one")
		if err == nil && string(got.Bytes) != string(m.Bytes) {
			return fmt.Errorf("got other bytes: %s", got.Bytes)
		}
		return err
	}
	push := func(s *Storage) error { return s.PushBlob(t.Context(), blobOf(small), content(small)) }
	publish := func(m storage.Manifest) func(*Storage) error {
		return func(s *Storage) error { return s.Publish(t.Context(), "one", m) }
	}
	tests := []struct {
		name   string
		hook   hook
		do     func(*Storage) error
		class  error
		sent   string
		sleeps int
	}{
		{"403 is denied", answer("", 403, json, errorBody("DENIED", "no")), resolve, storage.ErrDenied, "HEAD", 0},
		{"404 is not found", answer("", 404, json, errorBody("MANIFEST_UNKNOWN", "no")), resolve, storage.ErrNotFound, "HEAD", 0},
		{"401 without a known way is unauthorized", answer("", 401, map[string]string{"Www-Authenticate": "Negotiate"}, ""), resolve, storage.ErrUnauthorized, "HEAD", 0},
		{"413 to a small blob is too large", answer("PUT", 413, nil, ""), push, storage.ErrTooLarge, "POST PUT", 0},
		{"507 is a full disk", answer("PUT", 507, nil, ""), push, storage.ErrFull, "POST PUT", 0},
		{"a burst of 503 passes", times(3, answer("", 503, nil, "")), resolve, nil, "HEAD HEAD HEAD HEAD", 3},
		{"a burst of 502 while reading passes", times(2, answer("", 502, nil, "")), fetch, nil, "GET GET GET", 2},
		{"500 for ever is transient", answer("", 500, nil, ""), resolve, storage.ErrTransient, "HEAD HEAD HEAD HEAD HEAD", 4},
		{"resets pass", times(2, reset("")), resolve, nil, "HEAD HEAD HEAD", 2},
		{"resets of an upload begin a new session", times(2, reset("PUT")), push, nil, "POST PUT POST PUT POST PUT", 2},
		{"a session that has expired is begun anew at once", times(1, answer("PUT", 404, json, errorBody("BLOB_UPLOAD_UNKNOWN", ""))), push, nil, "POST PUT POST PUT", 0},
		{"sessions that always expire end", answer("PUT", 404, nil, ""), push, storage.ErrNotFound, "POST PUT POST PUT POST PUT", 0},
		{"429 with Retry-After is waited for", times(1, answer("", 429, map[string]string{"Retry-After": "7"}, "")), resolve, nil, "HEAD HEAD", 1},
		{"429 beyond the budget ends at once", answer("", 429, map[string]string{"Retry-After": "600"}, ""), resolve, storage.ErrRateLimited, "HEAD", 0},
		{"a HEAD without the digest is followed by a GET", times(1, answer("HEAD", 200, nil, "")), resolve, nil, "HEAD GET", 0},
		{"a HEAD of a page is followed by a GET", times(1, answer("HEAD", 200, map[string]string{"Content-Type": "text/html", "Docker-Content-Digest": m.Descriptor.Digest.String()}, "")), resolve, nil, "HEAD GET", 0},
		{"HEAD not allowed is followed by a GET", times(1, answer("HEAD", 405, nil, "")), resolve, nil, "HEAD GET", 0},
		{"wrong bytes once are fetched again", times(1, answer("GET", 200, map[string]string{"Docker-Content-Digest": m.Descriptor.Digest.String()}, "{}")), fetch, nil, "GET GET", 0},
		{"wrong bytes twice are corrupt", answer("GET", 200, map[string]string{"Docker-Content-Digest": m.Descriptor.Digest.String()}, "{}"), fetch, storage.ErrCorrupt, "GET GET", 0},
		{"a page instead of a manifest is corrupt", answer("GET", 200, map[string]string{"Content-Type": "text/html"}, "<html>"), fetch, storage.ErrCorrupt, "GET GET", 0},
		{"a truncated manifest is fetched again", times(1, answer("GET", 200, map[string]string{"Content-Length": "5000"}, "{")), fetch, nil, "GET GET", 1},
		{"a manifest without end is too large", answer("GET", 200, nil, strings.Repeat(" ", storage.MaxManifest+1)), fetch, storage.ErrTooLarge, "GET", 0},
		{"a redirect down to plain HTTP elsewhere is refused", answer("GET", 302, map[string]string{"Location": "http://192.0.2.1/x"}, ""), fetch, storage.ErrInvalid, "GET", 0},
		{"a redirect in circles ends", answer("GET", 302, map[string]string{"Location": "/v2/shop/stages/manifests/one"}, ""), fetch, storage.ErrInvalid, "GET GET GET GET GET", 0},
		{"a redirect of a PUT is refused", answer("PUT", 307, map[string]string{"Location": "/elsewhere"}, ""), publish(m), storage.ErrInvalid, "PUT", 0},
		{"a missing blob answered with 404 is invalid", answer("PUT", 404, json, errorBody("MANIFEST_BLOB_UNKNOWN", "")), publish(m), storage.ErrInvalid, "PUT", 0},
		{"an immutable tag with the same manifest is success", answer("PUT", 409, nil, ""), publish(m), nil, "PUT HEAD", 0},
		{"an immutable tag with another one exists (409)", answer("PUT", 409, nil, ""), publish(other), storage.ErrExists, "PUT HEAD", 0},
		{"an immutable tag with another one exists (412)", answer("PUT", 412, nil, ""), publish(other), storage.ErrExists, "PUT HEAD", 0},
		{"an immutable tag with another one exists (403)", answer("PUT", 403, json, errorBody("DENIED", "")), publish(other), storage.ErrExists, "PUT HEAD", 0},
		{"an immutable tag with another one exists (400)", answer("PUT", 400, json, errorBody("TAG_IMMUTABLE", "")), publish(other), storage.ErrExists, "PUT HEAD", 0},
		{"a manifest that is refused as invalid is not looked for", answer("PUT", 400, json, errorBody("MANIFEST_INVALID", "")), publish(m), storage.ErrInvalid, "PUT", 0},
		{"a registry that is wrong about a digest is asked again", times(1, answer("PUT", 400, json, errorBody("DIGEST_INVALID", ""))), publish(m), nil, "PUT PUT", 1},
		{"a blob stored as something else is corrupt", answer("PUT", 201, map[string]string{"Docker-Content-Digest": m.Descriptor.Digest.String()}, ""), push, storage.ErrCorrupt, "POST PUT", 0},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			rec := &recorder{}
			s := newStorage(t, f.address("shop/stages"), rec.options())
			f.fault(tt.hook)
			wantClass(t, tt.do(s), tt.class)
			if got := f.requests(); got != tt.sent {
				t.Errorf("sent %s, want %s", got, tt.sent)
			}
			if got := rec.slept(); len(got) != tt.sleeps {
				t.Errorf("slept %v, want %d delays", got, tt.sleeps)
			}
		})
	}
}

func TestADeletionWhoseAnswerWasLostIsSuccess(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	m := pushImage(t, s, 1)
	first := times(1, reset(""))
	f.fault(func(w http.ResponseWriter, r *http.Request) bool {
		return first(w, r) || answer("", 404, nil, "")(w, r)
	})
	wantClass(t, s.DeleteManifest(t.Context(), m.Descriptor.Digest), nil)
	wantClass(t, s.DeleteManifest(t.Context(), m.Descriptor.Digest), storage.ErrNotFound)
}

func TestDelaysFollowRetryAfterAndJitter(t *testing.T) {
	f := newFaulty(t, nil)
	rec := &recorder{}
	o := rec.options()
	o.Jitter = func() float64 { return 0.5 }
	s := newStorage(t, f.address("shop/stages"), o)
	date := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	second := times(1, answer("", 429, map[string]string{"Date": date.Format(http.TimeFormat), "Retry-After": date.Add(11 * time.Second).Format(http.TimeFormat)}, ""))
	first := times(1, answer("", 503, nil, ""))
	f.fault(func(w http.ResponseWriter, r *http.Request) bool { return first(w, r) || second(w, r) })
	_, err := s.Resolve(t.Context(), "absent")
	wantClass(t, err, storage.ErrNotFound)
	if got := rec.slept(); len(got) != 2 || got[0] != 187500*time.Microsecond || got[1] != 11*time.Second {
		t.Errorf("slept %v, want three quarters of the base, then what the date says", got)
	}
}

func TestRateLimitsTellHowLong(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	f.fault(answer("", 429, map[string]string{"Retry-After": "600"}, ""))
	_, err := s.Resolve(t.Context(), "one")
	if e, ok := asError(err); !ok || e.RetryAfter != 10*time.Minute || e.Op != "resolve" || e.Subject != "one" || e.Storage != s.Address() {
		t.Errorf("got %#v", err)
	}
}

func TestAServerThatStallsIsTransient(t *testing.T) {
	gone := make(chan struct{})
	stall := func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet {
			w.Header().Set("Content-Length", "100")
			_, _ = io.WriteString(w, "{")
			w.(http.Flusher).Flush()
		}
		select {
		case <-r.Context().Done():
		case <-gone:
		}
		return true
	}
	f := newFaulty(t, nil)
	t.Cleanup(func() { close(gone) })
	o := (&recorder{}).options()
	o.Retry.Attempts = 2
	o.Timeouts = Timeouts{Connect: 20 * time.Millisecond, Answer: 20 * time.Millisecond, Idle: 20 * time.Millisecond}
	s := newStorage(t, f.address("shop/stages"), o)
	f.fault(stall)
	for name, do := range map[string]func() error{
		"before the answer": func() error { _, err := s.Resolve(t.Context(), "one"); return err },
		"inside the answer": func() error { _, err := s.Manifest(t.Context(), "one"); return err },
	} {
		err := do()
		wantClass(t, err, storage.ErrTransient)
		wantClass(t, err, errStalled)
		if t.Failed() {
			t.Log(name)
		}
	}
}

func TestAContextThatEndsWins(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	ctx, cancel := contextWithCause(t)
	f.fault(func(_ http.ResponseWriter, r *http.Request) bool {
		cancel(errTest)
		<-r.Context().Done()
		return true
	})
	_, err := s.Resolve(ctx, "one")
	wantClass(t, err, errTest)
	if _, ok := asError(err); ok {
		t.Errorf("the storage is blamed: %v", err)
	}
}

func TestErrorsHoldNoSecretsAndNoControlCharacters(t *testing.T) {
	f := newFaulty(t, nil)
	s := newStorage(t, f.address("shop/stages"), (&recorder{}).options())
	f.fault(answer("", 400, map[string]string{"Content-Type": "application/json"},
		`{"errors":[{"code":"X\u001b[31m","message":"see https://ann:hunter2@host/p?sig=abc123 \u0007`+strings.Repeat("long", 1000)+`"}]}`))
	_, err := s.Resolve(t.Context(), "one")
	wantClass(t, err, storage.ErrInvalid)
	_, err = s.Manifest(t.Context(), "one")
	text := err.Error()
	for _, bad := range []string{"hunter2", "abc123", "\x1b", "\x07"} {
		if strings.Contains(text, bad) {
			t.Errorf("the error holds %q: %q", bad, text)
		}
	}
	if len(text) > 600 || !strings.Contains(text, "https://REDACTED@host/p?REDACTED") {
		t.Errorf("got %q", text)
	}
}
