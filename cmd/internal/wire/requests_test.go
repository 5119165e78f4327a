package wire

import (
	"bytes"
	"errors"
	"net/http"
	"regexp"
	"strings"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cairnbuild/cairn/storage/registry"
)

type transport func(*http.Request) (*http.Response, error)

func (f transport) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestIDsOfRequestsShareTheirBeginning(t *testing.T) {
	id := Host{Rand: bytes.NewReader([]byte("abcdef"))}.requestIDs()
	if a, b := id(), id(); a != "616263646566-1" || b != "616263646566-2" {
		t.Errorf("got %s and %s", a, b)
	}
	if id := (Host{Rand: strings.NewReader("")}).requestIDs(); id() != "" {
		t.Error("without randomness there is an id")
	}
}

func TestRequestsToALedgerAreLoggedWithoutSecrets(t *testing.T) {
	core, said := observer.New(zap.DebugLevel)
	var sent http.Header
	a := &audited{id: func() string { return "run-1" }, now: func() time.Time { return time.Unix(0, 0) }, log: zap.New(core)}
	a.next = transport(func(r *http.Request) (*http.Response, error) {
		sent = r.Header
		return &http.Response{StatusCode: http.StatusConflict}, nil
	})
	r, err := http.NewRequest(http.MethodPatch, "https://ann:s3cret@cluster/api/v1/x?token=s3cret", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Authorization", "Bearer s3cret")
	resp, err := a.RoundTrip(r)
	if err != nil || resp.StatusCode != http.StatusConflict || sent.Get("Audit-Id") != "run-1" || sent.Get("Authorization") == "" || r.Header.Get("Audit-Id") != "" {
		t.Errorf("got %v, %v; the server got %v", resp, err, sent)
	}
	a.next = transport(func(*http.Request) (*http.Response, error) { return nil, errors.New("s3cret") })
	if _, err := a.RoundTrip(r); err == nil {
		t.Error("the error is lost")
	}
	for i, status := range []int64{http.StatusConflict, 0} {
		f := said.All()[i].ContextMap()
		if f["request_id"] != "run-1" || f["path"] != "/api/v1/x" || f["method"] != "PATCH" || f["status"] != status {
			t.Errorf("logged %v", f)
		}
		for _, v := range f {
			if s, ok := v.(string); ok && strings.Contains(s, "s3cret") {
				t.Errorf("logged %v", f)
			}
		}
	}
}

func TestRequestsToARegistryAreLoggedAtDebugOnly(t *testing.T) {
	e := registry.Exchange{ID: "run-1", Kind: registry.KindRegistry, Method: "GET", Host: "h", Path: "/v2/x", Status: 200, Took: time.Second}
	for level, want := range map[zap.AtomicLevel]int{zap.NewAtomicLevelAt(zap.DebugLevel): 1, zap.NewAtomicLevelAt(zap.InfoLevel): 0} {
		core, said := observer.New(level)
		logExchange(zap.New(core), e)
		if said.Len() != want {
			t.Errorf("at %s: logged %v", level, said.All())
		}
	}
	logExchange(nil, e)
}

// dash is how ids look.
var dash = regexp.MustCompile(`^[0-9a-f]{12}-[0-9]+$`)

func TestTheRealHostMakesIDs(t *testing.T) {
	if id := NewHost(zap.NewNop(), "v1").requestIDs()(); !dash.MatchString(id) {
		t.Errorf("got %q", id)
	}
}
