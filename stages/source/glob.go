package source

import (
	"strings"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
)

// matcher is a compiled glob. A path matches when the glob matches the path
// itself or a directory above it: "a pattern that names a directory means all
// below it".
//
// Globs are those of doublestar: *, **, ?, [class], {a,b} and \ to escape. Most
// of the globs that people write come down to comparing strings; only the rest
// is left to the general matcher, which is some ten times slower.
type matcher struct {
	// base is the literal directory or file in front, "" for none.
	base string
	form form
	// text is what form compares with, relative to base.
	text string
}

type form uint8

const (
	formLiteral   form = iota // base itself and all below it
	formBelow                 // all below base, not base itself
	formEndsIn                // below base: any component ends in text
	formNamed                 // below base: text is a run of whole components anywhere
	formFirstEnds             // below base: the first component ends in text
	formGeneral               // below base: doublestar with text
)

// maxAlternatives bounds what the {a,b} of a glob multiply to: the general
// matcher tries each of them, and a few lines could keep it busy for ever.
const maxAlternatives = 1000

// alternatives returns how many globs without {a,b} a glob stands for, or a
// number above maxAlternatives. It may count some that are escaped.
func alternatives(p string) int {
	n := 1
	var open []int
	for i := range len(p) {
		switch last := len(open) - 1; {
		case p[i] == '{':
			open = append(open, 1)
		case p[i] == ',' && last >= 0:
			open[last]++
		case p[i] == '}' && last >= 0:
			// Braces without a comma cost a recursion all the same.
			n = min(n*max(open[last], 2), maxAlternatives+1)
			open = open[:last]
		}
	}
	return n
}

const globMeta = `*?[{\`

// compileGlob compiles a pattern. A leading "/" or "./" and a trailing "/" mean
// nothing; the empty pattern and "." match everything.
func compileGlob(pattern string) (matcher, error) {
	p := trimGlob(pattern)
	if !doublestar.ValidatePattern(p) || !utf8.ValidString(p) {
		return matcher{}, &Error{Op: "read glob", Subject: pattern, Class: ErrPattern}
	}
	for part := range strings.SplitSeq(p, "/") {
		if part == ".." {
			return matcher{}, &Error{Op: "read glob", Subject: pattern, Class: ErrPattern, Hint: "a glob cannot leave the directory that is added: no .. in it"}
		}
	}
	if alternatives(p) > maxAlternatives {
		return matcher{}, &Error{Op: "read glob", Subject: pattern, Class: ErrPattern, Hint: "write several globs instead of so many {a,b}"}
	}
	// What is below a directory matches with it, so "x/**" says no more than "x".
	// After another "**" doublestar sees a difference, and a backslash needs what it
	// escapes: those stay as they are.
	if dir, ok := strings.CutSuffix(p, "/**"); ok && !strings.HasSuffix(dir, "**") && !strings.HasSuffix(dir, `\`) {
		p = dir
	}
	if p == "" || p == "." || p == "**" {
		return matcher{}, nil
	}
	base, rest := splitGlob(p)
	return compileRest(base, rest), nil
}

// trimGlob takes away what means nothing in a glob.
func trimGlob(p string) string {
	for strings.Contains(p, "//") {
		p = strings.ReplaceAll(p, "//", "/")
	}
	for {
		q := strings.TrimPrefix(strings.TrimPrefix(p, "./"), "/")
		// An escaped slash is still a slash, but its backslash must not be left behind.
		if !strings.HasSuffix(q, `\/`) {
			q = strings.TrimSuffix(q, "/")
		}
		if q == p {
			return p
		}
		p = q
	}
}

// splitGlob splits off the leading components without special characters.
func splitGlob(p string) (base, rest string) {
	meta := strings.IndexAny(p, globMeta)
	if meta < 0 {
		return p, ""
	}
	slash := strings.LastIndexByte(p[:meta], '/')
	if slash < 0 {
		return "", p
	}
	return p[:slash], p[slash+1:]
}

func compileRest(base, rest string) matcher {
	literal := func(s string) bool { return s != "" && !strings.ContainsAny(s, globMeta) }
	deep, isDeep := strings.CutPrefix(rest, "**/")
	star, isStar := strings.CutPrefix(rest, "*")
	deepStar, isDeepStar := strings.CutPrefix(deep, "*")
	switch {
	case rest == "":
		return matcher{base: base, form: formLiteral}
	case rest == "*" || rest == "**/*":
		return matcher{base: base, form: formBelow}
	case isDeep && isDeepStar && literal(deepStar) && !strings.Contains(deepStar, "/"):
		return matcher{base: base, form: formEndsIn, text: deepStar}
	case isDeep && literal(deep):
		return matcher{base: base, form: formNamed, text: deep}
	case isStar && literal(star) && !strings.Contains(star, "/"):
		return matcher{base: base, form: formFirstEnds, text: star}
	default:
		return matcher{base: base, form: formGeneral, text: rest}
	}
}

// matchRest reports whether the matcher takes a path below base, given relative to it.
func (m matcher) matchRest(rel string) bool {
	switch m.form {
	case formLiteral, formBelow:
		return true
	case formEndsIn:
		return endsIn(rel, m.text)
	case formNamed:
		return named(rel, m.text)
	case formFirstEnds:
		first, _, _ := strings.Cut(rel, "/")
		return strings.HasSuffix(first, m.text)
	default:
		return matchGeneral(m.text, rel)
	}
}

// endsIn reports whether a component of path ends in text.
func endsIn(path, text string) bool {
	if strings.HasSuffix(path, text) {
		return true
	}
	for {
		i := strings.Index(path, text)
		if i < 0 {
			return false
		}
		path = path[i+1:]
		if strings.HasPrefix(path[len(text)-1:], "/") {
			return true
		}
	}
}

// named reports whether text stands in path as a run of whole components.
func named(path, text string) bool {
	for {
		i := strings.Index(path, text)
		if i < 0 {
			return false
		}
		end := i + len(text)
		if (i == 0 || path[i-1] == '/') && (end == len(path) || path[end] == '/') {
			return true
		}
		slash := strings.IndexByte(path[i:], '/')
		if slash < 0 {
			return false
		}
		path = path[i+slash+1:]
	}
}

// matchGeneral asks doublestar for the path and each directory above it.
func matchGeneral(pattern, path string) bool {
	for end := len(path); end > 0; end = strings.LastIndexByte(path[:end], '/') {
		if doublestar.MatchUnvalidated(pattern, path[:end]) {
			return true
		}
	}
	return false
}
