package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
)

func TestSourceLayersHoldTheFilesAndWhatLeadsToThem(t *testing.T) {
	b := newBlobs()
	below := imageOf(t, b, archive(t, "lib->usr/lib", "usr/lib/"))
	stage, tree := stageOf(set{to: "/lib/app", owner: "7", files: files("a/x", "b/y")})
	layers, err := SourceLayers(t.Context(), tree, b, stage, below, 2)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, l := range layers {
		raw := gunzip(t, b.content[l.Descriptor.Digest])
		equal(t, "diff id", l.DiffID, digest.FromBytes(raw))
		equal(t, "media type", l.Descriptor.MediaType, ocispec.MediaTypeImageLayerGzip)
		equal(t, "size", l.Descriptor.Size, int64(len(b.content[l.Descriptor.Digest])))
		lines := listing(t, raw)
		equal(t, "first entry", lines[0], "5 0755 7:0 usr/lib/app/")
		all = append(all, lines...)
	}
	slices.Sort(all)
	equalLines(t, "entries", slices.Compact(all),
		"0 0644 7:0 usr/lib/app/a/x", "0 0644 7:0 usr/lib/app/b/y",
		"5 0755 7:0 usr/lib/app/", "5 0755 7:0 usr/lib/app/a/", "5 0755 7:0 usr/lib/app/b/")
	i, err := below.Append(layers, nil)
	if err != nil {
		t.Fatal(err)
	}
	tables, err := i.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "the tables know a new directory", tables.IsDir("usr/lib/app/b"), true)
	equalLines(t, "tables are those of the layers read from the beginning",
		directories(tables), directories(tablesOf(t, rawLayers(t, b, i)...))...)
}

func rawLayers(t *testing.T, b *blobs, i *Image) (out [][]byte) {
	for _, l := range i.Layers() {
		out = append(out, gunzip(t, b.content[l.Digest]))
	}
	return out
}

func TestAStageWithoutFilesHasNoLayers(t *testing.T) {
	stage, tree := stageOf(set{to: "/app"})
	b := newBlobs()
	layers, err := SourceLayers(t.Context(), tree, b, stage, Scratch(amd64), 8)
	if err != nil || len(layers) != 0 || len(b.content) != 0 {
		t.Error(layers, err, len(b.content))
	}
}

func TestSourceLayersStayBelowTheLimitOfAnImage(t *testing.T) {
	b := newBlobs()
	var raws [][]byte
	for i := range MaxLayers - 1 {
		raws = append(raws, archive(t, fmt.Sprintf("d%d/", i)))
	}
	stage, tree := stageOf(set{to: "/app", files: files("a", "b", "c/d", "e/f")})
	layers, err := SourceLayers(t.Context(), tree, b, stage, imageOf(t, b, raws...), 8)
	if err != nil {
		t.Fatal(err)
	}
	equal(t, "layers where one is left", len(layers), 1)
	full := imageOf(t, b, append(raws, archive(t, "x/"))...)
	if _, err := SourceLayers(t.Context(), tree, b, stage, full, 8); !errors.Is(err, ErrTooManyLayers) {
		t.Errorf("got %v", err)
	}
	if _, err := full.Append(layers, nil); !errors.Is(err, ErrTooManyLayers) {
		t.Errorf("got %v", err)
	}
}

// brokenPad fails in the middle of a blob.
type brokenPad struct{ err error }

func (p brokenPad) WriteBlob(_ context.Context, write func(io.Writer) error) (ocispec.Descriptor, error) {
	return ocispec.Descriptor{}, write(p)
}

func (p brokenPad) Write([]byte) (int, error) { return 0, p.err }

func TestAFailingScratchpadOrTreeEndsTheLayer(t *testing.T) {
	full := errors.New("no space")
	stage, tree := stageOf(set{to: "/app", files: files("a")})
	if _, err := SourceLayers(t.Context(), tree, brokenPad{full}, stage, Scratch(amd64), 8); !errors.Is(err, full) {
		t.Errorf("got %v", err)
	}
	gone := errors.New("object is gone")
	_, err := writeLayer(t.Context(), newBlobs(), func(w io.Writer) error {
		_, err := w.Write(archive(t, "a/"))
		return errors.Join(err, gone)
	})
	if !errors.Is(err, gone) {
		t.Errorf("got %v", err)
	}
	_, err = writeLayer(t.Context(), newBlobs(), func(w io.Writer) error {
		_, err := w.Write(make([]byte, 100)) // no archive
		return err
	})
	if !errors.Is(err, ErrLayer) {
		t.Errorf("got %v", err)
	}
}

// TestAGitTreeBecomesAnImage goes the whole way once, with the real sources.
func TestAGitTreeBecomesAnImage(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{"app/main.py": "print()", "app/static/a.css": "a{}", "conf": "x=1"} {
		if err := errors.Join(os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755), os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink("static", filepath.Join(dir, "app", "public")); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{{"init", "-q"}, {"add", "."}, {"-c", "user.name=a", "-c", "user.email=a@b", "commit", "-qm", "x"}} {
		cmd := exec.CommandContext(t.Context(), "git", args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	repo, err := source.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	tree, err := repo.Commit(t.Context(), "HEAD")
	if err != nil {
		t.Fatal(err)
	}
	assemble := func() *Image {
		b := newBlobs()
		below := imageOf(t, b, archive(t, "srv->/data", "data/", testPasswd))
		stage := &stages.Stage{Recipe: stages.Recipe{Kind: stages.KindSource, Platform: amd64, Files: []stages.FileSet{{To: "/srv/app", Owner: "www"}, {To: "/etc/app.conf"}}}}
		for _, m := range []*stages.Mapping{{Add: "app", To: "/srv/app"}, {Add: "conf", To: "/etc/app.conf"}} {
			stage.Selections = append(stage.Selections, stages.Selection{Mapping: m, Kind: stages.KindSource})
		}
		layers, err := SourceLayers(t.Context(), tree, b, stage, below, 1)
		if err != nil {
			t.Fatal(err)
		}
		out, err := below.Append(layers, &stages.Config{WorkDir: "/srv/app"})
		if err != nil {
			t.Fatal(err)
		}
		equalLines(t, "entries", listing(t, gunzip(t, b.content[layers[0].Descriptor.Digest])),
			"5 0755 33:0 data/app/", "0 0644 33:0 data/app/main.py", "2 0777 33:0 data/app/public -> static",
			"5 0755 33:0 data/app/static/", "0 0644 33:0 data/app/static/a.css", "0 0644 0:0 etc/app.conf")
		return out
	}
	one, two := assemble(), assemble()
	equal(t, "digest of the same image made twice", two.Manifest().Descriptor.Digest, one.Manifest().Descriptor.Digest)
	tables, err := one.Tables(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	target, _ := tables.Link("data/app/public")
	equal(t, "a link of the sources is in the tables", target, "static")
}
