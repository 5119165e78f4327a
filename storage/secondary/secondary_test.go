package secondary_test

import (
	"errors"
	"testing"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/storage/secondary"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestStorageConforms(t *testing.T) {
	storagetest.Run(t, func(*testing.T) storage.Storage {
		return secondary.New(mem.New(mem.Options{}), mem.New(mem.Options{}), storage.CopyOptions{})
	})
}

func publish(t *testing.T, s storage.Storage, tag, content string) storage.Manifest {
	t.Helper()
	push := func(b string) ocispec.Descriptor {
		d := storagetest.Layer([]byte(b))
		if err := s.PushBlob(t.Context(), d, storagetest.Content([]byte(b))); err != nil {
			t.Fatal(err)
		}
		return d
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: push("{}"), Layers: []ocispec.Descriptor{push(content)},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Publish(t.Context(), tag, m); err != nil {
		t.Fatal(err)
	}
	return m
}

func TestFindPrefersThePrimary(t *testing.T) {
	first, second := mem.New(mem.Options{}), mem.New(mem.Options{})
	s := secondary.New(first, second, storage.CopyOptions{})
	want, other := publish(t, first, "both", "a"), publish(t, second, "both", "b")
	publish(t, second, "second", "c")
	m, from, err := s.Find(t.Context(), "both")
	if err != nil || m.Descriptor.Digest != want.Descriptor.Digest || from != storage.Fetcher(first) {
		t.Errorf("found %s in %v, %v", m.Descriptor.Digest, from, err)
	}
	m, from, err = s.Find(t.Context(), other.Descriptor.Digest.String())
	if err != nil || m.Descriptor.Digest != other.Descriptor.Digest || from != storage.Fetcher(second) {
		t.Errorf("found %s in %v, %v", m.Descriptor.Digest, from, err)
	}
	if _, _, err := s.Find(t.Context(), "neither"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("Find: %v", err)
	}
	if _, err := s.Resolve(t.Context(), "second"); !errors.Is(err, storage.ErrNotFound) {
		t.Errorf("a stage of the second storage passes for one of the primary: %v", err)
	}
}

func TestFindDoesNotTakeAFailureForAMiss(t *testing.T) {
	second := mem.New(mem.Options{})
	publish(t, second, "v1", "a")
	broken := faulty.New(mem.New(mem.Options{}), faulty.Always(faulty.FetchManifest, faulty.Fault{Err: storage.ErrTransient}))
	if _, _, err := secondary.New(broken, second, storage.CopyOptions{}).Find(t.Context(), "v1"); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("Find with a failing primary: %v", err)
	}
	s := secondary.New(mem.New(mem.Options{}), broken, storage.CopyOptions{})
	if _, _, err := s.Find(t.Context(), "v1"); !errors.Is(err, storage.ErrTransient) {
		t.Errorf("Find with a failing second storage: %v", err)
	}
}

func TestAdoptBringsTheImageAndNamesNothing(t *testing.T) {
	first, second, totals := mem.New(mem.Options{}), mem.New(mem.Options{}), &observed.Totals{}
	s := secondary.New(first, observed.New(second, totals), storage.CopyOptions{})
	publish(t, second, "v1", "content of the layer")
	m, _, err := s.Find(t.Context(), "v1")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Adopt(t.Context(), m); err != nil {
		t.Fatal(err)
	}
	if _, err := first.Manifest(t.Context(), m.Descriptor.Digest.String()); err != nil {
		t.Errorf("the manifest did not come: %v", err)
	}
	for tag := range first.Tags(t.Context()) {
		t.Errorf("tag %s was given", tag)
	}
	if err := first.Publish(t.Context(), "v1", m); err != nil {
		t.Errorf("what was adopted cannot be published: %v", err)
	}
	if n := totals.Sum().Pushed; n != 0 {
		t.Errorf("%d bytes were written to the second storage", n)
	}
}
