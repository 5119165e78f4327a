package storage_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

// pushImage pushes an image with the layers and returns its manifest, pushed too.
func pushImage(t *testing.T, s storage.Pusher, layers ...string) storage.Manifest {
	t.Helper()
	v := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	push := func(content string) ocispec.Descriptor {
		d := storagetest.Layer([]byte(content))
		if err := s.PushBlob(t.Context(), d, storagetest.Content([]byte(content))); err != nil {
			t.Fatal(err)
		}
		return d
	}
	v.Config = push(fmt.Sprintf(`{"layers":%q}`, layers))
	for _, l := range layers {
		v.Layers = append(v.Layers, push(l))
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PushManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

func pushIndex(t *testing.T, s storage.Pusher, members ...storage.Manifest) storage.Manifest {
	t.Helper()
	v := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, m := range members {
		v.Manifests = append(v.Manifests, m.Descriptor)
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, v)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.PushManifest(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	return m
}

// movements counts what [storage.CopyImage] tells.
type movements struct {
	mu sync.Mutex
	by map[storage.Movement]int
}

func (m *movements) moved(_ ocispec.Descriptor, how storage.Movement) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.by == nil {
		m.by = map[storage.Movement]int{}
	}
	m.by[how]++
}

func TestCopyImageBringsAnIndexWithAllThatItNeeds(t *testing.T) {
	src, dst := mem.New(mem.Options{}), mem.New(mem.Options{})
	a, b := pushImage(t, src, "shared", "a"), pushImage(t, src, "shared", "b")
	index := pushIndex(t, src, a, pushIndex(t, src, a, b))
	var got movements
	opts := storage.CopyOptions{Concurrency: 2, Moved: got.moved}
	if err := storage.CopyImage(t.Context(), dst, src, index, "", opts); err != nil {
		t.Fatal(err)
	}
	if got.by[storage.Copied] != 5 || len(got.by) != 1 {
		t.Errorf("moved %v, want 5 blobs copied", got.by)
	}
	if _, err := dst.Manifest(t.Context(), index.Descriptor.Digest.String()); err != nil {
		t.Error(err)
	}
	if err := storage.CopyImage(t.Context(), dst, src, index, "", opts); err != nil {
		t.Fatal(err)
	}
	if got.by[storage.Present] != 5 {
		t.Errorf("moved %v, want 5 blobs present the second time", got.by)
	}
}

// mounter mounts what a neighbour has by copying it unseen.
type mounter struct {
	*mem.Storage
	neighbour *mem.Storage
	refuse    error
}

func (m mounter) MountBlob(ctx context.Context, d ocispec.Descriptor, from string) (bool, error) {
	if m.refuse != nil || from != m.neighbour.Address() {
		return false, m.refuse
	}
	return true, m.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) { return m.neighbour.Blob(ctx, d) }))
}

func TestCopyImageMountsWhereItCan(t *testing.T) {
	down := errors.New("connection reset")
	for name, c := range map[string]struct {
		from   string
		refuse error
		want   storage.Movement
		err    error
	}{
		"from a neighbour":                     {from: "reg/a", want: storage.Mounted},
		"not from elsewhere":                   {from: "other/b", want: storage.Copied},
		"not where there is no address":        {want: storage.Copied},
		"not where the neighbour is denied":    {from: "reg/a", refuse: storage.ErrDenied, want: storage.Copied},
		"not where mounts are not supported":   {from: "reg/a", refuse: storage.ErrUnsupported, want: storage.Copied},
		"and fails where the storage does not": {from: "reg/a", refuse: down, err: down},
	} {
		t.Run(name, func(t *testing.T) {
			src := mem.New(mem.Options{Address: "reg/a"})
			m := pushImage(t, src, "layer")
			dst := mounter{Storage: mem.New(mem.Options{}), neighbour: src, refuse: c.refuse}
			var got movements
			err := storage.CopyImage(t.Context(), dst, src, m, c.from, storage.CopyOptions{Moved: got.moved})
			if !errors.Is(err, c.err) || (c.err == nil && got.by[c.want] != 2) {
				t.Errorf("moved %v, %v; want %s, %v", got.by, err, c.want, c.err)
			}
		})
	}
}

func TestCopyImageDoesNotNameOrStoreAnImageWhosePartsAreBad(t *testing.T) {
	for name, harm := range map[string]struct {
		do    func(*mem.Storage, storage.Manifest)
		class error
	}{
		"missing": {func(s *mem.Storage, m storage.Manifest) { s.DropBlob(descriptor("layer").Digest) }, storage.ErrNotFound},
		"corrupt": {func(s *mem.Storage, m storage.Manifest) { s.CorruptBlob(descriptor("layer").Digest) }, storage.ErrCorrupt},
	} {
		t.Run(name, func(t *testing.T) {
			src, dst := mem.New(mem.Options{}), mem.New(mem.Options{LooseReferences: true})
			m := pushImage(t, src, "layer")
			harm.do(src, m)
			err := storage.CopyImage(t.Context(), dst, src, m, "", storage.CopyOptions{})
			if !errors.Is(err, harm.class) {
				t.Errorf("CopyImage: %v, want %v", err, harm.class)
			}
			if _, err := dst.Manifest(t.Context(), m.Descriptor.Digest.String()); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("the manifest came over: %v", err)
			}
		})
	}
}

// busy counts how many blobs are pushed at once.
type busy struct {
	*mem.Storage
	now, most atomic.Int32
}

func (b *busy) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	n := b.now.Add(1)
	defer b.now.Add(-1)
	for m := b.most.Load(); n > m && !b.most.CompareAndSwap(m, n); m = b.most.Load() {
	}
	return b.Storage.PushBlob(ctx, d, c)
}

func TestCopyImageIsBounded(t *testing.T) {
	src, dst := mem.New(mem.Options{}), &busy{Storage: mem.New(mem.Options{})}
	var layers []string
	for i := range 50 {
		layers = append(layers, fmt.Sprint("layer ", i))
	}
	m := pushImage(t, src, layers...)
	if err := storage.CopyImage(t.Context(), dst, src, m, "", storage.CopyOptions{Concurrency: 3}); err != nil {
		t.Fatal(err)
	}
	if most := dst.most.Load(); most < 1 || most > 3 {
		t.Errorf("%d blobs at once, want at most 3", most)
	}
}

func TestCopyImageRefusesAnIndexWithoutBottom(t *testing.T) {
	src, dst := mem.New(mem.Options{}), mem.New(mem.Options{})
	m := pushImage(t, src, "layer")
	for range 20 {
		m = pushIndex(t, src, m)
	}
	if err := storage.CopyImage(t.Context(), dst, src, m, "", storage.CopyOptions{}); !errors.Is(err, storage.ErrTooLarge) {
		t.Errorf("CopyImage: %v", err)
	}
}
