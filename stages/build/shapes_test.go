package build_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/secondary"
	"github.com/cairnbuild/cairn/synchronization"
	ledgermem "github.com/cairnbuild/cairn/synchronization/mem"
)

var update = flag.Bool("update", false, "rewrite the golden files")

// shop is a project of three images that share and import.
func shop() []config.Image {
	return []config.Image{
		{Name: "base", Shell: commands(stages.KindBeforeInstall)},
		{Name: "assets", FromImage: "base", Shell: commands(stages.KindInstall)},
		{
			Name: "web", FromImage: "base", Git: []stages.Mapping{{Add: "src", To: "/app"}},
			Imports: []config.Import{{Kind: stages.KindImportAfterSetup, Image: "assets", Add: "/made", To: "/made"}},
			Docker:  stages.Config{User: "root"},
		},
	}
}

func TestImagesShareStagesAndImportThem(t *testing.T) {
	src, w := newSourceTree(t), newWorld(t)
	h := w.host()
	// The image that is imported from is not asked for, and is made all the same.
	p := w.planOf(src.before, []string{"web"}, shop()...)
	rep, err := h.run(t.Context(), p, src.before)
	must(t, err)
	const want = "web/from=assembled web/beforeInstall=built web/importsAfterSetup=built web/source=assembled"
	if got := results(rep); got != want {
		t.Errorf("results %s\nwant    %s", got, want)
	}
	const needed = "base/from=assembled base/beforeInstall=built assets/from=assembled assets/beforeInstall=built assets/install=built"
	if got := results(&build.Report{Images: rep.Needed}); got != needed {
		t.Errorf("needed  %s\nwant    %s", got, needed)
	}
	if n := h.engine.count(); n != 3 {
		t.Errorf("3 stages on the engine ran %d times", n)
	}
	all, err := h.run(t.Context(), w.planOf(src.before, nil, shop()...), src.before)
	must(t, err)
	for _, s := range all.Images {
		for _, s := range s.Stages {
			if s.Result != build.ResultCached {
				t.Errorf("stage %s is %s", s.Name, s.Result)
			}
		}
	}
	w.sound()
}

func TestAFailureNamesTheImageThatTheStageBelongsTo(t *testing.T) {
	w := newWorld(t)
	app := config.Image{
		Name: "app", CacheVersion: "2", Shell: commands(stages.KindSetup),
		Imports: []config.Import{{Kind: stages.KindImportBeforeSetup, Image: "lib", Add: "/made", To: "/made"}},
	}
	lib := config.Image{Name: "lib", FromImage: "tools", Shell: commands(stages.KindInstall)}
	tools := config.Image{Name: "tools", Shell: commands(stages.KindBeforeInstall)}
	h := w.host()
	var failed *engine.Job
	h.engine.before = func(_ context.Context, job *engine.Job, _ int) error {
		if !strings.HasSuffix(job.Name, "/install") {
			return nil
		}
		failed = job
		return &engine.ExitError{Job: job, Code: 7}
	}
	rep, err := h.run(t.Context(), w.planOf(noSources{}, []string{"app"}, app, lib, tools), nil)
	var at *build.StageError
	if !errors.As(err, &at) || at.Image != "lib" || failed.Name != "lib/install" {
		t.Errorf("the failure is %v", err)
	}
	if n := rep.Needed; len(n) != 2 || n[0].Name != "tools" || n[1].Name != "lib" || n[1].Stages[2].Result != "" {
		t.Errorf("the report needs %+v", n)
	}
	seen := map[string]stages.Digest{}
	for _, e := range h.events.events {
		name := e.Image + "/" + e.Stage.Name()
		if d, ok := seen[name]; ok && d != e.Stage.Digest {
			t.Errorf("two stages are called %s", name)
		}
		seen[name] = e.Stage.Digest
	}
}

func TestReportIsStable(t *testing.T) {
	src, w := newSourceTree(t), newWorld(t)
	h := w.host()
	h.engine.same = true
	h.adjust = func(o *build.Options) {
		o.Parallel = 1
		o.Now = func() time.Time { return o.Began }
		o.Counts = func() build.Counts {
			return build.Counts{RegistryRequests: 7, LedgerRequests: 5, BytesPulled: 3, BytesPushed: 2}
		}
	}
	p := w.planOf(src.before, []string{"web"}, shop()...)
	ok, err := h.run(t.Context(), p, src.before)
	must(t, err)
	cached, err := w.host().run(t.Context(), p, src.before)
	must(t, err)
	broken := w.host()
	broken.adjust = h.adjust
	broken.engine.same = true
	broken.engine.before = func(_ context.Context, job *engine.Job, _ int) error {
		return &engine.ExitError{Job: job, Code: 2}
	}
	changed := backend()
	changed.Name = "web"
	failed, err := broken.run(t.Context(), w.planOf(src.before, nil, changed), src.before)
	if err == nil {
		t.Error("a failed command fails no run")
	}
	cached.Seconds = 0
	compareGolden(t, "report.json", map[string]*build.Report{"built": ok, "cached": cached, "failed": failed})
}

