package plan_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
)

// tree is a project's files: contents by path. It lets a stage see the files
// that lie in a directory of the stage's name, which is all that a plan needs of
// the rules for selections.
type tree map[string]string

func (t tree) Identity(sel stages.Selection) (stages.Digest, int, error) {
	files, err := t.Files(sel)
	return stages.DigestOf([]byte(fmt.Sprint(files))), len(files), err
}

func (t tree) Files(sel stages.Selection) ([]source.File, error) {
	var out []source.File
	for path, content := range t {
		rest, ok := strings.CutPrefix(path, sel.Mapping.Add+"/")
		dir, _, _ := strings.Cut(rest, "/")
		declared := slices.Contains(sel.Stages, stages.Kind(dir))
		if ok && (sel.Whole || declared && dir == string(sel.Kind) || !declared && sel.Kind == stages.KindSource) {
			out = append(out, source.File{Path: rest, Object: content})
		}
	}
	slices.SortFunc(out, func(a, b source.File) int { return strings.Compare(a.Path, b.Path) })
	return out, nil
}

// registry resolves every base to a digest made of its name, and counts.
type registry struct{ asked []string }

func (r *registry) ResolveBase(_ context.Context, ref string, p stages.Platform) (string, error) {
	r.asked = append(r.asked, ref+" "+string(p))
	if strings.Contains(ref, "missing") {
		return "", errors.New("not found")
	}
	return "sha256:" + stages.DigestOf([]byte(ref+string(p))).Hex(), nil
}

func dependencies(kinds ...stages.Kind) map[stages.Kind][]string {
	out := map[stages.Kind][]string{}
	for _, k := range kinds {
		out[k] = []string{string(k)}
	}
	return out
}

func shell(kinds ...stages.Kind) map[stages.Kind]config.Section {
	out := map[stages.Kind]config.Section{}
	for _, k := range kinds {
		out[k] = config.Section{Commands: []string{"do " + string(k)}}
	}
	return out
}

var amd64 = []stages.Platform{"linux/amd64"}

// service has every kind of stage.
func service() *config.Project {
	return &config.Project{Name: "shop", Images: []config.Image{
		{Name: "lib", Platforms: amd64, From: "base:1", Interpreter: "sh", Shell: shell(stages.KindInstall)},
		{
			Name: "app", Platforms: amd64, From: "base:1", Interpreter: "sh",
			Git: []stages.Mapping{{
				Add: "src", To: "/app", Owner: "app",
				StageDependencies: dependencies(stages.KindInstall, stages.KindSetup),
			}},
			Shell:   shell(stages.KindBeforeInstall, stages.KindInstall, stages.KindBeforeSetup, stages.KindSetup),
			Imports: []config.Import{{Kind: stages.KindImportBeforeSetup, Image: "lib", Add: "/lib", To: "/lib"}},
			Docker:  stages.Config{WorkDir: "/app"},
		},
	}}
}

func files() tree {
	return tree{"src/install/deps": "1", "src/setup/assets": "1", "src/main": "1", "other": "1"}
}

