package inventory_test

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/mem"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// counted counts requests, and fails where it is told to.
type counted struct {
	storage.Storage
	mu       sync.Mutex
	gets     []string
	resolved int
	refuse   map[string]error
}

func (c *counted) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	c.mu.Lock()
	c.gets = append(c.gets, ref)
	err := c.refuse[ref]
	c.mu.Unlock()
	if err != nil {
		return storage.Manifest{}, &storage.Error{Op: "fetch manifest", Storage: c.Address(), Subject: ref, Class: err}
	}
	return c.Storage.Manifest(ctx, ref)
}

func (c *counted) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	c.mu.Lock()
	c.resolved++
	c.mu.Unlock()
	return c.Storage.Resolve(ctx, ref)
}

func (c *counted) Tags(ctx context.Context) iter.Seq2[string, error] {
	if err := c.refuse["tags"]; err != nil {
		return func(yield func(string, error) bool) { yield("", err) }
	}
	return c.Storage.Tags(ctx)
}

func (c *counted) asked() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	out := slices.Sorted(slices.Values(c.gets))
	c.gets = nil
	return out
}

func newStorage() *counted {
	return &counted{Storage: mem.New(mem.Options{LooseReferences: true}), refuse: map[string]error{}}
}

func blob(content string, size int64) ocispec.Descriptor {
	return ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(content), Size: size}
}

func image(t testing.TB, config string, layers ...ocispec.Descriptor) storage.Manifest {
	t.Helper()
	if layers == nil {
		layers = []ocispec.Descriptor{}
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: blob(config, 10), Layers: layers,
	})
	check(t, err)
	return m
}

func index(t testing.TB, members ...ocispec.Descriptor) storage.Manifest {
	t.Helper()
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: members,
	})
	check(t, err)
	return m
}

func member(m storage.Manifest, image, stage, arch string) ocispec.Descriptor {
	d := m.Descriptor
	d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
	d.Annotations = map[string]string{storage.AnnotationImage: image, storage.AnnotationStage: digestOf(stage).String()}
	return d
}

func digestOf(s string) stages.Digest { return stages.DigestOf([]byte(s)) }
func stageTag(s string) string        { return storage.StageTag(digestOf(s)) }
func buildTag(s string) string        { return storage.BuildTag(digestOf(s)) }

func publish(t testing.TB, s storage.Storage, tag string, m storage.Manifest) storage.Manifest {
	t.Helper()
	check(t, s.Publish(context.Background(), tag, m)) //nolint:usetesting // also for benchmarks
	return m
}

func read(t testing.TB, s inventory.Source, o inventory.Options) *inventory.Inventory {
	t.Helper()
	inv, err := inventory.Read(t.Context(), s, o)
	check(t, err)
	check(t, inv.IndexError)
	return inv
}

func name(t *testing.T, inv *inventory.Inventory, tag string) inventory.Name {
	t.Helper()
	n, ok := inv.Name(tag)
	if !ok {
		t.Fatalf("the inventory has no tag %s", tag)
	}
	return n
}

// shop is a storage with a bit of everything: two stages on one base, a build of
// two images, an image for two platforms, a marker and two tags of others.
func shop(t testing.TB) *counted {
	t.Helper()
	s := newStorage()
	base, a, b := blob("base", 1000), blob("a", 100), blob("b", 50)
	publish(t, s, stageTag("from"), image(t, "c0", base))
	front := publish(t, s, stageTag("front"), image(t, "c1", base, a))
	back := publish(t, s, stageTag("back"), image(t, "c2", base, b))
	arm := publish(t, s, stageTag("arm"), image(t, "c3", b))
	publish(t, s, buildTag("root"), index(t, member(front, "front", "front", "amd64"), member(back, "back", "back", "amd64")))
	publish(t, s, buildTag("back"), index(t, member(back, "back", "back", "amd64"), member(arm, "back", "arm", "arm64")))
	publish(t, s, storage.ProjectTag, image(t, "marker"))
	publish(t, s, "latest", image(t, "c9"))
	publish(t, s, "sha256-abc.sig", image(t, "c8"))
	return s
}

