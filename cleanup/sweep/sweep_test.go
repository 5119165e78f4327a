package sweep_test

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"iter"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/synchronization"
	ledgermem "github.com/cairnbuild/cairn/synchronization/mem"
)

const grace = 24 * time.Hour

// world is a storage and a ledger. A test in it has a clock of its own.
type world struct {
	t       *testing.T
	store   *mem.Storage
	backend *ledgermem.Backend
	names   map[string]sweep.Name
	fates   map[string]sweep.Fate
	between func() // called when the remover has drained
}

// inWorld runs a test in a new world.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		test(t, &world{
			t: t, store: mem.New(mem.Options{Address: "registry.test/shop"}), backend: ledgermem.New(time.Now),
			names: map[string]sweep.Name{},
		})
	})
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func digestOf(name string) stages.Digest { return stages.DigestOf([]byte(name)) }

// stage puts a stage on top of another, or of none.
func (w *world) stage(name, parent string) {
	w.t.Helper()
	layers, on := []digest.Digest{}, []stages.Digest(nil)
	if parent != "" {
		layers, on = slices.Clone(w.names[parent].Layers), []stages.Digest{digestOf(parent)}
	}
	layers = append(layers, w.blob("layer of "+name).Digest)
	m := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest, Config: ocispec.DescriptorEmptyJSON}
	for _, l := range layers {
		m.Layers = append(m.Layers, ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: l, Size: 1})
	}
	w.must(w.store.PushBlob(w.t.Context(), ocispec.DescriptorEmptyJSON, content("{}")))
	w.put(sweep.Name{Kind: sweep.Stage, Digest: digestOf(name), On: on, Layers: layers}, name, ocispec.MediaTypeImageManifest, m)
}

// index puts an index of stages.
func (w *world) index(name string, of ...string) {
	w.t.Helper()
	idx := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	var on []stages.Digest
	for _, s := range of {
		m, err := w.store.Manifest(w.t.Context(), w.names[s].Tag())
		w.must(err)
		idx.Manifests = append(idx.Manifests, m.Descriptor)
		on = append(on, digestOf(s))
	}
	w.put(sweep.Name{Kind: sweep.Index, Digest: digestOf(name), On: on}, name, ocispec.MediaTypeImageIndex, idx)
}

func (w *world) put(n sweep.Name, name, mediaType string, v any) {
	w.t.Helper()
	m, err := storage.NewManifest(mediaType, v)
	w.must(err)
	w.must(w.store.Publish(w.t.Context(), n.Tag(), m))
	n.Manifest = m.Descriptor.Digest
	w.names[name] = n
}

// blob puts a layer.
func (w *world) blob(text string) ocispec.Descriptor {
	w.t.Helper()
	d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageLayer, Digest: digest.FromString(text), Size: int64(len(text))}
	w.must(w.store.PushBlob(w.t.Context(), d, content(text)))
	return d
}

// sweep removes names, as a process of its own.
func (w *world) sweep(rest time.Duration, names ...string) sweep.Outcome {
	w.t.Helper()
	out, err := w.trySweep(w.store, rest, names...)
	w.must(err)
	return out
}

func (w *world) trySweep(st sweep.Storage, rest time.Duration, names ...string) (sweep.Outcome, error) {
	w.t.Helper()
	return w.sweepIn(w.t.Context(), st, rest, names...)
}

