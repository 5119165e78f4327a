package observed_test

import (
	"errors"
	"io"
	"testing"

	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStorageConforms(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage {
		return observed.New(mem.New(mem.Options{}), &observed.Totals{})
	})
}

func TestBytesAreThoseThatMoved(t *testing.T) {
	totals := &observed.Totals{}
	s := observed.New(mem.New(mem.Options{}), totals)
	b := []byte("0123456789")
	d := storagetest.Layer(b)
	for range 2 { // the second push moves nothing
		if err := s.PushBlob(t.Context(), d, storagetest.Content(b)); err != nil {
			t.Fatal(err)
		}
	}
	r, err := s.Blob(t.Context(), d)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(r, make([]byte, 4)); err != nil { // the rest is not wanted
		t.Fatal(err)
	}
	for range 2 { // a reader may be closed twice
		if err := r.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.Manifest(t.Context(), "absent"); !errors.Is(err, storage.ErrNotFound) {
		t.Fatal(err)
	}
	by := totals.By()
	for op, want := range map[observed.Operation]observed.Count{
		observed.PushBlob:      {Requests: 2, Pushed: 10},
		observed.FetchBlob:     {Requests: 1, Pulled: 4},
		observed.FetchManifest: {Requests: 1, Errors: 1},
	} {
		if by[op] != want {
			t.Errorf("%s: %+v, want %+v", op, by[op], want)
		}
	}
	if got, want := totals.Sum(), (observed.Count{Requests: 4, Errors: 1, Pulled: 4, Pushed: 10}); got != want {
		t.Errorf("sum %+v, want %+v", got, want)
	}
}
