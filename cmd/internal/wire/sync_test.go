package wire

import (
	"crypto/rand"
	"errors"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
	ledgermem "github.com/cairnbuild/cairn/synchronization/mem"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// marked returns a manifest without blobs, other ones for other notes.
func marked(t *testing.T, note string) storage.Manifest {
	t.Helper()
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{}, Annotations: map[string]string{"note": note},
	})
	must(t, err)
	return m
}

func TestTwoAddressesOfOneStorageAreSeen(t *testing.T) {
	st, err := NewStorages(Settings{Storage: Local}, Host{Getenv: func(string) string { return "" }})
	must(t, err)
	defer st.Close()
	dir, other := t.TempDir(), t.TempDir()
	link := filepath.Join(t.TempDir(), "link")
	must(t, os.Symlink(dir, link))
	layout := func(path string) *end {
		l, err := local.Open(t.Context(), path)
		must(t, err)
		return &end{Storage: l, layout: l, address: layoutScheme + path}
	}
	repository := func(address string) *end {
		s, err := st.client.Open(address)
		must(t, err)
		return &end{Storage: s, address: address}
	}
	for _, test := range []struct {
		name string
		a, b *end
		want bool
	}{
		{"a layout and a link to it", layout(dir), layout(link), true},
		{"two layouts", layout(dir), layout(other), false},
		{"a layout and a registry", layout(dir), repository("localhost:5000/shop"), false},
		{"this host by name and by address", repository("localhost:5000/shop"), repository("127.0.0.1:5000/shop"), true},
		{"two ports of this host", repository("localhost:5000/shop"), repository("127.0.0.1:5001/shop"), false},
		{"two repositories", repository("registry.example.com/shop"), repository("registry.example.com/blog"), false},
	} {
		t.Run(test.name, func(t *testing.T) {
			if test.a.same(test.b) != test.want || test.b.same(test.a) != test.want {
				t.Errorf("they are taken for the same: %t, want %t", !test.want, test.want)
			}
		})
	}
}

func TestNamesOfOneStorageUnderTwoAddressesAreNotRemoved(t *testing.T) {
	s := mem.New(mem.Options{Address: "one"})
	names := map[string]digest.Digest{}
	for _, name := range []string{"a", "b", "c"} {
		m, tag := marked(t, name), storage.StageTag(stages.DigestOf([]byte(name)))
		must(t, s.Publish(t.Context(), tag, m))
		names[tag] = m.Descriptor.Digest
	}
	w := &syncing{
		from: &end{Storage: s}, to: &end{Storage: s},
		done: &Sync{Plan: &transfer.Plan{Same: names}, Result: &transfer.Result{}},
	}
	var same *SameStorageError
	if err := w.remove(t.Context()); !errors.As(err, &same) {
		t.Errorf("it ended with %v", err)
	}
	for tag, d := range names {
		if found, err := s.Resolve(t.Context(), tag); err != nil || found.Digest != d {
			t.Errorf("%s names %s (%v), want %s", tag, found.Digest, err, d)
		}
	}
	if len(w.done.Removed) > 0 {
		t.Errorf("it says that %v were removed", w.done.Removed)
	}
}

func TestASourceKeepsWhatItNamesAnewAndWhatHasLostSomethingAttached(t *testing.T) {
	from, to := mem.New(mem.Options{Address: "from"}), mem.New(mem.Options{Address: "to"})
	names := map[string]digest.Digest{}
	tags := map[string]string{}
	for _, name := range []string{"plain", "renamed", "signed"} {
		m, tag := marked(t, name), storage.StageTag(stages.DigestOf([]byte(name)))
		must(t, from.Publish(t.Context(), tag, m))
		must(t, to.Publish(t.Context(), tag, m))
		names[tag], tags[name] = m.Descriptor.Digest, tag
	}
	must(t, from.Publish(t.Context(), tags["renamed"], marked(t, "another")))
	w := &syncing{
		from: &end{Storage: from}, to: &end{Storage: to},
		done: &Sync{Plan: &transfer.Plan{Same: names}, Result: &transfer.Result{
			Skips: []transfer.Skip{{Tag: "sha256:1", Kind: transfer.KindAttached, Subject: names[tags["signed"]]}},
		}},
	}
	must(t, w.remove(t.Context()))
	if len(w.done.Removed) != 1 || w.done.Removed[0] != tags["plain"] {
		t.Errorf("removed %v, want %s alone", w.done.Removed, tags["plain"])
	}
}

