package local_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

// damageable lets the suite damage blobs on disk.
type damageable struct{ *local.Storage }

func (d damageable) CorruptBlob(dgst digest.Digest) bool {
	b, err := os.ReadFile(d.Path(dgst))
	if err != nil || len(b) == 0 {
		return false
	}
	b[len(b)/2] ^= 1
	return os.WriteFile(d.Path(dgst), b, 0o600) == nil
}

func open(t *testing.T) *local.Storage {
	t.Helper()
	return openAt(t, filepath.Join(t.TempDir(), "layout"))
}

func openAt(t *testing.T, dir string) *local.Storage {
	t.Helper()
	s, err := local.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStorageConforms(t *testing.T) {
	storagetest.Run(t, func(t *testing.T) storage.Storage { return damageable{open(t)} })
}

// image pushes an image whose only layer is content and returns its manifest.
func image(ctx context.Context, s storage.Pusher, content []byte) (storage.Manifest, error) {
	layer, config := storagetest.Layer(content), []byte(fmt.Sprintf(`{"layer":%q}`, digest.FromBytes(content)))
	configDesc := storagetest.Layer(config)
	configDesc.MediaType = ocispec.MediaTypeImageConfig
	for d, b := range map[*ocispec.Descriptor][]byte{&layer: content, &configDesc: config} {
		if err := s.PushBlob(ctx, *d, storagetest.Content(b)); err != nil {
			return storage.Manifest{}, err
		}
	}
	return storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: ocispec.MediaTypeImageManifest,
		Config:    configDesc,
		Layers:    []ocispec.Descriptor{layer},
	})
}

func publish(t *testing.T, s *local.Storage, tag, content string) storage.Manifest {
	t.Helper()
	m, err := image(t.Context(), s, []byte(content))
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), tag, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestLayoutIsPrivate(t *testing.T) {
	s := open(t)
	publish(t, s, "a", "content")
	err := filepath.WalkDir(s.Dir(), func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if info.Mode().Perm()&0o077 != 0 {
			t.Errorf("%s is open to others: %s", path, info.Mode())
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestWriteIndexMakesALayoutThatOthersRead(t *testing.T) {
	s := open(t)
	a, b := publish(t, s, "a", "content of a"), publish(t, s, "B", "content of b")
	if err := s.WriteIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(filepath.Join(s.Dir(), "index.json"))
	if err != nil {
		t.Fatal(err)
	}
	want := fmt.Sprintf(`{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[`+
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"B"}},`+
		`{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":%q,"size":%d,"annotations":{"org.opencontainers.image.ref.name":"a"}}]}`,
		b.Descriptor.Digest, b.Descriptor.Size, a.Descriptor.Digest, a.Descriptor.Size)
	if string(raw) != want {
		t.Errorf("index.json is\n%s\nwant\n%s", raw, want)
	}
	raw, err = os.ReadFile(filepath.Join(s.Dir(), "oci-layout"))
	if err != nil {
		t.Fatal(err)
	}
	if string(raw) != `{"imageLayoutVersion":"1.0.0"}` {
		t.Errorf("oci-layout is %s", raw)
	}
}

func TestOpenTakesOverTheNamesOfAForeignLayout(t *testing.T) {
	first := open(t)
	m := publish(t, first, "v1", "content")
	publish(t, first, "Upper", "other content")
	if err := first.WriteIndex(t.Context()); err != nil {
		t.Fatal(err)
	}
	// What another tool leaves has only what the specification knows.
	for _, name := range []string{"tags", "ingest", "lock", "index.lock"} {
		if err := os.RemoveAll(filepath.Join(first.Dir(), name)); err != nil {
			t.Fatal(err)
		}
	}
	second := openAt(t, first.Dir())
	got, err := second.Manifest(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	if got.Descriptor.Digest != m.Descriptor.Digest {
		t.Errorf("v1 names %s, want %s", got.Descriptor.Digest, m.Descriptor.Digest)
	}
	if got := tags(t, second); !slices.Equal(got, []string{"Upper", "v1"}) {
		t.Errorf("tags are %q", got)
	}
}

func tags(t *testing.T, s storage.Lister) []string {
	t.Helper()
	var all []string
	for tag, err := range s.Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		all = append(all, tag)
	}
	slices.Sort(all)
	return all
}

func TestOpenRefusesWhatIsNoLayout(t *testing.T) {
	for name, c := range map[string]struct {
		file, content string
		class         error
	}{
		"somebody's directory":       {"thesis.tex", "", storage.ErrInvalid},
		"a layout of the future":     {"oci-layout", `{"imageLayoutVersion":"2.0.0"}`, storage.ErrUnsupported},
		"a layout file that is torn": {"oci-layout", `{"imageLay`, storage.ErrCorrupt},
		"an index that is torn":      {"index.json", `{"manifests":[`, storage.ErrCorrupt},
		"a layout file without end":  {"oci-layout", string(make([]byte, 1<<20)), storage.ErrTooLarge},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, c.file), []byte(c.content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := local.Open(t.Context(), dir); !errors.Is(err, c.class) {
				t.Errorf("Open: %v, want %v", err, c.class)
			}
		})
	}
}

