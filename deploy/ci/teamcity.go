package ci

import (
	"strconv"
	"strings"
	"unicode/utf16"
)

// maxProperties bounds a file of properties, in bytes.
const maxProperties = 4 << 20

// teamcity reads what TeamCity says: little in variables, more in a file of
// properties, and the rest in another one that it names.
func (r *reader) teamcity() found {
	known := r.properties(r.Getenv("TEAMCITY_BUILD_PROPERTIES_FILE"))
	if more := known["teamcity.configuration.properties.file"]; more != "" {
		known = r.properties(more)
	}
	take := func(key string) string { return r.bounded(key, known[key]) }
	f := found{Run: Run{
		Commit:  r.commit("BUILD_VCS_NUMBER"),
		JobURL:  r.page(r.Getenv("BUILD_URL")),
		Project: r.projectFrom(known["vcsroot.url"]),
	}}
	ref := take("teamcity.build.branch")
	if ref == "" || ref == "<default>" {
		ref = take("vcsroot.branch")
	}
	switch {
	case known["teamcity.pullRequest.number"] != "":
		f.pull, f.fork = true, true // it does not say where the branch is
		f.PullRequest = take("teamcity.pullRequest.number")
		if !identifier().MatchString(f.PullRequest) {
			f.PullRequest = ""
		}
		f.Branch = strings.TrimPrefix(take("teamcity.pullRequest.source.branch"), "refs/heads/")
		f.TargetBranch = strings.TrimPrefix(take("teamcity.pullRequest.target.branch"), "refs/heads/")
	case strings.HasPrefix(ref, "refs/tags/"):
		f.Tag = shortRef(ref, "tags")
	case strings.HasPrefix(ref, "refs/pull/"), strings.HasPrefix(ref, "pull/"), strings.HasPrefix(ref, "refs/merge-requests/"):
		f.pull, f.fork = true, true
		r.note("the properties of the pull request are missing: add the build feature \"Pull Requests\"")
	default:
		f.Branch = strings.TrimPrefix(ref, "refs/heads/")
	}
	return f
}

func (r *reader) projectFrom(address string) string {
	lookup := reader{Surroundings: Surroundings{Getenv: func(string) string { return address }}}
	return lookup.projectOf("")
}

// properties reads a file of Java properties. Where that fails, nothing is known.
func (r *reader) properties(path string) map[string]string {
	if path == "" {
		r.note("TEAMCITY_BUILD_PROPERTIES_FILE is not set: the branch is not known")
		return nil
	}
	b, err := r.ReadFile(path, maxProperties)
	if err != nil {
		r.note("the file of properties cannot be read: the branch is not known")
		return nil
	}
	return parseProperties(string(b))
}

// parseProperties reads Java's format: lines of KEY=VALUE, where a backslash at the
// end of a line continues it, and one elsewhere escapes. What cannot be read is
// taken as it stands; a later entry goes before an earlier one.
func parseProperties(text string) map[string]string {
	out := map[string]string{}
	for line := range logicalLines(text) {
		key, rest := propertyPart(line, true)
		rest = strings.TrimLeft(rest, " \t\f")
		if rest != "" && (rest[0] == '=' || rest[0] == ':') {
			rest = strings.TrimLeft(rest[1:], " \t\f")
		}
		value, _ := propertyPart(rest, false)
		out[key] = value
	}
	return out
}

// logicalLines yields lines that hold an entry, continued ones as one.
func logicalLines(text string) func(yield func(string) bool) {
	return func(yield func(string) bool) {
		var line strings.Builder
		text = strings.NewReplacer("\r\n", "\n", "\r", "\n").Replace(text)
		for natural := range strings.SplitSeq(text, "\n") {
			natural = strings.TrimLeft(natural, " \t\f")
			if line.Len() == 0 && (natural == "" || natural[0] == '#' || natural[0] == '!') {
				continue
			}
			if slashes := len(natural) - len(strings.TrimRight(natural, `\`)); slashes%2 == 1 {
				line.WriteString(natural[:len(natural)-1])
				continue
			}
			line.WriteString(natural)
			if line.Len() > 0 && !yield(line.String()) {
				return
			}
			line.Reset()
		}
		if line.Len() > 0 {
			yield(line.String())
		}
	}
}

// propertyPart unescapes a key, which ends at a separator, or a value.
func propertyPart(s string, key bool) (part, rest string) {
	var b strings.Builder
	var units []uint16 // of characters that are written as \uXXXX
	flush := func() {
		b.WriteString(string(utf16.Decode(units)))
		units = units[:0]
	}
	for i := 0; i < len(s); i++ {
		c := s[i]
		if key && strings.IndexByte("=: \t\f", c) >= 0 {
			flush()
			return b.String(), s[i:]
		}
		if c != '\\' || i+1 == len(s) {
			flush()
			b.WriteByte(c)
			continue
		}
		i++
		if s[i] == 'u' && i+4 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+5], 16, 16); err == nil {
				units = append(units, uint16(n))
				i += 4
				continue
			}
		}
		flush()
		b.WriteByte(unescaped(s[i]))
	}
	flush()
	return b.String(), ""
}

func unescaped(c byte) byte {
	switch c {
	case 't':
		return '\t'
	case 'n':
		return '\n'
	case 'r':
		return '\r'
	case 'f':
		return '\f'
	default:
		return c
	}
}
