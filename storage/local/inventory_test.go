package local_test

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
)

// put publishes an image of layers under tag and returns its manifest.
func put(t *testing.T, s storage.Storage, tag string, layers ...string) storage.Manifest {
	t.Helper()
	blob := func(mediaType, content string) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
		if err := s.PushBlob(t.Context(), d, storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(content)), nil })); err != nil {
			t.Fatal(err)
		}
		return d
	}
	v := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest, Config: blob(ocispec.MediaTypeImageConfig, fmt.Sprintf(`{"of":%q}`, tag))}
	v.SchemaVersion = 2
	for _, l := range layers {
		v.Layers = append(v.Layers, blob(ocispec.MediaTypeImageLayer, l))
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), tag, m); err != nil {
		t.Fatal(err)
	}
	return m
}

// old gives everything in a layout times that lie back.
func old(t *testing.T, dir string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	for _, pattern := range []string{"tags/*", "blobs/sha256/*"} {
		files, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(files) == 0 {
			t.Fatal(err, files)
		}
		for _, f := range files {
			if err := os.Chtimes(f, then, then); err != nil {
				t.Fatal(err)
			}
		}
	}
}

func openLayout(t *testing.T) *local.Storage {
	t.Helper()
	s, err := local.Open(t.Context(), t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func inventory(t *testing.T, s *local.Storage) *local.Inventory {
	t.Helper()
	inv, err := s.Inventory(t.Context(), time.Now(), nil)
	if err != nil {
		t.Fatal(err)
	}
	return inv
}

func evict(t *testing.T, inv *local.Inventory, tag string, want bool) {
	t.Helper()
	went, err := inv.Evict(t.Context(), tag)
	if err != nil || went != want {
		t.Fatalf("evicting %s gives %v, %v; want %v", tag, went, err, want)
	}
}

func there(s *local.Storage, content string) bool {
	_, err := os.Stat(s.Path(digest.FromString(content)))
	return err == nil
}

// whole fails the test when a name leads to something that is not there.
func whole(t *testing.T, s *local.Storage) {
	t.Helper()
	for tag, err := range s.Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Manifest(t.Context(), tag)
		if err != nil {
			t.Errorf("%s: %v", tag, err)
			continue
		}
		manifests, blobs, err := m.References()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range slices.Concat(manifests, blobs) {
			if _, err := os.Stat(s.Path(d.Digest)); err != nil {
				t.Errorf("%s needs %s: %v", tag, d.Digest, err)
			}
		}
	}
}

func TestContentGoesWithTheLastNameThatLeadsToIt(t *testing.T) {
	s := openLayout(t)
	put(t, s, "parent", "base", "a")
	put(t, s, "child", "base", "a", "b")
	old(t, s.Dir(), time.Hour)
	inv := inventory(t, s)
	evict(t, inv, "parent", true)
	if !there(s, "base") || !there(s, "a") {
		t.Error("what the child needs has gone with its parent")
	}
	whole(t, s)
	evict(t, inv, "child", true)
	if there(s, "base") || there(s, "a") || there(s, "b") {
		t.Error("content is there that no name leads to")
	}
	evict(t, inv, "child", false)
}

func TestWhatALivingProcessUsesStays(t *testing.T) {
	s := openLayout(t)
	put(t, s, "used", "a")
	put(t, s, "other", "b")
	old(t, s.Dir(), time.Hour)
	before := inventory(t, s)
	h := s.Hold()
	if _, err := h.Manifest(t.Context(), "used"); err != nil {
		t.Fatal(err)
	}
	for _, e := range inventory(t, s).Entries {
		if e.Held != (e.Tag == "used") {
			t.Errorf("%s is held: %v", e.Tag, e.Held)
		}
	}
	evict(t, before, "used", false)
	evict(t, before, "other", true)
	if err := h.Close(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	evict(t, before, "used", false) // it was used since
	whole(t, s)
	old(t, s.Dir(), time.Hour)
	evict(t, inventory(t, s), "used", true)
}

// A name that is published while an inventory is at work keeps all that it leads
// to, also through manifests of an index.
func TestWhatWasPublishedSinceTheInventoryStaysWhole(t *testing.T) {
	s := openLayout(t)
	m := put(t, s, "stage", "a", "b")
	old(t, s.Dir(), time.Hour)
	inv := inventory(t, s)
	h := s.Hold()
	if _, err := h.Resolve(t.Context(), "stage"); err != nil {
		t.Fatal(err)
	}
	index, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{m.Descriptor}})
	if err != nil {
		t.Fatal(err)
	}
	if err := h.Publish(t.Context(), "index", index); err != nil {
		t.Fatal(err)
	}
	if err := h.Close(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	evict(t, inv, "stage", false)
	whole(t, s)
}

// A build in which nothing has changed reads an index and writes nothing.
func TestReadingABuildsIndexWritesNothing(t *testing.T) {
	s := openLayout(t)
	m := put(t, s, "stage", "a")
	index, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{m.Descriptor}})
	if err != nil {
		t.Fatal(err)
	}
	tag := "build-" + digest.FromString("root").Encoded()
	if err := s.Publish(t.Context(), tag, index); err != nil {
		t.Fatal(err)
	}
	use := func(ago time.Duration) time.Time {
		t.Helper()
		old(t, s.Dir(), ago)
		h := s.Hold()
		if _, err := h.Manifest(t.Context(), tag); err != nil {
			t.Fatal(err)
		}
		if err := h.Close(t.Context(), time.Now()); err != nil {
			t.Fatal(err)
		}
		info, err := os.Stat(filepath.Join(s.Dir(), "tags", tag))
		if err != nil {
			t.Fatal(err)
		}
		return info.ModTime()
	}
	if used := use(50 * time.Minute); time.Since(used) < 49*time.Minute {
		t.Error("the use is written down each time")
	}
	if used := use(2 * time.Hour); time.Since(used) > time.Minute {
		t.Error("the use is never written down")
	}
	if _, err := os.Stat(filepath.Join(s.Dir(), "holds")); !errors.Is(err, os.ErrNotExist) {
		t.Error("a hold was written")
	}
}

