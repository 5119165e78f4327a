package dockerfile

import (
	"maps"
	"path"
	"slices"

	"github.com/moby/buildkit/frontend/dockerfile/shell"
)

// env is what is known of the variables at one place of a Dockerfile.
type env struct {
	values map[string]string
	// doubtful are variables whose value follows from something unknown.
	doubtful names
	// open says that there may be variables which are not known: those of a base.
	open bool
	// dir is the working directory, "" where it is not known.
	dir string

	// asked are the variables that were looked up since they were last taken, and
	// doubt whether one of them is not known for sure.
	asked names
	doubt bool
}

func newEnv() *env { return &env{values: map[string]string{}, doubtful: names{}, asked: names{}} }

func (e *env) clone() *env {
	return &env{values: maps.Clone(e.values), doubtful: maps.Clone(e.doubtful), open: e.open, dir: e.dir, asked: names{}}
}

// Get implements [shell.EnvGetter].
func (e *env) Get(name string) (string, bool) {
	e.asked[name] = true
	v, ok := e.values[name]
	if e.doubtful[name] || !ok && e.open {
		e.doubt = true
	}
	return v, ok
}

// Keys implements [shell.EnvGetter].
func (e *env) Keys() []string { return slices.Sorted(maps.Keys(e.values)) }

// set gives a variable a value, which is in doubt where it was made of one that is.
func (e *env) set(name, value string, doubt bool) {
	e.values[name] = value
	delete(e.doubtful, name)
	if doubt {
		e.doubtful[name] = true
	}
}

// take returns what was asked for since the last call, and whether the answers
// are in doubt.
func (e *env) take() (names, bool) {
	asked, doubt := e.asked, e.doubt
	e.asked, e.doubt = names{}, false
	return asked, doubt
}

// expand replaces the variables in a word.
func (e *env) expand(lex *shell.Lex, word string) (string, error) {
	out, _, err := lex.ProcessWord(word, e)
	return out, err
}

// at returns where a path leads, a relative one from the working directory; "" where
// that is not known.
func (e *env) at(p string, doubt bool) string {
	switch {
	case doubt:
		return ""
	case path.IsAbs(p):
		return path.Clean(p)
	case e.dir == "":
		return ""
	}
	return path.Join(e.dir, p)
}
