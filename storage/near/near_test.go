package near_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/near"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// yard is a storage with closer places.
type yard struct {
	far, mirror *mem.Storage
	asked       *observed.Totals // of far
	cache       *local.Storage
	o           near.Options

	mu       sync.Mutex
	warnings []string
}

func newYard(t *testing.T) *yard {
	t.Helper()
	y := &yard{far: mem.New(mem.Options{Address: "reg/shop"}), mirror: mem.New(mem.Options{Address: "near/cache"}), asked: &observed.Totals{}}
	var err error
	y.cache, err = local.Open(t.Context(), t.TempDir())
	check(t, err)
	y.o = near.Options{
		Cache: func(context.Context) (near.Cache, error) { return y.cache, nil },
		Warn: func(what string, _ error) {
			y.mu.Lock()
			defer y.mu.Unlock()
			y.warnings = append(y.warnings, what)
		},
	}
	return y
}

// open is what another process has of it.
func (y *yard) open() (storage.Storage, *near.Near) {
	n := near.New(y.o)
	over := n.Over(observed.New(y.far, y.asked))
	return over, n
}

func (y *yard) blobsAsked() int { return int(y.asked.By()[observed.FetchBlob].Requests) }

func push(t *testing.T, s storage.Pusher, b []byte) ocispec.Descriptor {
	t.Helper()
	d := storagetest.Layer(b)
	check(t, s.PushBlob(t.Context(), d, storagetest.Content(b)))
	return d
}

func read(t *testing.T, s storage.Fetcher, d ocispec.Descriptor, want []byte) {
	t.Helper()
	b, err := storage.ReadBlob(t.Context(), s, d, 1<<30)
	if err != nil || !bytes.Equal(b, want) {
		t.Fatalf("%d bytes, %v", len(b), err)
	}
}

func TestAStorageWithCloserPlacesIsAStorage(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		y := newYard(t)
		y.o.Mirror = y.mirror
		s, _ := y.open()
		return s
	})
}

func TestWhatWasReadIsNotAskedForAgain(t *testing.T) {
	y := newYard(t)
	b := bytes.Repeat([]byte("layer"), 100_000)
	d := push(t, y.far, b)
	for range 2 {
		s, n := y.open()
		read(t, s, d, b)
		read(t, s, d, b)
		if c := n.Counts(); c.Blobs == 0 || c.Bytes != c.Blobs*d.Size {
			t.Errorf("counted are %+v", c)
		}
	}
	if n := y.blobsAsked(); n != 1 {
		t.Errorf("the storage was asked %d times", n)
	}
}

// Readers of archives may stop at the last byte without a look at the end.
func TestAReaderThatKnowsTheSizeFillsTheCache(t *testing.T) {
	y := newYard(t)
	d := push(t, y.far, []byte("layer"))
	s, _ := y.open()
	r, err := s.Blob(t.Context(), d)
	check(t, err)
	_, err = io.ReadFull(r, make([]byte, d.Size))
	check(t, errors.Join(err, r.Close()))
	if ok, err := y.cache.HasBlob(t.Context(), d); !ok || err != nil {
		t.Errorf("the cache has it: %t, %v", ok, err)
	}
}

func TestWhatIsNotReadToItsEndIsNotKept(t *testing.T) {
	y := newYard(t)
	b := bytes.Repeat([]byte("x"), 1<<20)
	d := push(t, y.far, b)
	s, _ := y.open()
	r, err := s.Blob(t.Context(), d)
	check(t, err)
	_, err = io.ReadFull(r, make([]byte, 1000))
	check(t, errors.Join(err, r.Close()))
	if ok, err := y.cache.HasBlob(t.Context(), d); ok || err != nil {
		t.Errorf("the cache has it: %t, %v", ok, err)
	}
	read(t, s, d, b)
	if len(y.warnings) > 0 {
		t.Errorf("warned of %v", y.warnings)
	}
}

func TestADamagedCopyIsReadFromTheStorage(t *testing.T) {
	y := newYard(t)
	d := push(t, y.far, []byte("layer"))
	s, _ := y.open()
	read(t, s, d, []byte("layer"))
	check(t, os.WriteFile(y.cache.Path(d.Digest), []byte("lieth"), 0o600))
	for range 2 {
		s, _ = y.open()
		read(t, s, d, []byte("layer"))
	}
	if n := y.blobsAsked(); n != 2 {
		t.Errorf("the storage was asked %d times", n)
	}
}

func TestAStorageThatLiesIsNotKept(t *testing.T) {
	y := newYard(t)
	d := push(t, y.far, []byte("layer"))
	n := near.New(y.o)
	s := n.Over(faulty.New(y.far, faulty.Always(faulty.FetchBlob, faulty.Fault{Corrupt: true})))
	if _, err := storage.ReadBlob(t.Context(), s, d, 100); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("read gives %v", err)
	}
	if ok, _ := y.cache.HasBlob(t.Context(), d); ok || len(y.warnings) > 0 {
		t.Errorf("it is kept: %t; warned of %v", ok, y.warnings)
	}
}

func TestWithoutRoomNothingIsKept(t *testing.T) {
	y := newYard(t)
	y.o.Admit = func(size int64) bool { return size < 3 }
	d := push(t, y.far, []byte("layer"))
	s, _ := y.open()
	read(t, s, d, []byte("layer"))
	if ok, _ := y.cache.HasBlob(t.Context(), d); ok {
		t.Error("it is kept")
	}
}

