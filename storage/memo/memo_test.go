package memo_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/memo"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func newMemo(t *testing.T, inner storage.Storage, l memo.Limits) *memo.Storage {
	t.Helper()
	s, err := memo.New(inner, l)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorageConforms(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage { return newMemo(t, mem.New(mem.Options{}), memo.Limits{}) })
}

// counted is a memory storage under a memo that counts what gets through.
func counted(t *testing.T, l memo.Limits) (*memo.Storage, *mem.Storage, func() int64) {
	inner, totals := mem.New(mem.Options{LooseReferences: true}), &observed.Totals{}
	asked := func() int64 {
		by := totals.By()
		return by[observed.Resolve].Requests + by[observed.FetchManifest].Requests
	}
	return newMemo(t, observed.New(inner, totals), l), inner, asked
}

// manifest returns a manifest that is different for each name.
func manifest(t *testing.T, name string) storage.Manifest {
	t.Helper()
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config:      ocispec.Descriptor{Digest: digest.FromString(name), Size: 1},
		Layers:      []ocispec.Descriptor{},
		Annotations: map[string]string{"name": name},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func publish(t *testing.T, s storage.Publisher, tag, name string) storage.Manifest {
	t.Helper()
	m := manifest(t, name)
	if err := s.Publish(t.Context(), tag, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestAnswersAreAskedForOnce(t *testing.T) {
	s, inner, asked := counted(t, memo.Limits{})
	m := publish(t, inner, "v1", "a")
	for range 3 {
		for _, ref := range []string{"v1", m.Descriptor.Digest.String()} {
			got, err := s.Manifest(t.Context(), ref)
			if err != nil || got.Descriptor.Digest != m.Descriptor.Digest {
				t.Fatal(got, err)
			}
			got.Bytes[0] = 'X' // a caller's copy
			if d, err := s.Resolve(t.Context(), ref); err != nil || d.Digest != m.Descriptor.Digest {
				t.Fatal(d, err)
			}
		}
	}
	if n := asked(); n != 1 {
		t.Errorf("asked %d times, want 1", n)
	}
	if got, err := s.Manifest(t.Context(), "v1"); err != nil || got.Verify() != nil {
		t.Errorf("what is remembered was changed: %v, %v", got.Verify(), err)
	}
}

func TestMissesAndErrorsAreNotRemembered(t *testing.T) {
	inner := mem.New(mem.Options{LooseReferences: true})
	broken := faulty.New(inner, faulty.On(faulty.FetchManifest, 2, faulty.Fault{Err: storage.ErrTransient}))
	s := newMemo(t, broken, memo.Limits{})
	if _, err := s.Manifest(t.Context(), "v1"); !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	publish(t, inner, "v1", "a") // another runner does
	if _, err := s.Manifest(t.Context(), "v1"); !errors.Is(err, storage.ErrTransient) {
		t.Fatal(err)
	}
	if _, err := s.Manifest(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
}

func TestOwnWritesAreSeen(t *testing.T) {
	for name, write := range map[string]func(s storage.Storage, old storage.Manifest) error{
		"a moved tag": func(s storage.Storage, _ storage.Manifest) error {
			return s.Publish(t.Context(), "v1", manifest(t, "b"))
		},
		"a deleted tag": func(s storage.Storage, _ storage.Manifest) error { return s.DeleteTag(t.Context(), "v1") },
		"a deleted manifest": func(s storage.Storage, old storage.Manifest) error {
			return s.DeleteManifest(t.Context(), old.Descriptor.Digest)
		},
		"a write with lost answer": nil,
	} {
		t.Run(name, func(t *testing.T) {
			inner := mem.New(mem.Options{LooseReferences: true})
			broken := faulty.New(inner, nil)
			s := newMemo(t, broken, memo.Limits{})
			old := publish(t, s, "v1", "a")
			if _, err := s.Manifest(t.Context(), "v1"); err != nil {
				t.Fatal(err)
			}
			if write == nil {
				broken.Follow(faulty.Always(faulty.Publish, faulty.Fault{Lost: storage.ErrTransient}))
				if err := s.Publish(t.Context(), "v1", manifest(t, "b")); !errors.Is(err, storage.ErrTransient) {
					t.Fatal(err)
				}
			} else if err := write(s, old); err != nil {
				t.Fatal(err)
			}
			want, wantErr := inner.Manifest(t.Context(), "v1")
			got, err := s.Manifest(t.Context(), "v1")
			if got.Descriptor.Digest != want.Descriptor.Digest || (err == nil) != (wantErr == nil) {
				t.Errorf("got %s, %v; want %s, %v", got.Descriptor.Digest, err, want.Descriptor.Digest, wantErr)
			}
			if d, err := s.Resolve(t.Context(), "v1"); d.Digest != want.Descriptor.Digest || (err == nil) != (wantErr == nil) {
				t.Errorf("resolved %s, %v", d.Digest, err)
			}
		})
	}
}

func TestEqualQuestionsAtTheSameTimeAreAskedOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New(mem.Options{LooseReferences: true})
		publish(t, inner, "v1", "a")
		gate, totals := make(chan struct{}), &observed.Totals{}
		slow := faulty.New(inner, faulty.Always(faulty.FetchManifest, faulty.Fault{Wait: func(context.Context) error { <-gate; return nil }}))
		s := newMemo(t, observed.New(slow, totals), memo.Limits{})
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				if _, err := s.Manifest(t.Context(), "v1"); err != nil {
					t.Error(err)
				}
			})
		}
		synctest.Wait()
		close(gate)
		wg.Wait()
		if n := totals.By()[observed.FetchManifest].Requests; n != 1 {
			t.Errorf("asked %d times, want 1", n)
		}
	})
}