func TestCorruptBlobIsNamedAndRepairedByPushingItAgain(t *testing.T) {
	s := damageable{open(t)}
	content := []byte("what a layer has in it")
	d := storagetest.Layer(content)
	for name, damage := range map[string]func(){
		"a flipped bit": func() { s.CorruptBlob(d.Digest) },
		"a torn end":    func() { os.Truncate(s.Path(d.Digest), 3) },
		"more bytes":    func() { os.WriteFile(s.Path(d.Digest), append(slices.Clone(content), "!!"...), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			if err := s.PushBlob(t.Context(), d, storagetest.Content(content)); err != nil {
				t.Fatal(err)
			}
			damage()
			_, err := storage.ReadBlob(t.Context(), s, d, 1<<20)
			var typed *storage.Error
			if !errors.Is(err, storage.ErrCorrupt) || !errors.As(err, &typed) || typed.Subject != d.Digest.String() {
				t.Fatalf("read: %v, want it to be corrupt and to name %s", err, d.Digest)
			}
			if ok, err := s.HasBlob(t.Context(), d); ok || err != nil {
				t.Fatalf("HasBlob = %v, %v after the damage was found", ok, err)
			}
			if err := s.PushBlob(t.Context(), d, storagetest.Content(content)); err != nil {
				t.Fatal(err)
			}
			if b, err := storage.ReadBlob(t.Context(), s, d, 1<<20); err != nil || !bytes.Equal(b, content) {
				t.Errorf("after the repair: %q, %v", b, err)
			}
		})
	}
}

func TestAWrongDescriptorDoesNotRemoveAGoodBlob(t *testing.T) {
	s := open(t)
	content := []byte("good content")
	d := storagetest.Layer(content)
	if err := s.PushBlob(t.Context(), d, storagetest.Content(content)); err != nil {
		t.Fatal(err)
	}
	wrong := d
	wrong.Size--
	if _, err := storage.ReadBlob(t.Context(), s, wrong, 1<<20); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("read with a wrong size: %v", err)
	}
	if ok, err := s.HasBlob(t.Context(), d); !ok || err != nil {
		t.Errorf("HasBlob = %v, %v", ok, err)
	}
}

func TestCorruptManifestIsRepairedByPublishing(t *testing.T) {
	s := damageable{open(t)}
	m := publish(t, s.Storage, "a", "content")
	for range 2 {
		s.CorruptBlob(m.Descriptor.Digest)
		if err := s.Publish(t.Context(), "a", m); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Manifest(t.Context(), "a"); err != nil {
			t.Fatal(err)
		}
	}
	s.CorruptBlob(m.Descriptor.Digest)
	if _, err := s.Resolve(t.Context(), "a"); !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("resolve a damaged manifest: %v", err)
	}
	if _, err := s.Resolve(t.Context(), "a"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("resolve it once more: %v", err)
	}
}

