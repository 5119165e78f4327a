package cli

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"io"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

const docs = root + "/docs"

// validate checks a JSON document against a schema.
func validate(schema string, doc []byte) error {
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(doc))
	if err != nil {
		return err
	}
	return validateValue(schema, v)
}

func validateValue(schema string, v any) error {
	s, err := jsonschema.NewCompiler().Compile(schema)
	if err != nil {
		return fmt.Errorf("schema %s: %w", schema, err)
	}
	return s.Validate(v)
}

// commands returns all commands, each after the one that it belongs to.
func commands() []*cobra.Command {
	a := &app{Process: Process{In: strings.NewReader(""), Out: io.Discard, Err: io.Discard, Env: func(string) (string, bool) { return "", false }}}
	var out []*cobra.Command
	var visit func(c *cobra.Command)
	visit = func(c *cobra.Command) {
		out = append(out, c)
		for _, sub := range c.Commands() {
			visit(sub)
		}
	}
	visit(a.root())
	return out
}

func TestEveryCommandIsExplained(t *testing.T) {
	for _, c := range commands() {
		if c.Short == "" || c.Long == "" || c.Example == "" {
			t.Errorf("%s lacks a short text, a long text or an example", c.CommandPath())
		}
		if c.Hidden {
			t.Errorf("%s is hidden", c.CommandPath())
		}
		if strings.HasSuffix(c.Short, ".") {
			t.Errorf("%s: the short text ends with a full stop", c.CommandPath())
		}
		c.LocalFlags().VisitAll(func(f *pflag.Flag) {
			if f.Usage == "" || f.Hidden {
				t.Errorf("%s --%s is hidden or not explained", c.CommandPath(), f.Name)
			}
		})
		for line := range strings.Lines(c.Example) {
			if !strings.HasPrefix(line, "  ") && strings.TrimSpace(line) != "" {
				t.Errorf("%s: the example %q is not indented", c.CommandPath(), line)
			}
		}
	}
}

// Two commands whose flags of one name mean different things would share a variable.
func TestAVariableBelongsToOneFlag(t *testing.T) {
	said := map[string]string{}
	for _, c := range commands() {
		c.LocalNonPersistentFlags().VisitAll(func(f *pflag.Flag) {
			if !variables.Has(f) || strings.HasPrefix(c.CommandPath(), "cairn completion") {
				return
			}
			if other, ok := said[variables.Name(f)]; ok && other != f.Usage {
				t.Errorf("%s is %q and %q", variables.Name(f), other, f.Usage)
			}
			said[variables.Name(f)] = f.Usage
		})
	}
}

func TestTheReferenceOfCommandsIsFresh(t *testing.T) {
	golden(t, filepath.Join(docs, "reference", "cli.md"), reference(commands()))
}

// reference writes the commands as Markdown.
func reference(list []*cobra.Command) string {
	var b strings.Builder
	b.WriteString("<!-- Written by go test ./cmd/internal/cli -update; do not edit. -->\n# Command line\n\n")
	root := list[0]
	b.WriteString(root.Long + "\n\nResults go to standard output, everything else to standard error. [Exit codes](exit-codes.md) say how it ended;\n")
	b.WriteString("with `--output json` a failure is told on standard output as well, as `error` with `message`, `hint` and `exit`.\n\n")
	b.WriteString("Progress is live rows on a terminal and plain lines elsewhere, or where `CI` is set or `TERM` is `dumb`.\n`NO_COLOR` turns colours off.\n\n")
	b.WriteString("## Global flags\n\n" + flagTable(root.PersistentFlags()))
	for _, c := range list[1:] {
		if strings.HasPrefix(c.CommandPath(), "cairn completion ") {
			continue // one for each shell, all alike
		}
		fmt.Fprintf(&b, "\n## %s\n\n%s.\n\n", c.CommandPath(), c.Short)
		if c.Name() == "completion" {
			b.WriteString("`cairn completion bash|zsh|fish|powershell` prints the script for a shell, which offers commands, flags, their\nvalues and the images of the project.\n")
		} else {
			b.WriteString(c.Long + "\n")
		}
		if c.Runnable() && !c.HasSubCommands() {
			fmt.Fprintf(&b, "\n```\n%s\n```\n", c.UseLine())
		}
		fmt.Fprintf(&b, "\n```sh\n%s\n```\n", unindent(c.Example))
		if t := flagTable(c.LocalNonPersistentFlags()); t != "" {
			b.WriteString("\n" + t)
		}
	}
	return b.String()
}

func unindent(s string) string {
	lines := strings.Split(s, "\n")
	for i, l := range lines {
		lines[i] = strings.TrimPrefix(l, "  ")
	}
	return strings.Join(lines, "\n")
}

func flagTable(flags *pflag.FlagSet) string {
	var rows strings.Builder
	flags.VisitAll(func(f *pflag.Flag) {
		if !variables.Has(f) {
			return
		}
		value, usage := pflag.UnquoteUsage(f)
		if value != "" {
			value = " " + value
		}
		def := ""
		if f.DefValue != "" && f.DefValue != "[]" { // an empty list
			def = "`" + f.DefValue + "`"
		}
		fmt.Fprintf(&rows, "| `--%s%s` | `%s` | %s | %s |\n", f.Name, value, variables.Name(f), def, strings.ReplaceAll(usage, "|", "\\|"))
	})
	if rows.Len() == 0 {
		return ""
	}
	return "| flag | variable | default | meaning |\n|---|---|---|---|\n" + rows.String()
}

