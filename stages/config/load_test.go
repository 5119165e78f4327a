package config_test

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
)

var update = flag.Bool("update", false, "write golden files, the schema and the reference anew")

// tree is a commit in memory.
type tree map[string]string

func (t tree) Read(_ context.Context, path string) ([]byte, error) {
	s, ok := t[path]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return []byte(s), nil
}

func (t tree) Glob(_ context.Context, pattern string) ([]string, error) {
	var out []string
	for p := range t {
		ok, err := doublestar.Match(pattern, p)
		if err != nil {
			return nil, err
		}
		if ok {
			out = append(out, p)
		}
	}
	return out, nil
}

// env is an environment.
func env(values map[string]string) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v, ok := values[name]
		return v, ok
	}
}

func load(t *testing.T, path, data string, files tree, vars map[string]string) (*config.Project, error) {
	t.Helper()
	return config.Load(t.Context(), config.Input{Path: path, Data: []byte(data), Files: files, Env: env(vars)})
}

func mustLoad(t *testing.T, path, data string, files tree, vars map[string]string) *config.Project {
	t.Helper()
	p, err := load(t, path, data, files, vars)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func golden(t *testing.T, path string, got []byte) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, got, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if string(want) != string(got) {
		t.Errorf("%s is stale; write it anew with: go test ./stages/config -update\ngot:\n%s", path, got)
	}
}