func TestWhatIsRecentComesWithWhatItStandsOn(t *testing.T) {
	now := time.Now()
	old, young := now.Add(-48*time.Hour), now.Add(-time.Hour)
	layer := func(names ...string) (out []inventory.Blob) {
		for _, n := range names {
			out = append(out, inventory.Blob{Digest: digest.FromString(n), Size: 1})
		}
		return out
	}
	inv := &inventory.Inventory{Manifests: map[digest.Digest]*inventory.Manifest{}}
	tag := func(name string) string { return storage.StageTag(stages.DigestOf([]byte(name))) }
	put := func(n inventory.Name, m inventory.Manifest) {
		m.Digest = digest.FromString("manifest of " + n.Tag)
		inv.Manifests[m.Digest], n.Manifest = &m, &m
		inv.Names = append(inv.Names, n)
	}
	stage := func(name string, n inventory.Name, layers ...string) {
		n.Tag, n.Kind = tag(name), inventory.KindStage
		put(n, inventory.Manifest{Layers: layer(layers...)})
	}
	stage("base", inventory.Name{Seen: old}, "1")
	stage("final", inventory.Name{Seen: old}, "1", "2")
	stage("above old", inventory.Name{Seen: young, Modified: old}, "1", "2", "3")
	stage("below young", inventory.Name{Seen: old}, "4")
	stage("young", inventory.Name{Seen: young}, "4", "5")
	stage("used", inventory.Name{Seen: old, Used: young}, "6")
	stage("not used", inventory.Name{Seen: young, Used: old}, "7")
	stage("of unknown age", inventory.Name{}, "8")
	put(inventory.Name{Tag: "build", Kind: inventory.KindBuild, Seen: young}, inventory.Manifest{Index: true, Members: []inventory.Member{
		{Digest: digest.FromString("manifest of " + tag("final")), Stage: stages.DigestOf([]byte("final"))},
	}})
	put(inventory.Name{Tag: "old build", Kind: inventory.KindBuild, Seen: old}, inventory.Manifest{Index: true})

	want := []string{"build"}
	for _, name := range []string{"base", "final", "below young", "young", "used", "of unknown age"} {
		want = append(want, tag(name))
	}
	slices.Sort(want)
	if got := slices.Sorted(maps.Keys(recent(inv, now.Add(-24*time.Hour)))); !slices.Equal(got, want) {
		t.Errorf("recent are %q, want %q", got, want)
	}
}

// joined is a session of a ledger, as another process has it.
func joined(t *testing.T, b *ledgermem.Backend, now func() time.Time) *synchronization.Session {
	t.Helper()
	l, err := synchronization.Open(t.Context(), b, "shop", synchronization.Options{Now: now, Rand: rand.Reader, Holder: "a sync", TTL: 10 * time.Second})
	must(t, err)
	t.Cleanup(l.Close)
	s, err := l.Join(t.Context())
	must(t, err)
	return s
}

func TestASyncFinishesWhatOneBeforeItHasDecided(t *testing.T) {
	for _, test := range []struct {
		name    string
		decided string // by the one that is gone
		pushed  bool
		want    string // what the tag names then
		is      func(error) bool
	}{
		{"the same manifest", "ours", true, "ours", func(err error) bool { return err == nil }},
		{"the same manifest, which is gone", "ours", false, "ours", func(err error) bool { return err == nil }},
		{"another manifest", "theirs", true, "theirs", func(err error) bool { return errors.As(err, new(*transfer.DifferentError)) }},
		{"another manifest, which is gone", "theirs", false, "", func(err error) bool { return errors.Is(err, transfer.ErrRefused) }},
	} {
		t.Run(test.name, func(t *testing.T) {
			target, backend := mem.New(mem.Options{Address: "to"}), ledgermem.New(time.Now)
			d := stages.DigestOf([]byte("backend"))
			decided := marked(t, test.decided)
			if test.pushed {
				must(t, target.PushManifest(t.Context(), decided))
			}
			gone := joined(t, backend, time.Now)
			got, err := gone.TryAcquire(t.Context(), []stages.Digest{d})
			must(t, err)
			must(t, got.Claims[d].Decide(t.Context(), decided.Descriptor.Digest))
			must(t, gone.Close(t.Context()))

			namer := &ledgerNamer{target: target, session: joined(t, backend, time.Now)}
			if err := namer.Name(t.Context(), storage.StageTag(d), marked(t, "ours")); !test.is(err) {
				t.Errorf("it is %v", err)
			}
			found, err := target.Resolve(t.Context(), storage.StageTag(d))
			if test.want == "" {
				if !errors.Is(err, storage.ErrNotFound) {
					t.Errorf("the tag names %s (%v)", found.Digest, err)
				}
				return
			}
			if want := marked(t, test.want).Descriptor.Digest; err != nil || found.Digest != want {
				t.Errorf("the tag names %s (%v), want %s", found.Digest, err, want)
			}
		})
	}
}
