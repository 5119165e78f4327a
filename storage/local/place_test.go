package local_test

import (
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/cairnbuild/cairn/storage/local"
)

// A layout has one name, whoever asks and however many at once; another has another.
func TestALayoutHasANameOfItsOwn(t *testing.T) {
	dir, names := filepath.Join(t.TempDir(), "a"), make([]string, 8)
	open := func(dir string) *local.Storage {
		t.Helper()
		s, err := local.Open(t.Context(), dir)
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	first := open(dir)
	var all sync.WaitGroup
	for i := range names {
		all.Go(func() {
			var err error
			if names[i], err = first.Place(t.Context()); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	moved := filepath.Join(t.TempDir(), "b")
	if err := os.Rename(dir, moved); err != nil {
		t.Fatal(err)
	}
	again, err := open(moved).Place(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		if name != again {
			t.Errorf("it is %q and %q", name, again)
		}
	}
	if other, err := open(filepath.Join(t.TempDir(), "c")).Place(t.Context()); err != nil || other == again {
		t.Errorf("another layout is %q too (%v)", other, err)
	}
}
