package kubernetes

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/lock"
)

var update = flag.Bool("update", false, "write golden files anew")

func golden(t *testing.T, name, got string) {
	t.Helper()
	path := filepath.Join("testdata", name)
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: got\n%s\nwant\n%s", name, got, want)
	}
}

func TestManifest(t *testing.T) {
	for name, m := range map[string]Manifest{
		"manifest.golden.yaml": {Namespace: "cairn-synchronization"},
		"manifest-subjects.golden.yaml": {Namespace: "ci", Subjects: []Subject{
			{Kind: "ServiceAccount", Name: "default", Namespace: "runners"}, {Kind: "User", Name: "jane@example.com"}, {Kind: "Group", Name: "ci"},
		}},
	} {
		text, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, text)
	}
	for _, m := range []Manifest{
		{}, {Namespace: "a: b"},
		{Namespace: "ci", Subjects: []Subject{{Kind: "Robot", Name: "r"}}},
		{Namespace: "ci", Subjects: []Subject{{Kind: "ServiceAccount", Name: "r", Namespace: "\n"}}},
	} {
		if text, err := m.Encode(); err == nil {
			t.Errorf("%+v was encoded as %s", m, text)
		}
	}
}

func TestPatch(t *testing.T) {
	changes := []lock.Change{
		lock.Test("ledger", "s"), lock.Add("a/b~c", `{"x":"<1>"}`), lock.Replace("b", "1", ""), lock.Remove("c", "3"), {Key: "d"},
	}
	for name, seen := range map[string]sight{"patch.golden.json": {}, "patch-bare.golden.json": {bare: true, managed: true}} {
		body, err := encodePatch(changes, seen)
		if err != nil {
			t.Fatal(err)
		}
		var ops []any
		if err := json.Unmarshal(body, &ops); err != nil {
			t.Fatal(err)
		}
		pretty, err := json.MarshalIndent(ops, "", "  ")
		if err != nil {
			t.Fatal(err)
		}
		golden(t, name, string(pretty)+"\n")
	}
}

func TestParseAddress(t *testing.T) {
	for in, want := range map[string]Address{
		"kubernetes://":   {Namespace: DefaultNamespace},
		"kubernetes://ci": {Namespace: "ci"},
		"kubernetes://ci/?context=a%2Fb&kubeconfig=/k": {Namespace: "ci", Context: "a/b", Kubeconfig: "/k"},
		"kubernetes://ci?ttl=3s":                       {Namespace: "ci", TTL: 3 * time.Second},
		"kubernetes://ci?ttl=10m":                      {Namespace: "ci", TTL: 10 * time.Minute},
	} {
		got, err := ParseAddress(in)
		if err != nil || got != want {
			t.Errorf("%s: got %+v, error %v, want %+v", in, got, err, want)
		}
		if again, err := ParseAddress(got.String()); err != nil || again != got {
			t.Errorf("%s does not come back: %+v, error %v", got, again, err)
		}
	}
	for _, in := range []string{
		"", "kubernetes:ci", "http://ci", "kubernetes://Ci", "kubernetes://a.b", "kubernetes://ci:80", "kubernetes://ci/more",
		"kubernetes://u@ci", "kubernetes://ci#x", "kubernetes://ci?contxt=a", "kubernetes://ci?context=", "kubernetes://ci?context=a&context=b", "kubernetes://ci?a;b",
		"kubernetes://ci?ttl=3", "kubernetes://ci?ttl=0s", "kubernetes://ci?ttl=-3s", "kubernetes://ci?ttl=1s", "kubernetes://ci?ttl=2500ms",
		"kubernetes://ci?ttl=11m", "kubernetes://ci?ttl=3s&ttl=4s",
	} {
		if got, err := ParseAddress(in); err == nil {
			t.Errorf("%q was read as %+v", in, got)
		}
	}
}

func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"kubernetes://", "kubernetes://ci?context=a", ":local", "kubernetes://x/?kubeconfig=%2f", "kubernetes://x?ttl=3000ms"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := ParseAddress(s)
		if err != nil {
			return
		}
		if again, err := ParseAddress(a.String()); err != nil || again != a {
			t.Fatalf("%q is %+v, which comes back as %+v, error %v", s, a, again, err)
		}
	})
}

func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"metadata":{"name":"g.ab","annotations":{"cairn.build/renewals":"3"}},"spec":{"leaseDurationSeconds":30}}`))
	f.Add([]byte(`{"kind":"Status","reason":"Invalid","details":{"causes":[{"reason":"FieldValueTooLong"}]}}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		decodeStatus(raw)
		var o object
		if json.Unmarshal(raw, &o) != nil {
			return
		}
		if r, ok := decodeLease("g", o); ok && (r.TTL <= 0 || r.Session == "" || strings.Contains(r.Session, ".")) {
			t.Fatalf("%s is the record %+v", raw, r)
		}
		b := &Backend{seen: map[string]sight{}}
		if s, err := b.snapshot(o); err == nil && s.Data == nil {
			t.Fatalf("%s is the snapshot %+v", raw, s)
		}
	})
}