func (w *world) sweepIn(ctx context.Context, st sweep.Storage, rest time.Duration, names ...string) (sweep.Outcome, error) {
	w.t.Helper()
	l, err := synchronization.Open(ctx, w.backend, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	w.must(err)
	defer l.Close()
	s, err := l.Join(ctx)
	w.must(err)
	defer func() { w.must(s.Close(context.WithoutCancel(ctx))) }()
	p := sweep.Plan{}
	var tags []string
	for _, n := range w.names {
		tags = append(tags, n.Tag())
	}
	p.Known = sweep.Known(tags)
	for _, n := range names {
		p.Remove = append(p.Remove, w.names[n])
	}
	if w.between != nil {
		w.between()
	}
	w.fates = map[string]sweep.Fate{}
	return sweep.Run(ctx, p, sweep.Options{Storage: st, Ledger: l, Session: s, Grace: rest, Done: func(r sweep.Result) {
		for name, n := range w.names {
			if n.Tag() == r.Name.Tag() {
				w.fates[name] = r.Fate
			}
		}
		if r.Err != nil {
			w.t.Logf("%s: %v", r.Name.Tag(), r.Err)
		}
	}})
}

func (w *world) want(fates map[string]sweep.Fate) {
	w.t.Helper()
	for name, want := range fates {
		if w.fates[name] != want {
			w.t.Errorf("%s: %q, want %q", name, w.fates[name], want)
		}
		_, err := w.store.Resolve(w.t.Context(), w.names[name].Tag())
		gone := errors.Is(err, storage.ErrNotFound)
		if should := want == sweep.Removed || want == sweep.Gone; gone != should {
			w.t.Errorf("%s is %s and gone is %v", name, want, gone)
		}
	}
}

// shop is two images on one chain, an index of each and one of both.
func (w *world) shop() {
	w.stage("base", "")
	w.stage("install", "base")
	w.stage("one", "install")
	w.stage("two", "install")
	w.index("build one", "one")
	w.index("build both", "one", "two")
}

func TestNamesGoBeforeWhatTheyName(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.shop()
		w.stage("alone", "")
		all := []string{"base", "install", "one", "two", "build one", "build both", "alone"}
		out := w.sweep(grace, all...)
		w.want(map[string]sweep.Fate{
			"build one": sweep.Removed, "build both": sweep.Removed, "one": sweep.Waits, "two": sweep.Waits,
			"install": sweep.Waits, "base": sweep.Waits, "alone": sweep.Waits,
		})
		if out.Left != grace {
			t.Errorf("%s are left, want %s", out.Left, grace)
		}
		time.Sleep(grace / 2)
		w.stage("later", "")
		w.sweep(grace, "base", "install", "one", "two", "alone", "later")
		w.want(map[string]sweep.Fate{"one": sweep.Waits, "base": sweep.Waits, "later": sweep.Waits})
		time.Sleep(grace/2 + 2*time.Second)
		out = w.sweep(grace, "base", "install", "one", "two", "alone", "later")
		w.want(map[string]sweep.Fate{
			"one": sweep.Removed, "two": sweep.Removed, "install": sweep.Removed, "base": sweep.Removed,
			"alone": sweep.Removed, "later": sweep.Waits,
		})
		if out.Removed != 5 || out.Waits != 1 {
			t.Errorf("the outcome is %+v", out)
		}
	})
}

func TestTheGraceBeginsAgainWhenAnIndexNamesAStageInBetween(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.shop()
		all := []string{"base", "install", "one", "two"}
		w.sweep(grace, append(all, "build one", "build both")...)
		time.Sleep(grace)
		w.index("build one", "one")
		w.sweep(grace, append(all, "build one")...)
		w.want(map[string]sweep.Fate{"build one": sweep.Removed, "one": sweep.Waits, "install": sweep.Waits})
		// Of two nothing is said in between; its note is kept, and its grace nearly over.
		time.Sleep(grace - time.Hour)
		w.sweep(grace, "base", "install", "one")
		w.want(map[string]sweep.Fate{"one": sweep.Waits})
		time.Sleep(time.Hour + 2*time.Second)
		w.sweep(grace, "base", "install", "one")
		w.want(map[string]sweep.Fate{"one": sweep.Removed, "base": sweep.Removed})
	})
}