func TestACacheThatDoesNotWorkIsToldOnce(t *testing.T) {
	y := newYard(t)
	y.o.Cache = func(context.Context) (near.Cache, error) { return nil, errors.New("read-only file system") }
	d := push(t, y.far, []byte("layer"))
	s, _ := y.open()
	read(t, s, d, []byte("layer"))
	read(t, s, d, []byte("layer"))
	if len(y.warnings) != 1 {
		t.Errorf("warned of %v", y.warnings)
	}
}

// full is a cache that takes a few bytes of each blob.
type full struct{ near.Cache }

func (f full) PushBlob(_ context.Context, _ ocispec.Descriptor, c storage.Content) error {
	r, err := c.Open()
	if err != nil {
		return err
	}
	_, _ = r.Read(make([]byte, 10))
	return errors.Join(storage.ErrFull, r.Close())
}

func TestACacheThatIsFullDoesNotStopAReader(t *testing.T) {
	y := newYard(t)
	y.o.Cache = func(context.Context) (near.Cache, error) { return full{y.cache}, nil }
	b := bytes.Repeat([]byte("x"), 1<<20)
	d := push(t, y.far, b)
	s, _ := y.open()
	read(t, s, d, b)
	read(t, s, d, b)
	if len(y.warnings) != 1 {
		t.Errorf("warned of %v", y.warnings)
	}
}

func TestAMirrorIsReadFirstAndFilledBehind(t *testing.T) {
	y := newYard(t)
	y.o.Mirror = y.mirror
	d := push(t, y.far, []byte("layer"))
	s, n := y.open()
	read(t, s, d, []byte("layer"))
	n.Fill(t.Context())
	tag, err := y.mirror.Manifest(t.Context(), "blob-"+d.Digest.Encoded())
	check(t, err)
	if v, err := tag.Image(); err != nil || len(v.Layers) != 1 || v.Layers[0].Digest != d.Digest {
		t.Errorf("the mirror keeps it by %s, %v", tag.Bytes, err)
	}
	// Another host of the same site.
	y.cache, err = local.Open(t.Context(), t.TempDir())
	check(t, err)
	s, n = y.open()
	read(t, s, d, []byte("layer"))
	if c := n.Counts(); y.blobsAsked() != 1 || c.Mirrored != 1 || c.Blobs != 1 {
		t.Errorf("the storage was asked %d times, counted are %+v", y.blobsAsked(), c)
	}
	if len(y.warnings) > 0 {
		t.Errorf("warned of %v", y.warnings)
	}
}

func TestAMirrorThatFailsIsToldOnceAndNotAskedAgain(t *testing.T) {
	for name, script := range map[string]faulty.Script{
		"away":      faulty.Always(faulty.FetchBlob, faulty.Fault{Err: storage.ErrTransient}),
		"lying":     faulty.Always(faulty.FetchBlob, faulty.Fault{Corrupt: true}),
		"read-only": faulty.Always(faulty.PushBlob, faulty.Fault{Err: storage.ErrDenied}),
	} {
		t.Run(name, func(t *testing.T) {
			y := newYard(t)
			totals := &observed.Totals{}
			y.o.Mirror = observed.New(faulty.New(y.mirror, script), totals)
			first, second := push(t, y.far, []byte("first")), push(t, y.far, []byte("second"))
			if name == "lying" {
				push(t, y.mirror, []byte("first"))
			}
			s, n := y.open()
			read(t, s, first, []byte("first"))
			n.Fill(t.Context())
			asked := totals.By()[observed.FetchBlob].Requests
			read(t, s, second, []byte("second"))
			n.Fill(t.Context())
			if got := totals.By()[observed.FetchBlob].Requests; len(y.warnings) != 1 || got != asked {
				t.Errorf("warned of %v, and asked %d times more", y.warnings, got-asked)
			}
		})
	}
}

// A name and the question whether something is there are the storage's alone.
func TestCloserPlacesDoNotSayWhatIsPublished(t *testing.T) {
	y := newYard(t)
	y.o.Mirror = y.mirror
	b := []byte("layer")
	d := push(t, y.far, b)
	s, _ := y.open()
	read(t, s, d, b)
	push(t, y.mirror, b)
	y.far = mem.New(mem.Options{Address: "reg/shop"}) // it has lost everything
	s, _ = y.open()
	if ok, err := s.HasBlob(t.Context(), d); ok || err != nil {
		t.Errorf("the storage has the blob: %t, %v", ok, err)
	}
	m := storage.Manifest{Descriptor: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(b), Size: int64(len(b))}, Bytes: b}
	if _, err := s.Manifest(t.Context(), m.Descriptor.Digest.String()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a manifest comes from elsewhere: %v", err)
	}
	read(t, s, d, b)
}

func TestManyReadersOfOneBlob(t *testing.T) {
	y := newYard(t)
	y.o.Mirror = y.mirror
	b := bytes.Repeat([]byte("layer"), 100_000)
	d := push(t, y.far, b)
	s, n := y.open()
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			if got, err := storage.ReadBlob(t.Context(), s, d, 1<<30); err != nil || !bytes.Equal(got, b) {
				t.Errorf("%d bytes, %v", len(got), err)
			}
		})
	}
	wg.Wait()
	n.Fill(t.Context())
	if inv, err := y.cache.Inventory(t.Context(), time.Now(), nil); err != nil || len(inv.Loose) != 1 || len(y.warnings) > 0 {
		t.Errorf("the cache has %v, %v; warned of %v", inv.Loose, err, y.warnings)
	}
}