// exitCodes reads the constants with their comments.
func exitCodes(t *testing.T) [][2]string {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "exit.go", nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	var out [][2]string
	ast.Inspect(file, func(n ast.Node) bool {
		v, ok := n.(*ast.ValueSpec)
		if ok && len(v.Values) == 1 && strings.HasPrefix(v.Names[0].Name, "exit") {
			if lit, ok := v.Values[0].(*ast.BasicLit); ok {
				out = append(out, [2]string{lit.Value, strings.TrimSpace(v.Comment.Text())})
			}
		}
		return true
	})
	return out
}

func TestExitCodesAreDocumented(t *testing.T) {
	b, err := os.ReadFile(filepath.Join(docs, "reference", "exit-codes.md"))
	if err != nil {
		t.Fatal(err)
	}
	var got [][2]string
	for _, m := range regexp.MustCompile(`(?m)^\| (\d+) \| ([^|]+) \|`).FindAllStringSubmatch(string(b), -1) {
		got = append(got, [2]string{m[1], strings.TrimSpace(m[2])})
	}
	if want := exitCodes(t); !slices.Equal(got, want) {
		t.Errorf("the page has\n%q\nthe program\n%q", got, want)
	}
}

func TestTheReportFitsItsSchema(t *testing.T) {
	schema := filepath.Join(docs, "report.schema.json")
	d := stages.DigestOf([]byte("x"))
	for name, doc := range map[string]any{
		"complete": buildDocument{Report: &build.Report{
			Project: "shop", Root: d, Kept: []stages.Digest{d},
			Images: []build.ImageReport{{Name: "", Platform: "linux/arm64/v8", Stages: []build.StageReport{{Name: "from", Digest: d, Result: build.ResultAdopted}}}},
			Needed: []build.ImageReport{{Name: "lib", Platform: "linux/arm64/v8", Stages: []build.StageReport{{Name: "from", Digest: d, Result: build.ResultCached}}}},
		}},
		"failed":                 buildDocument{Report: &build.Report{Project: "shop", Root: d, Images: []build.ImageReport{}}, Error: &failure{Message: "no", Exit: exitStorage}},
		"failed before the plan": buildDocument{Error: &failure{Message: "no", Hint: "yes", Exit: exitConfig, Problems: []problem{{File: "cairn.yaml", Line: 1, Message: "no"}}}},
	} {
		t.Run(name, func(t *testing.T) {
			b, err := json.Marshal(doc)
			if err != nil {
				t.Fatal(err)
			}
			if err := validate(schema, b); err != nil {
				t.Errorf("%s: %v", b, err)
			}
		})
	}
	for _, bad := range []string{`{}`, `{"project":"shop"}`, `{"error":{"message":"x","exit":0}}`, `{"error":{"message":"x","exit":1},"more":1}`} {
		if validate(schema, []byte(bad)) == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}

// expression is one that stands for a value inside of a line.
var expression = regexp.MustCompile(`\{\{ [^}]*\}\}`)

// documents reads a configuration in which expressions only stand for values.
func documents(path string) ([]any, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var out []any
	for d := yaml.NewDecoder(bytes.NewReader(expression.ReplaceAll(b, []byte("x")))); ; {
		var doc any
		err := d.Decode(&doc)
		if errors.Is(err, io.EOF) {
			return out, nil
		}
		if err != nil {
			return nil, err
		}
		// As JSON has it: keys are strings and numbers are numbers.
		js, err := json.Marshal(doc)
		if err != nil {
			return nil, err
		}
		v, err := jsonschema.UnmarshalJSON(bytes.NewReader(js))
		if err != nil {
			return nil, err
		}
		out = append(out, v)
	}
}

func TestSamplesFitTheSchemaOfConfigurations(t *testing.T) {
	samples, err := filepath.Glob(filepath.Join(root, "hack", "samples", "*", "cairn.yaml"))
	if err != nil || len(samples) == 0 {
		t.Fatalf("no samples: %v", err)
	}
	for _, path := range samples {
		if name := filepath.Base(filepath.Dir(path)); name == "templates" {
			continue // it is no YAML before it is rendered
		}
		docs, err := documents(path)
		if err != nil {
			t.Fatalf("%s: %v", path, err)
		}
		for i, doc := range docs {
			if err := validateValue(filepath.Join(root, "docs", "cairn.schema.json"), doc); err != nil {
				t.Errorf("%s, document %d: %v", path, i+1, err)
			}
		}
	}
}

func TestTheSchemaOfConfigurationsRefusesWhatCairnRefuses(t *testing.T) {
	for _, bad := range []string{
		`{"project":"Shop"}`, `{"image":"a"}`, `{"image":"a","from":"b","fromImage":"c"}`, `{"image":"a","from":"b","shel":{}}`,
		`{"image":"a","from":"b","git":[{"add":"/"}]}`,
	} {
		if validate(filepath.Join(docs, "cairn.schema.json"), []byte(bad)) == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
}