func mustPlan(t *testing.T, in plan.Input) *stages.Plan {
	t.Helper()
	if in.Bases == nil {
		in.Bases = &registry{}
	}
	p, err := plan.Make(context.Background(), in)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// names lists an image's stages.
func names(img *stages.Image) string {
	var out []string
	for _, s := range img.Stages {
		out = append(out, s.Name())
	}
	return strings.Join(out, " ")
}

// changed lists the stages of "app" that differ after a change.
func changed(t *testing.T, edit func(p *config.Project, f tree, l *plan.Lock)) string {
	t.Helper()
	before := mustPlan(t, plan.Input{Project: service(), Files: files()}).Images[1]
	p, f, l := service(), files(), &plan.Lock{}
	edit(p, f, l)
	after := mustPlan(t, plan.Input{Project: p, Files: f, Lock: l}).Images[1]
	var out []string
	for i, s := range after.Stages {
		if i >= len(before.Stages) || before.Stages[i].Digest != s.Digest {
			out = append(out, s.Name())
		}
	}
	return strings.Join(out, " ")
}

func TestImagesThatWereNotAskedForAreListedOnceAndApart(t *testing.T) {
	two := []stages.Platform{"linux/amd64", "linux/arm64"}
	image := func(name, parent string, imports ...string) config.Image {
		img := config.Image{Name: name, Platforms: two, FromImage: parent, Interpreter: "sh", Shell: shell(stages.KindInstall)}
		if parent == "" {
			img.From = "base:1"
		}
		for _, from := range imports {
			img.Imports = append(img.Imports, config.Import{Kind: stages.KindImportAfterSetup, Image: from, Add: "/a", To: "/" + from})
		}
		return img
	}
	project := &config.Project{Name: "shop", Images: []config.Image{
		image("app", "", "lib", "tools"), image("lib", "tools"), image("tools", ""), image("unused", ""), image("docs", "", "lib"),
	}}
	list := func(images []*stages.Image) string {
		var out []string
		for _, i := range images {
			out = append(out, i.Name+" "+i.Platform.Architecture())
		}
		return strings.Join(out, ", ")
	}
	for _, c := range []struct {
		asked  []string
		others string
	}{
		{[]string{"app", "docs"}, "tools amd64, lib amd64, tools arm64, lib arm64"},
		{[]string{"app", "lib"}, "tools amd64, tools arm64"},
		{[]string{"unused"}, ""},
		{nil, ""},
	} {
		p := mustPlan(t, plan.Input{Project: project, Files: tree{}, Images: c.asked})
		if got := list(p.Others); got != c.others {
			t.Errorf("%v needs %s\nwant %s", c.asked, got, c.others)
		}
		root, err := p.Root()
		alone, err2 := (&stages.Plan{Project: p.Project, Images: p.Images}).Root()
		if err != nil || err2 != nil || root != alone {
			t.Errorf("%v: the root is %s and without the others %s (%v, %v)", c.asked, root, alone, err, err2)
		}
	}
}

func TestStagesFollowEachOtherInOrder(t *testing.T) {
	p := mustPlan(t, plan.Input{Project: service(), Files: files()})
	if got, want := names(p.Images[1]), "from beforeInstall install beforeSetup importsBeforeSetup setup source"; got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for i, s := range p.Images[1].Stages[1:] {
		if below := p.Images[1].Stages[i]; s.Parent != below || *s.Recipe.Parent != below.Digest {
			t.Errorf("%s does not stand on %s", s.Name(), below.Name())
		}
	}
	if p.Images[0].Stages[0] != p.Images[1].Stages[0] {
		t.Error("the base that both images have is not one stage")
	}
}

func TestAChangeRebuildsWhatDependsOnItAndNothingElse(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(p *config.Project, f tree, l *plan.Lock)
		want string
	}{
		"nothing":                   {func(*config.Project, tree, *plan.Lock) {}, ""},
		"a file outside":            {func(_ *config.Project, f tree, _ *plan.Lock) { f["other"] = "2" }, ""},
		"a source file":             {func(_ *config.Project, f tree, _ *plan.Lock) { f["src/main"] = "2" }, "source"},
		"a new source file":         {func(_ *config.Project, f tree, _ *plan.Lock) { f["src/new"] = "2" }, "source"},
		"a file that setup needs":   {func(_ *config.Project, f tree, _ *plan.Lock) { f["src/setup/assets"] = "2" }, "setup source"},
		"a file that install needs": {func(_ *config.Project, f tree, _ *plan.Lock) { f["src/install/deps"] = "2" }, "install beforeSetup importsBeforeSetup setup source"},
		"a label":                   {func(p *config.Project, _ tree, _ *plan.Lock) { p.Images[1].Docker.Labels = map[string]string{"a": "b"} }, "source"},
		"an imported image":         {func(p *config.Project, _ tree, _ *plan.Lock) { p.Images[0].CacheVersion = "2" }, "importsBeforeSetup setup source"},
		"the base": {func(_ *config.Project, _ tree, l *plan.Lock) {
			l.Pin("base:1", "linux/amd64", "sha256:"+strings.Repeat("a", 64))
		}, "from beforeInstall install beforeSetup importsBeforeSetup setup source"},
		"a salt":               {func(_ *config.Project, _ tree, l *plan.Lock) { l.Refresh("app", "s") }, "beforeInstall install beforeSetup importsBeforeSetup setup source"},
		"another image's salt": {func(_ *config.Project, _ tree, l *plan.Lock) { l.Refresh("nobody", "s") }, ""},
		"an owner":             {func(p *config.Project, _ tree, _ *plan.Lock) { p.Images[1].Git[0].Owner = "root" }, "install beforeSetup importsBeforeSetup setup source"},
		"the text of a command": {func(p *config.Project, _ tree, _ *plan.Lock) {
			p.Images[1].Shell[stages.KindSetup] = config.Section{Commands: []string{"other"}}
		}, "setup source"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := changed(t, tc.edit); got != tc.want {
				t.Errorf("changed %q, want %q", got, tc.want)
			}
		})
	}
}

