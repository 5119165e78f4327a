package ci

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
)

// maxFact bounds a value that is passed on, in bytes.
const maxFact = 4096

// reader looks at a job's surroundings and notes what people should know.
type reader struct {
	Surroundings
	notes []string
}

// note keeps a line for people. What goes into it are names and words of this
// package, never values.
func (r *reader) note(format string, args ...any) {
	r.notes = append(r.notes, fmt.Sprintf(format, args...))
}

// fact returns a variable that is passed on as it is.
func (r *reader) fact(name string) string {
	if name == "" {
		return ""
	}
	return r.bounded(name, r.Getenv(name))
}

// bounded returns value unless nothing could hold it.
func (r *reader) bounded(name, value string) string {
	switch {
	case len(value) > maxFact:
		r.note("%s is left out: it is longer than %d bytes", name, maxFact)
		return ""
	case strings.ContainsRune(value, 0):
		r.note("%s is left out: it holds a zero byte", name)
		return ""
	}
	return value
}

// plain returns a variable whose value has to have a form.
func (r *reader) plain(name string, form *regexp.Regexp) string {
	v := r.Getenv(name)
	if v == "" || form.MatchString(v) {
		return v
	}
	r.note("%s is left out: it has not the form that it should", name)
	return ""
}

// commit returns a variable that holds a commit.
func (r *reader) commit(name string) string { return r.commitOf(name, r.Getenv(name)) }

func (r *reader) commitOf(name, value string) string {
	v := strings.ToLower(value)
	if v == "" || hexOf(v, 40) || hexOf(v, 64) {
		return v
	}
	r.note("%s is left out: it holds no commit", name)
	return ""
}

func hexOf(s string, length int) bool {
	return len(s) == length && strings.Trim(s, "0123456789abcdef") == ""
}

// page returns the address of a web page: the parts after a base, "" unless all
// are there.
func (r *reader) page(base string, parts ...string) string {
	u, err := url.Parse(base)
	if base == "" || len(base) > maxFact || err != nil || u.Scheme != "https" && u.Scheme != "http" || u.Host == "" {
		return ""
	}
	for _, p := range parts {
		if p == "" {
			return ""
		}
	}
	u.User = nil
	if len(parts) > 0 {
		u = u.JoinPath(parts...)
	}
	return u.String()
}

// shortRef returns what is left of a full reference, "" where it is another kind
// of one.
func shortRef(ref, kind string) string {
	name, ok := strings.CutPrefix(ref, "refs/"+kind+"/")
	if !ok {
		return ""
	}
	return name
}

// identifier is the form of numbers and ids of pull requests, runs and builds.
func identifier() *regexp.Regexp { return regexp.MustCompile(`^[A-Za-z0-9._-]{1,64}$`) }

// repositoryPath is the form of a project's path at its host.
func repositoryPath() *regexp.Regexp { return regexp.MustCompile(`^[\pL\pN._~ /-]{1,512}$`) }
