package cli

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/deploy/ci"
)

// pipelines are the files of docs/ci, by name.
func pipelines(t *testing.T) map[string]string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(docs, "ci", "*"))
	if err != nil || len(paths) == 0 {
		t.Fatalf("no pipelines: %v", err)
	}
	out := make(map[string]string, len(paths))
	for _, path := range paths {
		b, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		out[filepath.Base(path)] = string(b)
	}
	return out
}

func TestEverySystemHasAPipelineThatNamesIt(t *testing.T) {
	all := pipelines(t)
	for _, s := range ci.Systems() {
		if !slices.ContainsFunc(slices.Collect(valuesOf(all)), func(text string) bool { return strings.Contains(text, "cairn ci-env "+string(s)+" ") }) {
			t.Errorf("%s has none", s)
		}
	}
	for name := range all {
		if name != "README.md" && !strings.Contains(all["README.md"], "("+name+")") {
			t.Errorf("the page does not name %s", name)
		}
	}
}

func valuesOf(m map[string]string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// scriptsOf returns the texts below keys that hold scripts.
func scriptsOf(v any, key string) []string {
	switch v := v.(type) {
	case map[string]any:
		var out []string
		for k, below := range v {
			out = append(out, scriptsOf(below, k)...)
		}
		return out
	case []any:
		var lines []string
		for _, e := range v {
			if s, ok := e.(string); ok && isScript(key) {
				lines = append(lines, s)
			} else {
				lines = append(lines, scriptsOf(e, key)...)
			}
		}
		if isScript(key) {
			return []string{strings.Join(lines, "\n")}
		}
		return lines
	case string:
		if isScript(key) {
			return []string{v}
		}
	}
	return nil
}

func isScript(key string) bool {
	return slices.Contains([]string{"run", "script", "after_script", "bash"}, key)
}

func TestPipelinesAreYAMLAndTheirScriptsAreShell(t *testing.T) {
	for name, text := range pipelines(t) {
		var scripts []string
		switch filepath.Ext(name) {
		case ".yml":
			var doc map[string]any
			if err := yaml.Unmarshal([]byte(text), &doc); err != nil {
				t.Errorf("%s: %v", name, err)
			}
			if scripts = scriptsOf(doc, ""); len(scripts) == 0 {
				t.Errorf("%s has no script", name)
			}
		case ".sh":
			scripts = []string{text}
		}
		for _, s := range scripts {
			cmd := exec.CommandContext(t.Context(), "sh", "-n")
			cmd.Stdin = strings.NewReader(s)
			var errs bytes.Buffer
			cmd.Stderr = &errs
			if err := cmd.Run(); err != nil {
				t.Errorf("%s: %v\n%s\n%s", name, err, &errs, s)
			}
		}
	}
}

var (
	// invocation is a command line of cairn in a script, or in code of a page.
	invocation = regexp.MustCompile("(?m)(?:^|[`(;&|-] |`|: |\\s{2,})cairn ([a-z][^\n`;&|)]*)")
	// variable is one of ours, whole or the beginning of several.
	variable = regexp.MustCompile(`\bCAIRN_[A-Z_]+`)
)

func TestPipelinesUseCommandsAndFlagsThatExist(t *testing.T) {
	checked := 0
	for name, text := range pipelines(t) {
		text = strings.ReplaceAll(text, "\\\n", " ")
		for _, m := range invocation.FindAllStringSubmatch(text, -1) {
			args := strings.Fields(m[1])
			cmd, rest, err := commands()[0].Find(args)
			if err != nil || !cmd.HasParent() {
				t.Errorf("%s: cairn %s: %v", name, m[1], err)
				continue
			}
			checked++
			for _, arg := range rest {
				flag, isFlag := strings.CutPrefix(strings.Trim(arg, `"'`), "--")
				flag, _, _ = strings.Cut(flag, "=")
				if isFlag && cmd.Flag(flag) == nil {
					t.Errorf("%s: %s has no --%s", name, cmd.CommandPath(), flag)
				}
			}
		}
	}
	if checked < 2*len(ci.Systems()) {
		t.Errorf("only %d commands were found", checked)
	}
}

func TestPipelinesUseVariablesThatExist(t *testing.T) {
	known := map[string]bool{}
	for _, name := range ci.FactNames() {
		known[name] = true
	}
	for _, c := range commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) { known[variables.Name(f)] = true })
		c.PersistentFlags().VisitAll(func(f *pflag.Flag) { known[variables.Name(f)] = true })
	}
	for name, text := range pipelines(t) {
		for _, v := range variable.FindAllString(text, -1) {
			if !known[v] {
				t.Errorf("%s: nothing reads %s", name, v)
			}
		}
	}
}

// A flag of such a name would be set by what ci-env tells scripts.
func TestNoFlagIsNamedLikeAFactOfARun(t *testing.T) {
	facts := ci.FactNames()
	for _, c := range commands() {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			if slices.Contains(facts, variables.Name(f)) || strings.HasPrefix(f.Name, "ci-") {
				t.Errorf("%s --%s", c.CommandPath(), f.Name)
			}
		})
	}
}

// Whatever ci-env assigns for builds, they read.
func TestEverySettingOfARunIsAFlagsVariable(t *testing.T) {
	known := map[string]bool{"DOCKER_CONFIG": true, "OTEL_RESOURCE_ATTRIBUTES": true}
	for _, c := range commands() {
		if c.Name() == "build" {
			c.InheritedFlags().VisitAll(func(f *pflag.Flag) { known[variables.Name(f)] = true })
			c.LocalFlags().VisitAll(func(f *pflag.Flag) { known[variables.Name(f)] = true })
		}
	}
	env := map[string]string{
		"GITLAB_CI": "true", "CI_REGISTRY_IMAGE": "registry.example.com/a", "CI_JOB_URL": "https://a/b", "WERF_SYNCHRONIZATION": "kubernetes://a",
		"WERF_DIR": "a", "WERF_DEV": "1", "WERF_PARALLEL_TASKS_LIMIT": "2", "WERF_LOG_DEBUG": "1",
	}
	r, err := ci.Derive(ci.Surroundings{
		Getenv:   func(name string) string { return env[name] },
		ReadFile: func(string, int64) ([]byte, error) { return nil, os.ErrNotExist },
		Ledger:   func(string) string { return ":local" },
	}, ci.Request{})
	if err != nil {
		t.Fatal(err)
	}
	for _, a := range r.Assignments {
		if !a.Fact && !known[a.Name] {
			t.Errorf("no build reads %s", a.Name)
		}
	}
}