func TestWriteBlobStreamsContentOfUnknownDigest(t *testing.T) {
	s := open(t)
	d, err := s.WriteBlob(t.Context(), func(w io.Writer) error {
		for i := range 1000 {
			if _, err := fmt.Fprintln(w, i); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(s.Path(d.Digest))
	if err != nil {
		t.Fatal(err)
	}
	if d.Digest != digest.FromBytes(b) || d.Size != int64(len(b)) || d.Size != 3890 {
		t.Errorf("got %s of %d bytes for %s of %d", d.Digest, d.Size, digest.FromBytes(b), len(b))
	}
}

func TestWriteBlobLeavesNothingOfAFailure(t *testing.T) {
	s := open(t)
	broken := errors.New("tar broke")
	cancelled, cancel := context.WithCancel(t.Context())
	overlooked, cancelOverlooked := context.WithCancel(t.Context())
	for name, c := range map[string]struct {
		ctx   context.Context
		write func(io.Writer) error
		want  error
	}{
		"of the writer": {t.Context(), func(w io.Writer) error { io.WriteString(w, "half"); return broken }, broken},
		"of the context": {cancelled, func(w io.Writer) error {
			cancel()
			_, err := io.WriteString(w, "late")
			return err
		}, context.Canceled},
		"that was overlooked": {overlooked, func(w io.Writer) error {
			cancelOverlooked()
			io.WriteString(w, "late")
			return nil
		}, context.Canceled},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := s.WriteBlob(c.ctx, c.write); !errors.Is(err, c.want) {
				t.Errorf("WriteBlob: %v, want %v", err, c.want)
			}
			for _, dir := range []string{"ingest", "blobs/sha256"} {
				if files := list(t, s, dir); len(files) > 0 {
					t.Errorf("%s holds %q", dir, files)
				}
			}
		})
	}
}

func list(t *testing.T, s *local.Storage, dir string) []string {
	t.Helper()
	entries, err := os.ReadDir(filepath.Join(s.Dir(), dir))
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, e := range entries {
		names = append(names, e.Name())
	}
	return names
}

func TestErrorsOfContentAreNotTakenForThoseOfTheStorage(t *testing.T) {
	s := open(t)
	d := storagetest.Layer([]byte("x"))
	err := s.PushBlob(t.Context(), d, storage.ContentFunc(func() (io.ReadCloser, error) { return nil, fs.ErrNotExist }))
	if !errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrNotFound) || errors.Is(err, storage.ErrTransient) {
		t.Errorf("content that cannot be opened: %v", err)
	}
}

func TestSweepKeepsWhatIsNamedOrWasUsed(t *testing.T) {
	s := open(t)
	named := publish(t, s, "named", "kept by its name")
	dead := publish(t, s, "dead", "of a deleted tag")
	fresh := storagetest.Layer([]byte("just pushed"))
	claimed := storagetest.Layer([]byte("pushed long ago, claimed now"))
	for d, b := range map[digest.Digest]string{fresh.Digest: "just pushed", claimed.Digest: "pushed long ago, claimed now"} {
		if err := s.PushBlob(t.Context(), storagetest.Layer([]byte(b)), storagetest.Content([]byte(b))); err != nil {
			t.Fatal(d, err)
		}
	}
	if err := s.DeleteTag(t.Context(), "dead"); err != nil {
		t.Fatal(err)
	}
	age(t, s, fresh.Digest)
	if ok, err := s.HasBlob(t.Context(), claimed); !ok || err != nil {
		t.Fatal(ok, err)
	}
	swept, err := s.Sweep(t.Context(), longAgo.Add(time.Hour))
	if err != nil {
		t.Fatal(err)
	}
	if swept.Blobs != 3 || swept.Bytes <= dead.Descriptor.Size {
		t.Errorf("swept %+v, want the dead image's config, layer and manifest", swept)
	}
	if _, err := s.Manifest(t.Context(), dead.Descriptor.Digest.String()); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("the dead manifest: %v", err)
	}
	verifyImage(t, s, named.Descriptor.Digest.String())
	for _, d := range []ocispec.Descriptor{fresh, claimed} {
		if ok, err := s.HasBlob(t.Context(), d); !ok || err != nil {
			t.Errorf("HasBlob(%s) = %v, %v", d.Digest, ok, err)
		}
	}
}

var longAgo = time.Date(2020, 1, 1, 0, 0, 0, 0, time.UTC)

// age makes everything but d old.
func age(t *testing.T, s *local.Storage, except digest.Digest) {
	t.Helper()
	for _, name := range list(t, s, "blobs/sha256") {
		if name == except.Encoded() {
			continue
		}
		if err := os.Chtimes(filepath.Join(s.Dir(), "blobs/sha256", name), longAgo, longAgo); err != nil {
			t.Fatal(err)
		}
	}
}

func verifyImage(t *testing.T, s storage.Fetcher, ref string) {
	t.Helper()
	m, err := s.Manifest(t.Context(), ref)
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	_, blobs, err := m.References()
	if err != nil {
		t.Error(err)
	}
	for _, d := range blobs {
		if _, err := storage.ReadBlob(t.Context(), s, d, 1<<30); err != nil {
			t.Errorf("%s needs %s: %v", ref, d.Digest, err)
		}
	}
}