func TestAMappingThatDeclaresNothingComesBeforeInstall(t *testing.T) {
	for name, tc := range map[string]struct {
		kinds []stages.Kind
		want  string
	}{
		"with install":            {[]stages.Kind{stages.KindBeforeInstall, stages.KindInstall, stages.KindSetup}, "install"},
		"without install":         {[]stages.Kind{stages.KindBeforeInstall, stages.KindSetup}, "setup"},
		"with beforeInstall only": {[]stages.Kind{stages.KindBeforeInstall}, "source"},
		"without commands":        {nil, "source"},
	} {
		t.Run(name, func(t *testing.T) {
			p := &config.Project{Name: "p", Images: []config.Image{{
				Name: "a", Platforms: amd64, From: "scratch", Interpreter: "sh", Shell: shell(tc.kinds...),
				Git: []stages.Mapping{{Add: "src", To: "/"}},
			}}}
			var got []string
			for _, s := range mustPlan(t, plan.Input{Project: p, Files: files()}).Images[0].Stages {
				if len(s.Recipe.Files) > 0 {
					got = append(got, s.Name())
				}
			}
			if strings.Join(got, " ") != tc.want {
				t.Errorf("files come with %q, want %q", got, tc.want)
			}
		})
	}
}

func TestConfigDoesNotRunCommandsAgain(t *testing.T) {
	p := &config.Project{Name: "p", Images: []config.Image{
		{Name: "a", Platforms: amd64, From: "scratch", Interpreter: "sh", Shell: shell(stages.KindInstall), Docker: stages.Config{User: "a"}},
		{Name: "b", Platforms: amd64, FromImage: "a", Docker: stages.Config{User: "b"}},
		{Name: "c", Platforms: amd64, FromImage: "a"},
		{Name: "d", Platforms: amd64, From: "scratch", Docker: stages.Config{User: "d"}},
	}}
	got := mustPlan(t, plan.Input{Project: p, Files: files()})
	for i, want := range []string{"from install config", "from install config config", "from install config", "from"} {
		if names(got.Images[i]) != want {
			t.Errorf("image %s has the stages %s, want %s", got.Images[i].Name, names(got.Images[i]), want)
		}
	}
	if got.Images[0].Final() != got.Images[2].Final() || got.Images[2].Own != 0 {
		t.Error("an image that adds nothing is not the image that it begins from")
	}
}

func TestBasesAreAskedForOnceAndOnlyWithoutALockEntry(t *testing.T) {
	r := &registry{}
	p := service()
	p.Images[0].Platforms = []stages.Platform{"linux/amd64", "linux/arm64"}
	lock := &plan.Lock{}
	lock.Pin("base:1", "linux/arm64", "sha256:"+strings.Repeat("b", 64))
	got := mustPlan(t, plan.Input{Project: p, Files: files(), Lock: lock, Bases: r})
	if want := []string{"base:1 linux/amd64"}; !slices.Equal(r.asked, want) {
		t.Errorf("asked for %q, want %q", r.asked, want)
	}
	if ref := got.Images[0].Stages[0].BaseRef; ref.Pinned {
		t.Error("a base that was resolved counts as pinned")
	}
	if ref := got.Images[1].Stages[0].BaseRef; !ref.Pinned || ref.Digest != lock.Base("base:1", "linux/arm64") {
		t.Errorf("the lock's word is not taken: %+v", ref)
	}
}

func TestFailuresNameTheImage(t *testing.T) {
	p := service()
	p.Images[1].From = "missing:1"
	_, err := plan.Make(context.Background(), plan.Input{Project: p, Files: files(), Bases: &registry{}})
	if err == nil || err.Error() != `image "app": base missing:1 for linux/amd64: not found` {
		t.Error(err)
	}
	_, err = plan.Make(context.Background(), plan.Input{Project: p, Files: files(), Bases: &registry{}, Images: []string{"nobody"}})
	if !errors.Is(err, plan.ErrNoSuchImage) || !strings.Contains(err.Error(), `the project has "lib", "app"`) {
		t.Error(err)
	}
}

func TestRequestedImagesComeWithWhatTheyNeed(t *testing.T) {
	p := mustPlan(t, plan.Input{Project: service(), Files: files(), Images: []string{"app"}})
	if len(p.Images) != 1 || p.Images[0].Name != "app" {
		t.Fatalf("planned %d images", len(p.Images))
	}
	i := slices.IndexFunc(p.Images[0].Stages, func(s *stages.Stage) bool { return len(s.ImportFrom) > 0 })
	if i < 0 || p.Images[0].Stages[i].ImportFrom[0].Name() != "install" {
		t.Error("the image that is imported from is not planned")
	}
}