func TestEveryNameHasItsKind(t *testing.T) {
	inv := read(t, shop(t), inventory.Options{})
	want := map[string]inventory.Kind{
		stageTag("from"): inventory.KindStage, stageTag("arm"): inventory.KindStage,
		buildTag("root"): inventory.KindBuild, buildTag("back"): inventory.KindPlatforms,
		storage.ProjectTag: inventory.KindMarker, "latest": inventory.KindForeign, "sha256-abc.sig": inventory.KindForeign,
	}
	for tag, kind := range want {
		if n := name(t, inv, tag); n.Kind != kind || n.Broken != nil || (n.Manifest == nil) != (kind == inventory.KindForeign) {
			t.Errorf("%s is %q (%v), want %q", tag, n.Kind, n.Broken, kind)
		}
	}
	if inv.Marker.Bytes == nil {
		t.Error("the marker was not kept")
	}
	members := name(t, inv, buildTag("back")).Manifest.Members
	if len(members) != 2 || members[1].Image != "back" || members[1].Stage != digestOf("arm") || members[1].Platform != "linux/arm64" {
		t.Errorf("the index has the members %+v", members)
	}
	if d, ok := name(t, inv, stageTag("arm")).Stage(); !ok || d != digestOf("arm") {
		t.Errorf("the stage of a stage's tag is %s, %v", d, ok)
	}
}

func TestSharedContentCountsOnce(t *testing.T) {
	inv := read(t, shop(t), inventory.Options{})
	size := func(stages ...string) (inventory.Sizes, int64) {
		var ds []digest.Digest
		var manifests int64
		for _, s := range stages {
			m := name(t, inv, stageTag(s)).Manifest
			ds, manifests = append(ds, m.Digest), manifests+m.Size
		}
		return inv.Sizes(ds...), manifests
	}
	for _, c := range []struct {
		stages     []string
		total, own int64 // without manifests
	}{
		{[]string{"from"}, 1010, 10},
		{[]string{"front"}, 1110, 110},
		{[]string{"back"}, 1060, 10},
		{[]string{"back", "arm"}, 1070, 70},
		{[]string{"from", "front", "back"}, 1180, 1130},
	} {
		got, manifests := size(c.stages...)
		if got.Total != c.total+manifests || got.Own != c.own+manifests {
			t.Errorf("%v take %+v with manifests of %d, want %d and %d", c.stages, got, manifests, c.total, c.own)
		}
	}
}

func TestLayersTellWhatStandsOnWhat(t *testing.T) {
	inv := read(t, shop(t), inventory.Options{})
	d := func(s string) digest.Digest { return name(t, inv, stageTag(s)).Manifest.Digest }
	below := inv.Below()
	if below[d("front")] != d("from") || below[d("back")] != d("from") || below[d("arm")] != "" {
		t.Errorf("below each other are %v", below)
	}
	want := slices.Sorted(slices.Values([]digest.Digest{d("front"), d("back")}))
	if got := inv.Above(d("from")); !slices.Equal(got, want) {
		t.Errorf("above the base are %v, want %v", got, want)
	}
	if got := inv.Tags()[d("back")]; len(got) != 3 {
		t.Errorf("to the stage of two indexes lead %v", got)
	}
}

func TestTheSecondReadingAsksForWhatIsNew(t *testing.T) {
	s := shop(t)
	o := inventory.Options{Index: filepath.Join(t.TempDir(), "cache", "index"), Now: time.Unix(1e9, 0).UTC()}
	first := read(t, s, o)
	if got := s.asked(); len(got) != 7 || first.Fetched != 7 {
		t.Errorf("the first reading asked for %d manifests: %v", len(got), got)
	}
	publish(t, s, stageTag("new"), image(t, "c5", blob("base", 1000)))
	o.Now = o.Now.Add(time.Hour)
	second := read(t, s, o)
	if got, want := s.asked(), []string{storage.ProjectTag, stageTag("new")}; !slices.Equal(got, slices.Sorted(slices.Values(want))) {
		t.Errorf("the second reading asked for %v, want the marker and what is new", got)
	}
	if n := name(t, second, stageTag("from")); !n.Seen.Equal(time.Unix(1e9, 0)) {
		t.Errorf("a known name was first seen %s", n.Seen)
	}
	if n := name(t, second, stageTag("new")); !n.Since().Equal(o.Now) {
		t.Errorf("a new name was first seen %s", n.Seen)
	}
	if s.resolved > 0 {
		t.Errorf("%d names were resolved", s.resolved)
	}
}

