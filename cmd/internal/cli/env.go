package cli

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// envPrefix begins the variable of every flag.
const envPrefix = "CAIRN_"

// envName returns the variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// hasVariable reports whether a flag can be given as a variable: all but those
// that ask for something else than the command to be run.
func hasVariable(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" }

// readVariables sets the flags that were not given from their variables. An
// empty variable is one that is not set: CI systems make such.
func (a *app) readVariables(cmd *cobra.Command) error {
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		v := a.getenv(envName(f.Name))
		if f.Changed || v == "" || !hasVariable(f) || failed != nil {
			return
		}
		if err := cmd.Flags().Set(f.Name, v); err != nil {
			failed = fmt.Errorf("variable %s=%q: want %s", envName(f.Name), v, wanted(f))
		}
	})
	return failed
}

func wanted(f *pflag.Flag) string {
	switch f.Value.Type() {
	case "bool":
		return "true or false"
	case "int":
		return "a number"
	default:
		return "a " + f.Value.Type()
	}
}

func (a *app) getenv(name string) string {
	v, _ := a.Env(name)
	return v
}

// wantsJSON reports whether the answer shall be JSON, also where the command line
// is so wrong that its flags were not read.
func (a *app) wantsJSON() bool {
	if a.output == formatJSON {
		return true
	}
	said := a.getenv(envName("output"))
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
