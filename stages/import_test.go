package stages_test

import (
	"testing"

	"github.com/cairnbuild/cairn/stages"
)

// on returns a stage that stands on another one.
func on(parent *stages.Stage, name string, r stages.Recipe) *stages.Stage {
	s := &stages.Stage{Digest: digestOf(name), Recipe: r, Parent: parent}
	if parent != nil {
		s.Recipe.Parent = &parent.Digest
	}
	return s
}

func TestAnImportIsWholeLayersOnlyWhereItGivesTheSameFiles(t *testing.T) {
	var (
		files    = stages.Recipe{Kind: stages.KindSource, Files: []stages.FileSet{{To: "/a"}}}
		config   = stages.Recipe{Kind: stages.KindConfig, Config: &stages.Config{User: "1"}}
		commands = stages.Recipe{Kind: stages.KindSetup, Commands: &stages.Commands{Script: []string{"rm /a"}}}
		other    = stages.Recipe{Kind: stages.KindImportAfterSetup, Imports: []stages.Import{{Add: "/a", To: "/b"}}}

		scratch = on(nil, "scratch", stages.Recipe{Kind: stages.KindFrom})
		base    = on(nil, "base", stages.Recipe{Kind: stages.KindFrom, Base: "sha256:x"})
		source  = on(on(base, "base files", files), "base config", config)
		ran     = on(on(base, "base commands", commands), "files on it", files)
		took    = on(on(base, "base import", other), "files on the import", files)
		all     = stages.Import{Add: "/", To: "/"}
	)
	for _, tc := range []struct {
		name         string
		parent, from *stages.Stage
		change       func(*stages.Import)
		more, want   bool
	}{
		{name: "all of an image into nothing", parent: scratch, from: ran, want: true},
		{name: "into nothing but config", parent: on(scratch, "config", config), from: ran, want: true},
		{name: "what adds files to the same base", parent: base, from: source, want: true},
		{name: "what adds nothing to the same stages", parent: source, from: source, want: true},
		{name: "what ran commands on the same base and may have deleted", parent: base, from: ran},
		{name: "what imported on the same base", parent: base, from: took},
		{name: "into another base", parent: on(nil, "another base", stages.Recipe{Kind: stages.KindFrom, Base: "sha256:y"}), from: source},
		{name: "into files on an empty image", parent: on(scratch, "files", files), from: source},
		{name: "a part of the image", parent: scratch, from: ran, change: func(i *stages.Import) { i.Add = "/usr" }},
		{name: "to another place", parent: scratch, from: ran, change: func(i *stages.Import) { i.To = "/usr" }},
		{name: "with another owner", parent: scratch, from: ran, change: func(i *stages.Import) { i.Owner = "app" }},
		{name: "with another group", parent: scratch, from: ran, change: func(i *stages.Import) { i.Group = "0" }},
		{name: "only some files", parent: scratch, from: ran, change: func(i *stages.Import) { i.IncludePaths = []string{"**"} }},
		{name: "but not some files", parent: scratch, from: ran, change: func(i *stages.Import) { i.ExcludePaths = []string{"x"} }},
		{name: "with a second import", parent: scratch, from: ran, more: true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			im := all
			if tc.change != nil {
				tc.change(&im)
			}
			s := on(tc.parent, "import", stages.Recipe{Kind: stages.KindImportBeforeInstall, Imports: []stages.Import{im}})
			s.ImportFrom = []*stages.Stage{tc.from}
			if tc.more {
				s.Recipe.Imports, s.ImportFrom = append(s.Recipe.Imports, im), append(s.ImportFrom, tc.from)
			}
			below := s.Parent
			if tc.want {
				below = tc.from
			}
			if s.WholeLayers() != tc.want || s.NeedsEngine() == tc.want || s.Below() != below {
				t.Errorf("whole layers: %v; needs the engine: %v", s.WholeLayers(), s.NeedsEngine())
			}
		})
	}
}
