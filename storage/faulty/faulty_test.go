package faulty_test

import (
	"context"
	"errors"
	"io"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStorageWithoutFaultsConforms(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage { return faulty.New(mem.New(mem.Options{}), nil) })
}

var errDown = errors.New("down")

func newFaulty(script faulty.Script) (*faulty.Storage, *mem.Storage) {
	inner := mem.New(mem.Options{LooseReferences: true})
	return faulty.New(inner, script), inner
}

func manifest(t *testing.T, name string) storage.Manifest {
	t.Helper()
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, Layers: []ocispec.Descriptor{}, Annotations: map[string]string{"name": name},
	})
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func TestErrorsComeOnTheirCallAndNothingIsDone(t *testing.T) {
	s, inner := newFaulty(faulty.On(faulty.Publish, 2, faulty.Fault{Err: errDown}))
	for i, want := range []error{nil, errDown, nil} {
		tag := string(rune('a' + i))
		if err := s.Publish(t.Context(), tag, manifest(t, tag)); !errors.Is(err, want) {
			t.Errorf("call %d: %v, want %v", i+1, err, want)
		}
		if _, err := inner.Resolve(t.Context(), tag); (err == nil) != (want == nil) {
			t.Errorf("call %d: the storage says %v", i+1, err)
		}
	}
}

func TestALostAnswerIsOfWorkThatWasDone(t *testing.T) {
	s, inner := newFaulty(faulty.Always(faulty.Publish, faulty.Fault{Lost: errDown}))
	if err := s.Publish(t.Context(), "v1", manifest(t, "a")); !errors.Is(err, errDown) {
		t.Errorf("Publish: %v", err)
	}
	if _, err := inner.Resolve(t.Context(), "v1"); err != nil {
		t.Errorf("the storage says %v", err)
	}
}

func TestADelayEndsWithItsContext(t *testing.T) {
	s, _ := newFaulty(faulty.Always(faulty.Resolve, faulty.Fault{Wait: func(ctx context.Context) error { <-ctx.Done(); return ctx.Err() }}))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Resolve(ctx, "v1"); !errors.Is(err, context.Canceled) {
		t.Errorf("Resolve: %v", err)
	}
}

func TestFaultyReadsOfABlob(t *testing.T) {
	b := []byte("0123456789")
	d := storagetest.Layer(b)
	for name, c := range map[string]struct {
		fault faulty.Fault
		n     int
		err   error
	}{
		"break off with an error":         {faulty.Fault{After: 4, Err: errDown}, 4, errDown},
		"end early and are found corrupt": {faulty.Fault{After: 4}, 4, storage.ErrCorrupt},
		"are damaged and found corrupt":   {faulty.Fault{Corrupt: true}, 0, storage.ErrCorrupt},
		"may also be right":               {faulty.Fault{}, 10, nil},
	} {
		t.Run(name, func(t *testing.T) {
			s, inner := newFaulty(faulty.Always(faulty.FetchBlob, c.fault))
			if err := inner.PushBlob(t.Context(), d, storagetest.Content(b)); err != nil {
				t.Fatal(err)
			}
			r, err := s.Blob(t.Context(), d)
			if err != nil {
				t.Fatal(err)
			}
			got, err := io.ReadAll(r)
			if len(got) != c.n || !errors.Is(err, c.err) || r.Close() != nil {
				t.Errorf("%q, %v; want %d bytes, %v", got, err, c.n, c.err)
			}
		})
	}
}

func TestADamagedManifestIsFoundCorrupt(t *testing.T) {
	s, inner := newFaulty(faulty.Always(faulty.FetchManifest, faulty.Fault{Corrupt: true}))
	if err := inner.Publish(t.Context(), "v1", manifest(t, "a")); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Manifest(t.Context(), "v1"); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("Manifest: %v", err)
	}
}

func TestLaggingReadsSeeTheStateBeforeTheLastWrite(t *testing.T) {
	stale := faulty.Fault{Stale: true}
	lag := faulty.Scripts(faulty.Always(faulty.Resolve, stale), faulty.Always(faulty.FetchManifest, stale),
		faulty.Always(faulty.HasBlob, stale), faulty.Always(faulty.FetchBlob, stale), faulty.Always(faulty.ListTags, stale))
	s, _ := newFaulty(lag)
	a, b := manifest(t, "a"), manifest(t, "b")
	check := func(when string, want storage.Manifest, class error) {
		t.Helper()
		m, err := s.Manifest(t.Context(), "v1")
		d, rerr := s.Resolve(t.Context(), "v1")
		if !errors.Is(err, class) || !errors.Is(rerr, class) || m.Descriptor.Digest != want.Descriptor.Digest || d.Digest != want.Descriptor.Digest {
			t.Errorf("%s: got %s, %v, %v; want %s, %v", when, m.Descriptor.Digest, err, rerr, want.Descriptor.Digest, class)
		}
	}
	publish := func(m storage.Manifest) {
		t.Helper()
		if err := s.Publish(t.Context(), "v1", m); err != nil {
			t.Fatal(err)
		}
	}
	publish(a)
	check("after the first write", storage.Manifest{}, storage.ErrNotFound)
	for tag := range s.Tags(t.Context()) {
		t.Errorf("tag %s is listed", tag)
	}
	publish(b)
	check("after the second write", a, nil)
	if err := s.DeleteManifest(t.Context(), b.Descriptor.Digest); err != nil {
		t.Fatal(err)
	}
	check("after the removal", b, nil)
	d := storagetest.Layer([]byte("x"))
	if err := s.PushBlob(t.Context(), d, storagetest.Content([]byte("x"))); err != nil {
		t.Fatal(err)
	}
	if ok, err := s.HasBlob(t.Context(), d); ok || err != nil {
		t.Errorf("HasBlob = %v, %v", ok, err)
	}
	if _, err := s.Blob(t.Context(), d); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Blob: %v", err)
	}
	s.Follow(nil)
	if ok, err := s.HasBlob(t.Context(), d); !ok || err != nil {
		t.Errorf("in time, HasBlob = %v, %v", ok, err)
	}
}

func TestAListEndsEarly(t *testing.T) {
	for name, want := range map[string]error{"with an error": errDown, "as if it were all": nil} {
		t.Run(name, func(t *testing.T) {
			s, inner := newFaulty(faulty.Always(faulty.ListTags, faulty.Fault{After: 2, Err: want}))
			for _, tag := range []string{"a", "b", "c"} {
				if err := inner.Publish(t.Context(), tag, manifest(t, tag)); err != nil {
					t.Fatal(err)
				}
			}
			n, last := 0, error(nil)
			for _, err := range s.Tags(t.Context()) {
				if last = err; err == nil {
					n++
				}
			}
			if n != 2 || !errors.Is(last, want) {
				t.Errorf("%d tags, %v; want 2, %v", n, last, want)
			}
		})
	}
}