func TestACallerWhoGivesUpDoesNotFailTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New(mem.Options{LooseReferences: true})
		publish(t, inner, "v1", "a")
		slow := faulty.New(inner, faulty.On(faulty.FetchManifest, 1, faulty.Fault{Wait: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}))
		s := newMemo(t, slow, memo.Limits{})
		first, giveUp := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Manifest(first, "v1"); !errors.Is(err, context.Canceled) {
				t.Errorf("who gave up got %v", err)
			}
		})
		synctest.Wait()
		for range 5 {
			wg.Go(func() {
				if _, err := s.Manifest(t.Context(), "v1"); err != nil {
					t.Errorf("another got %v", err)
				}
			})
		}
		synctest.Wait()
		giveUp()
		wg.Wait()
	})
}

func TestAnAnswerFromBeforeAWriteIsNotRememberedAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		inner := mem.New(mem.Options{LooseReferences: true})
		publish(t, inner, "v1", "a")
		gate := make(chan struct{})
		// The first read sees the old manifest and its answer takes long.
		slow := faulty.New(inner, faulty.On(faulty.FetchManifest, 1, faulty.Fault{Stale: true, Wait: func(context.Context) error { <-gate; return nil }}))
		s := newMemo(t, slow, memo.Limits{})
		var wg sync.WaitGroup
		wg.Go(func() {
			if _, err := s.Manifest(t.Context(), "v1"); err != nil {
				t.Error(err)
			}
		})
		synctest.Wait()
		want := publish(t, s, "v1", "b")
		close(gate)
		wg.Wait()
		if got, err := s.Manifest(t.Context(), "v1"); err != nil || got.Descriptor.Digest != want.Descriptor.Digest {
			t.Errorf("got %s, %v; want what was published since", got.Descriptor.Digest, err)
		}
	})
}

func TestMemoryIsBounded(t *testing.T) {
	for name, l := range map[string]memo.Limits{
		"by entries": {Entries: 10},
		"by bytes":   {Bytes: int64(10 * len(manifest(t, strings.Repeat("x", 10)).Bytes))},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner, asked := counted(t, l)
			fetch := func(i int) {
				if _, err := s.Manifest(t.Context(), fmt.Sprint("v", i)); err != nil {
					t.Fatal(err)
				}
			}
			for i := range 30 {
				publish(t, inner, fmt.Sprint("v", i), fmt.Sprintf("%010d", i))
				fetch(i)
			}
			before := asked()
			fetch(29)
			if n := asked() - before; n != 0 {
				t.Errorf("the newest was asked for again")
			}
			fetch(0)
			if n := asked() - before; n != 1 {
				t.Errorf("the oldest was asked for %d times, want 1", n)
			}
		})
	}
}

func TestNegativeLimitsAreRefused(t *testing.T) {
	for _, l := range []memo.Limits{{Entries: -1}, {Bytes: -1}} {
		if _, err := memo.New(mem.New(mem.Options{}), l); err == nil {
			t.Errorf("New with %+v succeeded", l)
		}
	}
}

func TestFreshRemembersNothing(t *testing.T) {
	s, inner, _ := counted(t, memo.Limits{})
	publish(t, inner, "v1", "a")
	if _, err := s.Resolve(t.Context(), "v1"); err != nil {
		t.Fatal(err)
	}
	want := publish(t, inner, "v1", "b")
	if d, err := s.Fresh().Resolve(t.Context(), "v1"); err != nil || d.Digest != want.Descriptor.Digest {
		t.Errorf("Fresh resolves %s, %v; want %s", d.Digest, err, want.Descriptor.Digest)
	}
}
