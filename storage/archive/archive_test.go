package archive_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/archive"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func create(t testing.TB, path string) *archive.Archive {
	t.Helper()
	a, err := archive.Create(t.Context(), path)
	check(t, err)
	t.Cleanup(func() { check(t, a.Close()) })
	return a
}

func open(t testing.TB, path string) *archive.Archive {
	t.Helper()
	a, err := archive.Open(path)
	check(t, err)
	t.Cleanup(func() { check(t, a.Close()) })
	return a
}

func TestAnArchiveThatIsMadeConforms(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage { return create(t, filepath.Join(t.TempDir(), "a.tar")) })
}

// put publishes an image of one layer under a tag.
func put(t testing.TB, s storage.Storage, tag, layer string) storage.Manifest {
	t.Helper()
	blob := func(b string) ocispec.Descriptor {
		d := storagetest.Layer([]byte(b))
		check(t, s.PushBlob(t.Context(), d, storagetest.Content([]byte(b))))
		return d
	}
	config := blob("{}")
	config.MediaType = ocispec.MediaTypeImageConfig
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: config, Layers: []ocispec.Descriptor{blob(layer)},
	})
	check(t, err)
	check(t, s.Publish(t.Context(), tag, m))
	return m
}

func read(t *testing.T, s storage.Fetcher, content string) {
	t.Helper()
	r, err := s.Blob(t.Context(), storagetest.Layer([]byte(content)))
	check(t, err)
	got, err := io.ReadAll(r)
	check(t, errors.Join(err, r.Close()))
	if string(got) != content {
		t.Errorf("it holds %q", got)
	}
}

func tags(t *testing.T, s storage.Lister) (out []string) {
	t.Helper()
	for tag, err := range s.Tags(t.Context()) {
		check(t, err)
		out = append(out, tag)
	}
	return out
}

func TestAnArchiveAppearsWholeAndIsAddedTo(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	a := create(t, path)
	first := put(t, a, "one", "first layer")
	if _, err := os.Stat(path); err == nil {
		t.Error("it is there before it is complete")
	}
	check(t, a.Commit(t.Context()))
	b := create(t, path)
	put(t, b, "two", "second layer")
	check(t, b.Commit(t.Context()))

	c := open(t, path)
	if got := tags(t, c); !slices.Equal(got, []string{"one", "two"}) {
		t.Errorf("it has the tags %q", got)
	}
	read(t, c, "first layer")
	read(t, c, "second layer")
	if m, err := c.Manifest(t.Context(), "one"); err != nil || !bytes.Equal(m.Bytes, first.Bytes) {
		t.Errorf("the first manifest is %+v (%v)", m.Descriptor, err)
	}
	if err := c.PushManifest(t.Context(), storage.Manifest{}); err == nil {
		t.Error("an archive that is read took a manifest")
	}
}

func TestTheSameContentMakesTheSameBytes(t *testing.T) {
	dir := t.TempDir()
	var sums []digest.Digest
	for _, name := range []string{"a.tar", "b.tar"} {
		a := create(t, filepath.Join(dir, name))
		put(t, a, "one", "first layer")
		put(t, a, "two", strings.Repeat("x", 3000))
		check(t, a.Commit(t.Context()))
		sum, err := a.Digest()
		check(t, err)
		sums = append(sums, sum)
	}
	if sums[0] != sums[1] {
		t.Errorf("the files are %v", sums)
	}
}

func TestContentThatBreaksOffLeavesTheArchiveSound(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	a := create(t, path)
	want := storagetest.Layer([]byte(strings.Repeat("layer", 1000)))
	broken := storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader("layerlayer")), nil })
	if err := a.PushBlob(t.Context(), want, broken); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("a part of a blob: %v", err)
	}
	put(t, a, "one", "first layer")
	check(t, a.Commit(t.Context()))
	b := open(t, path)
	read(t, b, "first layer")
	if ok, err := b.HasBlob(t.Context(), want); ok || err != nil {
		t.Errorf("the broken blob is there: %v (%v)", ok, err)
	}
}

func TestAnArchiveThatIsNotCompletedLeavesNothing(t *testing.T) {
	dir := t.TempDir()
	a, err := archive.Create(t.Context(), filepath.Join(dir, "a.tar"))
	check(t, err)
	put(t, a, "one", "first layer")
	check(t, a.Close())
	left, err := os.ReadDir(dir)
	check(t, err)
	if len(left) > 0 {
		t.Errorf("left behind %v", left)
	}
}

// entry is a file of an archive that somebody else made.
type entry struct {
	name, content string
	kind          byte
}

func tarOf(t testing.TB, entries ...entry) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, e := range entries {
		h := &tar.Header{Name: e.name, Size: int64(len(e.content)), Typeflag: e.kind, Mode: 0o644}
		if e.kind == tar.TypeSymlink {
			h.Linkname, h.Size, e.content = e.content, 0, ""
		}
		check(t, w.WriteHeader(h))
		_, err := io.WriteString(w, e.content)
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}

const layout = `{"imageLayoutVersion":"1.0.0"}`

func blobName(content string) string { return "blobs/sha256/" + digest.FromString(content).Encoded() }