func TestWhatStaysKeepsWhatItStandsOn(t *testing.T) {
	for _, c := range []struct {
		name    string
		between func(w *world, l *synchronization.Ledger, s *synchronization.Session)
		want    map[string]sweep.Fate
	}{
		{"a stage that is being built lately keeps its parents", func(w *world, _ *synchronization.Ledger, s *synchronization.Session) {
			published(w, s, digestOf("one"), w.names["one"].Manifest)
		}, map[string]sweep.Fate{"one": sweep.Needed, "install": sweep.Needed, "base": sweep.Needed, "two": sweep.Removed}},
		{"a new index keeps its images", func(w *world, _ *synchronization.Ledger, _ *synchronization.Session) {
			delete(w.names, "new") // the inventory has not seen it
			w.index("new", "two")
			delete(w.names, "new")
		}, map[string]sweep.Fate{"one": sweep.Removed, "two": sweep.Needed, "install": sweep.Needed}},
		{"a new stage keeps what its layers begin with", func(w *world, _ *synchronization.Ledger, _ *synchronization.Session) {
			w.stage("new", "install")
			delete(w.names, "new")
		}, map[string]sweep.Fate{"one": sweep.Removed, "two": sweep.Removed, "install": sweep.Needed, "base": sweep.Needed}},
		{"what was published anew stays", func(w *world, _ *synchronization.Ledger, _ *synchronization.Session) {
			seen := w.names["two"]
			w.stage("two", "base")
			w.names["two"] = seen
		}, map[string]sweep.Fate{"one": sweep.Removed, "two": sweep.Needed, "install": sweep.Needed}},
		{"a decided manifest that nobody can read keeps everything", func(w *world, _ *synchronization.Ledger, s *synchronization.Session) {
			c := acquired(w, s, digestOf("lost"))
			w.must(c.Decide(w.t.Context(), digest.FromString("lost")))
		}, map[string]sweep.Fate{"one": sweep.Needed, "two": sweep.Needed, "base": sweep.Needed}},
		{"a manifest published lately that does not read yet keeps everything", func(w *world, _ *synchronization.Ledger, s *synchronization.Session) {
			published(w, s, digestOf("lagging"), digest.FromString("lagging"))
		}, map[string]sweep.Fate{"one": sweep.Needed, "two": sweep.Needed, "base": sweep.Needed}},
		{"a manifest published long ago that does not read keeps nothing", func(w *world, _ *synchronization.Ledger, s *synchronization.Session) {
			published(w, s, digestOf("lost"), digest.FromString("lost"))
			time.Sleep(synchronization.DefaultDelta + 2*time.Second)
		}, map[string]sweep.Fate{"one": sweep.Removed, "two": sweep.Removed, "base": sweep.Removed}},
	} {
		t.Run(c.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.stage("base", "")
				w.stage("install", "base")
				w.stage("one", "install")
				w.stage("two", "install")
				l, err := synchronization.Open(t.Context(), w.backend, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
				w.must(err)
				defer l.Close()
				s, err := l.Join(t.Context())
				w.must(err)
				w.between = func() {
					c.between(w, l, s)
					w.must(s.Close(t.Context()))
				}
				w.sweep(0, "base", "install", "one", "two")
				w.want(c.want)
			})
		})
	}
}

func acquired(w *world, s *synchronization.Session, d stages.Digest) *synchronization.Claim {
	w.t.Helper()
	got, err := s.TryAcquire(w.t.Context(), []stages.Digest{d})
	w.must(err)
	if got.Claims[d] == nil {
		w.t.Fatalf("%s is held", d.Short())
	}
	return got.Claims[d]
}

func published(w *world, s *synchronization.Session, d stages.Digest, m digest.Digest) {
	w.t.Helper()
	c := acquired(w, s, d)
	w.must(c.Decide(w.t.Context(), m))
	w.must(c.Published(w.t.Context()))
}

func TestARemovalGoesOnWhereADeadOneWasLeft(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stage("base", "")
		w.stage("one", "base")
		w.stage("two", "base")
		ctx := t.Context()
		l, err := synchronization.Open(ctx, w.backend, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
		w.must(err)
		s, err := l.Join(ctx)
		w.must(err)
		for _, name := range []string{"base", "one", "two"} {
			c, err := s.Doom(ctx, digestOf(name))
			w.must(err)
			if name == "one" {
				w.must(c.Delete(ctx, w.names["one"].Manifest))
			}
		}
		w.must(w.backend.Remove(ctx, "cairn-shop", s.ID(), 0)) // dead for all others, and nothing is given back
		defer l.Close()
		out := w.sweep(0, "base", "one", "two")
		if out.Failed > 0 || out.Needed > 0 && w.fates["one"] != sweep.Needed {
			t.Errorf("the outcome is %+v, %v", out, w.fates)
		}
		for _, name := range []string{"one", "two"} {
			if _, err := w.store.Resolve(t.Context(), w.names[name].Tag()); !errors.Is(err, storage.ErrNotFound) {
				t.Errorf("%s is still there: %v", name, err)
			}
		}
		time.Sleep(synchronization.DefaultDelta + 2*time.Second)
		w.sweep(0, "base")
		w.want(map[string]sweep.Fate{"base": sweep.Removed})
	})
}

