package verify_test

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"testing"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/storagetest"
	"github.com/cairnbuild/cairn/storage/verify"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is a storage with two stages on one base and a build of both.
type world struct {
	*mem.Storage
	base, top ocispec.Descriptor
	from, app storage.Manifest
	build     string
}

func tagOf(s string) string { return storage.StageTag(stages.DigestOf([]byte(s))) }

func newWorld(t *testing.T) *world {
	t.Helper()
	w := &world{Storage: mem.New(mem.Options{LooseReferences: true}), build: storage.BuildTag(stages.DigestOf([]byte("build")))}
	w.base, w.top = w.blob(t, "base layer"), w.blob(t, "top")
	w.from = w.image(t, "from", w.base)
	w.app = w.image(t, "app", w.base, w.top)
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex,
		Manifests: []ocispec.Descriptor{w.app.Descriptor},
	})
	check(t, err)
	check(t, w.Publish(t.Context(), w.build, m))
	return w
}

func (w *world) blob(t *testing.T, content string) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(content), Size: int64(len(content))}
	check(t, w.PushBlob(t.Context(), d, storagetest.Content([]byte(content))))
	return d
}

func (w *world) image(t *testing.T, name string, layers ...ocispec.Descriptor) storage.Manifest {
	t.Helper()
	config, err := json.Marshal(ocispec.Image{Author: name})
	check(t, err)
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: w.blob(t, string(config)), Layers: layers,
	})
	check(t, err)
	check(t, w.Publish(t.Context(), tagOf(name), m))
	return m
}

func (w *world) inventory(t *testing.T) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Read(t.Context(), w, inventory.Options{})
	check(t, err)
	return inv
}

// watched counts how often content is asked for, and fails where it is told to.
type watched struct {
	*mem.Storage
	asked map[digest.Digest]int
	fail  map[digest.Digest]error
}

func (w *watched) ask(d digest.Digest) error {
	w.asked[d]++
	if err := w.fail[d]; err != nil {
		return &storage.Error{Op: "look", Storage: "mem", Subject: d.String(), Class: err}
	}
	return nil
}

func (w *watched) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if err := w.ask(d.Digest); err != nil {
		return false, err
	}
	return w.Storage.HasBlob(ctx, d)
}

func (w *watched) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if err := w.ask(d.Digest); err != nil {
		return nil, err
	}
	return w.Storage.Blob(ctx, d)
}

func TestWhatIsWholeHasNoProblems(t *testing.T) {
	w := newWorld(t)
	for _, deep := range []bool{false, true} {
		s := &watched{Storage: w.Storage, asked: map[digest.Digest]int{}}
		var last verify.Progress
		got, err := verify.Check(t.Context(), s, w.inventory(t), verify.Options{Deep: deep, Concurrency: 1, Progress: func(p verify.Progress) { last = p }})
		check(t, err)
		if len(got.Problems) > 0 || got.Manifests != 3 || got.Blobs != 4 || (got.Bytes > 0) != deep {
			t.Errorf("deep %v: %+v", deep, got)
		}
		if last.Done != last.Total || last.Bytes != last.TotalBytes || got.Bytes != last.Bytes {
			t.Errorf("deep %v: the last progress is %+v", deep, last)
		}
		for d, n := range s.asked {
			if n > 1 {
				t.Errorf("deep %v: %s was asked for %d times", deep, d, n)
			}
		}
	}
}

func TestABrokenLayerIsTheProblemOfAllThatNeedIt(t *testing.T) {
	both := slices.Sorted(slices.Values([]string{tagOf("from"), tagOf("app")}))
	for _, c := range []struct {
		name   string
		deep   bool
		damage func(w *world)
		digest func(w *world) digest.Digest
		want   error
		tags   func(w *world) []string
	}{
		{"a missing base", false, func(w *world) { w.DropBlob(w.base.Digest) }, func(w *world) digest.Digest { return w.base.Digest },
			storage.ErrNotFound, func(w *world) []string { return append(slices.Clone(both), w.build) }},
		{"a missing top, deep", true, func(w *world) { w.DropBlob(w.top.Digest) }, func(w *world) digest.Digest { return w.top.Digest },
			storage.ErrNotFound, func(w *world) []string { return []string{tagOf("app"), w.build} }},
		{"a corrupt top", true, func(w *world) { w.CorruptBlob(w.top.Digest) }, func(w *world) digest.Digest { return w.top.Digest },
			storage.ErrCorrupt, func(w *world) []string { return []string{tagOf("app"), w.build} }},
	} {
		t.Run(c.name, func(t *testing.T) {
			w := newWorld(t)
			c.damage(w)
			got, err := verify.Check(t.Context(), w, w.inventory(t), verify.Options{Deep: c.deep})
			check(t, err)
			want := slices.Sorted(slices.Values(c.tags(w)))
			if len(got.Problems) != 1 {
				t.Fatalf("%d problems: %+v", len(got.Problems), got.Problems)
			}
			p := got.Problems[0]
			if p.Digest != c.digest(w) || !errors.Is(p.Err, c.want) || !p.Broken() || !p.Blob || !slices.Equal(p.Tags, want) {
				t.Errorf("the problem is %+v, want %v of %v", p, c.want, want)
			}
		})
	}
}