func TestHostileArchivesAreRefusedOrLeadNowhere(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "secret")
	check(t, os.WriteFile(outside, []byte("secret"), 0o600))
	d := storagetest.Layer([]byte("secret"))
	named := `{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"` +
		d.Digest.String() + `","size":6,"annotations":{"org.opencontainers.image.ref.name":"one"}}]}`
	for _, tt := range []struct {
		name    string
		archive []byte
		open    error // of opening it; nil for one whose content is refused
		blob    error
	}{
		{"no tar", []byte(strings.Repeat("no tar", 200)), storage.ErrCorrupt, nil},
		{"an empty file", nil, storage.ErrInvalid, nil},
		{"a tar of something else", tarOf(t, entry{"notes.txt", "x", tar.TypeReg}), storage.ErrInvalid, nil},
		{"a layout of another version", tarOf(t, entry{"oci-layout", `{"imageLayoutVersion":"7"}`, tar.TypeReg}), storage.ErrUnsupported, nil},
		{"an index that is none", tarOf(t, entry{"oci-layout", layout, tar.TypeReg}, entry{"index.json", "[", tar.TypeReg}), storage.ErrCorrupt, nil},
		{"a link to a file outside", tarOf(t, entry{"oci-layout", layout, tar.TypeReg}, entry{"index.json", named, tar.TypeReg},
			entry{blobName("secret"), outside, tar.TypeSymlink}), nil, storage.ErrNotFound},
		{"a path that leads outside", tarOf(t, entry{"oci-layout", layout, tar.TypeReg}, entry{"index.json", named, tar.TypeReg},
			entry{"blobs/sha256/../../../" + d.Digest.Encoded(), "secret", tar.TypeReg}), nil, storage.ErrNotFound},
		{"other bytes under a digest", tarOf(t, entry{"oci-layout", layout, tar.TypeReg}, entry{"index.json", named, tar.TypeReg},
			entry{blobName("secret"), "forged", tar.TypeReg}), nil, storage.ErrCorrupt},
		{"an archive that ends in the middle", tarOf(t, entry{"oci-layout", layout, tar.TypeReg}, entry{blobName("secret"), strings.Repeat("x", 4000), tar.TypeReg})[:2600], storage.ErrCorrupt, nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.tar")
			check(t, os.WriteFile(path, tt.archive, 0o600))
			a, err := archive.Open(path)
			if tt.open != nil {
				if !errors.Is(err, tt.open) {
					t.Errorf("opening it: %v, want %v", err, tt.open)
				}
				return
			}
			check(t, err)
			defer func() { check(t, a.Close()) }()
			if err := readAll(t.Context(), a, d); !errors.Is(err, tt.blob) {
				t.Errorf("reading the blob: %v, want %v", err, tt.blob)
			}
		})
	}
}

func readAll(ctx context.Context, s storage.Fetcher, d ocispec.Descriptor) error {
	r, err := s.Blob(ctx, d)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, r)
	return errors.Join(err, r.Close())
}

func FuzzOpen(f *testing.F) {
	f.Add(tarOf(f, entry{"oci-layout", layout, tar.TypeReg}, entry{"index.json", `{"manifests":[]}`, tar.TypeReg}))
	f.Add(tarOf(f, entry{"./oci-layout", layout, tar.TypeReg}, entry{blobName("x"), "x", tar.TypeReg}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		path := filepath.Join(t.TempDir(), "a.tar")
		check(t, os.WriteFile(path, b, 0o600))
		a, err := archive.Open(path)
		if err != nil {
			return
		}
		defer func() { check(t, a.Close()) }()
		for _, tag := range tags(t, a) {
			m, err := a.Manifest(t.Context(), tag)
			if err != nil {
				continue
			}
			check(t, m.Verify())
		}
	})
}

func TestAnArchiveThatAnotherHasPutMeanwhileStays(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.tar")
	one, other := create(t, path), create(t, path)
	check(t, one.Commit(t.Context()))
	if err := other.Commit(t.Context()); !errors.Is(err, storage.ErrExists) {
		t.Errorf("the second was completed with %v", err)
	}
}

func TestOfManyWhoCompleteAnArchiveAtOnceOneHasThePlace(t *testing.T) {
	for _, before := range []bool{false, true} {
		t.Run(fmt.Sprintf("beside one that was there: %t", before), func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "a.tar")
			if before {
				check(t, create(t, path).Commit(t.Context()))
			}
			archives, errs := make([]*archive.Archive, 16), make([]error, 16)
			for i := range archives {
				archives[i] = create(t, path)
				put(t, archives[i], fmt.Sprint("tag-", i), "layer")
			}
			var all sync.WaitGroup
			for i, a := range archives {
				all.Go(func() { errs[i] = a.Commit(t.Context()) })
			}
			all.Wait()
			var won []string
			for i, err := range errs {
				if err == nil {
					won = append(won, fmt.Sprint("tag-", i))
				} else if !errors.Is(err, storage.ErrExists) {
					t.Errorf("one ended with %v", err)
				}
			}
			if there := tags(t, open(t, path)); len(won) != 1 || !slices.Equal(there, won) {
				t.Errorf("%q have the place, and it names %q", won, there)
			}
		})
	}
}

func TestABlobOfAnotherSizeIsNotTakenForPresent(t *testing.T) {
	a := create(t, filepath.Join(t.TempDir(), "a.tar"))
	d := ocispec.Descriptor{Digest: digest.FromString("one"), Size: 3}
	check(t, a.PushBlob(t.Context(), d, storagetest.Content([]byte("one"))))
	d.Size = 4
	if err := a.PushBlob(t.Context(), d, storagetest.Content([]byte("one"))); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("it is %v", err)
	}
}