// refusing is a storage that does not let anybody delete.
type refusing struct{ *mem.Storage }

func (refusing) DeleteTag(context.Context, string) error {
	return &storage.Error{Op: "delete tag", Storage: "registry.test/shop", Class: storage.ErrDenied}
}

func TestAStorageThatRefusesEndsTheRemoval(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for i := range 100 {
			w.stage(fmt.Sprint("s", i), "")
		}
		var names []string
		for n := range w.names {
			names = append(names, n)
		}
		out, err := w.trySweep(refusing{w.store}, 0, names...)
		if !errors.Is(err, storage.ErrDenied) {
			t.Errorf("the error is %v", err)
		}
		if out.Removed > 0 || out.Failed == 0 || out.Failed > sweep.DefaultParallel {
			t.Errorf("the outcome is %+v", out)
		}
	})
}

// pushOnly is a storage that tells beforehand that it does not let anybody delete.
type pushOnly struct{ refusing }

func (s pushOnly) ProbeDeletion(ctx context.Context) error { return s.DeleteTag(ctx, "probe") }

func TestWhoMayNotDeleteMarksNothing(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.shop()
		out, err := w.trySweep(pushOnly{refusing{w.store}}, 0, "base", "install", "one", "two", "build one", "build both")
		if !errors.Is(err, storage.ErrDenied) {
			t.Errorf("the error is %v", err)
		}
		if out != (sweep.Outcome{}) {
			t.Errorf("the outcome is %+v", out)
		}
		if left := w.entries(); len(left) > 0 {
			t.Errorf("entries are left: %v", left)
		}
	})
}

// lingering is a storage in which one tag shows for long after its deletion.
type lingering struct {
	*mem.Storage
	tag string
}

func (s lingering) DeleteTag(ctx context.Context, tag string) error {
	if tag == s.tag {
		return nil
	}
	return s.Storage.DeleteTag(ctx, tag)
}

func TestATagThatLingersFailsAlone(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stage("base", "")
		w.stage("lower", "base")
		w.stage("lingers", "base")
		w.stage("alone", "")
		w.stage("top", "alone")
		_, err := w.trySweep(lingering{w.store, w.names["lingers"].Tag()}, 0, "base", "lower", "lingers", "alone", "top")
		w.must(err)
		w.want(map[string]sweep.Fate{
			"lingers": sweep.Failed, "base": sweep.Needed, "lower": sweep.Removed, "alone": sweep.Removed, "top": sweep.Removed,
		})
		w.sweep(0, "base", "lingers")
		if _, err := w.store.Resolve(t.Context(), w.names["lingers"].Tag()); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("the next removal left it: %v", err)
		}
	})
}

func TestATagThatLingersHoldsUpNoLaterRemoval(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stage("lingers", "")
		w.stage("other", "")
		st := lingering{w.store, w.names["lingers"].Tag()}
		_, err := w.trySweep(st, 0, "lingers")
		w.must(err)
		_, err = w.trySweep(st, 0, "lingers", "other")
		w.must(err)
		w.want(map[string]sweep.Fate{"lingers": sweep.Needed, "other": sweep.Removed})
		w.sweep(0, "lingers")
		if _, err := w.store.Resolve(t.Context(), w.names["lingers"].Tag()); !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("it is there for good: %v", err)
		}
	})
}

// acting is a storage in which somebody acts, once, before a list of the tags or the
// deletion of one.
type acting struct {
	*mem.Storage
	list, remove func()
}

func (s *acting) Tags(ctx context.Context) iter.Seq2[string, error] {
	if act := s.list; act != nil {
		s.list = nil
		act()
	}
	return s.Storage.Tags(ctx)
}

func (s *acting) DeleteTag(ctx context.Context, tag string) error {
	if act := s.remove; act != nil {
		s.remove = nil
		act()
	}
	return s.Storage.DeleteTag(ctx, tag)
}

