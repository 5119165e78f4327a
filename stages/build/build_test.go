package build_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/synchronization"
)

// backend is an image with sources and two command stages, the second of which
// needs one of the files.
func backend() config.Image {
	return config.Image{
		Name:  "backend",
		Shell: commands(stages.KindBeforeInstall, stages.KindInstall),
		Git: []stages.Mapping{{
			Add: "src", To: "/app",
			StageDependencies: map[stages.Kind][]string{stages.KindInstall: {"go.mod"}},
		}},
		Docker: stages.Config{Cmd: []string{"/app/run"}},
	}
}

func TestFirstBuildMakesEveryStageAndTheNextOneAsksOnce(t *testing.T) {
	src, w := newSourceTree(t), newWorld(t)
	p := w.planOf(src.before, nil, backend())
	h := w.host()
	h.onDisk()
	rep, err := h.run(t.Context(), p, src.before)
	must(t, err)
	const want = "backend/from=assembled backend/beforeInstall=built backend/install=built backend/source=assembled"
	if got := results(rep); got != want {
		t.Errorf("results %s\nwant    %s", got, want)
	}
	if !rep.EngineStarted || rep.Images[0].Ref == "" || len(rep.Kept) > 0 {
		t.Errorf("report %+v", rep)
	}
	w.sound()

	again := w.host()
	rep, err = again.run(t.Context(), p, src.before)
	must(t, err)
	const cached = "backend/from=cached backend/beforeInstall=cached backend/install=cached backend/source=cached"
	if got := results(rep); got != cached {
		t.Errorf("results %s\nwant    %s", got, cached)
	}
	by := again.totals.By()
	if rep.Requests.Registry != 1 || by[observed.FetchManifest].Requests != 1 {
		t.Errorf("a build in which nothing changed sent %v", by)
	}
	o := &again.opened
	if n := o.pad.Load() + o.ledger.Load() + o.engine.Load() + o.base.Load(); n != 0 || rep.EngineStarted {
		t.Errorf("it opened pad %d, ledger %d, engine %d, base %d times", o.pad.Load(), o.ledger.Load(), o.engine.Load(), o.base.Load())
	}
}

func TestSourceChangeStartsNoEngineAndReadsNoLayer(t *testing.T) {
	src, w := newSourceTree(t), newWorld(t)
	_, err := w.host().run(t.Context(), w.planOf(src.before, nil, backend()), src.before)
	must(t, err)
	h := w.host()
	rep, err := h.run(t.Context(), w.planOf(src.after, nil, backend()), src.after)
	must(t, err)
	const want = "backend/from=cached backend/beforeInstall=cached backend/install=cached backend/source=assembled"
	if got := results(rep); got != want {
		t.Errorf("results %s\nwant    %s", got, want)
	}
	if n := h.totals.By()[observed.FetchBlob].Requests; n != 0 || rep.EngineStarted || h.opened.base.Load() != 0 {
		t.Errorf("%d blobs read, engine started %v, base opened %d times", n, rep.EngineStarted, h.opened.base.Load())
	}
	w.sound()
}

func TestARunDropsEntriesThatTheStorageSpeaksFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		image := func(version string) config.Image {
			return config.Image{Name: "a", CacheVersion: version, Shell: commands(stages.KindInstall)}
		}
		build := func(version string) map[stages.Digest]synchronization.Entry {
			h := w.host()
			_, err := h.run(t.Context(), w.planOf(noSources{}, nil, image(version)), nil)
			must(t, err)
			l, err := h.openLedger(t.Context(), "shop")
			must(t, err)
			defer l.Close()
			entries, err := l.List(t.Context())
			must(t, err)
			return entries
		}
		first := build("1")
		if len(first) != 3 {
			t.Fatalf("the ledger holds %d entries after two stages and an index", len(first))
		}
		time.Sleep(synchronization.DefaultDelta / 2)
		if got := build("2"); len(got) != 6 {
			t.Errorf("the ledger holds %d entries, none of which is old", len(got))
		}
		time.Sleep(synchronization.DefaultDelta * 3 / 4)
		got := build("3")
		for d := range first {
			if _, ok := got[d]; ok {
				t.Errorf("the entry of %s is still there", d)
			}
		}
		if len(got) != 6 {
			t.Errorf("the ledger holds %d entries, want those of the last two builds", len(got))
		}
	})
}
