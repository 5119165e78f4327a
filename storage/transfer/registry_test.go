package transfer_test

import (
	"context"
	"errors"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	inprocess "github.com/google/go-containerregistry/pkg/registry"
	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/registry"
	"github.com/cairnbuild/cairn/storage/transfer"
)

// anonymous has no credentials, whatever the machine's configuration says.
type anonymous struct{}

func (anonymous) Resolve(authn.Resource) (authn.Authenticator, error) { return authn.Anonymous, nil }

// spoilt is a repository of a registry that serves the referrers API, behind
// spoil, which may answer in its place. No time passes when its client waits; the
// longest wait is kept.
func spoilt(t *testing.T, spoil func(http.ResponseWriter, *http.Request) bool) (*registry.Storage, *atomic.Int64) {
	t.Helper()
	next := inprocess.New(inprocess.Logger(log.New(io.Discard, "", 0)), inprocess.WithReferrersSupport(true))
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if spoil == nil || !spoil(w, r) {
			next.ServeHTTP(w, r)
		}
	}))
	t.Cleanup(server.Close)
	longest := &atomic.Int64{}
	client, err := registry.NewClient(registry.Options{
		Keychain: anonymous{},
		Sleep: func(ctx context.Context, d time.Duration) error {
			for {
				had := longest.Load()
				if int64(d) <= had || longest.CompareAndSwap(had, int64(d)) {
					return ctx.Err()
				}
			}
		},
	})
	check(t, err)
	t.Cleanup(client.Close)
	s, err := client.Open(strings.TrimPrefix(server.URL, "http://") + "/shop")
	check(t, err)
	return s, longest
}

// carry copies everything.
func carry(t *testing.T, from transfer.Source, to transfer.Target) (*transfer.Result, error) {
	t.Helper()
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	v, err := transfer.Look(t.Context(), from, to, transfer.LookOptions{})
	check(t, err)
	p, err := transfer.NewPlan(v, transfer.Selection{})
	check(t, err)
	return transfer.Copy(t.Context(), to, from, p, transfer.Options{Namer: transfer.NewDirect(to, project, false, time.Now)})
}