// What a killed process had in use counts as used when it is found.
func TestTheNamesOfADeadProcessCountAsUsed(t *testing.T) {
	s := openLayout(t)
	put(t, s, "stage", "a")
	old(t, s.Dir(), time.Hour)
	if err := os.Mkdir(filepath.Join(s.Dir(), "holds"), 0o700); err != nil {
		t.Fatal(err)
	}
	left := filepath.Join(s.Dir(), "holds", "run-1")
	if err := os.WriteFile(left, []byte("stage\n../../etc/passwd\nunfinish"), 0o600); err != nil {
		t.Fatal(err)
	}
	inv := inventory(t, s)
	if e := inv.Entries[0]; e.Held || time.Since(e.Used) > time.Minute {
		t.Errorf("held %v, used %v ago", e.Held, time.Since(e.Used))
	}
	if _, err := os.Stat(left); !errors.Is(err, os.ErrNotExist) {
		t.Error("what the dead process left is still there")
	}
	evict(t, inv, "stage", true) // nobody has it in use now
}

func TestContentThatARunHasWrittenStaysWhileItLasts(t *testing.T) {
	s := openLayout(t)
	put(t, s, "stage", "a")
	loose := func(w io.Writer) error { _, err := io.WriteString(w, "old layer"); return err }
	if _, err := s.WriteBlob(t.Context(), loose); err != nil {
		t.Fatal(err)
	}
	old(t, s.Dir(), time.Hour)
	h := s.Hold()
	d, err := h.WriteBlob(t.Context(), func(w io.Writer) error { _, err := io.WriteString(w, "new layer"); return err })
	if err != nil {
		t.Fatal(err)
	}
	held := func() map[digest.Digest]bool {
		out := map[digest.Digest]bool{}
		for _, l := range inventory(t, s).Loose {
			out[l.Digest] = l.Held
		}
		return out
	}
	if got := held(); len(got) != 2 || !got[d.Digest] || got[digest.FromString("old layer")] {
		t.Errorf("held are %v", got)
	}
	if err := h.Close(t.Context(), time.Now()); err != nil {
		t.Fatal(err)
	}
	if got := held(); len(got) != 2 || got[d.Digest] {
		t.Errorf("after the run held are %v", got)
	}
	old(t, s.Dir(), time.Hour)
	inv := inventory(t, s)
	for _, l := range inv.Loose {
		if err := inv.EvictLoose(t.Context(), l.Digest); err != nil {
			t.Fatal(err)
		}
	}
	if there(s, "new layer") || there(s, "old layer") || !there(s, "a") {
		t.Error("the wrong content went")
	}
}