func TestTouchMarksATagAsUsedAndReadingDoesNot(t *testing.T) {
	s := open(t)
	publish(t, s, "a", "content")
	old := filepath.Join(s.Dir(), "tags", "a")
	if err := os.Chtimes(old, longAgo, longAgo); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Manifest(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got := used(t, s, "a"); !got.Equal(longAgo) {
		t.Errorf("reading changed the time of use to %s", got)
	}
	if err := s.Touch(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if got := used(t, s, "a"); !got.After(longAgo) {
		t.Errorf("Touch left the time of use at %s", got)
	}
	if err := s.Touch(t.Context(), "b"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Touch of an absent tag: %v", err)
	}
}

func used(t *testing.T, s *local.Storage, tag string) time.Time {
	t.Helper()
	for n, err := range s.Names(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		if n.Tag == tag {
			return n.Used
		}
	}
	t.Fatalf("no tag %s", tag)
	return time.Time{}
}

func TestPathOfWhatIsNoDigestIsEmpty(t *testing.T) {
	s := open(t)
	for _, d := range []digest.Digest{"", "x", "sha256:../../../etc/passwd", "md5:d41d8cd98f00b204e9800998ecf8427e"} {
		if p := s.Path(d); p != "" {
			t.Errorf("Path(%q) = %q", d, p)
		}
	}
}

func TestADamagedTagIsRepairedByPublishing(t *testing.T) {
	s := open(t)
	m := publish(t, s, "a", "content")
	for _, b := range []string{"", "{", "null", `{"tag":"b","digest":"sha256:00"}`} {
		if err := os.WriteFile(filepath.Join(s.Dir(), "tags", "a"), []byte(b), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resolve(t.Context(), "a"); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("tag file %q: %v", b, err)
		}
		if err := s.Publish(t.Context(), "a", m); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Resolve(t.Context(), "a"); err != nil {
			t.Errorf("after publishing: %v", err)
		}
	}
}

func FuzzOpenForeignLayout(f *testing.F) {
	good, err := json.Marshal(ocispec.Index{Manifests: []ocispec.Descriptor{{
		MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromString("x"), Size: 1,
		Annotations: map[string]string{ocispec.AnnotationRefName: "v1"},
	}}})
	if err != nil {
		f.Fatal(err)
	}
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0"}`), good)
	f.Add([]byte(`{"imageLayoutVersion":"1.0.0"}`), []byte(`{"manifests":[{"digest":"sha256:..","annotations":{"org.opencontainers.image.ref.name":"../x"}}]}`))
	f.Add([]byte(`{}`), []byte(`null`))
	f.Fuzz(func(t *testing.T, layout, index []byte) {
		dir := t.TempDir()
		for name, b := range map[string][]byte{"oci-layout": layout, "index.json": index} {
			if err := os.WriteFile(filepath.Join(dir, name), b, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		s, err := local.Open(t.Context(), dir)
		var typed *storage.Error
		if err != nil && !errors.As(err, &typed) {
			t.Fatalf("an error without class: %v", err)
		}
		if err != nil {
			return
		}
		for n, err := range s.Names(t.Context()) {
			if err != nil {
				t.Fatalf("a name that was taken over cannot be read: %v", err)
			}
			if storage.CheckTag(n.Tag) != nil || n.Descriptor.Digest.Validate() != nil {
				t.Fatalf("took over %+v", n)
			}
		}
	})
}

func TestAPushBesideASweepIsNotLost(t *testing.T) {
	s := open(t)
	content := []byte("unused for long, and just now needed again")
	d := storagetest.Layer(content)
	for range 50 {
		if err := s.PushBlob(t.Context(), d, storagetest.Content(content)); err != nil {
			t.Fatal(err)
		}
		age(t, s, "sha256:none")
		swept := make(chan error, 1)
		go func() {
			_, err := s.Sweep(t.Context(), longAgo.Add(time.Hour))
			swept <- err
		}()
		err := s.PushBlob(t.Context(), d, storagetest.Content(content))
		if err := errors.Join(err, <-swept); err != nil {
			t.Fatal(err)
		}
		if ok, err := s.HasBlob(t.Context(), d); !ok || err != nil {
			t.Fatalf("the pushed blob was swept: %v, %v", ok, err)
		}
	}
}

func BenchmarkPublish(b *testing.B) {
	for _, n := range []int{0, 5000, 20000} {
		b.Run(fmt.Sprintf("beside %d tags", n), func(b *testing.B) {
			s, err := local.Open(b.Context(), filepath.Join(b.TempDir(), "layout"))
			if err != nil {
				b.Fatal(err)
			}
			m, err := image(b.Context(), s, []byte("content"))
			if err != nil {
				b.Fatal(err)
			}
			record := fmt.Appendf(nil, `{"mediaType":%q,"digest":%q,"size":%d}`, m.Descriptor.MediaType, m.Descriptor.Digest, m.Descriptor.Size)
			for i := range n {
				if err := os.WriteFile(filepath.Join(s.Dir(), "tags", fmt.Sprintf("%064x", i)), record, 0o600); err != nil {
					b.Fatal(err)
				}
			}
			i := 0
			for b.Loop() {
				i++
				if err := s.Publish(b.Context(), fmt.Sprintf("new-%d", i), m); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
