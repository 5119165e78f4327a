package engine_test

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages/engine"
)

// blobs serves layers from memory and counts how often each is opened.
type blobs struct {
	mu     sync.Mutex
	data   map[digest.Digest][]byte
	opened int
}

func (b *blobs) Blob(_ context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p, ok := b.data[d.Digest]
	if !ok {
		return nil, fmt.Errorf("no blob %s", d.Digest)
	}
	b.opened++
	return io.NopCloser(bytes.NewReader(p)), nil
}

func (b *blobs) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.opened
}

// file is one entry of a layer or of a tree.
type file struct {
	mode     int64
	kind     byte
	data     string
	link     string
	uid, gid int
}

type files map[string]file

func dir(mode int64) file     { return file{kind: tar.TypeDir, mode: mode} }
func text(data string) file   { return file{kind: tar.TypeReg, mode: 0o644, data: data} }
func link(target string) file { return file{kind: tar.TypeSymlink, mode: 0o777, link: target} }

func archive(t testing.TB, fs files) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, p := range sortedKeys(fs) {
		f := fs[p]
		h := &tar.Header{Name: p, Typeflag: f.kind, Mode: f.mode, Size: int64(len(f.data)), Linkname: f.link, Uid: f.uid, Gid: f.gid}
		if f.kind == tar.TypeDir {
			h.Name += "/"
		}
		check(t, w.WriteHeader(h))
		_, err := io.WriteString(w, f.data)
		check(t, err)
	}
	check(t, w.Close())
	return b.Bytes()
}

// image makes a published image of the layers.
func image(t testing.TB, layers ...files) *engine.Image {
	t.Helper()
	store := &blobs{data: map[digest.Digest][]byte{}}
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	c := ocispec.Image{Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"}, RootFS: ocispec.RootFS{Type: "layers"}}
	for _, l := range layers {
		raw := archive(t, l)
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, err := z.Write(raw)
		check(t, err)
		check(t, z.Close())
		d := digest.FromBytes(b.Bytes())
		store.data[d] = b.Bytes()
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayerGzip, Digest: d, Size: int64(b.Len())})
		c.RootFS.DiffIDs = append(c.RootFS.DiffIDs, digest.FromBytes(raw))
	}
	config, err := json.Marshal(c)
	check(t, err)
	m.Config = ocispec.Descriptor{MediaType: ocispec.MediaTypeImageConfig, Digest: digest.FromBytes(config), Size: int64(len(config))}
	manifest, err := json.Marshal(m)
	check(t, err)
	return &engine.Image{
		Manifest: ocispec.Descriptor{MediaType: ocispec.MediaTypeImageManifest, Digest: digest.FromBytes(manifest), Size: int64(len(manifest))},
		Bytes:    manifest, Config: config, Blobs: store,
	}
}

// busybox returns the files of a root file system that commands can run in.
func busybox(t testing.TB) files {
	t.Helper()
	path, err := exec.LookPath("busybox")
	check(t, err)
	data, err := os.ReadFile(path)
	check(t, err)
	fs := files{
		"bin": dir(0o755), "etc": dir(0o755), "proc": dir(0o555), "sys": dir(0o555), "dev": dir(0o755),
		"root": dir(0o700), "usr": dir(0o755), "tmp": dir(0o1777),
		"home":        {kind: tar.TypeDir, mode: 0o750, uid: 1000, gid: 1000},
		"bin/busybox": {kind: tar.TypeReg, mode: 0o755, data: string(data)},
	}
	list, err := exec.Command(path, "--list").Output()
	check(t, err)
	for _, name := range strings.Fields(string(list)) {
		if name != "busybox" {
			fs["bin/"+name] = link("busybox")
		}
	}
	return fs
}
