package config

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"regexp"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// giterminismFile is where werf keeps the names that templates may read.
const giterminismFile = "werf-giterminism.yaml"

// allowance says which environment variables templates may read.
type allowance struct {
	names []string
	// patterns match whole names; only werf's file has them.
	patterns []*regexp.Regexp
}

func (a allowance) has(name string) bool {
	return slices.Contains(a.names, name) ||
		slices.ContainsFunc(a.patterns, func(p *regexp.Regexp) bool { return p.MatchString(name) })
}

// allowedEnv returns what the committed files let templates read. It has to know
// that before the templates run.
func allowedEnv(ctx context.Context, in Input, d Dialect, problems *collector) (allowance, error) {
	if d == DialectWerf {
		return giterminismEnv(ctx, in)
	}
	return allowance{names: literalEnv(string(in.Data), problems)}, nil
}

// literalEnv reads the top-level key env of the first document as it stands in
// the file. Template expressions in it are errors, and [documents] checks that
// the rendered file says the same.
func literalEnv(source string, problems *collector) []string {
	start, block := envBlock(source)
	if block == "" {
		return nil
	}
	t := &rendered{source: source, text: block, segments: []segment{{0, start, true}}, lines: lineStarts(block)}
	if strings.Contains(block, "{{") {
		problems.addf(t.locate(1, 1), "write the names themselves: they are read before templates run", "env: template expressions are not allowed here")
		return nil
	}
	docs := readYAML(t, problems)
	if len(docs) == 0 || len(docs[0].Content) < 2 {
		return nil
	}
	r := &reader{text: t, dialect: DialectCairn, problems: problems}
	var names []string
	r.in(".env", func() { names, _ = envNames().read(r, docs[0].Content[1]) })
	return names
}

// envBlock finds the line that begins with "env:" in the first document, and the
// lines that belong to it.
func envBlock(source string) (start int, block string) {
	begun := false
	offset, end := 0, -1
	for line := range strings.SplitAfterSeq(source, "\n") {
		trimmed := strings.TrimSpace(line)
		separator := trimmed == "---"
		switch {
		case end >= 0 && (separator || !continues(line, trimmed)):
			return start, source[start:end]
		case end >= 0:
			end = offset + len(line)
		case separator && begun:
			return 0, ""
		case strings.HasPrefix(line, "env:"):
			start, end = offset, offset+len(line)
		case trimmed != "" && !separator && !strings.HasPrefix(trimmed, "#"):
			begun = true
		}
		offset += len(line)
	}
	if end < 0 {
		return 0, ""
	}
	return start, source[start:end]
}

// continues reports whether a line belongs to the key above it.
func continues(line, trimmed string) bool {
	return trimmed == "" || strings.ContainsRune(" \t-#", rune(line[0])) || trimmed == "]"
}

// giterminismEnv reads config.goTemplateRendering.allowEnvVariables.
func giterminismEnv(ctx context.Context, in Input) (allowance, error) {
	b, err := in.Files.Read(ctx, giterminismFile)
	if errors.Is(err, fs.ErrNotExist) {
		return allowance{}, nil
	}
	if err != nil {
		return allowance{}, fmt.Errorf("read %s: %w", giterminismFile, err)
	}
	problems := &collector{file: giterminismFile}
	if len(b) > maxSource {
		problems.addf(place{line: 1}, "", "the file has %d bytes; at most %d are read", len(b), maxSource)
		return allowance{}, problems.err()
	}
	source := string(b)
	t := &rendered{source: source, text: source, segments: []segment{{0, 0, true}}, lines: lineStarts(source)}
	r := &reader{text: t, dialect: DialectWerf, problems: problems}
	var out allowance
	for _, doc := range readYAML(t, problems) {
		if n := r.descend(doc, "config", "goTemplateRendering", "allowEnvVariables"); n != nil {
			got, _ := listOf(giterminismName(&out)).read(r, n)
			out.names = append(out.names, slices.DeleteFunc(got, func(s string) bool { return s == "" })...)
		}
	}
	return out, problems.err()
}

// giterminismName reads a name, or a pattern between slashes, which goes to out.
func giterminismName(out *allowance) value[string] {
	return checked(text(), "a name or a /pattern/", func(s string) (string, error) {
		if len(s) < 2 || !strings.HasPrefix(s, "/") || !strings.HasSuffix(s, "/") {
			return s, nil
		}
		p, err := regexp.Compile("^(?:" + s[1:len(s)-1] + ")$")
		if err != nil {
			return "", fmt.Errorf("%q is no pattern: %w", shorten(s), err)
		}
		out.patterns = append(out.patterns, p)
		return "", nil
	})
}

// descend follows keys of mappings and returns nil where one is missing. Other
// keys are not looked at.
func (r *reader) descend(n *yaml.Node, keys ...string) *yaml.Node {
	for _, k := range keys {
		pairs, ok := r.pairs(n, "a mapping")
		i := slices.IndexFunc(pairs, func(p pair) bool { return p.key.Value == k })
		if !ok || i < 0 {
			return nil
		}
		n = pairs[i].value
	}
	return n
}
