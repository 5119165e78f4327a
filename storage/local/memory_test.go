package local_test

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage/local"
)

func newMemory(t *testing.T, manifests int) *local.Memory {
	t.Helper()
	m, err := local.NewMemory(manifests)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

// contents lists what each name of a layout leads to.
func contents(t *testing.T, s *local.Storage, m *local.Memory) map[string][]digest.Digest {
	t.Helper()
	inv, err := s.Inventory(t.Context(), time.Now(), m)
	if err != nil {
		t.Fatal(err)
	}
	out := make(map[string][]digest.Digest)
	for _, e := range inv.Entries {
		for _, c := range e.Content {
			out[e.Tag] = append(out[e.Tag], c.Digest)
		}
		slices.Sort(out[e.Tag])
	}
	return out
}

// overwrite has other content in a manifest's place.
func overwrite(t *testing.T, s *local.Storage, d digest.Digest, with []byte) {
	t.Helper()
	if err := os.Chmod(s.Path(d), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(s.Path(d), with, 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestAManifestThatIsRememberedIsNotReadAgain(t *testing.T) {
	s, memory := openLayout(t), newMemory(t, 10)
	same, shorter := put(t, s, "same", "a", "b").Descriptor, put(t, s, "shorter", "c").Descriptor
	first := contents(t, s, memory)
	if len(first["same"]) != 4 || len(first["shorter"]) != 3 {
		t.Fatalf("they lead to %v", first)
	}
	overwrite(t, s, same.Digest, bytes.Repeat([]byte("x"), int(same.Size)))
	overwrite(t, s, shorter.Digest, []byte("cut off"))
	again := contents(t, s, memory)
	if !slices.Equal(again["same"], first["same"]) {
		t.Errorf("with a memory it leads to %v, before to %v", again["same"], first["same"])
	}
	if len(again["shorter"]) != 0 {
		t.Errorf("a manifest of another size leads to %v", again["shorter"])
	}
	if read := contents(t, s, nil); len(read["same"]) != 0 {
		t.Errorf("without a memory it leads to %v", read["same"])
	}
}

// The memory says what a manifest leads to, the file system what is there.
func TestWhatIsGoneIsNotRemembered(t *testing.T) {
	s, memory := openLayout(t), newMemory(t, 10)
	d := put(t, s, "stage", "a", "b").Descriptor
	before := contents(t, s, memory)["stage"]
	if err := os.Remove(s.Path(digest.FromString("a"))); err != nil {
		t.Fatal(err)
	}
	if after := contents(t, s, memory)["stage"]; len(after) != len(before)-1 || slices.Contains(after, digest.FromString("a")) {
		t.Errorf("without one of its layers it leads to %v", after)
	}
	if err := os.Remove(s.Path(d.Digest)); err != nil {
		t.Fatal(err)
	}
	if after := contents(t, s, memory)["stage"]; len(after) != 0 {
		t.Errorf("without its manifest it leads to %v", after)
	}
}

func TestAMemoryIsSharedByLayoutsAndBounded(t *testing.T) {
	memory := newMemory(t, 3)
	for range 2 {
		s := openLayout(t)
		for n := range 10 {
			put(t, s, fmt.Sprint("stage-", n), fmt.Sprint(n))
		}
		for range 2 {
			all := contents(t, s, memory)
			for n := range 10 {
				if got := all[fmt.Sprint("stage-", n)]; len(got) != 3 || !slices.Contains(got, digest.FromString(fmt.Sprint(n))) {
					t.Errorf("stage %d leads to %v", n, got)
				}
			}
		}
	}
	if _, err := local.NewMemory(0); err == nil {
		t.Error("there is a memory of nothing")
	}
}