func compareGolden(t *testing.T, name string, v any) {
	t.Helper()
	got, err := json.MarshalIndent(v, "", "  ")
	must(t, err)
	got = append(got, '\n')
	file := filepath.Join("testdata", name)
	if *update {
		must(t, os.MkdirAll("testdata", 0o755))
		must(t, os.WriteFile(file, got, 0o644))
	}
	want, err := os.ReadFile(file)
	must(t, err)
	if string(got) != string(want) {
		t.Errorf("%s differs (go test -update rewrites it):\n%s", file, got)
	}
}

func TestANextStageRunsWhileThisOneIsPushed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		h := w.host()
		ran := make(chan struct{})
		h.engine.before = func(_ context.Context, job *engine.Job, _ int) error {
			if job.Name == "app/setup" {
				if job.After == nil || job.After.After == nil {
					t.Error("the last stage does not go on from the jobs before it")
				}
				close(ran)
			}
			return nil
		}
		// No manifest of a command stage is taken before the last command has begun.
		h.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
			if c.Operation != faulty.PushManifest || c.N == 1 {
				return nil
			}
			return &faulty.Fault{Wait: func(ctx context.Context) error {
				select {
				case <-ran:
					return nil
				case <-ctx.Done():
					return ctx.Err()
				}
			}}
		})
		_, err := h.run(t.Context(), p, nil)
		must(t, err)
		want := []build.Phase{build.PhaseLooking, build.PhaseQueued, build.PhaseRunning, build.PhasePushing, build.PhasePublishing, build.PhaseDone}
		if got := h.events.phases("setup"); !slices.Equal(got, want) {
			t.Errorf("phases %v, want %v", got, want)
		}
		w.sound()
	})
}

func TestAnEngineThatFailsIsTriedAgainOrReported(t *testing.T) {
	gone := func(name string, times int) func(context.Context, *engine.Job, int) error {
		return func(_ context.Context, job *engine.Job, n int) error {
			if job.Name == name && n <= times {
				return engine.ErrEngineGone
			}
			return nil
		}
	}
	other := func(job *engine.Job, n int, below []digest.Digest) []digest.Digest {
		if job.Name == "app/setup" && n == 1 && len(below) > 0 {
			below[len(below)-1] = digest.FromString("something else")
		}
		return below
	}
	cases := map[string]struct {
		before func(context.Context, *engine.Job, int) error
		below  func(*engine.Job, int, []digest.Digest) []digest.Digest
		want   error
		starts int64
	}{
		"gone at the first stage":          {before: gone("app/beforeInstall", 1), starts: 2},
		"gone in the middle":               {before: gone("app/install", 1), starts: 2},
		"gone twice":                       {before: gone("app/setup", 2), starts: 3},
		"gone for good":                    {before: gone("app/setup", 99), want: engine.ErrEngineGone, starts: 3},
		"made what is below again, unlike": {below: other, starts: 1},
	}
	for name, c := range cases {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			p := w.planOf(noSources{}, nil, chainOfThree())
			h := w.host()
			h.engine.before, h.engine.below = c.before, c.below
			_, err := h.run(t.Context(), p, nil)
			if !errors.Is(err, c.want) || (c.want == nil && err != nil) {
				t.Fatalf("%s: error %v, want %v", name, err, c.want)
			}
			if n := h.opened.engine.Load(); n != c.starts {
				t.Errorf("%s: the engine was started %d times, want %d", name, n, c.starts)
			}
			w.sound()
			w.free("shop")
			if err != nil {
				return
			}
			all := p.Images[0].Stages
			for i := 1; i < len(all); i++ {
				if !w.load(all[i]).StandsOn(w.load(all[i-1])) {
					t.Errorf("%s: stage %s does not stand on the published one below", name, all[i].Name())
				}
			}
		})
	}
}

func TestAFailedCommandFreesTheStagesAfterIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		h := w.host()
		h.engine.before = func(_ context.Context, job *engine.Job, _ int) error {
			if job.Name == "app/install" {
				return &engine.ExitError{Job: job, Code: 7}
			}
			return nil
		}
		rep, err := h.run(t.Context(), p, nil)
		var exit *engine.ExitError
		var at *build.StageError
		if !errors.As(err, &exit) || !errors.As(err, &at) || at.Stage.Name() != "install" || at.Image != "app" {
			t.Fatalf("error %v", err)
		}
		if got := results(rep); !strings.HasSuffix(got, "app/install= app/setup=") {
			t.Error(got)
		}
		w.sound()
		w.free("shop")
		began := time.Now()
		_, err = w.host().run(t.Context(), p, nil)
		must(t, err)
		if took := time.Since(began); took > time.Second {
			t.Errorf("the next run waited %s", took)
		}
	})
}