func readTestdata(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func goldenProject(t *testing.T, name string, p *config.Project) {
	t.Helper()
	b, err := json.MarshalIndent(p, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("testdata", name), append(b, '\n'))
}

func TestASampleWithEveryKeyLoads(t *testing.T) {
	files := tree{
		"VERSION":           "7\n",
		".cairn/apt":        "not a template",
		".cairn/x/y.tmpl":   "{{ define \"apt\" }}- apt-get install {{ join \" \" . }}{{ end }}",
		".cairn/empty.tmpl": "",
	}
	p := mustLoad(t, "cairn.yaml", readTestdata(t, "good.yaml"), files, map[string]string{"RELEASE": "v1"})
	goldenProject(t, "good.golden.json", p)
	if image, ok := p.Image("base/go"); !ok || image.From != "golang:1.26" {
		t.Errorf("Image(base/go) = %+v, %v", image, ok)
	}
	if _, ok := p.Image("nobody"); ok {
		t.Error("Image(nobody) exists")
	}
}

func TestAWerfProjectWithBeforeInstallInstallAndSetupLoads(t *testing.T) {
	files := tree{
		"VERSION":                   "1.2.3\n",
		".werf/common/docker.tmpl":  "{{/* nothing here */}}",
		".werf/common/docker":       "",
		".werf/a.tmpl":              "{{ define \"common/docker\" }}{{ end }}",
		"werf-giterminism.yaml":     "giterminismConfigVersion: 1\nconfig:\n  goTemplateRendering:\n    allowEnvVariables: [CI, /EXTRA_.*/]\n",
		"unrelated/.werf/none.tmpl": "{{ fail \"not read\" }}",
	}
	p := mustLoad(t, "werf.yaml", readTestdata(t, "symfony.werf.yaml"), files, map[string]string{"EXTRA_PACKAGES": "git"})
	goldenProject(t, "symfony.golden.json", p)
}

func TestImagesComeAfterThoseTheyNeed(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", doc("image: c\nfromImage: b", "image: b\nfrom: scratch\nimport: [{image: a, add: /x, before: install}]", "image: z\nfrom: scratch", "image: a\nfrom: scratch"), nil, nil)
	var got []string
	for _, i := range p.Images {
		got = append(got, i.Name)
	}
	if want := []string{"a", "b", "c", "z"}; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestDefaultsAreFilledIn(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", doc("image: ~\nfrom: scratch\ngit: [{to: /a/b/}]\nimport: []"), nil, nil)
	i := p.Images[0]
	if i.Name != "" || i.Interpreter != "sh" || !slices.Equal(i.Platforms, []stages.Platform{"linux/amd64"}) {
		t.Errorf("image %+v", i)
	}
	if g := i.Git[0]; g.Add != "." || g.To != "/a/b" {
		t.Errorf("mapping %+v", g)
	}
}

func TestWhatHasNoEffectIsAWarning(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", doc("image: a\nfrom: scratch\ngit: [{to: /a, stageDependencies: {setup: x}}]\nshell: {installCacheVersion: 1}"), nil, nil)
	var got []string
	for _, w := range p.Warnings {
		got = append(got, w.Error())
	}
	want := []string{
		"cairn.yaml:3:1: git[0].stageDependencies.setup has no effect: shell has no section setup",
		"cairn.yaml:6:30: shell.installCacheVersion has no effect: there is no section install",
	}
	if !slices.Equal(got, want) {
		t.Errorf("warnings %q", got)
	}
}

func TestMountsThatNoCommandsSeeAreWarnings(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", doc("image: a\nfrom: scratch\nshell: {install: x}\nmount:\n- {type: ssh, sections: [install, setup]}", "image: b\nfrom: scratch\nmount:\n- {type: ssh}"), nil, nil)
	var got []string
	for _, w := range p.Warnings {
		got = append(got, w.Error())
	}
	want := []string{"cairn.yaml:7:3: mount[0] has no effect on setup: shell has no such section", "cairn.yaml:12:3: mount[0] has no effect: there are no commands"}
	if !slices.Equal(got, want) {
		t.Errorf("warnings %q", got)
	}
}

func TestMergeKeysGiveWayToAMappingsOwnKeys(t *testing.T) {
	p := mustLoad(t, "cairn.yaml", doc("image: a\nfrom: scratch\ndocker:\n  ENV: &e {A: 1, B: 2}\n  LABEL: {<<: [*e, {B: 4, C: 5}], A: 3}"), nil, nil)
	got := p.Images[0].Docker.Labels
	if len(got) != 3 || got["A"] != "3" || got["B"] != "2" || got["C"] != "5" {
		t.Errorf("labels %v", got)
	}
}

func TestAFailureOfFilesIsNotAnErrorOfTheFile(t *testing.T) {
	broken := errors.New("disk on fire")
	_, err := config.Load(t.Context(), config.Input{Path: "cairn.yaml", Data: []byte(doc("image: {{ .Files.Get \"x\" }}\nfrom: scratch")), Files: brokenFiles{broken}})
	if list := (*config.Errors)(nil); !errors.Is(err, broken) || errors.As(err, &list) {
		t.Errorf("err = %v", err)
	}
}

type brokenFiles struct{ err error }

func (b brokenFiles) Read(context.Context, string) ([]byte, error)   { return nil, b.err }
func (b brokenFiles) Glob(context.Context, string) ([]string, error) { return nil, nil }

func TestLoadEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := config.Load(ctx, config.Input{Path: "cairn.yaml", Data: []byte(doc("image: a\nfrom: scratch"))})
	if !errors.Is(err, context.Canceled) {
		t.Errorf("err = %v", err)
	}
}

// doc puts image documents after a project document of one line and a separator.
func doc(images ...string) string {
	return "project: p\n---\n" + strings.Join(images, "\n---\n") + "\n"
}

func TestTheSchemaIsFresh(t *testing.T) {
	got, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	golden(t, filepath.Join("..", "..", "docs", "cairn.schema.json"), got)
}

func TestTheReferenceIsFresh(t *testing.T) {
	golden(t, filepath.Join("..", "..", "docs", "reference", "configuration.md"), []byte(config.Reference()))
}

func TestReferencesOfBasesAreTaken(t *testing.T) {
	for _, ref := range []string{
		"scratch", "debian", "debian:12", "library/debian:12-slim", "localhost/base", "localhost:5000/a/b_c.d-e:V1",
		"build_tools", "registry:5000/base", "127.0.0.1:5000/base:latest", "[::1]:5000/base", "Registry.example.com/a/b",
		"debian@sha256:" + strings.Repeat("0a", 32), "example.com:443/base:1@sha256:" + strings.Repeat("0a", 32),
	} {
		p, err := load(t, "cairn.yaml", "project: p\n---\nimage: a\nfrom: \""+ref+"\"\n", nil, nil)
		if err != nil || p.Images[0].From != ref {
			t.Errorf("%s: %v", ref, err)
		}
	}
}
