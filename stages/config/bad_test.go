package config_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/Masterminds/sprig/v3"

	"github.com/cairnbuild/cairn/stages/config"
)

// problems returns the errors of a file, one line each.
func problems(t *testing.T, err error) []string {
	t.Helper()
	var list *config.Errors
	if !errors.As(err, &list) {
		t.Fatalf("err = %v, want *config.Errors", err)
	}
	var out []string
	for _, e := range list.List {
		out = append(out, e.Error())
	}
	return out
}

func TestEachMistakeIsReportedAtItsPlace(t *testing.T) {
	for _, c := range badFiles() {
		t.Run(c.name, func(t *testing.T) {
			_, err := load(t, "cairn.yaml", c.data, nil, nil)
			if got := problems(t, err); !slices.Equal(got, c.want) {
				t.Errorf("%s\ngot:  %q\nwant: %q", c.data, got, c.want)
			}
		})
	}
}

func TestWerfKeysOutsideTheSubsetNameTheEquivalent(t *testing.T) {
	const file = `project: p
configVersion: 1
deploy: {}
cleanup: {keepBuiltWithinLastNHours: 1}
gitWorktree: {}
build: {}
env: [A]
---
image: a
from: scratch
git:
- url: https://example.com/x.git
  to: /a
shell: {interpreter: sh}
import:
- artifact: b
  add: /x
  before: install
- from: debian
  image: a
  add: /x
  after: install
mount:
- fromPath: ~/.cache
  to: /cache
- to: /cache
ansible: {}
`
	_, err := load(t, "werf.yaml", file, nil, nil)
	want := []string{
		"werf.yaml:3:1: deploy is not supported in werf.yaml",
		`werf.yaml:4:11: cleanup: unknown key "keepBuiltWithinLastNHours"`,
		"werf.yaml:5:1: gitWorktree is not supported in werf.yaml",
		"werf.yaml:6:1: build is not supported in werf.yaml",
		`werf.yaml:7:1: unknown key "env" in the project document`,
		`werf.yaml:14:9: shell: unknown key "interpreter"`,
		"werf.yaml:16:3: import[0]: import.artifact is not supported",
		"werf.yaml:19:3: import[1]: import.from is not supported in werf.yaml",
		"werf.yaml:20:10: import[1].image: the images need each other: a → a",
		"werf.yaml:24:3: mount[0]: mount.fromPath is not supported: a directory of one host makes builds differ",
		`werf.yaml:26:3: mount[1]: the key "from" is missing`,
		"werf.yaml:27:1: ansible is not supported",
	}
	if got := problems(t, err); !slices.Equal(got, want) {
		t.Errorf("got  %q\nwant %q", got, want)
	}
	var list *config.Errors
	if errors.As(err, &list) {
		for _, e := range list.List {
			if e.Hint == "" && !strings.Contains(e.Message, "each other") && !strings.Contains(e.Message, "is missing") {
				t.Errorf("no hint: %v", e)
			}
		}
	}
}

func TestErrorsInTemplateFilesNameThem(t *testing.T) {
	for name, c := range map[string]struct {
		files tree
		want  string
	}{
		"parsing":   {tree{".cairn/a/b.tmpl": "\n{{ if }}"}, ".cairn/a/b.tmpl:2: template: missing value for if"},
		"executing": {tree{".cairn/a/b.tmpl": "{{ define \"x\" }}\n\n  {{ fail \"oh\" }}{{ end }}"}, ".cairn/a/b.tmpl:3:6: oh"},
		"too large": {tree{".cairn/b.tmpl": strings.Repeat(" ", 1<<20+1)}, ".cairn/b.tmpl:1: the template has 1048577 bytes; at most 1048576 are read"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := load(t, "cairn.yaml", doc("image: a\nfrom: {{ template \"x\" }}"), c.files, nil)
			if got := problems(t, err); !slices.Equal(got, []string{c.want}) {
				t.Errorf("got %q, want %q", got, c.want)
			}
		})
	}
}

