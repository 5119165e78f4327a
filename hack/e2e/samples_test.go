package e2e

import (
	"encoding/json"
	"flag"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/hack/testbed"
)

var updateGolden = flag.Bool("update", false, "write the golden trees of the samples anew")

// samplesDir holds a project in each of its folders.
func samplesDir(t *testing.T) string {
	t.Helper()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(root, "hack", "samples")
}

// configFile returns the path of a sample's configuration below its folder. A
// sample whose project is not the whole repository has it in project.
func configFile(t *testing.T, sample string) string {
	t.Helper()
	for _, name := range []string{"cairn.yaml", "werf.yaml", "project/cairn.yaml"} {
		if _, err := os.Stat(filepath.Join(samplesDir(t), sample, name)); err == nil {
			return name
		}
	}
	t.Fatalf("the sample %s has no configuration", sample)
	return ""
}

func samples(t *testing.T) []string {
	t.Helper()
	entries, err := os.ReadDir(samplesDir(t))
	if err != nil {
		t.Fatal(err)
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out
}

// Each sample is built as a user would, and what its images add to their bases
// is compared with hack/e2e/testdata/samples. A second build does nothing.
func TestSamplesGiveTheirGoldenTrees(t *testing.T) {
	t.Parallel()
	if _, err := shared.registry.PushBase(t.Context(), "bash"); err != nil {
		t.Fatal(err)
	}
	bases := baseTrees(t)
	for _, name := range samples(t) {
		t.Run(name, func(t *testing.T) {
			p, h := newSample(t, name)
			storage := storageOf(t, shared.registry, "")
			args := sampleFlags(t, name)
			r := h.build(t, p, storage, args...)
			compareGolden(t, name, describeImages(t, r, bases))
			again := h.build(t, p, storage, args...)
			if again.EngineStarted || again.Requests.Registry > 1 || again.Root != r.Root {
				t.Errorf("the second build gives root %s after %s, engine %v, %d requests",
					again.Root, r.Root, again.EngineStarted, again.Requests.Registry)
			}
		})
	}
}

// newSample makes a repository of a sample, with its bases pinned, and a host to
// build it on.
func newSample(t *testing.T, name string) (*project, *host) {
	t.Helper()
	p := emptyProject(t)
	if err := os.CopyFS(p.dir, os.DirFS(filepath.Join(samplesDir(t), name))); err != nil {
		t.Fatal(err)
	}
	p.commit(t)
	p.dir = filepath.Join(p.dir, filepath.Dir(configFile(t, name)))
	h := newHost(t, 0)
	h.env = append([]string{"CAIRN_DEMO_REGISTRY=" + shared.registry.Address()}, library(t, name)...)
	succeeded(t, h.run(t, p, "lock"))
	p.commit(t)
	return p, h
}

// library makes the other repository that a sample takes files from, of the folder
// of that name, and returns how the sample finds it.
func library(t *testing.T, sample string) []string {
	t.Helper()
	files := filepath.Join(samplesDir(t), sample, "library")
	if _, err := os.Stat(files); err != nil {
		return nil
	}
	lib := emptyProject(t)
	if err := os.CopyFS(lib.dir, os.DirFS(files)); err != nil {
		t.Fatal(err)
	}
	lib.commit(t)
	gitIn(t, lib.dir, "branch", "--force", "--move", "main")
	gitIn(t, lib.dir, "tag", "--annotate", "--message", "first", "v1")
	return []string{"CAIRN_ALLOW_FILE_URLS=true", "CAIRN_DEMO_LIBRARY=" + lib.dir, "CAIRN_DEMO_COMMIT=" + gitIn(t, lib.dir, "rev-parse", "HEAD")}
}

// A change to a file that no section declares runs no command.
func TestASourceChangeOfTheSymfonySampleMakesOnlyItsSourceStage(t *testing.T) {
	t.Parallel()
	if _, err := shared.registry.PushBase(t.Context(), "bash"); err != nil {
		t.Fatal(err)
	}
	p, h := newSample(t, "symfony")
	storage := storageOf(t, shared.registry, "")
	h.build(t, p, storage)
	p.change(t, "src/Controller/ShopController.php", "<?php // changed\n")
	r := newHost(t, 1).with(h.env).build(t, p, storage)
	for stage, result := range r.results() {
		want := "cached"
		if stage == "/source" {
			want = "assembled"
		}
		if result != want {
			t.Errorf("%s is %s, want %s", stage, result, want)
		}
	}
	if r.EngineStarted {
		t.Error("the engine was started")
	}
}

// sampleFlags are what a sample needs on the command line; it has them in a file
// "build.flags" beside its folder's configuration, a line each.
func sampleFlags(t *testing.T, name string) []string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join(samplesDir(t), name, "build.flags"))
	if os.IsNotExist(err) {
		return nil
	}
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(samplesDir(t), name)
	return strings.Fields(strings.ReplaceAll(string(b), "@SAMPLE@", dir))
}

// baseTrees returns the nodes that the test bases have, by path.
func baseTrees(t *testing.T) map[string][]inode {
	t.Helper()
	out := map[string][]inode{}
	for _, what := range []string{"busybox", "toolchain", "bash"} {
		for p, n := range readTree(t, pull(t, shared.registry.Address()+"/base/"+what+":latest")).nodes {
			out[p] = append(out[p], *n)
		}
	}
	return out
}

