package build_test

import (
	"context"
	"errors"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
)

const arm64 = stages.Platform("linux/arm64")

// both is an image for two platforms that runs commands for each.
func both() config.Image {
	return config.Image{
		Name: "app", From: "scratch", Platforms: []stages.Platform{platform, arm64},
		Shell: commands(stages.KindInstall), Docker: stages.Config{User: "1"},
	}
}

func TestAPlatformThatNoEngineRunsIsToldBeforeAnyCommandRuns(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.engine.lacks = arm64
	_, err := h.run(t.Context(), w.planOf(noSources{}, nil, both()), nil)
	var stage *build.StageError
	var lacks *engine.PlatformError
	if !errors.As(err, &stage) || !errors.As(err, &lacks) {
		t.Fatalf("error is %v", err)
	}
	if stage.Image != "app (linux/arm64)" || stage.Stage.Name() != "install" || lacks.Want != arm64 {
		t.Errorf("the error is about %s of %s: %v", stage.Stage.Name(), stage.Image, err)
	}
	if n := h.engine.count(); n != 0 {
		t.Errorf("%d jobs were run before", n)
	}
	w.sound()
	w.free("shop")
}

func TestAPlatformNeedsAnEngineOnlyForCommandsThatMustRun(t *testing.T) {
	for name, c := range map[string]func(*testing.T, *world) config.Image{
		"its stages are there, only the config is new": func(t *testing.T, w *world) config.Image {
			_, err := w.host().run(t.Context(), w.planOf(noSources{}, nil, both()), nil)
			must(t, err)
			img := both()
			img.Docker.User = "2"
			return img
		},
		"it runs no commands": func(*testing.T, *world) config.Image {
			img := both()
			img.Shell = nil
			return img
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			img := c(t, w)
			h := w.host()
			h.engine.lacks = arm64
			// Another image has commands to run for the engine's own platform.
			more := config.Image{Name: "more", From: "scratch", Shell: commands(stages.KindSetup)}
			rep, err := h.run(t.Context(), w.planOf(noSources{}, nil, img, more), nil)
			must(t, err)
			if n := h.engine.count(); n != 1 || !rep.EngineStarted {
				t.Errorf("%d jobs were run, engine started: %v", n, rep.EngineStarted)
			}
			w.sound()
		})
	}
}

// oneDockerfile is a project of a Dockerfile and nothing else.
type oneDockerfile string

func (f oneDockerfile) Read(context.Context, string) ([]byte, error) { return []byte(f), nil }

func (oneDockerfile) Files(stages.Selection) ([]source.File, error) { return nil, nil }

// A Dockerfile may run programs of the platform, wherever its RUN stands.
func TestAPlatformThatNoEngineRunsIsToldBeforeADockerfileIsBuilt(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	h.engine.lacks = arm64
	img := config.Image{
		Name: "app", Platforms: []stages.Platform{platform, arm64},
		Dockerfile: &config.Dockerfile{Path: "Dockerfile", Context: "."},
	}
	p, err := plan.Make(t.Context(), plan.Input{
		Project: &config.Project{Name: "shop", Images: []config.Image{img}}, Files: noSources{}, Bases: w.bases,
		Dockerfiles: oneDockerfile("FROM scratch\nRUN [\"/make\"]\n"),
	})
	must(t, err)
	_, err = h.run(t.Context(), p, nil)
	var stage *build.StageError
	var lacks *engine.PlatformError
	if !errors.As(err, &stage) || !errors.As(err, &lacks) || stage.Stage.Name() != "line:2" || lacks.Want != arm64 {
		t.Fatalf("error is %v", err)
	}
	if n := h.engine.count(); n != 0 {
		t.Errorf("%d jobs were run before", n)
	}
	w.sound()
}

// Copies of files run no program of the platform.
func TestImportsOfAPlatformRunOnAnyEngine(t *testing.T) {
	w := newWorld(t)
	from := config.Image{Name: "from", From: "scratch", Platforms: []stages.Platform{arm64}, Shell: commands(stages.KindInstall)}
	_, err := w.host().run(t.Context(), w.planOf(noSources{}, nil, from), nil)
	must(t, err)
	to := config.Image{
		Name: "to", From: "scratch", Platforms: []stages.Platform{arm64},
		Imports: []config.Import{{Image: "from", Add: "/a", To: "/a", Kind: stages.KindImportAfterInstall}},
	}
	h := w.host()
	h.engine.lacks = arm64
	_, err = h.run(t.Context(), w.planOf(noSources{}, nil, from, to), nil)
	must(t, err)
	if n := h.engine.count(); n != 1 {
		t.Errorf("%d jobs were run", n)
	}
	w.sound()
}

func TestEachPlatformHasItsEngine(t *testing.T) {
	w := newWorld(t)
	h := w.host()
	rep, err := h.run(t.Context(), w.planOf(noSources{}, nil, both()), nil)
	must(t, err)
	if n := h.opened.engine.Load(); n != 2 || h.engine.count() != 2 {
		t.Errorf("%d engines for %d jobs", n, h.engine.count())
	}
	if len(rep.Indexes) != 1 || rep.Indexes[0].Ref == "" || len(rep.Indexes[0].Platforms) != 2 {
		t.Errorf("indexes are %+v", rep.Indexes)
	}
	again, err := h.run(t.Context(), w.planOf(noSources{}, nil, both()), nil)
	must(t, err)
	if n := h.totals.Sum().Requests; n != 1 || again.Indexes[0].Ref != rep.Indexes[0].Ref {
		t.Errorf("%d requests for nothing new, index %s, was %s", n, again.Indexes[0].Ref, rep.Indexes[0].Ref)
	}
}
