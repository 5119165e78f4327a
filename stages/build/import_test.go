package build_test

import (
	"slices"
	"testing"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
)

func sameLayer(a, b ocispec.Descriptor) bool { return a.Digest == b.Digest }

// whole is an import of all that an image holds.
func whole(from string, k stages.Kind) config.Import {
	return config.Import{Kind: k, Image: from, Add: "/", To: "/"}
}

func TestWholeLayersAreImportedWithoutTheEngine(t *testing.T) {
	t.Parallel()
	tree := newSourceTree(t)
	w := newWorld(t)
	source := stages.Mapping{Add: ".", To: "/src"}
	p := w.planOf(tree.before, []string{"bare", "above"},
		config.Image{Name: "lib", Git: []stages.Mapping{source}},
		config.Image{Name: "bare", From: "scratch", Imports: []config.Import{whole("lib", stages.KindImportBeforeInstall)}, Docker: stages.Config{User: "app"}},
		config.Image{Name: "above", Imports: []config.Import{whole("lib", stages.KindImportBeforeInstall)}, Docker: stages.Config{WorkDir: "/src"}},
	)
	h := w.host()
	rep, err := h.run(t.Context(), p, tree.before)
	must(t, err)
	if got := results(rep); got != "bare/from=assembled bare/importsBeforeInstall=assembled bare/config=assembled "+
		"above/from=assembled above/importsBeforeInstall=assembled above/config=assembled" {
		t.Error(got)
	}
	if h.opened.engine.Load() != 0 {
		t.Error("an engine was started")
	}
	lib := w.load(p.Others[0].Final())
	for _, img := range p.Images {
		got := w.load(img.Final())
		if !slices.EqualFunc(got.Layers(), lib.Layers(), sameLayer) {
			t.Errorf("%s has the layers %v, want %v", img.Name, got.Layers(), lib.Layers())
		}
		a, err := got.Tables(t.Context())
		must(t, err)
		if uid, err := a.User("root"); err != nil || uid != 0 {
			t.Errorf("%s does not know the users of what was imported: %v", img.Name, err)
		}
	}
	w.sound()
}

func TestAnImportOnTopOfWholeLayersFindsThemWhereverTheyAre(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := w.planOf(noSources{}, []string{"app"},
		config.Image{Name: "lib"},
		config.Image{
			Name: "app", From: "scratch", Imports: []config.Import{whole("lib", stages.KindImportBeforeInstall)},
			Shell: commands(stages.KindInstall),
		},
	)
	h := w.host()
	rep, err := h.run(t.Context(), p, nil)
	must(t, err)
	if got := results(rep); got != "app/from=assembled app/importsBeforeInstall=assembled app/install=built" {
		t.Error(got)
	}
	// The storage loses the base's layer: the base of the imported image has it still.
	layer := w.load(p.Others[0].Final()).Layers()[0]
	if !w.mem.DropBlob(layer.Digest) {
		t.Fatal("the layer is not there")
	}
	again := w.planOf(noSources{}, []string{"app"},
		config.Image{Name: "lib"},
		config.Image{
			Name: "app", From: "scratch", Imports: []config.Import{whole("lib", stages.KindImportBeforeInstall)},
			Shell: commands(stages.KindInstall, stages.KindSetup),
		},
	)
	rep, err = w.host().run(t.Context(), again, nil)
	must(t, err)
	if got := rep.Images[0].Stages[3].Result; got != build.ResultBuilt {
		t.Errorf("setup is %s", got)
	}
	w.sound()
}