// names are the stages and indexes that the storage names.
func names(t *testing.T, s storage.Lister) []string {
	t.Helper()
	var tags []string
	for tag, err := range s.Tags(t.Context()) {
		check(t, err)
		if tag != storage.ProjectTag {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

// thrice returns a source of three stages, of which two share a layer, and a build.
func thrice(t *testing.T) *site {
	t.Helper()
	from := newSite("from")
	from.stage(t, "base", "shared")
	from.stage(t, "backend", "shared", "own")
	from.stage(t, "site", "other")
	from.build(t, "root", map[string]string{"backend": "backend"})
	return from
}

func TestABusyRegistryIsWaitedForAndEverythingArrives(t *testing.T) {
	var refused sync.Map // each request once, whatever upload it belongs to
	var asked atomic.Int64
	to, longest := spoilt(t, func(w http.ResponseWriter, r *http.Request) bool {
		path, _, _ := strings.Cut(r.URL.Path, "/uploads/")
		_, before := refused.LoadOrStore(r.Method+path+r.URL.Query().Get("digest"), true)
		switch {
		case r.URL.Path == "/v2/" || before:
			return false
		case asked.Add(1)%2 == 0:
			w.Header().Set("Retry-After", "7")
			w.WriteHeader(http.StatusTooManyRequests)
		default:
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		return true
	})
	from := thrice(t)
	r, err := carry(t, from, to)
	check(t, err)
	if got, want := names(t, to), tagsIn(t, from); !slices.Equal(got, want) || len(r.Skips) > 0 {
		t.Errorf("it names %q, want %q; skipped %v", got, want, r.Skips)
	}
	if got := time.Duration(longest.Load()); got < 7*time.Second {
		t.Errorf("the longest wait was %s, and the registry asked for 7 s", got)
	}
}

func TestWhatIsTooLargeForTheRegistryKeepsBackWhatNeedsIt(t *testing.T) {
	to, _ := spoilt(t, func(w http.ResponseWriter, r *http.Request) bool {
		if r.Method == http.MethodGet || r.Method == http.MethodHead || r.URL.Query().Get("digest") != digest.FromString("own").String() {
			return false
		}
		w.WriteHeader(http.StatusRequestEntityTooLarge)
		return true
	})
	r, err := carry(t, thrice(t), to)
	check(t, err)
	want := []string{stageTag("base"), stageTag("site")}
	slices.Sort(want)
	if got := names(t, to); !slices.Equal(got, want) {
		t.Errorf("it names %q, want %q", got, want)
	}
	for _, s := range r.Skips {
		if s.Tag == stageTag("backend") && s.Reason != transfer.ReasonRefused || s.Kind == transfer.KindIndex && s.Reason != transfer.ReasonNeeds {
			t.Errorf("%s %s is skipped as %s: %v", s.Kind, s.Tag, s.Reason, s.Err)
		}
	}
	if len(r.Skips) != 2 {
		t.Errorf("skipped %v, want the stage and its build", r.Skips)
	}
}

func TestAQuotaEndsTheCopyAndNothingHalfIsVisible(t *testing.T) {
	var full atomic.Bool
	to, _ := spoilt(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !full.Load() || !strings.Contains(r.URL.Path, "/blobs/uploads/") {
			return false
		}
		w.WriteHeader(http.StatusForbidden)
		return true
	})
	from := thrice(t)
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	full.Store(true)
	r, err := carry(t, from, to)
	if !errors.Is(err, storage.ErrDenied) || len(r.Named) > 0 {
		t.Errorf("it ended with %v and named %v", err, r.Named)
	}
	if got := names(t, to); len(got) > 0 {
		t.Errorf("it names %q", got)
	}
	full.Store(false)
	_, err = carry(t, from, to)
	check(t, err)
	if got, want := names(t, to), tagsIn(t, from); !slices.Equal(got, want) {
		t.Errorf("afterwards it names %q, want %q", got, want)
	}
}

func TestWhatTheReferrersAPIListsTravelsAlong(t *testing.T) {
	made := newSite("made")
	m := made.stage(t, "backend", "one")
	bill := made.image(t, "bill of materials", &m.Descriptor, "bill")
	check(t, made.PushManifest(t.Context(), bill))
	from, _ := spoilt(t, nil)
	to, _ := spoilt(t, nil)
	_, err := carry(t, made, from)
	check(t, err)
	_, blobs, err := bill.References()
	check(t, err)
	for _, d := range blobs {
		check(t, from.PushBlob(t.Context(), d, storage.ContentFunc(func() (io.ReadCloser, error) { return made.Blob(t.Context(), d) })))
	}
	check(t, from.PushManifest(t.Context(), bill))
	_, err = carry(t, from, to)
	check(t, err)
	got, err := to.Referrers(t.Context(), m.Descriptor.Digest)
	check(t, err)
	if len(got) != 1 || got[0].Digest != bill.Descriptor.Digest {
		t.Errorf("attached at the target is %v, want %s", got, bill.Descriptor.Digest)
	}
}

func TestATargetWhoseAccountOfWhatIsAttachedIsCorruptGetsItByTag(t *testing.T) {
	from := newSite("from")
	m := from.stage(t, "backend", "one")
	bill := from.attach(t, "bill of materials", m.Descriptor)
	from.list(t, m.Descriptor.Digest, bill.Descriptor)
	to, _ := spoilt(t, func(w http.ResponseWriter, r *http.Request) bool {
		if !strings.Contains(r.URL.Path, "/referrers/") {
			return false
		}
		_, err := io.WriteString(w, `{"manifests":7}`)
		check(t, err)
		return true
	})
	r, err := carry(t, from, to)
	check(t, err)
	if got, want := names(t, to), tagsIn(t, from); !slices.Equal(got, want) {
		t.Errorf("it names %q, want %q", got, want)
	}
	if _, err := to.Manifest(t.Context(), bill.Descriptor.Digest.String()); err != nil {
		t.Errorf("what is attached did not come: %v", err)
	}
	if len(r.Skips) != 1 || !errors.Is(r.Skips[0].Err, storage.ErrCorrupt) || r.Skips[0].Subject != m.Descriptor.Digest {
		t.Errorf("skipped %+v, want what the target does not tell", r.Skips)
	}
}
