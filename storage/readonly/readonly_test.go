package readonly_test

import (
	"errors"
	"strings"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/storage/readonly"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestWritesAreDeniedAndDoNotReachTheStorage(t *testing.T) {
	totals := &observed.Totals{}
	s := readonly.New(observed.New(mem.New(mem.Options{Address: "reg/shop"}), totals))
	b := []byte("x")
	d := storagetest.Layer(b)
	m := storage.Manifest{Descriptor: ocispec.Descriptor{Digest: d.Digest}}
	mount := func() error {
		_, err := s.(storage.Mounter).MountBlob(t.Context(), d, "reg/other")
		return err
	}
	for name, err := range map[string]error{
		"push blob":       s.PushBlob(t.Context(), d, storagetest.Content(b)),
		"mount blob":      mount(),
		"push manifest":   s.PushManifest(t.Context(), m),
		"publish":         s.Publish(t.Context(), "v1", m),
		"delete tag":      s.DeleteTag(t.Context(), "v1"),
		"delete manifest": s.DeleteManifest(t.Context(), d.Digest),
	} {
		if !errors.Is(err, storage.ErrDenied) || !strings.Contains(err.Error(), "read-only") || !strings.HasPrefix(err.Error(), name+" reg/shop ") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if err := storage.ProbeDeletion(t.Context(), s); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("whether it deletes: %v", err)
	}
	if n := totals.Sum().Requests; n != 0 {
		t.Errorf("%d requests reached the storage", n)
	}
}

func TestReadsGoThrough(t *testing.T) {
	inner := mem.New(mem.Options{})
	b := []byte("content")
	d := storagetest.Layer(b)
	if err := inner.PushBlob(t.Context(), d, storagetest.Content(b)); err != nil {
		t.Fatal(err)
	}
	s := readonly.New(inner)
	if got, err := storage.ReadBlob(t.Context(), s, d, 100); err != nil || string(got) != "content" {
		t.Errorf("%q, %v", got, err)
	}
	if s.Address() != inner.Address() {
		t.Errorf("address %q", s.Address())
	}
}
