package config

import (
	"errors"
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/bmatcuk/doublestar/v4"
	"go.yaml.in/yaml/v3"

	"github.com/cairnbuild/cairn/stages"
)

// Parts of basePattern. A host has a dot or a port, or is localhost or an
// address in brackets; any other first word belongs to the path.
const (
	hostPattern = `(?:localhost|\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9-]+(?:\.[A-Za-z0-9-]+)+)(?::[0-9]{1,5})?|[A-Za-z0-9-]+:[0-9]{1,5}`
	pathPattern = `[a-z0-9][a-z0-9._-]*(?:/[a-z0-9][a-z0-9._-]*)*`
)

// Patterns of names, shared by the checks and the JSON Schema.
const (
	projectPattern  = `^[a-z0-9]([a-z0-9-]*[a-z0-9])?$`
	imagePattern    = `^[a-z0-9]+(([._/]|__|-+)[a-z0-9]+)*$`
	variablePattern = `^[A-Za-z_][A-Za-z0-9_.-]*$`
	labelPattern    = `^[^\s=]+$`
	accountPattern  = `^[A-Za-z0-9_][A-Za-z0-9_.-]*\$?$`
	basePattern     = `^(?:(?:` + hostPattern + `)/)?` + pathPattern + `(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?(?:@sha256:[0-9a-f]{64})?$`
	absolutePattern = `^/`
	relativePattern = `^[^/]`
	portPattern     = `^[0-9]{1,5}(/(tcp|udp|sctp))?$`
	signalPattern   = `^([0-9]{1,2}|SIG[A-Z0-9]+([+-][0-9]+)?)$`
	userPattern     = `^[^\s:]+(:[^\s:]+)?$`
)

var (
	projectName  = regexp.MustCompile(projectPattern)
	imageName    = regexp.MustCompile(imagePattern)
	variableName = regexp.MustCompile(variablePattern)
	labelName    = regexp.MustCompile(labelPattern)
	accountName  = regexp.MustCompile(accountPattern)
	baseName     = regexp.MustCompile(basePattern)
	signalName   = regexp.MustCompile(signalPattern)
	userName     = regexp.MustCompile(userPattern)
)

// text reads a string.
func text() value[string] {
	return value[string]{words: "a string", schema: map[string]any{"type": "string"},
		read: func(r *reader, n *yaml.Node) (string, bool) { return r.scalar(n, "a string", true) }}
}

// plain reads a string, or a number or boolean as it is written.
func plain() value[string] {
	const words = "a string, number or boolean"
	return value[string]{words: words, schema: map[string]any{"type": []string{"string", "number", "boolean"}},
		read: func(r *reader, n *yaml.Node) (string, bool) { return r.scalar(n, words, false) }}
}

// matching reads a string of a form; a wrong one is an error that says what is wanted.
func matching(v value[string], pattern *regexp.Regexp, what, want string) value[string] {
	out := checked(v, want, func(s string) (string, error) {
		if !pattern.MatchString(s) || strings.HasSuffix(s, "\n") {
			return "", fmt.Errorf("%q is no %s: want %s", shorten(s), what, want)
		}
		return s, nil
	})
	out.schema = withPattern(v.schema, pattern.String())
	return out
}

func withPattern(schema map[string]any, pattern string) map[string]any {
	out := map[string]any{"pattern": pattern}
	for k, v := range schema {
		out[k] = v
	}
	return out
}

// base reads the reference of a base image. One with a login in it is refused
// without being repeated: errors end up in logs that many can read.
func base() value[string] {
	form := matching(text(), baseName, "image reference", "something like debian:12 or registry.example.com/base@sha256:…, in lower case")
	return value[string]{words: form.words, schema: form.schema, read: func(r *reader, n *yaml.Node) (string, bool) {
		to, ok := r.resolve(n)
		if !ok {
			return "", false
		}
		if to.Kind == yaml.ScalarNode && holdsLogin(to.Value) {
			r.failLogin(to, "the reference holds a login, or something else than a digest (sha256:…) after an @", "log in with \"docker login\" and leave what stands before the @ out; a login that was committed is known to all who can read the repository")
			return "", false
		}
		return form.read(r, to)
	}}
}

