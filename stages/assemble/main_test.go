package assemble

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
	"github.com/cairnbuild/cairn/storage"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const amd64 stages.Platform = "linux/amd64"

// blobs is a scratchpad and a fetcher that verifies, in memory.
type blobs struct {
	mu      sync.Mutex
	content map[digest.Digest][]byte
	opened  int
}

func newBlobs() *blobs { return &blobs{content: make(map[digest.Digest][]byte)} }

func (b *blobs) add(p []byte) digest.Digest {
	b.mu.Lock()
	defer b.mu.Unlock()
	d := digest.FromBytes(p)
	b.content[d] = p
	return d
}

func (b *blobs) WriteBlob(_ context.Context, write func(io.Writer) error) (ocispec.Descriptor, error) {
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return ocispec.Descriptor{}, err
	}
	return ocispec.Descriptor{Digest: b.add(buf.Bytes()), Size: int64(buf.Len())}, nil
}

func (b *blobs) Manifest(context.Context, string) (storage.Manifest, error) {
	return storage.Manifest{}, storage.ErrNotFound
}

func (b *blobs) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.opened++
	p, ok := b.content[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%w: %s", storage.ErrNotFound, d.Digest)
	}
	return io.NopCloser(bytes.NewReader(p)), nil
}

// archive makes a layer of lines: "dir/", "file=content", "link->target",
// "hard=>target", in this order. Extra headers may follow each line's own.
func archive(t testing.TB, lines ...string) []byte {
	t.Helper()
	var buf bytes.Buffer
	w := tar.NewWriter(&buf)
	for _, line := range lines {
		h, content := &tar.Header{Name: line, Mode: 0o644, Typeflag: tar.TypeReg, ModTime: time.Unix(1e9, 0)}, ""
		if name, target, ok := strings.Cut(line, "=>"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeLink
		} else if name, target, ok := strings.Cut(line, "->"); ok {
			h.Name, h.Linkname, h.Typeflag = name, target, tar.TypeSymlink
		} else if name, c, ok := strings.Cut(line, "="); ok {
			h.Name, h.Size, content = name, int64(len(c)), c
		} else if strings.HasSuffix(line, "/") {
			h.Typeflag, h.Mode = tar.TypeDir, 0o755
		}
		writeEntry(t, w, h, content)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return buf.Bytes()
}

func writeEntry(t testing.TB, w *tar.Writer, h *tar.Header, content string) {
	t.Helper()
	if err := w.WriteHeader(h); err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, content); err != nil {
		t.Fatal(err)
	}
}

func tablesOf(t testing.TB, layers ...[]byte) *Tables {
	t.Helper()
	out := emptyTables()
	for _, l := range layers {
		c, err := scan(bytes.NewReader(l))
		if err != nil {
			t.Fatal(err)
		}
		out = out.apply(c)
	}
	return out
}

// imageOf makes an image of uncompressed layers, which it stores gzipped in b.
func imageOf(t testing.TB, b *blobs, layers ...[]byte) *Image {
	t.Helper()
	var made []Layer
	for _, raw := range layers {
		l, err := writeLayer(t.Context(), b, func(w io.Writer) error {
			_, err := w.Write(raw)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		made = append(made, l)
	}
	i, err := Scratch(amd64).Append(made, nil)
	if err != nil {
		t.Fatal(err)
	}
	return i
}

// fakeTree holds the files of each mapping by its Add.
type fakeTree map[string][]source.File

func (f fakeTree) Files(sel stages.Selection) ([]source.File, error) {
	files, ok := f[sel.Mapping.Add]
	if !ok {
		return nil, source.ErrNoSuchPath
	}
	return files, nil
}

func (f fakeTree) Sizes(_ context.Context, files []source.File) ([]int64, error) {
	out := make([]int64, len(files))
	for i, f := range files {
		out[i] = int64(len(f.Object))
	}
	return out, nil
}

func (f fakeTree) WriteLayer(_ context.Context, w io.Writer, dirs []source.Dir, placed []source.Placed) error {
	tw := tar.NewWriter(w)
	var errs []error
	for _, d := range dirs {
		errs = append(errs, tw.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: d.Path + "/", Uid: d.UID, Gid: d.GID, Mode: 0o755}))
	}
	for _, p := range placed {
		h := &tar.Header{Typeflag: tar.TypeReg, Name: p.Path, Uid: p.UID, Gid: p.GID, Mode: 0o644, Size: int64(len(p.File.Object))}
		if p.File.Mode == source.ModeSymlink {
			h.Typeflag, h.Size, h.Linkname = tar.TypeSymlink, 0, p.File.Object
		}
		errs = append(errs, tw.WriteHeader(h))
		if h.Typeflag == tar.TypeReg {
			_, err := io.WriteString(tw, p.File.Object)
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, tw.Close())...)
}

// files makes regular files; their content is their path.
func files(paths ...string) []source.File {
	out := make([]source.File, len(paths))
	for i, p := range paths {
		out[i] = source.File{Path: p, Mode: source.ModeRegular, Object: "content of " + p}
	}
	return out
}

// set is a file set of a stage with the files that it has.
type set struct {
	to, owner, group string
	files            []source.File
}

func stageOf(sets ...set) (*stages.Stage, fakeTree) {
	tree := make(fakeTree)
	s := &stages.Stage{Recipe: stages.Recipe{Kind: stages.KindSource, Platform: amd64}}
	for i, set := range sets {
		add := fmt.Sprint("set", i)
		tree[add] = set.files
		s.Recipe.Files = append(s.Recipe.Files, stages.FileSet{To: set.to, Owner: set.owner, Group: set.group})
		s.Selections = append(s.Selections, stages.Selection{Mapping: &stages.Mapping{Add: add, To: set.to}})
	}
	return s, tree
}

// listing reads an archive as one line for each entry.
func listing(t testing.TB, raw []byte) []string {
	t.Helper()
	var out []string
	r := tar.NewReader(bytes.NewReader(raw))
	for {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			return out
		}
		if err != nil {
			t.Fatal(err)
		}
		line := fmt.Sprintf("%c %04o %d:%d %s", h.Typeflag, h.Mode, h.Uid, h.Gid, h.Name)
		if h.Linkname != "" {
			line += " -> " + h.Linkname
		}
		out = append(out, line)
	}
}

func gunzip(t testing.TB, p []byte) []byte {
	t.Helper()
	z, err := gzip.NewReader(bytes.NewReader(p))
	if err != nil {
		t.Fatal(err)
	}
	raw, err := io.ReadAll(z)
	if err != nil {
		t.Fatal(err)
	}
	return raw
}

func equal[T comparable](t testing.TB, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s:\n got %v\nwant %v", what, got, want)
	}
}

func equalLines(t testing.TB, what string, got []string, want ...string) {
	t.Helper()
	equal(t, what, strings.Join(got, "\n"), strings.Join(want, "\n"))
}

func cleanJoin(p ...string) string { return strings.TrimPrefix(path.Join(p...), "/") }