// A cleaner whose plan is old takes a stage's grace for over. Since then an index has
// named the stage, was read, and has gone, by another cleaner.
func TestTheGraceThatBeganMeanwhileCounts(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stage("one", "")
		w.sweep(grace, "one")
		time.Sleep(grace + 2*time.Second)
		st := &acting{Storage: w.store, list: func() {
			w.index("build", "one")
			w.sweep(grace, "build", "one")
			w.want(map[string]sweep.Fate{"build": sweep.Removed})
		}}
		_, err := w.trySweep(st, grace, "one")
		w.must(err)
		w.want(map[string]sweep.Fate{"one": sweep.Waits})
		time.Sleep(grace + 2*time.Second)
		w.sweep(grace, "one")
		w.want(map[string]sweep.Fate{"one": sweep.Removed})
	})
}

// A cleaner deletes an index and dies before it has noted that. Another, whose plan is
// older than the index, has noted the stage before.
func TestTheGraceBeginsAgainAfterACleanerThatDied(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const grace = time.Hour // through half of which a session is renewed
		w.stage("one", "")
		w.index("build", "one")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		st := &acting{Storage: w.store}
		st.list = func() {
			w.sweep(grace, "one")
			w.want(map[string]sweep.Fate{"one": sweep.Waits})
		}
		st.remove = func() {
			time.Sleep(grace / 2)
			w.must(w.store.DeleteTag(t.Context(), w.names["build"].Tag()))
			cancel(errEnough)
		}
		if _, err := w.sweepIn(ctx, st, grace, "build", "one"); !errors.Is(err, errEnough) {
			t.Fatalf("the error is %v", err)
		}
		time.Sleep(grace/2 + time.Minute)
		w.sweep(grace, "one")
		w.want(map[string]sweep.Fate{"one": sweep.Waits})
		time.Sleep(grace + 2*time.Second)
		w.sweep(grace, "one")
		w.want(map[string]sweep.Fate{"one": sweep.Removed})
	})
}

// cancelling is a storage whose reader is cancelled when it has listed the tags.
type cancelling struct {
	*mem.Storage
	cancel context.CancelCauseFunc
}

func (s cancelling) Tags(ctx context.Context) iter.Seq2[string, error] {
	return func(yield func(string, error) bool) {
		s.Storage.Tags(ctx)(yield)
		s.cancel(errEnough)
	}
}

var errEnough = errors.New("enough")

func TestARemovalThatIsCancelledIsNoSuccess(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stage("one", "")
		ctx, cancel := context.WithCancelCause(t.Context())
		defer cancel(nil)
		if _, err := w.sweepIn(ctx, cancelling{w.store, cancel}, 0, "one"); !errors.Is(err, errEnough) {
			t.Errorf("the error is %v", err)
		}
		w.want(map[string]sweep.Fate{"one": ""})
	})
}

func TestTheGraceBeginsAgainWhenARemovalWithoutOneTookTheName(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.stage("one", "")
		w.sweep(grace, "one")
		w.want(map[string]sweep.Fate{"one": sweep.Waits})
		time.Sleep(grace)
		w.index("build", "one")
		l, err := synchronization.Open(t.Context(), w.backend, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
		w.must(err)
		defer l.Close()
		s, err := l.Join(t.Context())
		w.must(err)
		published(w, s, digestOf("one"), w.names["one"].Manifest)
		w.must(s.Close(t.Context()))
		w.sweep(0, "build", "one")
		w.want(map[string]sweep.Fate{"build": sweep.Removed, "one": sweep.Needed})
		time.Sleep(synchronization.DefaultDelta + 2*time.Second)
		w.sweep(grace, "one")
		w.want(map[string]sweep.Fate{"one": sweep.Waits})
	})
}

// entries returns those of the ledger.
func (w *world) entries() map[stages.Digest]synchronization.Entry {
	w.t.Helper()
	l, err := synchronization.Open(w.t.Context(), w.backend, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	w.must(err)
	defer l.Close()
	all, err := l.List(w.t.Context())
	w.must(err)
	return all
}

// content is a blob in memory.
func content(text string) storage.Content {
	return storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(text)), nil })
}
