package config

import (
	"bytes"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
)

// Schema returns the JSON Schema (draft 2020-12) of one document of a
// cairn.yaml: the project document or an image. It is made from the key tables
// that the reader itself uses.
func Schema() ([]byte, error) {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	err := e.Encode(map[string]any{
		"$schema":     "https://json-schema.org/draft/2020-12/schema",
		"title":       "cairn.yaml",
		"description": "One document of a cairn.yaml, after its templates are rendered.",
		"oneOf":       []any{map[string]any{"$ref": "#/$defs/project"}, map[string]any{"$ref": "#/$defs/image"}},
		"$defs":       map[string]any{"project": projectObject().schema, "image": imageSchema()},
	})
	return b.Bytes(), err
}

// imageSchema adds what the image's own checks demand to its keys.
func imageSchema() map[string]any {
	s := imageObject().schema
	s["required"] = []string{"image"}
	s["oneOf"] = []any{
		map[string]any{"required": []string{"from"}}, map[string]any{"required": []string{"fromImage"}},
		map[string]any{"required": []string{"dockerfile"}},
	}
	return s
}

// Reference returns the reference of all keys as Markdown. It is made from the
// key tables that the reader itself uses.
func Reference() string {
	var b strings.Builder
	b.WriteString(referenceHead)
	referenceTemplates(&b)
	for _, o := range append(projectObject().objects, imageObject().objects...) {
		referenceObject(&b, o)
	}
	referenceWerf(&b)
	return b.String()
}

const referenceHead = `# cairn.yaml

<!-- Generated from the key tables of stages/config: go test ./stages/config -update -->

A project is described by one file with several YAML documents: first the project document, then one document
for each image, divided by lines ` + "`---`" + `. Unknown keys, wrong types and keys that stand twice are errors; all errors
are reported at once, each with its file, line and column. YAML anchors and merge keys (` + "`<<`" + `) work inside one document.

Files of submodules stand at their paths below the submodule, files of Git LFS have their contents; a clone that lacks
them is told what to fetch, unless ` + "`excludePaths`" + ` leaves them out. See [concepts](../concepts.md#submodules-and-git-lfs).

The file's schema for editors is [cairn.schema.json](../cairn.schema.json); it describes one document.

`

func referenceTemplates(b *strings.Builder) {
	b.WriteString(`## Templates

The file is a Go template and is rendered before it is read as YAML. Templates are pure: the same commit gives the
same text on every machine at every time. There is no clock, no chance and no network.

- ` + "`env \"NAME\" [\"DEFAULT\"]`" + ` reads an environment variable, if the project document allows its name under the key ` + "`env`" + `.
  That key is read before templates run: it stands at the beginning of a line of the first document, without template
  expressions. A variable that is not set or empty gives the default, or the empty string.
- ` + "`.Files.Get \"path\"`" + ` is the content of a file of the commit; ` + "`.Files.Glob \"pattern\"`" + ` a map of paths to contents.
  Paths are relative to the configuration file; a leading ` + "`/`" + ` means its directory.
- ` + "`define`, `template`, `include \"name\" DATA`, `tpl TEXT DATA`" + ` work. Files ` + "`.cairn/**/*.tmpl`" + ` of the commit are templates,
  named by their path below ` + "`.cairn`" + `.
- ` + "`required \"message\" VALUE`" + ` and ` + "`fail \"message\"`" + ` end with that message at their line. An expression that prints
  ` + "`<no value>`" + ` is an error.
- ` + "`toYaml`, `fromYaml`" + `, and from the [sprig](https://masterminds.github.io/sprig/) library:
`)
	names := append(sprigFunctions(), "keys", "values")
	slices.Sort(names)
	b.WriteString("  " + wrap("`"+strings.Join(names, "` `")+"`", "\n  ") + ".\n")
	fmt.Fprintf(b, `
%s and %s give their results in the order of the keys. Limits: %d KiB for a file, %d MiB for a rendered text or a value,
%d levels of templates inside each other, %d,000 steps.

`, "`keys`", "`values`", maxSource>>10, maxRendered>>20, maxIncludeDepth, maxSteps/1_000)
}

