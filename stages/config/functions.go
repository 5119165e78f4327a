package config

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path"
	"regexp"
	"slices"
	"strings"
	"text/template"

	"github.com/Masterminds/sprig/v3"
	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"
)

// callError is what a template function says itself; it is shown without
// text/template's words around it.
type callError struct{ message, hint string }

func (e *callError) Error() string { return e.message }

// outsideError carries a failure of [Files] through a template execution.
type outsideError struct{ err error }

func (e *outsideError) Error() string { return e.err.Error() }
func (e *outsideError) Unwrap() error { return e.err }

// sprigFunctions are the functions taken from sprig: those whose result depends
// on their arguments alone. It is a list of what is allowed, so that a function
// which a later sprig adds does not come in unseen.
//
// Not taken: clock (now, ago, date…, toDate and unixEpoch go by the local time
// zone), chance (rand…, uuidv4, shuffle, gen…, bcrypt, htpasswd, encryptAES), machine (env,
// expandenv, getHostByName, os… paths), secrets (derivePassword, decryptAES,
// buildCustomCert), and keys and values, whose order is that of a Go map.
func sprigFunctions() []string {
	return strings.Fields(`
		abbrev abbrevboth trunc trim upper lower title untitle substr repeat trimall trimAll trimSuffix
		trimPrefix nospace initials swapcase snakecase camelcase kebabcase wrap wrapWith contains hasPrefix
		hasSuffix quote squote cat indent nindent replace plural sha1sum sha256sum sha512sum adler32sum toString
		atoi int64 int float64 seq toDecimal split splitList splitn toStrings until untilStep
		add1 add sub div mod mul add1f addf subf divf mulf biggest max min maxf minf ceil floor round
		join sortAlpha default empty coalesce all any compact mustCompact
		fromJson toJson toPrettyJson toRawJson mustFromJson mustToJson mustToPrettyJson mustToRawJson
		ternary deepCopy mustDeepCopy typeOf typeIs typeIsLike kindOf kindIs deepEqual duration
		base dir clean ext isAbs b64enc b64dec b32enc b32dec
		tuple list dict get set unset hasKey pluck pick omit merge mergeOverwrite mustMerge mustMergeOverwrite
		append push mustAppend mustPush prepend mustPrepend first mustFirst rest mustRest last mustLast
		initial mustInitial reverse mustReverse uniq mustUniq without mustWithout has mustHas slice mustSlice
		concat dig chunk mustChunk semver semverCompare
		regexMatch mustRegexMatch regexFindAll mustRegexFindAll regexFind mustRegexFind
		regexReplaceAll mustRegexReplaceAll regexReplaceAllLiteral mustRegexReplaceAllLiteral
		regexSplit mustRegexSplit regexQuoteMeta urlParse urlJoin`)
}

// functions returns all that templates can call. Each is guarded; see [renderer.guard].
func (r *renderer) functions() template.FuncMap {
	all := sprig.GenericFuncMap()
	taken := make(template.FuncMap)
	for _, name := range sprigFunctions() {
		taken[name] = all[name]
	}
	maps.Copy(taken, template.FuncMap{
		"env": r.getenv, "required": required, "fail": fail,
		"keys": sortedKeys, "values": sortedValues, "toYaml": toYAML, "fromYaml": fromYAML,
		// text/template's own, replaced to have their results bounded.
		"print": fmt.Sprint, "println": fmt.Sprintln, "printf": r.printf,
		"html": template.HTMLEscaper, "js": template.JSEscaper, "urlquery": template.URLQueryEscaper,
		"include": r.include, "tpl": r.tpl,
	})
	for name, f := range taken {
		taken[name] = r.guard(name, f)
	}
	taken[markFunction] = r.onMark
	return taken
}

// getenv returns an environment variable that the project allows; the second
// argument stands in for one that is not set or empty.
func (r *renderer) getenv(name string, instead ...string) (string, error) {
	if !r.env.has(name) {
		hint := "add it to env: in the project document; it then becomes part of what the build depends on"
		if DialectOf(r.in.Path) == DialectWerf {
			hint = "add it to config.goTemplateRendering.allowEnvVariables in " + giterminismFile
		}
		return "", &callError{message: fmt.Sprintf("env: the variable %q is not allowed", name), hint: hint}
	}
	if r.in.Env != nil {
		if v, ok := r.in.Env(name); ok && v != "" {
			return v, nil
		}
	}
	return strings.Join(instead[:min(len(instead), 1)], ""), nil
}