// fake returns a backend whose server answers as handle does.
func fake(t *testing.T, handle http.HandlerFunc) *Backend {
	t.Helper()
	server := httptest.NewServer(handle)
	t.Cleanup(server.Close)
	b, err := Open(t.Context(), Options{Config: &rest.Config{Host: server.URL}, Namespace: "ci", Now: time.Now})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

func TestAnswersAreClassified(t *testing.T) {
	for _, test := range []struct {
		name        string
		code        int
		body        string
		read, write error // nil is permanent
	}{
		{"too many requests", 429, "", lock.ErrUnavailable, lock.ErrAmbiguous},
		{"a server's mistake", 500, "", lock.ErrUnavailable, lock.ErrAmbiguous},
		{"an overloaded etcd", 504, `{"reason":"Timeout"}`, lock.ErrUnavailable, lock.ErrAmbiguous},
		{"a write that came between", 409, `{"reason":"Conflict"}`, lock.ErrUnavailable, lock.ErrUnavailable},
		{"a failed test", 422, `{"reason":"Invalid","message":"the server rejected our request"}`, errTest, lock.ErrConflict},
		{"a wrong request", 400, "", nil, nil},
		{"a wrong object", 422, `{"details":{"causes":[{"reason":"FieldValueInvalid"}]}}`, nil, nil},
		{"what a load balancer says", 403, "<html>no</html>", nil, nil},
		{"an answer that is cut off", 200, `{"metadata":`, lock.ErrUnavailable, lock.ErrAmbiguous},
	} {
		t.Run(test.name, func(t *testing.T) {
			b := fake(t, func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(test.code)
				fmt.Fprint(w, test.body)
			})
			_, err := b.Read(t.Context(), "s")
			wantClass(t, "read", err, test.read)
			_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Replace("a", "1", "2")})
			wantClass(t, "write", err, test.write)
		})
	}
}

func wantClass(t *testing.T, what string, err, class error) {
	t.Helper()
	if err == nil {
		t.Errorf("%s: no error", what)
	}
	for _, c := range []error{lock.ErrUnavailable, lock.ErrAmbiguous, lock.ErrConflict, errTest} {
		// A conflict is a failed test, told in the words of the contract.
		want := errors.Is(class, c) || errors.Is(c, errTest) && errors.Is(class, lock.ErrConflict)
		if errors.Is(err, c) != want {
			t.Errorf("%s: got error %v, want class %v", what, err, class)
		}
	}
	for _, word := range []string{"configmaps", "namespace ci"} {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("%s: the error does not name %s: %v", what, word, err)
		}
	}
}

func TestNobodyThere(t *testing.T) {
	b, err := Open(t.Context(), Options{Config: &rest.Config{Host: "http://127.0.0.1:1"}, Namespace: "ci", Now: time.Now})
	must(t, err)
	_, err = b.Swap(t.Context(), "s", []lock.Change{lock.Add("a", "1")})
	if !errors.Is(err, lock.ErrUnavailable) || errors.Is(err, lock.ErrAmbiguous) {
		t.Errorf("nothing was sent, but the error is %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := b.Now(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("got error %v", err)
	}
}

func TestAStartingServerIsNotBelieved(t *testing.T) {
	var starting atomic.Bool
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		if starting.Load() || r.Method == http.MethodDelete {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		fmt.Fprint(w, `{"metadata":{"name":"s","resourceVersion":"1"}}`)
	})
	_, err := b.Read(t.Context(), "s")
	must(t, err)
	starting.Store(true)
	_, err = b.Read(t.Context(), "s")
	if !errors.Is(err, lock.ErrUnavailable) {
		t.Errorf("what was allowed before: got error %v", err)
	}
	if err = b.Remove(t.Context(), "g", "ab", 0); !errors.Is(err, lock.ErrUnavailable) {
		t.Errorf("what was never tried: got error %v", err)
	}
	starting.Store(false)
	var denied *DeniedError
	if err = b.Remove(t.Context(), "g", "ab", 0); !errors.As(err, &denied) || errors.Is(err, lock.ErrUnavailable) {
		t.Errorf("what is not allowed: got error %v", err)
	}
}

func TestAWatchGoesOnWhereItEnded(t *testing.T) {
	before := goleak.IgnoreCurrent()
	t.Cleanup(func() { goleak.VerifyNone(t, before) }) // after the server has ended
	streams := []string{
		`{"type":"ADDED","object":{"metadata":{"resourceVersion":"5"}}}`,
		`{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"9"}}}`,
		`{"type":"MODIFIED","object":{"metadata":{"resourceVersion":"12"}}}`,
		`{"type":"ERROR","object":{"code":410,"reason":"Expired"}}`,
		`{"type":"ADDED","object":{"metadata":{"resourceVersion":"99"}}}`,
	}
	var asked []string
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		asked = append(asked, r.URL.Query().Get("resourceVersion"))
		fmt.Fprintln(w, streams[len(asked)-1])
	})
	wake, err := b.Watch(t.Context(), "s")
	must(t, err)
	wakes := 0
	for range wake {
		wakes++
	}
	if got := strings.Join(asked, ","); got != ",5,9,12" || wakes < 1 {
		t.Errorf("asked from %q and woke %d times", got, wakes)
	}
	must(t, b.Close())
}

func TestClosingEndsWatches(t *testing.T) {
	b := fake(t, func(w http.ResponseWriter, r *http.Request) {
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	})
	wake, err := b.Watch(t.Context(), "s")
	must(t, err)
	must(t, b.Close())
	if _, ok := <-wake; ok {
		t.Error("woken by the end")
	}
	if _, err := b.Watch(t.Context(), "s"); err == nil {
		t.Error("a closed backend watches")
	}
}