// describeImages says what the images of a build add to the bases, and their configs.
func describeImages(t *testing.T, r report, bases map[string][]inode) string {
	t.Helper()
	var b strings.Builder
	for _, i := range r.Images {
		var stages []string
		for _, s := range i.Stages {
			stages = append(stages, s.Name)
		}
		fmt.Fprintf(&b, "image %q %s: %s\n", i.Name, i.Platform, strings.Join(stages, " "))
		img := pull(t, i.Ref)
		nodes := readTree(t, img).nodes
		for _, p := range slices.Sorted(maps.Keys(nodes)) {
			if n := nodes[p]; !slices.Contains(bases[p], *n) {
				fmt.Fprintf(&b, "  /%s\n", strings.TrimSpace(p+" "+golden(n)))
			}
		}
		fmt.Fprintf(&b, "%s\n\n", configOf(t, img))
	}
	return b.String()
}

// golden is a line of a golden tree.
func golden(n *inode) string {
	s := fmt.Sprintf("%c %04o %d:%d", n.kind, n.mode, n.uid, n.gid)
	if n.link != "" {
		s += " -> " + n.link
	}
	if n.content != "" {
		size, sum, _ := strings.Cut(n.content, ":")
		s += fmt.Sprintf(" %s bytes %s", size, sum[:16])
	}
	return s + n.device + n.xattrs
}

func compareGolden(t *testing.T, name, got string) {
	t.Helper()
	got = strings.ReplaceAll(got, shared.registry.Address(), "REGISTRY")
	path := filepath.Join("testdata", "samples", name+".golden")
	if *updateGolden {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
		return
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatalf("%v; go test ./hack/e2e -run Samples -update writes it", err)
	}
	if got == string(want) {
		return
	}
	gotLines, wantLines := strings.Split(got, "\n"), strings.Split(string(want), "\n")
	for _, l := range gotLines {
		if !slices.Contains(wantLines, l) {
			t.Errorf("not in %s: %s", path, l)
		}
	}
	for _, l := range wantLines {
		if !slices.Contains(gotLines, l) {
			t.Errorf("missing from %s: %s", path, l)
		}
	}
	if !t.Failed() {
		t.Errorf("%s has the same lines in another order:\n%s", path, got)
	}
}

// Every key of the configuration language is used by a sample that is built.
func TestSamplesUseEveryKey(t *testing.T) {
	t.Parallel()
	want := map[string]bool{}
	for _, k := range schemaKeys(t) {
		want[k] = true
	}
	for _, name := range samples(t) {
		b, err := os.ReadFile(filepath.Join(samplesDir(t), name, configFile(t, name)))
		if err != nil {
			t.Fatal(err)
		}
		d := yaml.NewDecoder(strings.NewReader(string(b)))
		for {
			var doc any
			if d.Decode(&doc) != nil {
				break // the end, or a template that is not YAML before it is rendered
			}
			top := "image"
			if m, ok := doc.(map[string]any); ok && m["project"] != nil {
				top = "project"
			}
			usedKeys(doc, top, func(key string) { delete(want, key) })
		}
	}
	for _, k := range slices.Sorted(maps.Keys(want)) {
		t.Errorf("no sample has the key %s", k)
	}
}

// usedKeys tells the paths of the keys of a value, those of lists' elements
// without an index.
func usedKeys(v any, at string, tell func(string)) {
	switch v := v.(type) {
	case map[string]any:
		for k, below := range v {
			tell(at + "." + k)
			usedKeys(below, at+"."+k, tell)
		}
	case []any:
		for _, below := range v {
			usedKeys(below, at, tell)
		}
	}
}

// schemaKeys returns the paths of all keys that the published schema knows.
func schemaKeys(t *testing.T) []string {
	t.Helper()
	root, err := testbed.Root()
	if err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(filepath.Join(root, "docs", "cairn.schema.json"))
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]any `json:"$defs"`
	}
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	var out []string
	for name, def := range schema.Defs {
		collectKeys(def, name, &out)
	}
	if len(out) < 60 {
		t.Fatalf("the schema seems to have %d keys only: %v", len(out), out)
	}
	return out
}

func collectKeys(v any, at string, out *[]string) {
	switch v := v.(type) {
	case map[string]any:
		for word, below := range v {
			properties, ok := below.(map[string]any)
			if word != "properties" || !ok {
				collectKeys(below, at, out)
				continue
			}
			for key, value := range properties {
				*out = append(*out, at+"."+key)
				collectKeys(value, at+"."+key, out)
			}
		}
	case []any:
		for _, below := range v {
			collectKeys(below, at, out)
		}
	}
}

// The samples' own page has a row for each.
func TestSamplesAreListed(t *testing.T) {
	t.Parallel()
	b, err := os.ReadFile(filepath.Join(samplesDir(t), "README.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range samples(t) {
		if !strings.Contains(string(b), "\n| "+name+" |") {
			t.Errorf("hack/samples/README.md has no row of %s", name)
		}
	}
}