func TestAFreshReadingSeesWhatWasDecidedAnew(t *testing.T) {
	s := shop(t)
	o := inventory.Options{Index: filepath.Join(t.TempDir(), "index")}
	read(t, s, o)
	again := publish(t, s, stageTag("front"), image(t, "c1", blob("another", 7)))
	if n := name(t, read(t, s, o), stageTag("front")); n.Manifest.Digest == again.Descriptor.Digest {
		t.Error("a reading through the index asked for a known name")
	}
	o.Fresh = true
	if n := name(t, read(t, s, o), stageTag("front")); n.Manifest.Digest != again.Descriptor.Digest {
		t.Errorf("a fresh reading found %s", n.Manifest.Digest)
	}
	o.Fresh = false
	if n := name(t, read(t, s, o), stageTag("front")); n.Manifest.Digest != again.Descriptor.Digest {
		t.Errorf("the next one through the index found %s", n.Manifest.Digest)
	}
}

func TestBrokenManifestsAreNamedAndTheRestIsRead(t *testing.T) {
	s := shop(t)
	m, err := s.Manifest(t.Context(), stageTag("arm"))
	check(t, err)
	check(t, s.DeleteTag(t.Context(), stageTag("arm")))
	s.refuse[stageTag("front")] = storage.ErrCorrupt
	s.refuse[stageTag("back")] = storage.ErrNotFound
	s.refuse[m.Descriptor.Digest.String()] = storage.ErrNotFound
	publish(t, s, buildTag("x"), image(t, "x"))
	publish(t, s, stageTag("y"), index(t))
	inv := read(t, s, inventory.Options{})
	for _, c := range []struct {
		tag  string
		want error
	}{
		{stageTag("front"), storage.ErrCorrupt}, {stageTag("back"), storage.ErrNotFound},
		{buildTag("x"), storage.ErrCorrupt}, {stageTag("y"), storage.ErrCorrupt}, {stageTag("from"), nil}, {buildTag("back"), nil},
	} {
		if n := name(t, inv, c.tag); !errors.Is(n.Broken, c.want) || (n.Manifest == nil) != (c.want != nil) {
			t.Errorf("%s is broken by %v, want %v", c.tag, n.Broken, c.want)
		}
	}
	if len(inv.Broken) != 1 || !errors.Is(inv.Broken[m.Descriptor.Digest], storage.ErrNotFound) {
		t.Errorf("broken members: %v", inv.Broken)
	}
}

func TestAStorageThatDoesNotAnswerIsAnError(t *testing.T) {
	for _, c := range []struct {
		ref   string
		class error
	}{
		{"tags", storage.ErrDenied}, {"tags", storage.ErrUnsupported}, {stageTag("front"), storage.ErrTransient},
		{stageTag("front"), storage.ErrRateLimited}, {buildTag("root"), storage.ErrUnauthorized},
	} {
		s := shop(t)
		s.refuse[c.ref] = c.class
		_, err := inventory.Read(t.Context(), s, inventory.Options{Index: filepath.Join(t.TempDir(), "index")})
		if !errors.Is(err, c.class) {
			t.Errorf("%v for %s: the reading ends with %v", c.class, c.ref, err)
		}
	}
}

