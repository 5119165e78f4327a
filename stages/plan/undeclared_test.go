package plan_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/plan"
)

// undeclared says what is found for an output of a stage of service's "app",
// with the given images requested.
func undeclared(t *testing.T, p *config.Project, kind stages.Kind, output string, images ...string) string {
	t.Helper()
	f := tree{
		"src/install/deps": "1", "src/setup/assets": "1", "src/setup/style.css": "1", "src/main.c": "1", "src/doc/main.c": "1", "other": "1",
	}
	pl := mustPlan(t, plan.Input{Project: p, Files: f, Images: images})
	var failed *stages.Stage
	for _, img := range pl.Images {
		for s := img.Final(); s != nil; s = s.Parent {
			if s.Recipe.Kind == kind && s.Recipe.Commands != nil && (img.Name == "app" || failed == nil) {
				failed = s
			}
		}
	}
	got, err := plan.FindUndeclared(p, pl, f, failed, strings.Split(output, "\n"))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, u := range got {
		out = append(out, fmt.Sprintf("%s git[%d].%s += %s, now in %s", u.Target, u.Mapping, u.Stage, u.Glob, u.Placed))
	}
	return strings.Join(out, "; ")
}

func TestAFileThatAStageDidNotDeclareIsFoundInItsOutput(t *testing.T) {
	for name, tc := range map[string]struct {
		stage        stages.Kind
		output, want string
	}{
		"an absolute path":                     {stages.KindInstall, "cat: can't open '/app/main.c': No such file or directory", "/app/main.c git[0].install += main.c, now in source"},
		"a relative path":                      {stages.KindInstall, "make: *** No rule to make target 'setup/style.css', needed by 'all'. Stop.", "/app/setup/style.css git[0].install += setup/style.css, now in setup"},
		"a path with a line number":            {stages.KindInstall, "./x.sh:3: ./main.c:1:2: not there.", "/app/main.c git[0].install += main.c, now in source"},
		"a path from below":                    {stages.KindInstall, "include ../setup/assets", "/app/setup/assets git[0].install += setup/assets, now in setup"},
		"a bare name, the shortest target":     {stages.KindInstall, "main.c: not found", "/app/main.c git[0].install += main.c, now in source"},
		"a directory":                          {stages.KindInstall, "sh: cd: can't cd to /app/doc", "/app/doc git[0].install += doc/**, now in source"},
		"a file that is declared":              {stages.KindSetup, "reading /app/setup/assets", ""},
		"a file that an earlier stage placed":  {stages.KindSetup, "reading install/deps", ""},
		"a directory of which some is there":   {stages.KindSetup, "make: Entering directory '/app'", ""},
		"a file that is not in the project":    {stages.KindInstall, "/app/nothing: not found", ""},
		"a file of the tree without a mapping": {stages.KindInstall, "other: not found", ""},
		"nothing":                              {stages.KindInstall, "", ""},
		"the last line goes first": {
			stages.KindInstall, "/app/doc/main.c\n/app/main.c",
			"/app/main.c git[0].install += main.c, now in source; /app/doc/main.c git[0].install += doc/main.c, now in source",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if got := undeclared(t, service(), tc.stage, tc.output); got != tc.want {
				t.Errorf("got  %s\nwant %s", got, tc.want)
			}
		})
	}
}

func TestAMissedFileIsFoundInAnImageThatAnotherOneNeeds(t *testing.T) {
	p := service()
	p.Images = append(p.Images, config.Image{Name: "child", Platforms: amd64, FromImage: "app", Interpreter: "sh", Shell: shell(stages.KindSetup)})
	want := "/app/main.c git[0].install += main.c, now in source"
	if got := undeclared(t, p, stages.KindInstall, "/app/main.c", "child"); got != want {
		t.Errorf("got %s", got)
	}
}

func TestAMappingWithoutDependenciesIsToldSo(t *testing.T) {
	p := service()
	p.Images[1].Git[0].StageDependencies = nil
	p.Images[1].GitLines = []int{12}
	f := files()
	pl := mustPlan(t, plan.Input{Project: p, Files: f})
	got, err := plan.FindUndeclared(p, pl, f, pl.Images[1].Stages[1], []string{"/app/main"})
	if err != nil || len(got) != 1 || !got[0].Whole || got[0].Line != 12 || got[0].Stage != stages.KindBeforeInstall || got[0].Placed != stages.KindInstall {
		t.Errorf("got %+v, %v", got, err)
	}
}

func FuzzFindUndeclared(f *testing.F) {
	f.Add("cat: '/app/main': No such file")
	f.Add("../../..:..//.\x00./…[")
	p, t := service(), files()
	pl, err := plan.Make(f.Context(), plan.Input{Project: p, Files: t, Bases: &registry{}})
	if err != nil {
		f.Fatal(err)
	}
	stage := pl.Images[1].Stages[1]
	f.Fuzz(func(test *testing.T, output string) {
		got, err := plan.FindUndeclared(p, pl, t, stage, strings.Split(output, "\n"))
		if err != nil || len(got) > 3 {
			test.Errorf("got %+v, %v", got, err)
		}
	})
}