func TestAMissingManifestIsNamed(t *testing.T) {
	w := newWorld(t)
	inv := w.inventory(t)
	check(t, w.DeleteManifest(t.Context(), w.app.Descriptor.Digest))
	got, err := verify.Check(t.Context(), w, inv, verify.Options{})
	check(t, err)
	if len(got.Problems) != 1 || got.Problems[0].Blob || len(got.Problems[0].Tags) != 2 {
		t.Errorf("the problems are %+v", got.Problems)
	}
	// Read anew, the build's index has a member that is not there.
	got, err = verify.Check(t.Context(), w, w.inventory(t), verify.Options{})
	check(t, err)
	if len(got.Problems) != 1 || !slices.Equal(got.Problems[0].Tags, []string{w.build}) {
		t.Errorf("after that they are %+v", got.Problems)
	}
}

func TestWhatDoesNotAnswerIsNotCalledBroken(t *testing.T) {
	w := newWorld(t)
	s := &watched{Storage: w.Storage, asked: map[digest.Digest]int{}, fail: map[digest.Digest]error{w.top.Digest: storage.ErrTransient}}
	got, err := verify.Check(t.Context(), s, w.inventory(t), verify.Options{Concurrency: 1})
	check(t, err)
	if len(got.Problems) != 1 || got.Problems[0].Broken() || got.Blobs != 4 {
		t.Errorf("the result is %+v", got)
	}
	s.fail[w.top.Digest] = storage.ErrDenied
	if _, err := verify.Check(t.Context(), s, w.inventory(t), verify.Options{Concurrency: 1}); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("a refusal ends with %v", err)
	}
}

func TestContentComesBackFromTheFirstThatHasItWhole(t *testing.T) {
	w, good, spoilt := newWorld(t), newWorld(t), newWorld(t)
	spoilt.CorruptBlob(spoilt.top.Digest)
	empty := mem.New(mem.Options{})
	from := []verify.Source{{Fetcher: empty, Name: "empty"}, {Fetcher: spoilt, Name: "spoilt"}, {Fetcher: good, Name: "good"}}
	inv := w.inventory(t)
	w.DropBlob(w.top.Digest)
	w.DropBlob(w.base.Digest)
	check(t, w.DeleteManifest(t.Context(), w.from.Descriptor.Digest))
	found, err := verify.Check(t.Context(), w, inv, verify.Options{})
	check(t, err)
	if len(found.Problems) != 3 {
		t.Fatalf("there are %d problems", len(found.Problems))
	}
	for _, p := range found.Problems {
		source, err := verify.Repair(t.Context(), w, p, from)
		check(t, err)
		if p.Digest == w.top.Digest && source != "good" {
			t.Errorf("a layer came back from the %s storage", source)
		}
	}
	found, err = verify.Check(t.Context(), w, inv, verify.Options{Deep: true})
	check(t, err)
	if len(found.Problems) > 0 {
		t.Errorf("after the repair there are %+v", found.Problems)
	}
}

func TestWhatIsNowhereStaysBroken(t *testing.T) {
	w := newWorld(t)
	w.DropBlob(w.top.Digest)
	for _, p := range []verify.Problem{{Digest: w.top.Digest, Size: w.top.Size, Blob: true}, {Digest: digest.FromString("x")}, {}} {
		if _, err := verify.Repair(t.Context(), w, p, []verify.Source{{Fetcher: mem.New(mem.Options{}), Name: "empty"}}); !errors.Is(err, verify.ErrNowhere) {
			t.Errorf("%+v: %v", p, err)
		}
	}
}

// keeper takes what it has for whole, as registries do.
type keeper struct{ *mem.Storage }

func (keeper) PushBlob(context.Context, ocispec.Descriptor, storage.Content) error { return nil }

func TestDamagedContentThatTheStorageKeepsIsToldOf(t *testing.T) {
	w := newWorld(t)
	w.CorruptBlob(w.top.Digest)
	found, err := verify.Check(t.Context(), w, w.inventory(t), verify.Options{Deep: true})
	check(t, err)
	_, err = verify.Repair(t.Context(), keeper{w.Storage}, found.Problems[0], []verify.Source{{Fetcher: newWorld(t), Name: "good"}})
	if !errors.Is(err, storage.ErrCorrupt) {
		t.Errorf("the repair ends with %v", err)
	}
}

// away is a source that does not answer.
type away struct{ *mem.Storage }

var errAway = errors.New("connection refused")

func (away) Blob(context.Context, ocispec.Descriptor) (io.ReadCloser, error) { return nil, errAway }

func TestASourceThatDoesNotAnswerLeavesTheOthersToAsk(t *testing.T) {
	w := newWorld(t)
	w.DropBlob(w.top.Digest)
	p := verify.Problem{Digest: w.top.Digest, Size: w.top.Size, Blob: true}
	empty := mem.New(mem.Options{})
	silent := verify.Source{Fetcher: away{empty}, Name: "silent"}
	_, err := verify.Repair(t.Context(), w, p, []verify.Source{silent, {Fetcher: empty, Name: "empty"}})
	if !errors.Is(err, errAway) || errors.Is(err, verify.ErrNowhere) || errors.Is(err, storage.ErrNotFound) {
		t.Errorf("what a silent source may have ends with %v", err)
	}
	source, err := verify.Repair(t.Context(), w, p, []verify.Source{silent, {Fetcher: newWorld(t), Name: "good"}})
	if err != nil || source != "good" {
		t.Errorf("it came back from %q (%v)", source, err)
	}
}