func TestAReadingThatFailedGoesOnWhereItWas(t *testing.T) {
	s := shop(t)
	o := inventory.Options{Index: filepath.Join(t.TempDir(), "index"), Concurrency: 1}
	last := slices.Max([]string{stageTag("from"), stageTag("front"), stageTag("back"), stageTag("arm")})
	s.refuse[storage.ProjectTag] = storage.ErrTransient // after all builds and many stages
	if _, err := inventory.Read(t.Context(), s, o); err == nil {
		t.Fatal("it did not fail")
	}
	before := len(s.asked())
	delete(s.refuse, storage.ProjectTag)
	inv := read(t, s, o)
	if inv.Fetched > 9-before || name(t, inv, last).Manifest == nil {
		t.Errorf("after %d requests another %d were sent", before, inv.Fetched)
	}
}

func TestADamagedIndexIsThrownAway(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	s := shop(t)
	want := read(t, s, inventory.Options{Index: path})
	good, err := os.ReadFile(path)
	check(t, err)
	for at := 0; at < len(good); at += len(good) / 16 {
		bad := slices.Clone(good)
		bad[at] ^= 0x55
		check(t, os.WriteFile(path, bad, 0o600))
		got, err := inventory.Read(t.Context(), s, inventory.Options{Index: path})
		check(t, err)
		if !errors.Is(got.IndexError, inventory.ErrIndex) || got.Fetched != 7 {
			t.Fatalf("with byte %d changed: %v, and %d manifests read", at, got.IndexError, got.Fetched)
		}
		same(t, got, want)
	}
	check(t, os.WriteFile(path, good[:len(good)/2], 0o600))
	if got, err := inventory.Read(t.Context(), s, inventory.Options{Index: path}); err != nil || got.IndexError == nil {
		t.Errorf("a file cut short: %v", err)
	}
	if got := read(t, s, inventory.Options{Index: path}); got.Fetched != 1 {
		t.Errorf("after that the index is not whole: %d manifests were read", got.Fetched)
	}
}

func TestTheIndexOfAnotherStorageIsNotUsed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "index")
	read(t, shop(t), inventory.Options{Index: path})
	other := &counted{Storage: mem.New(mem.Options{Address: "elsewhere"})}
	if inv, err := inventory.Read(t.Context(), other, inventory.Options{Index: path}); err != nil || inv.IndexError == nil {
		t.Errorf("it was used: %v", err)
	}
}

func TestAnIndexThatCannotBeWrittenIsToldAndNotFatal(t *testing.T) {
	dir := t.TempDir()
	check(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	inv, err := inventory.Read(t.Context(), shop(t), inventory.Options{Index: filepath.Join(dir, "file", "index")})
	if err != nil || inv.IndexError == nil || len(inv.Names) != 9 {
		t.Errorf("reading ends with %v", err)
	}
}

func TestWhatDeadProcessesLeftIsRemoved(t *testing.T) {
	dir := t.TempDir()
	now := time.Now()
	old, young := filepath.Join(dir, ".inventory-1"), filepath.Join(dir, ".inventory-2")
	for _, path := range []string{old, young} {
		check(t, os.WriteFile(path, nil, 0o600))
	}
	check(t, os.Chtimes(old, now, now.Add(-2*time.Hour)))
	read(t, shop(t), inventory.Options{Index: filepath.Join(dir, "index"), Now: now})
	_, gone := os.Stat(old)
	_, kept := os.Stat(young)
	if gone == nil || kept != nil {
		t.Errorf("the old one: %v; the young one: %v", gone, kept)
	}
}

// same compares inventories but for what a reading cost, what it asked for and when
// names were seen.
func same(t *testing.T, got, want *inventory.Inventory) {
	t.Helper()
	if len(got.Names) != len(want.Names) || len(got.Broken) != len(want.Broken) || !reflect.DeepEqual(got.Manifests, want.Manifests) {
		t.Fatalf("the inventories differ: %+v and %+v", got, want)
	}
	for i, n := range got.Names {
		w := want.Names[i]
		sameBroken := (n.Broken == nil) == (w.Broken == nil)
		n.Seen, n.Broken, w.Seen, w.Broken = time.Time{}, nil, time.Time{}, nil
		n.Asked, w.Asked = false, false
		if !sameBroken || !reflect.DeepEqual(n, w) {
			t.Fatalf("a name differs: %+v and %+v", n, w)
		}
	}
	all := slices.Sorted(maps.Keys(want.Manifests))
	if got.Sizes(all...) != want.Sizes(all...) {
		t.Fatal("the sizes differ")
	}
}

func TestReadingThroughTheIndexEqualsReadingWithout(t *testing.T) {
	for seed := range uint64(12) {
		t.Run(strconv.FormatUint(seed, 10), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 1))
			s := newStorage()
			path := filepath.Join(t.TempDir(), "index")
			made := map[string]storage.Manifest{}
			for range 12 {
				for range 1 + rnd.IntN(8) {
					change(t, rnd, s, made)
				}
				same(t, read(t, s, inventory.Options{Index: path, Concurrency: 3}), read(t, s, inventory.Options{}))
			}
		})
	}
}

