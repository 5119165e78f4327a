package source

import (
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// attributesFile is the name of the files that give paths attributes.
const attributesFile = ".gitattributes"

const (
	// maxAttributes bounds an attributes file that is read, in bytes; git's own
	// bound is higher.
	maxAttributes = 4 << 20
	// maxAttributeLine is the length from which on git ignores a line, in bytes.
	maxAttributeLine = 2048
)

// attributes tell which files are Git LFS's. They come from the attributes files
// of the tree alone: those of the machine would have two machines disagree. The
// rules are git's, see gitattributes(5).
type attributes struct {
	// rules by directory, "" for the root of the repository, in the order of the file.
	rules map[string][]attributeRule
	// macros are attributes that stand for others; only the root's file may define them.
	macros map[string][]string
	// lfs is set when some word selects Git LFS.
	lfs bool
}

// attributeRule is a line: what it matches, and what it says of that.
type attributeRule struct {
	match func(rel string) bool
	words []string
}

// newAttributes reads attributes files, given by the directories they are in.
func newAttributes(files map[string]string) *attributes {
	a := &attributes{rules: make(map[string][]attributeRule, len(files)), macros: make(map[string][]string)}
	for line := range strings.Lines(files[""]) {
		pattern, words, ok := splitAttributes(line)
		if name, isMacro := strings.CutPrefix(pattern, "[attr]"); ok && isMacro {
			a.macros[name] = words
			a.lfs = a.lfs || slices.Contains(words, "filter=lfs")
		}
	}
	for dir, text := range files {
		for line := range strings.Lines(text) {
			pattern, words, ok := splitAttributes(line)
			words = slices.DeleteFunc(words, func(w string) bool { return !a.counts(w) })
			if !ok || len(words) == 0 {
				continue
			}
			if match := attributeMatcher(pattern); match != nil {
				a.rules[dir] = append(a.rules[dir], attributeRule{match, words})
				a.lfs = a.lfs || slices.Contains(words, "filter=lfs")
			}
		}
	}
	return a
}

// nameOf returns the attribute that a word is about.
func nameOf(word string) string {
	name, _, _ := strings.Cut(strings.TrimLeft(word, "-!"), "=")
	return name
}

// counts reports whether a word can have a say about the filter.
func (a *attributes) counts(word string) bool {
	name := nameOf(word)
	_, isMacro := a.macros[name]
	return isMacro || name == "filter"
}

// isLFS reports whether the attributes give a path the filter lfs. The path is
// relative to the root of the repository.
func (a *attributes) isLFS(name string) bool {
	var v verdict
	for dir := parent(name); ; dir = parent(dir) {
		rel := name
		if dir != "" {
			rel = name[len(dir)+1:]
		}
		rules := a.rules[dir]
		for i := len(rules) - 1; i >= 0; i-- {
			if rules[i].match(rel) && v.take(a.macros, rules[i].words) {
				return v.lfs
			}
		}
		if dir == "" {
			return false
		}
	}
}

// verdict is what the lines read so far, the most important first, say of a path.
type verdict struct {
	lfs bool
	// known macros are decided: what less important lines say of them is too late.
	known []string
}

// take adds what a line says, the last word first, and reports whether that
// decides about the filter. A macro that is set stands for its own words.
func (v *verdict) take(macros map[string][]string, words []string) bool {
	for _, w := range slices.Backward(words) {
		name := nameOf(w)
		if name == "filter" {
			v.lfs = w == "filter=lfs"
			return true
		}
		meaning, isMacro := macros[name]
		if !isMacro || slices.Contains(v.known, name) {
			continue
		}
		v.known = append(v.known, name)
		if w == name && v.take(macros, meaning) {
			return true
		}
	}
	return false
}

// splitAttributes splits a line into its pattern and the attributes that it gives.
func splitAttributes(line string) (pattern string, words []string, ok bool) {
	line = strings.Trim(line, " \t\r\n")
	if line == "" || line[0] == '#' || len(line) >= maxAttributeLine {
		return "", nil, false
	}
	if line[0] == '"' {
		quoted, err := strconv.QuotedPrefix(line)
		if err != nil {
			return "", nil, false
		}
		if pattern, err = strconv.Unquote(quoted); err != nil {
			return "", nil, false
		}
		words = strings.Fields(line[len(quoted):])
	} else {
		words = strings.FieldsFunc(line, func(r rune) bool { return r == ' ' || r == '\t' || r == '\r' })
		pattern, words = words[0], words[1:]
	}
	// Negative patterns are forbidden in attributes, and a file is no directory.
	return pattern, words, pattern != "" && pattern[0] != '!' && !strings.HasSuffix(pattern, "/")
}

// attributeMatcher returns what decides whether a pattern matches a path relative
// to the directory of its file; nil where it matches nothing.
func attributeMatcher(pattern string) func(string) bool {
	if strings.HasPrefix(pattern, "[attr]") {
		return nil
	}
	if strings.Contains(pattern, "/") {
		pattern = strings.TrimPrefix(pattern, "/")
		re := attributeGlob(pattern)
		if re == nil {
			return nil
		}
		literal := pattern
		if i := strings.IndexAny(pattern, `*?[\`); i >= 0 {
			literal = pattern[:i]
		}
		return func(rel string) bool { return strings.HasPrefix(rel, literal) && re.MatchString(bytesAsRunes(rel)) }
	}
	// Without a slash it is the base name that counts. Nearly all patterns are
	// an extension, and trees are large.
	suffix, star := strings.CutPrefix(pattern, "*")
	if !strings.ContainsAny(suffix, `*?[\`) {
		if star {
			return func(rel string) bool { return strings.HasSuffix(rel, suffix) }
		}
		return func(rel string) bool { return isBase(rel, suffix) }
	}
	re := attributeGlob(pattern)
	if re == nil {
		return nil
	}
	return func(rel string) bool { return re.MatchString(bytesAsRunes(path.Base(rel))) }
}

// isBase reports whether name is the last part of a path.
func isBase(path, name string) bool {
	dir, ok := strings.CutSuffix(path, name)
	return ok && (dir == "" || dir[len(dir)-1] == '/')
}

// bytesAsRunes has an expression match bytes, as git does, and not characters.
func bytesAsRunes(s string) string {
	if strings.IndexFunc(s, func(r rune) bool { return r >= utf8.RuneSelf }) < 0 {
		return s
	}
	var b strings.Builder
	for i := range len(s) {
		b.WriteRune(rune(s[i]))
	}
	return b.String()
}

// attributeGlob translates a pattern of git, in which * does not cross
// directories; nil for a malformed one, which matches nothing. The expression is
// for [bytesAsRunes].
func attributeGlob(p string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)^`)
	for i := 0; i < len(p); {
		switch c := p[i]; {
		case c == '\\' && i+1 < len(p):
			b.WriteString(quoteByte(p[i+1]))
			i += 2
		case c == '\\':
			return nil
		case c == '?':
			b.WriteString(`[^/]`)
			i++
		case c == '*':
			i += globStars(&b, p, i)
		case c == '[':
			n := globClass(&b, p[i:])
			if n == 0 {
				return nil
			}
			i += n
		default:
			b.WriteString(quoteByte(p[i]))
			i++
		}
	}
	b.WriteByte('$')
	re, err := regexp.Compile(b.String())
	if err != nil {
		return nil
	}
	return re
}

// globStars translates the stars at p[i:] and returns how many bytes it took. Two
// stars cross directories where they stand for whole names.
func globStars(b *strings.Builder, p string, i int) int {
	end := i
	for end < len(p) && p[end] == '*' {
		end++
	}
	begins := i == 0 || p[i-1] == '/'
	switch {
	case end-i >= 2 && begins && end == len(p):
		b.WriteString(`.*`)
	case end-i >= 2 && begins && p[end] == '/':
		b.WriteString(`(?:.*/)?`)
		end++
	default:
		b.WriteString(`[^/]*`)
	}
	return end - i
}

// globClass translates the bracket expression that s begins with and returns its
// length, 0 for one without an end. It never matches a slash.
func globClass(b *strings.Builder, s string) int {
	var class strings.Builder
	i := 1
	if i < len(s) && (s[i] == '!' || s[i] == '^') {
		class.WriteString(`^/`)
		i++
	}
	for first := i; i < len(s); i++ {
		switch c := s[i]; {
		case c == ']' && i > first:
			b.WriteString("[" + class.String() + "]")
			return i + 1
		case classByName(s[i:]) > 0:
			n := classByName(s[i:])
			class.WriteString(s[i : i+n])
			i += n - 1
		case c == '-' && i > first && i+1 < len(s) && s[i+1] != ']':
			class.WriteByte('-')
		case c == '\\' && i+1 < len(s):
			i++
			class.WriteString(quoteInClass(s[i]))
		case c == '/':
		default:
			class.WriteString(quoteInClass(s[i]))
		}
	}
	return 0
}

// classByName returns the length of the class by name, such as [:digit:], that s begins
// with; 0 where there is none.
func classByName(s string) int {
	end := strings.Index(s, ":]")
	if end < 0 || !strings.HasPrefix(s, "[:") {
		return 0
	}
	return end + len(":]")
}

// quoteInClass writes a byte inside of brackets.
func quoteInClass(c byte) string {
	if strings.IndexByte(`^-]\[&~`, c) >= 0 {
		return `\` + string(rune(c))
	}
	return string(rune(c))
}

func quoteByte(c byte) string { return regexp.QuoteMeta(string(rune(c))) }