// holdsLogin reports whether an @ in a reference begins anything but a digest.
func holdsLogin(reference string) bool {
	_, after, found := strings.Cut(reference, "@")
	return found && (!strings.HasPrefix(after, "sha256:") || strings.ContainsAny(after, "@/"))
}

// repositoryURL reads the URL of a git repository. One with a login in it is not
// repeated.
func repositoryURL() value[string] {
	form := checked(text(), "the URL of a git repository", func(s string) (string, error) {
		if err := stages.CheckGitURL(s); err != nil {
			return "", fmt.Errorf("%q is no URL of a repository: %w", shorten(s), err)
		}
		return s, nil
	})
	return value[string]{words: form.words, schema: form.schema, read: func(r *reader, n *yaml.Node) (string, bool) {
		to, ok := r.resolve(n)
		if !ok {
			return "", false
		}
		if to.Kind == yaml.ScalarNode && errors.Is(stages.CheckGitURL(to.Value), stages.ErrGitLogin) {
			r.failLogin(to, stages.ErrGitLogin.Error(), "leave the login out and have git find it: a credential helper, url.….insteadOf, an ssh key; a login that was committed is known to all who can read the repository")
			return "", false
		}
		return form.read(r, to)
	}}
}

// refName reads the name of a branch ("heads") or tag ("tags").
func refName(kind string) value[string] {
	return checked(plain(), "a name", func(s string) (string, error) {
		if err := stages.CheckGitRef("refs/" + kind + "/" + s); err != nil || stages.IsGitCommit(s) {
			return "", fmt.Errorf("%q is no name of a branch or tag", shorten(s))
		}
		return s, nil
	})
}

// commitID reads the full id of a commit.
func commitID() value[string] {
	return checked(plain(), "the full id of a commit", func(s string) (string, error) {
		if !stages.IsGitCommit(s) {
			return "", fmt.Errorf("%q is no full id of a commit: want 40 or 64 lower-case hexadecimal digits", shorten(s))
		}
		return s, nil
	})
}

// failLogin reports something with a login in it, without showing that.
func (r *reader) failLogin(n *yaml.Node, message, hint string) {
	at := r.place(n)
	at.rendered = "" // it shows the login
	if where := r.where(); where != "" {
		message = where + ": " + message
	}
	r.problems.addf(at, hint, "%s", message)
}

// oneOf reads one of some words.
func oneOf(names ...string) value[string] {
	words := "one of " + quoteList(names)
	v := checked(text(), words, func(s string) (string, error) {
		if !slices.Contains(names, s) {
			return "", fmt.Errorf("%q is not allowed here; allowed: %s", shorten(s), quoteList(names))
		}
		return s, nil
	})
	v.schema = map[string]any{"enum": names}
	return v
}

// absolute reads an absolute path and cleans it.
func absolute() value[string] {
	v := checked(text(), "an absolute path", func(s string) (string, error) {
		if !strings.HasPrefix(s, "/") {
			return "", fmt.Errorf("%q is not absolute: it must begin with /", shorten(s))
		}
		if err := checkPath(s); err != nil {
			return "", err
		}
		return path.Clean(s), nil
	})
	v.schema = withPattern(v.schema, absolutePattern)
	return v
}

// inTree reads a path of the git tree. A leading "/" is the project directory.
func inTree() value[string] {
	return checked(text(), "a path in the project directory", func(s string) (string, error) {
		if s == "" {
			return "", errors.New("the path is empty; / is the project directory")
		}
		if err := checkPath(s); err != nil {
			return "", err
		}
		return path.Clean("./" + strings.TrimLeft(s, "/")), nil
	})
}

// glob reads a pattern relative to a mapping's add.
func glob() value[string] {
	v := checked(text(), "a glob", func(s string) (string, error) {
		switch {
		case s == "":
			return "", errors.New("the glob is empty")
		case strings.HasPrefix(s, "/"):
			return "", fmt.Errorf("the glob %q must not begin with /: it is relative to add", shorten(s))
		case !doublestar.ValidatePattern(s):
			return "", fmt.Errorf("the glob %q is malformed", shorten(s))
		}
		return s, checkPath(s)
	})
	v.schema = withPattern(v.schema, relativePattern)
	return v
}