// required returns v, or fails with message when v is nil or "".
func required(message string, v any) (any, error) {
	if v == nil || v == "" {
		return nil, &callError{message: cmp.Or(message, "a required value is missing")}
	}
	return v, nil
}

func fail(message string) (string, error) {
	return "", &callError{message: cmp.Or(message, "fail was called without a message")}
}

func sortedKeys(dicts ...map[string]any) []string {
	var out []string
	for _, d := range dicts {
		out = append(out, slices.Sorted(maps.Keys(d))...)
	}
	return out
}

// sortedValues returns the values in the order of their keys.
func sortedValues(d map[string]any) []any {
	out := make([]any, 0, len(d))
	for _, k := range slices.Sorted(maps.Keys(d)) {
		out = append(out, d[k])
	}
	return out
}

func toYAML(v any) (string, error) {
	var b bytes.Buffer
	e := yaml.NewEncoder(&b)
	e.SetIndent(2)
	if err := e.Encode(v); err != nil {
		return "", err
	}
	return strings.TrimSuffix(b.String(), "\n"), e.Close()
}

func fromYAML(text string) (any, error) {
	if len(text) > maxSource {
		return nil, &callError{message: fmt.Sprintf("fromYaml takes at most %d bytes", maxSource)}
	}
	var v any
	err := yaml.Unmarshal([]byte(text), &v)
	return v, err
}

// refusedFormat matches what would make printf's result depend on the machine
// (addresses) or grow out of all proportion (widths).
var refusedFormat = regexp.MustCompile(`%[-+# \[\].\d]*(p|\*|\d{4})`)

func (r *renderer) printf(format string, args ...any) (string, error) {
	if refusedFormat.MatchString(format) || len(format) > maxRendered/128 {
		return "", &callError{message: "printf: %p, widths of 1000 and more, and widths from arguments are not supported"}
	}
	return fmt.Sprintf(format, args...), nil
}

// templateFiles is .Files in templates.
type templateFiles struct{ r *renderer }

// Format implements [fmt.Formatter]: what a template prints never shows an address.
func (templateFiles) Format(s fmt.State, _ rune) { _, _ = s.Write([]byte("Files")) }

// Get returns the content of a file of the commit.
func (f templateFiles) Get(name string) (string, error) {
	clean, err := insideTree(name)
	if err != nil {
		return "", err
	}
	return f.read(clean)
}

func (f templateFiles) read(name string) (string, error) {
	b, err := f.r.in.Files.Read(f.r.ctx, name)
	if errors.Is(err, fs.ErrNotExist) {
		return "", &callError{message: fmt.Sprintf(".Files: there is no file %q", name), hint: "only committed files are seen; paths are relative to the configuration file"}
	}
	if err != nil {
		return "", &outsideError{fmt.Errorf("read %s for a template: %w", name, err)}
	}
	if len(b) > maxRendered {
		return "", &callError{message: fmt.Sprintf(".Files: %s has %d bytes; at most %d are read", name, len(b), maxRendered)}
	}
	return string(b), f.r.step(1 + len(b)/bytesPerStep)
}

// Glob returns the content of the files that match pattern, by their paths.
func (f templateFiles) Glob(pattern string) (map[string]any, error) {
	pattern, err := insideTree(pattern)
	if err != nil {
		return nil, err
	}
	if !doublestar.ValidatePattern(pattern) {
		return nil, &callError{message: fmt.Sprintf(".Files: the pattern %q is malformed", shorten(pattern))}
	}
	paths, err := f.r.in.Files.Glob(f.r.ctx, pattern)
	if err != nil {
		return nil, &outsideError{fmt.Errorf("list %s for a template: %w", pattern, err)}
	}
	out := make(map[string]any, len(paths))
	size := 0
	for _, p := range paths {
		text, err := f.read(p)
		if err != nil {
			return nil, err
		}
		if size += len(text); size > maxRendered {
			return nil, &callError{message: fmt.Sprintf(".Files: the files that match %q have more than %d bytes", pattern, maxRendered)}
		}
		out[p] = text
	}
	return out, nil
}

// insideTree cleans a path that a template gives; "/" means the project directory.
func insideTree(name string) (string, error) {
	clean := path.Clean(strings.TrimLeft(name, "/"))
	if !fs.ValidPath(clean) {
		return "", &callError{message: fmt.Sprintf(".Files: the path %q leaves the project directory", name)}
	}
	return clean, nil
}

// noFiles is a commit without other files.
type noFiles struct{}
