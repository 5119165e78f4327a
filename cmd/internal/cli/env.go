package cli

import (
	"strings"

	"github.com/cairnbuild/cairn/cmd/internal/variables"
)

func (a *app) getenv(name string) string {
	v, _ := a.Env(name)
	return v
}

// wantsJSON reports whether the answer shall be JSON, also where the command line
// is so wrong that its flags were not read.
func (a *app) wantsJSON() bool {
	if a.output == formatJSON || a.script {
		return !a.script
	}
	said := a.getenv(variables.Of("output"))
	for i, arg := range a.Args {
		if v, ok := strings.CutPrefix(arg, "--output="); ok {
			said = v
		} else if arg == "--output" && i+1 < len(a.Args) {
			said = a.Args[i+1]
		}
	}
	return said == formatJSON
}

// lines are the values of a flag that may be repeated. A variable holds one on
// each line. What they mean is checked later: an error here would show the
// variable's value.
type lines []string

// Set implements [pflag.Value].
func (l *lines) Set(s string) error {
	for line := range strings.Lines(s) {
		if line = strings.TrimSpace(line); line != "" {
			*l = append(*l, line)
		}
	}
	return nil
}

// String implements [pflag.Value].
func (l *lines) String() string { return strings.Join(*l, "\n") }

// Type implements [pflag.Value].
func (l *lines) Type() string { return "lines" }