// change publishes, deletes or breaks something at random. A name that was deleted
// gets the manifest that it had when it comes back.
func change(t *testing.T, rnd *rand.Rand, s *counted, made map[string]storage.Manifest) {
	t.Helper()
	id := strconv.Itoa(rnd.IntN(40))
	switch n := rnd.IntN(10); {
	case n < 5:
		layers := []ocispec.Descriptor{blob("base", 99)}
		for i := range rnd.IntN(4) {
			layers = append(layers, blob(fmt.Sprint(id, i), int64(i)))
		}
		made[stageTag(id)] = cmpOr(made[stageTag(id)], image(t, id, layers...))
		publish(t, s, stageTag(id), made[stageTag(id)])
	case n < 7:
		var members []ocispec.Descriptor
		for tag, m := range made {
			if !m.IsIndex() && rnd.IntN(3) == 0 {
				members = append(members, member(m, "image", tag, "amd64"))
			}
		}
		slices.SortFunc(members, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
		made[buildTag(id)] = cmpOr(made[buildTag(id)], index(t, members...))
		publish(t, s, buildTag(id), made[buildTag(id)])
	case n < 9:
		tags := slices.Sorted(maps.Keys(made))
		if len(tags) == 0 {
			return
		}
		tag := tags[rnd.IntN(len(tags))]
		if err := s.DeleteTag(t.Context(), tag); err != nil && !errors.Is(err, storage.ErrNotFound) {
			t.Fatal(err)
		}
	default:
		publish(t, s, "foreign-"+id, image(t, id))
	}
}

func cmpOr(a, b storage.Manifest) storage.Manifest {
	if a.Bytes != nil {
		return a
	}
	return b
}

func TestReadersBesideEachOtherShareAnIndex(t *testing.T) {
	s := shop(t)
	path := filepath.Join(t.TempDir(), "index")
	want := read(t, s, inventory.Options{})
	var all sync.WaitGroup
	for range 8 {
		all.Go(func() {
			for range 20 {
				got, err := inventory.Read(t.Context(), s, inventory.Options{Index: path})
				if err != nil || got.IndexError != nil || len(got.Manifests) != len(want.Manifests) {
					t.Errorf("a reading beside others: %v", errors.Join(err, got.IndexError))
				}
			}
		})
	}
	all.Wait()
}

func TestANameIsAskedForUnlessTheIndexKnowsIt(t *testing.T) {
	s := shop(t)
	o := inventory.Options{Index: filepath.Join(t.TempDir(), "index")}
	for _, test := range []struct {
		reading string
		fresh   bool
		asked   bool
	}{{"the first", false, true}, {"the second", false, false}, {"a fresh", true, true}} {
		o.Fresh = test.fresh
		for _, n := range read(t, s, o).Names {
			own := n.Kind == inventory.KindStage || n.Kind == inventory.KindBuild
			if own && n.Asked != test.asked {
				t.Errorf("%s reading: %s was asked for: %v", test.reading, n.Tag, n.Asked)
			}
		}
	}
}