func globs() value[[]string] {
	return oneOrMany(glob(), "a glob or a list of globs")
}

func checkPath(s string) error {
	if strings.IndexFunc(s, unicode.IsControl) >= 0 {
		return fmt.Errorf("%q has a control character", shorten(s))
	}
	if slices.Contains(strings.Split(s, "/"), "..") {
		return fmt.Errorf("%q must not contain ..: it could leave the tree", shorten(s))
	}
	return nil
}

// account reads an owner or group.
func account() value[string] {
	return matching(plain(), accountName, "user or group", "a name or a number")
}

// platforms reads one or several platforms, each once.
func platforms() value[[]stages.Platform] {
	one := checked(text(), "a platform such as linux/amd64", stages.ParsePlatform)
	const words = "a platform such as linux/amd64, or a list of such"
	return checked(oneOrMany(one, words), words, func(list []stages.Platform) ([]stages.Platform, error) {
		for i, p := range list {
			if slices.Contains(list[:i], p) {
				return nil, fmt.Errorf("the platform %q is given twice", p)
			}
		}
		return list, nil
	})
}

// number reads a whole number that is not negative.
func number() value[int] {
	const words = "a whole number"
	return value[int]{words: words, schema: map[string]any{"type": "integer", "minimum": 0},
		read: func(r *reader, n *yaml.Node) (int, bool) {
			n, ok := r.resolve(n)
			if !ok {
				return 0, false
			}
			i, err := strconv.Atoi(n.Value)
			if n.Kind != yaml.ScalarNode || n.ShortTag() != "!!int" || err != nil || i < 0 || i > 1<<30 {
				r.mismatch(n, words)
				return 0, false
			}
			return i, true
		}}
}

// duration reads a Go duration such as "30s", in nanoseconds.
func duration() value[int64] {
	const words = "a duration such as 30s or 1m30s"
	return checked(text(), words, func(s string) (int64, error) {
		d, err := time.ParseDuration(s)
		if err != nil || d <= 0 {
			return 0, fmt.Errorf("%q is no duration: want a positive one such as 30s or 1m30s", shorten(s))
		}
		return int64(d), nil
	})
}

// command reads what a container runs: a string for the shell, or a list to execute.
func command() value[[]string] {
	words := "a string (run by /bin/sh -c) or a list of strings (run as it is)"
	list := oneOrMany(plain(), words)
	return value[[]string]{words: words, schema: list.schema, read: func(r *reader, n *yaml.Node) ([]string, bool) {
		n, ok := r.resolve(n)
		if !ok {
			return nil, false
		}
		if n.Kind == yaml.SequenceNode {
			return list.read(r, n)
		}
		s, ok := r.scalar(n, words, false)
		if ok && strings.TrimSpace(s) == "" {
			r.failf(n, "remove the key", "the command is empty")
			return nil, false
		}
		return []string{"/bin/sh", "-c", s}, ok
	}}
}

// port reads a port with an optional protocol and writes it as "80/tcp".
func port() value[string] {
	v := checked(plain(), "a port such as 80 or 53/udp", func(s string) (string, error) {
		digits, protocol, given := strings.Cut(s, "/")
		if !given {
			protocol = "tcp"
		}
		n, err := strconv.ParseUint(digits, 10, 16)
		if err != nil || n == 0 || !slices.Contains([]string{"tcp", "udp", "sctp"}, protocol) {
			return "", fmt.Errorf("%q is no port: want a number from 1 to 65535, with /tcp, /udp or /sctp after it if need be", shorten(s))
		}
		return fmt.Sprintf("%d/%s", n, protocol), nil
	})
	v.schema = map[string]any{"anyOf": []any{
		map[string]any{"type": "integer", "minimum": 1, "maximum": 65535},
		map[string]any{"type": "string", "pattern": portPattern},
	}}
	return v
}

// atMost bounds the length of a name.
func atMost(v value[string], n int) value[string] {
	out := checked(v, v.words, func(s string) (string, error) {
		if len(s) > n {
			return "", fmt.Errorf("%q has %d characters; at most %d are allowed", shorten(s), len(s), n)
		}
		return s, nil
	})
	out.schema = map[string]any{"maxLength": n}
	for k, s := range v.schema {
		out.schema[k] = s
	}
	return out
}