func TestHostileFilesAreRefusedSoon(t *testing.T) {
	bomb := func(n int) string {
		var b strings.Builder
		b.WriteString("image: a\nfrom: scratch\n")
		fmt.Fprintf(&b, "x0: &x0 {a: b}\n")
		for i := 1; i <= n; i++ {
			fmt.Fprintf(&b, "x%d: &x%d {<<: [%s]}\n", i, i, strings.TrimSuffix(strings.Repeat(fmt.Sprintf("*x%d, ", i-1), 9), ", "))
		}
		fmt.Fprintf(&b, "docker: {LABEL: *x%d}\n", n)
		return doc(b.String())
	}
	images := func(n int) string {
		var b strings.Builder
		b.WriteString("project: p\n{{ range until 4000 }}---\nimage: i{{ . }}\nfrom: scratch\nbad: 1\n{{ end }}")
		return b.String()
	}
	deep := func(before, recursion, after string) string {
		return "{{template \"x\"}}{{define \"x\"}}" + before + recursion + after + "{{end}}"
	}
	for name, data := range map[string]string{
		"a file that is too large":             "project: p\n" + strings.Repeat("#", 1<<20),
		"a bomb of merged aliases":             bomb(9),
		"an alias of its own parent":           doc("image: a\nfrom: scratch\ndocker: &d {LABEL: {<<: *d}}"),
		"deep nesting":                         doc("image: " + strings.Repeat("[", 100_000)),
		"deeply nested templates":              strings.Repeat("{{if true}}", 90_000),
		"deeply nested parentheses":            "{{" + strings.Repeat("(", 500_000) + "}}",
		"a loop in a loop":                     doc("image: a\nfrom: {{ $l := until 20000 }}{{ range $l }}{{ range $l }}{{ end }}{{ end }}"),
		"a string that doubles itself":         doc("image: a\nfrom: {{ $s := \"xxxxxxxx\" }}{{ range until 60 }}{{ $s = print $s $s }}{{ end }}"),
		"a list that doubles itself":           doc("image: a\nfrom: {{ $s := list 1 }}{{ range until 60 }}{{ $s = concat $s $s }}{{ end }}"),
		"a replacement of nothing by much":     doc("image: a\nfrom: {{ $s := repeat 100000 \"x\" }}{{ replace \"\" $s $s }}"),
		"a join of much":                       doc("image: a\nfrom: {{ join (repeat 100000 \"x\") (until 10000) }}"),
		"a step of nothing":                    doc("image: a\nfrom: {{ untilStep 0 10 0 }}"),
		"a width":                              doc("image: a\nfrom: {{ printf \"%999999999d\" 1 }}"),
		"a width from an argument":             doc("image: a\nfrom: {{ printf \"%*d\" 999999999 1 }}"),
		"an address":                           doc("image: a\nfrom: {{ printf \"%p\" .Files }}"),
		"much output":                          doc("image: a\nfrom: {{ $s := repeat 1000000 \"x\" }}{{ range until 100 }}{{ $s }}{{ end }}"),
		"a mark in the middle of a template":   doc("image: a\nfrom: {{ _mark 7000 }}"),
		"a tpl inside of tpl":                  doc("image: a\nfrom: {{ $t := \"{{ tpl . . }}\" }}{{ tpl $t $t }}"),
		"a recursion of the file itself":       doc("image: a\nfrom: {{ include \"cairn.yaml\" . }}"),
		"a recursion through many blocks":      doc("image: a\nfrom: x" + deep(strings.Repeat("{{if true}}", 50_000), "{{template \"x\"}}", strings.Repeat("{{end}}", 50_000))),
		"a recursion through many parentheses": doc("image: a\nfrom: x" + deep("{{"+strings.Repeat("(", 9_000), "include \"x\"", strings.Repeat(")", 9_000)+"}}")),
		"many wrong images":                    images(4000),
	} {
		t.Run(name, func(t *testing.T) {
			begin := time.Now()
			_, err := load(t, "cairn.yaml", data, nil, nil)
			if list := problems(t, err); len(list) > 100 || len(err.Error()) > 100_000 {
				t.Errorf("%d errors with %d bytes", len(list), len(err.Error()))
			}
			if took := time.Since(begin); took > 10*time.Second {
				t.Errorf("took %s", took)
			}
		})
	}
}

// impure are sprig's functions that templates must not have; see the reasons at
// the list of those they have.
func impure() []string {
	return strings.Fields(`ago date date_in_zone date_modify dateInZone dateModify durationRound htmlDate htmlDateInZone
		must_date_modify mustDateModify mustToDate now toDate unixEpoch
		randAlphaNum randAlpha randAscii randNumeric randInt randBytes shuffle uuidv4
		expandenv getHostByName osBase osClean osDir osExt osIsAbs hello
		bcrypt htpasswd genPrivateKey derivePassword buildCustomCert genCA genCAWithKey genSelfSignedCert
		genSelfSignedCertWithKey genSignedCert genSignedCertWithKey encryptAES decryptAES`)
}

func TestEverySprigFunctionIsEitherAllowedOrKnownToBeImpure(t *testing.T) {
	all := sprig.GenericFuncMap()
	for name := range all {
		_, err := load(t, "cairn.yaml", "{{ if false }}{{ "+name+" }}{{ end }}"+doc("image: a\nfrom: scratch"), nil, nil)
		switch refused := slices.Contains(impure(), name); {
		case refused && err == nil:
			t.Errorf("%s is impure and exists", name)
		case !refused && err != nil:
			t.Errorf("%s is neither allowed nor known to be impure: %v", name, err)
		}
	}
	for _, name := range impure() {
		if all[name] == nil {
			t.Errorf("%s is no function of sprig", name)
		}
	}
}

