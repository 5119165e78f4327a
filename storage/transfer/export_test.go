package transfer_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/tarball"
	"github.com/google/go-containerregistry/pkg/v1/validate"
	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/storagetest"
	"github.com/cairnbuild/cairn/storage/transfer"
)

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// layer returns an uncompressed layer with one file.
func layer(t *testing.T, name string) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	check(t, w.WriteHeader(&tar.Header{Name: name, Size: int64(len(name)), Mode: 0o644}))
	_, err := io.WriteString(w, name)
	check(t, err)
	check(t, w.Close())
	return b.Bytes()
}

func compressed(t *testing.T, b []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	w := gzip.NewWriter(&out)
	_, err := w.Write(b)
	check(t, err)
	check(t, w.Close())
	return out.Bytes()
}

// stored returns a storage with an image of two layers in it.
func stored(t *testing.T) (*mem.Storage, storage.Manifest) {
	t.Helper()
	s := mem.New(mem.Options{Address: "mem"})
	push := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		check(t, s.PushBlob(t.Context(), d, storagetest.Content(b)))
		return d
	}
	var layers []ocispec.Descriptor
	config := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, name := range []string{"one", "two"} {
		b := layer(t, name)
		layers = append(layers, push(ocispec.MediaTypeImageLayerGzip, compressed(t, b)))
		config.RootFS.DiffIDs = append(config.RootFS.DiffIDs, digest.FromBytes(b))
	}
	b, err := json.Marshal(config)
	check(t, err)
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: push(ocispec.MediaTypeImageConfig, b), Layers: layers,
	})
	check(t, err)
	check(t, s.PushManifest(t.Context(), m))
	return s, m
}

func image(t *testing.T) v1.Image {
	t.Helper()
	s, m := stored(t)
	img, err := transfer.Image(t.Context(), s, m)
	check(t, err)
	return img
}

func TestAStoredImageIsAnImageToOtherTools(t *testing.T) {
	s, m := stored(t)
	img, err := transfer.Image(t.Context(), s, m)
	check(t, err)
	check(t, validate.Image(img))
	if d, err := img.Digest(); err != nil || d.String() != m.Descriptor.Digest.String() {
		t.Errorf("it has the digest %s (%v), want %s", d, err, m.Descriptor.Digest)
	}
}

func TestTheArchiveIsReadByOtherTools(t *testing.T) {
	img := image(t)
	path := filepath.Join(t.TempDir(), "image.tar")
	check(t, transfer.WriteTarFile(path, img, "shop/backend:latest"))
	read, err := tarball.ImageFromPath(path, nil)
	check(t, err)
	check(t, validate.Image(read))
	got, err := read.ConfigName()
	check(t, err)
	if want, err := img.ConfigName(); err != nil || got != want {
		t.Errorf("it holds the config %s, want %s (%v)", got, want, err)
	}
	if err := transfer.WriteTarFile(path, img, "shop/backend:latest"); !errors.Is(err, transfer.ErrExists) {
		t.Errorf("a second archive in the same place: %v", err)
	}
}

func TestAnArchiveThatFailsLeavesNothing(t *testing.T) {
	s, m := stored(t)
	ctx, cancel := context.WithCancel(t.Context())
	img, err := transfer.Image(ctx, s, m)
	check(t, err)
	v, err := m.Image()
	check(t, err)
	s.DropBlob(v.Layers[1].Digest)
	cancel()
	dir := t.TempDir()
	if err := transfer.WriteTarFile(filepath.Join(dir, "image.tar"), img, "a:b"); err == nil {
		t.Error("an archive without its layers was written")
	}
	left, err := os.ReadDir(dir)
	check(t, err)
	if len(left) > 0 {
		t.Errorf("left behind %v", left)
	}
}

func TestALayoutIsMadeAddedToAndNeverMixedWithOtherFiles(t *testing.T) {
	img := image(t)
	dir := filepath.Join(t.TempDir(), "layout")
	for _, ref := range []string{"a:1", "b:1", "a:1"} {
		check(t, transfer.WriteLayout(dir, img, ref))
	}
	p, err := layout.FromPath(dir)
	check(t, err)
	index, err := p.ImageIndex()
	check(t, err)
	check(t, validate.Index(index))
	list, err := index.IndexManifest()
	check(t, err)
	if len(list.Manifests) != 2 {
		t.Errorf("the layout names %d images, want 2", len(list.Manifests))
	}
	other := t.TempDir()
	check(t, os.WriteFile(filepath.Join(other, "notes.txt"), nil, 0o600))
	if err := transfer.WriteLayout(other, img, "a:1"); !errors.Is(err, transfer.ErrExists) {
		t.Errorf("a layout among other files: %v", err)
	}
}