func TestRootNamesTheBuild(t *testing.T) {
	root := func(p *stages.Plan) stages.Digest {
		d, err := p.Root()
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	all := mustPlan(t, plan.Input{Project: service(), Files: files()})
	other := service()
	other.Name = "other"
	for name, p := range map[string]*stages.Plan{
		"another project":  mustPlan(t, plan.Input{Project: other, Files: files()}),
		"fewer images":     mustPlan(t, plan.Input{Project: service(), Files: files(), Images: []string{"app"}}),
		"a changed source": mustPlan(t, plan.Input{Project: service(), Files: tree{"src/main": "2"}}),
	} {
		if root(p) == root(all) {
			t.Errorf("%s has the same root", name)
		}
	}
	if again := mustPlan(t, plan.Input{Project: service(), Files: files()}); root(again) != root(all) {
		t.Error("the same build has another root")
	}
}

func TestExplainNamesTheInput(t *testing.T) {
	for name, tc := range map[string]struct {
		edit func(p *config.Project, f tree, l *plan.Lock)
		want string
	}{
		"nothing":        {func(*config.Project, tree, *plan.Lock) {}, ""},
		"a changed file": {func(_ *config.Project, f tree, _ *plan.Lock) { f["src/main"] = "2" }, "source file /app/main"},
		"a new file":     {func(_ *config.Project, f tree, _ *plan.Lock) { f["src/new"] = "2" }, "source file /app/new"},
		"a lost file":    {func(_ *config.Project, f tree, _ *plan.Lock) { delete(f, "src/setup/assets") }, "setup file /app/setup/assets; source parent "},
		"a command": {func(p *config.Project, _ tree, _ *plan.Lock) {
			p.Images[1].Shell[stages.KindSetup] = config.Section{Commands: []string{"do setup", "more"}}
		}, "setup command line 2; source parent "},
		"a mount": {func(p *config.Project, _ tree, _ *plan.Lock) {
			p.Images[1].Shell[stages.KindSetup] = config.Section{Commands: p.Images[1].Shell[stages.KindSetup].Commands, Mounts: []stages.Mount{
				{Type: stages.MountCache, ID: "npm", To: "/root/.npm"}, {Type: stages.MountSecret, ID: "token", Env: "TOKEN"}, {Type: stages.MountSSH, ID: "default"},
			}}
		}, "setup mount cache /root/.npm; setup mount secret TOKEN; setup mount ssh default; source parent "},
		"the config": {func(p *config.Project, _ tree, _ *plan.Lock) { p.Images[1].Docker.User = "x" }, "source config user"},
		"the salt":   {func(_ *config.Project, _ tree, l *plan.Lock) { l.Refresh("app", "x") }, "beforeInstall salt ; install parent ; beforeSetup parent ; importsBeforeSetup parent ; setup parent ; source parent "},
		"the base": {func(p *config.Project, _ tree, _ *plan.Lock) { p.Images[1].From = "base:2" },
			"from base base:2; beforeInstall parent ; install parent ; beforeSetup parent ; importsBeforeSetup parent ; setup parent ; source parent "},
		"an import": {func(p *config.Project, _ tree, _ *plan.Lock) { p.Images[0].CacheVersion = "2" }, "importsBeforeSetup import /lib to /lib; setup parent ; source parent "},
		"a stage that is gone": {func(p *config.Project, _ tree, _ *plan.Lock) { delete(p.Images[1].Shell, stages.KindBeforeInstall) },
			"beforeInstall stage ; install parent ; beforeSetup parent ; importsBeforeSetup parent ; setup parent ; source parent "},
	} {
		t.Run(name, func(t *testing.T) {
			old := files()
			before := mustPlan(t, plan.Input{Project: service(), Files: old}).Images[1]
			p, f, l := service(), files(), &plan.Lock{}
			tc.edit(p, f, l)
			after := mustPlan(t, plan.Input{Project: p, Files: f, Lock: l}).Images[1]
			diffs, err := plan.Explain(plan.Side{Image: before, Files: old}, plan.Side{Image: after, Files: f})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for _, d := range diffs {
				got = append(got, fmt.Sprintf("%s %s %s", d.Stage, d.Input, d.Subject))
			}
			if strings.Join(got, "; ") != tc.want {
				t.Errorf("got  %q\nwant %q", strings.Join(got, "; "), tc.want)
			}
		})
	}
}

// treeWithout is a tree that lacks what the mapping of a path adds.
type treeWithout struct {
	tree
	add string
}

func (t treeWithout) Identity(sel stages.Selection) (stages.Digest, int, error) {
	if sel.Mapping.Add == t.add {
		return stages.Digest{}, 0, source.ErrNoSuchPath
	}
	return t.tree.Identity(sel)
}

func TestAMappingOfNothingIsToldWithItsLine(t *testing.T) {
	p := &config.Project{Name: "shop", Images: []config.Image{{
		Name: "app", Platforms: amd64, From: "scratch", GitLines: []int{6, 9},
		Git: []stages.Mapping{{Add: "src", To: "/src"}, {Add: "nope", To: "/x"}},
	}}}
	_, err := plan.Make(t.Context(), plan.Input{Project: p, Files: treeWithout{tree{}, "nope"}, Bases: &registry{}})
	var at *plan.MappingError
	if !errors.As(err, &at) || at.Line != 9 || !errors.Is(err, source.ErrNoSuchPath) {
		t.Errorf("got %v", err)
	}
}