func TestFunctionsGiveTheSameResultEachTime(t *testing.T) {
	const text = `{{ $d := dict "a" 1 "b" 2 "c" 3 "d" 4 "e" 5 }}{{ keys $d | join "" }}{{ values $d | join "" }}{{ env "UNSET" "x" }}{{ env "SET" }}`
	for range 20 {
		p := mustLoad(t, "cairn.yaml", "project: p\nenv:\n# why\n- UNSET\n\n- SET\n---\nimage: a\nfrom: "+text, nil, map[string]string{"SET": "y"})
		if got := p.Images[0].From; got != "abcde12345xy" {
			t.Fatalf("from %q", got)
		}
	}
}

func TestFilesOfTheCommitCanBeRead(t *testing.T) {
	files := tree{"conf/a.txt": "A", "conf/b/c.txt": "C", "other": "O"}
	p := mustLoad(t, "cairn.yaml", doc(`image: a
from: scratch
docker:
  LABEL:
    get: {{ .Files.Get "/other" }}
{{- range $path, $text := .Files.Glob "conf/**" }}
    {{ $path }}: {{ tpl "{{ . | lower }}" $text }}
{{- end }}
    me: {{ print .Files }}`), files, nil)
	got, err := json.Marshal(p.Images[0].Docker.Labels)
	if want := `{"conf/a.txt":"a","conf/b/c.txt":"c","get":"O","me":"Files"}`; err != nil || string(got) != want {
		t.Errorf("labels %s, want %s", got, want)
	}
}

func TestTheDecoderKnowsEveryKeyOfTheSchema(t *testing.T) {
	b, err := config.Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema map[string]any
	if err := json.Unmarshal(b, &schema); err != nil {
		t.Fatal(err)
	}
	defs, _ := schema["$defs"].(map[string]any)
	seen := 0
	for name, wrap := range map[string]func(string) string{
		"project": func(s string) string { return s + "\n" },
		"image":   func(s string) string { return "project: p\n---\n" + s + "\n" },
	} {
		walkSchema(defs[name], func(s string) {
			seen++
			_, err := load(t, "cairn.yaml", wrap(s), nil, nil)
			if err != nil && strings.Contains(err.Error(), "unknown key") {
				t.Errorf("%s: %v", s, err)
			}
		}, func(s string) string { return s })
	}
	if seen < 60 {
		t.Errorf("the schema has %d keys only", seen)
	}
}

// walkSchema calls visit with a document for each key that a schema has.
func walkSchema(schema any, visit func(string), nest func(string) string) {
	s, _ := schema.(map[string]any)
	for _, one := range asList(s["anyOf"]) {
		walkSchema(one, visit, nest)
	}
	if items, ok := s["items"]; ok {
		walkSchema(items, visit, func(inner string) string { return nest("[" + inner + "]") })
	}
	properties, _ := s["properties"].(map[string]any)
	for key, value := range properties {
		visit(nest("{" + key + ": }"))
		walkSchema(value, visit, func(inner string) string { return nest("{" + key + ": " + inner + "}") })
	}
}

func asList(v any) []any {
	list, _ := v.([]any)
	return list
}

func FuzzLoad(f *testing.F) {
	for _, c := range badFiles() {
		if !strings.Contains(c.name, "without end") { // slow seeds make slow fuzzing
			f.Add(c.data, false)
		}
	}
	f.Add(doc("image: a\nfrom: scratch\ndocker: {LABEL: {a: {{ .Files.Get \"x\" }}}}"), true)
	files := tree{"x": "X", ".cairn/a.tmpl": "{{ define \"t\" }}{{ . }}{{ end }}", ".werf/a.tmpl": ""}
	f.Fuzz(func(t *testing.T, data string, werf bool) {
		path := map[bool]string{true: "werf.yaml", false: "cairn.yaml"}[werf]
		p, err := load(t, path, data, files, nil)
		if err != nil {
			checkErrors(t, data, err)
			return
		}
		again, err := load(t, path, data, files, nil)
		if err != nil {
			t.Fatalf("loads once only: %v", err)
		}
		a, _ := json.Marshal(p)
		b, _ := json.Marshal(again)
		if string(a) != string(b) {
			t.Errorf("loads as %s and as %s", a, b)
		}
	})
}

// checkErrors has every error stand inside its file.
func checkErrors(t *testing.T, data string, err error) {
	t.Helper()
	var list *config.Errors
	if !errors.As(err, &list) {
		t.Fatalf("err = %v, want *config.Errors", err)
	}
	for _, e := range list.List {
		if e.Line < 1 || e.Line > 1+strings.Count(data, "\n") || e.Column < 0 || e.Message == "" {
			t.Errorf("%+v is outside of the file", e)
		}
	}
}
