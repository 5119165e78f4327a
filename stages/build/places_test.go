package build_test

import (
	"context"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/secondary"
)

// importer are two images that are both asked for, and one place: the image that
// imports waits for the other in it.
func importer(w *world) *stages.Plan {
	return w.planOf(noSources{}, nil,
		config.Image{Name: "lib", Shell: commands(stages.KindInstall)},
		config.Image{
			Name: "app", Shell: commands(stages.KindSetup),
			Imports: []config.Import{{Kind: stages.KindImportBeforeInstall, Image: "lib", Add: "/made", To: "/made"}},
		},
	)
}

func TestNothingWaitsForAPlaceThatItIsWaitedForIn(t *testing.T) {
	for name, adjust := range map[string]func(w, old *world, o *build.Options){
		"one storage": func(_, _ *world, _ *build.Options) {},
		"a second storage": func(w, old *world, o *build.Options) {
			o.Second = second{secondary.New(w.mem, old.mem, storage.CopyOptions{})}
		},
	} {
		for range 10 { // sessions differ in which image is first
			synctest.Test(t, func(t *testing.T) {
				w, old := newWorld(t), newWorld(t)
				h := w.host()
				h.adjust = func(o *build.Options) {
					o.Parallel = 1
					adjust(w, old, o)
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				if _, err := h.run(ctx, importer(w), nil); err != nil {
					t.Fatalf("%s: %v", name, err)
				}
				w.sound()
			})
		}
	}
}

func TestAnImageThatWaitsForAPlaceIsQueued(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		one, two := app(), app()
		two.Name, two.CacheVersion = "other", "2"
		h := w.host()
		h.adjust = func(o *build.Options) { o.Parallel = 1 }
		h.engine.before = takes(time.Minute)
		_, err := h.run(t.Context(), w.planOf(noSources{}, nil, one, two), nil)
		must(t, err)
		phases := map[string][]build.Phase{}
		for _, e := range h.events.events {
			if e.Stage.Name() == "install" {
				phases[e.Image] = append(phases[e.Image], e.Phase)
			}
		}
		queued := []build.Phase{build.PhaseLooking, build.PhaseQueued, build.PhaseLooking, build.PhaseQueued, build.PhaseRunning}
		at := 0
		for _, p := range phases {
			if slices.Equal(p[:len(queued)], queued) {
				at++
			}
		}
		if at != 1 {
			t.Errorf("of two images with one place, %d waited for it: %v", at, phases)
		}
	})
}