func TestAStorageOfAnotherProjectOrLedgerIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		_, err := w.host().run(t.Context(), p, nil)
		must(t, err)
		refused := func(what string, h *host, p *stages.Plan) {
			t.Helper()
			_, err := h.run(t.Context(), p, nil)
			var foreign *build.ForeignStorageError
			if !errors.As(err, &foreign) || foreign.What != what {
				t.Errorf("error %v, want a foreign %s", err, what)
			}
		}
		// The same images in another project: all stages are there already.
		other := &stages.Plan{Project: "copy", Images: p.Images}
		refused("project", w.host(), other)
		changed := w.planOf(noSources{}, nil, chainOfThree())
		h := w.host()
		h.ledger = ledgermem.New(time.Now)
		l, err := h.openLedger(t.Context(), "another") // makes its objects other ones
		must(t, err)
		l.Close()
		refused("ledger", h, changed)
		m, err := w.mem.Manifest(t.Context(), storage.ProjectTag)
		must(t, err)
		img, err := m.Image()
		must(t, err)
		img.Annotations["dev.cairn.format"] = "2"
		m, err = storage.NewManifest(ocispec.MediaTypeImageManifest, img)
		must(t, err)
		must(t, w.mem.Publish(t.Context(), storage.ProjectTag, m))
		refused("format", w.host(), changed)
	})
}

func TestAStorageThatIsRefusedBindsNoLedger(t *testing.T) {
	for name, use := range map[string]func(ctx context.Context, h *host, l *synchronization.Ledger, p *stages.Plan) error{
		"a build": func(ctx context.Context, h *host, _ *synchronization.Ledger, p *stages.Plan) error {
			_, err := h.run(ctx, p, nil)
			return err
		},
		"an adoption": func(ctx context.Context, h *host, l *synchronization.Ledger, _ *stages.Plan) error {
			_, err := build.AdoptLedger(ctx, h.w.mem, l, "moved")
			return err
		},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			_, err := w.host().run(t.Context(), w.planOf(noSources{}, nil, app()), nil)
			must(t, err)
			p := w.planOf(noSources{}, nil, chainOfThree())
			p.Project = "other"
			h := w.host()
			h.ledger = ledgermem.New(time.Now)
			l, err := h.openLedger(t.Context(), p.Project)
			must(t, err)
			defer l.Close()
			var foreign *build.ForeignStorageError
			if err := use(t.Context(), h, l, p); !errors.As(err, &foreign) || foreign.What != "project" {
				t.Errorf("%s: error %v, want a foreign project", name, err)
			}
			if err := l.Bind(t.Context(), "registry.test/other"); err != nil {
				t.Errorf("%s: the project's own storage is refused then: %v", name, err)
			}
		})
	}
}

func TestAnAdoptedLedgerIsBound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, app())
		_, err := w.host().run(t.Context(), p, nil)
		must(t, err)
		h := w.host()
		h.ledger = ledgermem.New(time.Now)
		other, err := h.openLedger(t.Context(), "another") // makes its objects other ones
		must(t, err)
		other.Close()
		l, err := h.openLedger(t.Context(), p.Project)
		must(t, err)
		defer l.Close()
		_, err = build.AdoptLedger(t.Context(), w.mem, l, "moved")
		must(t, err)
		var elsewhere *synchronization.BoundElsewhereError
		if err := l.Bind(t.Context(), "registry.test/elsewhere"); !errors.As(err, &elsewhere) || elsewhere.Bound != w.mem.Address() {
			t.Errorf("binding it elsewhere: %v", err)
		}
	})
}

func TestABuildIndexOfSomethingElseIsRefused(t *testing.T) {
	w := newWorld(t)
	p := w.planOf(noSources{}, nil, app())
	root, err := p.Root()
	must(t, err)
	base, err := w.base.Manifest(t.Context(), string(w.bases))
	must(t, err)
	must(t, storage.CopyImage(t.Context(), w.mem, w.base, base, "", storage.CopyOptions{}))
	list := func(ds ...ocispec.Descriptor) storage.Manifest {
		m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{MediaType: ocispec.MediaTypeImageIndex, Manifests: ds})
		must(t, err)
		return m
	}
	for name, m := range map[string]storage.Manifest{
		"an image": base, "an index of nothing": list(), "an index of another stage": list(base.Descriptor),
	} {
		must(t, w.mem.Publish(t.Context(), storage.BuildTag(root), m))
		if _, err := w.host().run(t.Context(), p, nil); !errors.Is(err, storage.ErrCorrupt) {
			t.Errorf("%s: error %v, want ErrCorrupt", name, err)
		}
	}
}