// wrap breaks a text at spaces into lines of about 110 characters.
func wrap(text, newline string) string {
	var b strings.Builder
	width := 0
	for i, word := range strings.Fields(text) {
		switch {
		case i == 0:
		case width+len(word) > 110:
			b.WriteString(newline)
			width = 0
		default:
			b.WriteByte(' ')
		}
		b.WriteString(word)
		width += len(word) + 1
	}
	return b.String()
}

func referenceObject(b *strings.Builder, o objectInfo) {
	fmt.Fprintf(b, "## %s\n\n%s\n\n", strings.ToUpper(o.title[:1])+o.title[1:], o.doc)
	if o.example != "" {
		fmt.Fprintf(b, "```yaml\n%s```\n\n", o.example)
	}
	b.WriteString("| key | value | default | meaning |\n|---|---|---|---|\n")
	for _, k := range o.keys {
		if !k.knownIn(DialectCairn) {
			continue
		}
		otherwise := k.otherwise
		if k.required {
			otherwise = "required"
		}
		fmt.Fprintf(b, "| `%s` | %s | %s | %s |\n", k.name, cell(k.words), cell(otherwise), cell(k.doc))
	}
	b.WriteString("\n")
	for _, inner := range o.inner {
		referenceObject(b, inner)
	}
}

// cell keeps a text inside its table cell.
func cell(s string) string { return strings.ReplaceAll(strings.ReplaceAll(s, "|", `\|`), "*", `\*`) }

func referenceWerf(b *strings.Builder) {
	b.WriteString(`## werf.yaml

A file named ` + "`werf.yaml` or `werf.yml`" + ` is read as a subset of werf's language with ` + "`configVersion: 1`" + `. What differs from the above:

- Commands run with bash. ` + "`shell.interpreter`, `shell.network`, `env`" + ` and the project's ` + "`platform`" + ` do not exist.
- Template files are ` + "`.werf/**/*.tmpl`" + `. ` + "`env`" + ` is allowed for the names that ` + "`werf-giterminism.yaml`" + ` lists under
  ` + "`config.goTemplateRendering.allowEnvVariables`" + `. ` + "`.Commit`, `.Env`" + ` and functions of the clock or of chance do not exist.
- In ` + "`import`" + `, the source is ` + "`image`" + `.
- In ` + "`mount`" + `, ` + "`from: build_dir`" + ` is a cache that the project's images share by its path, and ` + "`from: tmp_dir`" + ` a tmpfs, which is
  empty for each section; with werf, what one section left there the next one finds.

And what means something else than in werf:

- A command sees only the files that ` + "`stageDependencies`" + ` declares for it; with werf, all files of the mapping are there from
  ` + "`install`" + ` on. A mapping without any ` + "`stageDependencies`" + ` is placed whole before ` + "`install`" + `.
- Files that no command declares are placed after ` + "`setup`" + `, without an archive or patches: there is no history in an image.
- Of two mappings with the same target path the later one wins; it is not an error.
- Nothing is excluded by itself, but ` + "`.git`" + ` is never part of the tree.
- Owner and group of files are 0 unless given.
- Bases are pinned by ` + "`cairn.lock`" + `, and so are branches and tags of ` + "`git.url`" + `, whose submodules are not read.

What is not supported is an error that says what to write instead:

| where | key | instead |
|---|---|---|
`)
	for _, t := range []struct {
		where string
		keys  []refusal
	}{{"project document", projectRefusals()}, {"image", imageRefusals()}, {"git", gitRefusals()}, {"import", importRefusals()}, {"mount", mountRefusals()[:1]}} {
		for _, k := range t.keys {
			fmt.Fprintf(b, "| %s | `%s` | %s |\n", t.where, k.key, cell(k.hint))
		}
	}
}