func TestAnImageForSeveralPlatformsHasAnIndexOfItsOwn(t *testing.T) {
	w := newWorld(t)
	many := config.Image{Name: "many", From: "scratch", Platforms: []stages.Platform{"linux/amd64", "linux/arm64"}, Docker: stages.Config{User: "1"}}
	p := w.planOf(noSources{}, nil, many, config.Image{Name: "one", From: "scratch"})
	_, err := w.host().run(t.Context(), p, nil)
	must(t, err)
	alone := w.planOf(noSources{}, []string{"many"}, many)
	root, err := alone.Root()
	must(t, err)
	m, err := w.mem.Manifest(t.Context(), storage.BuildTag(root))
	must(t, err)
	idx, err := m.Index()
	must(t, err)
	if len(idx.Manifests) != 2 || idx.Manifests[1].Platform.Architecture != "arm64" {
		t.Errorf("index %+v", idx)
	}
	h := w.host()
	_, err = h.run(t.Context(), alone, nil)
	must(t, err)
	if n := h.totals.Sum().Requests; n != 1 {
		t.Errorf("the build of the one image sent %d requests", n)
	}
	w.sound()
}

// second is what wire makes of a storage with another one behind it.
type second struct{ *secondary.Storage }

// Find implements [build.Second].
func (s second) Find(ctx context.Context, ref string) (storage.Manifest, error) {
	m, _, err := s.Storage.Find(ctx, ref)
	return m, err
}

func TestWhatASecondStorageHasIsTakenOver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, w := newWorld(t), newWorld(t)
		p := old.planOf(noSources{}, nil, app())
		_, err := old.host().run(t.Context(), p, nil)
		must(t, err)
		h := w.host()
		h.adjust = func(o *build.Options) { o.Second = second{secondary.New(w.mem, old.mem, storage.CopyOptions{})} }
		rep, err := h.run(t.Context(), p, nil)
		must(t, err)
		if got := results(rep); got != "app/from=cached app/install=adopted" || h.engine.count() != 0 {
			t.Errorf("%s; commands ran %d times", got, h.engine.count())
		}
		// What stands on it is made upon it.
		next := app()
		next.Shell[stages.KindSetup] = config.Section{Commands: []string{"more"}}
		rep, err = h.run(t.Context(), w.planOf(noSources{}, nil, next), nil)
		must(t, err)
		if got := results(rep); got != "app/from=cached app/install=cached app/setup=built" {
			t.Error(got)
		}
		w.sound()
	})
}

func TestALayerThatTheStorageLostIsBroughtBackOrNamed(t *testing.T) {
	type lose func(w *world, p *stages.Plan) digest.Digest
	layer := func(stage int) lose {
		return func(w *world, p *stages.Plan) digest.Digest {
			ls := w.load(p.Images[0].Stages[stage]).Layers()
			d := ls[len(ls)-1].Digest
			if !w.mem.DropBlob(d) {
				w.t.Errorf("no layer %s", d)
			}
			return d
		}
	}
	for name, c := range map[string]struct {
		lose     lose
		sameHost bool
		named    string
	}{
		"of the base":                        {lose: layer(0)},
		"of commands, on the host that ran":  {lose: layer(1), sameHost: true},
		"of commands, on another host":       {lose: layer(1), named: "beforeInstall"},
		"of a later stage, on another host":  {lose: layer(2), named: "install"},
		"of a later stage, on the same host": {lose: layer(2), sameHost: true},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			img := config.Image{Name: "app", Shell: commands(stages.KindBeforeInstall, stages.KindInstall)}
			p := w.planOf(noSources{}, nil, img)
			h := w.host()
			_, err := h.run(t.Context(), p, nil)
			must(t, err)
			lost := c.lose(w, p)
			if !c.sameHost {
				h = w.host()
			}
			img.Docker.User = "1" // one more stage, without the engine
			_, err = h.run(t.Context(), w.planOf(noSources{}, nil, img), nil)
			if c.named == "" {
				if err != nil {
					t.Errorf("%s: %v", name, err)
				}
				w.sound()
				return
			}
			var at *build.LostBlobError
			if !errors.As(err, &at) || at.Stage.Name() != c.named || at.Blob != lost {
				t.Errorf("%s: error %v, want the loss of %s in stage %s", name, err, lost, c.named)
			}
		})
	}
}

func TestNothingIsLeftRunningWhenTheStorageFailsAtOnce(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.storage = faulty.New(w.log, faulty.Always(faulty.FetchManifest, faulty.Fault{Err: storage.ErrDenied}))
	rep, err := h.run(t.Context(), w.planOf(noSources{}, nil, app()), nil)
	if !errors.Is(err, storage.ErrDenied) || rep == nil {
		t.Errorf("report %v, error %v", rep, err)
	}
}
