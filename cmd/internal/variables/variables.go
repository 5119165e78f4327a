// Package variables gives the flags of both programs their environment variables:
// --cache-dir is CAIRN_CACHE_DIR. A flag goes before its variable.
package variables

import (
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// prefix begins the variable of every flag.
const prefix = "CAIRN_"

// apart is the annotation of a flag whose variable has another name than the flag.
const apart = "variable"

// Name returns the variable of a flag.
func Name(f *pflag.Flag) string {
	if other := f.Annotations[apart]; len(other) == 1 {
		return Of(other[0])
	}
	return Of(f.Name)
}

// Of returns the variable of the flag with a name.
func Of(flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Apart gives a flag the variable of another name, where commands have flags of one
// name that mean different things.
func Apart(f *pflag.Flag, name string) {
	if f.Annotations == nil {
		f.Annotations = map[string][]string{}
	}
	f.Annotations[apart] = []string{name}
}

// Has reports whether a flag can be given as a variable: all but those that ask
// for something else than the command to be run, or are hidden.
func Has(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" && !f.Hidden }

// Read sets the flags of a command that were not given from their variables. An
// empty variable is one that is not set: CI systems make such.
func Read(cmd *cobra.Command, getenv func(string) string) error {
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		v := getenv(Name(f))
		if f.Changed || v == "" || !Has(f) || failed != nil {
			return
		}
		if err := cmd.Flags().Set(f.Name, v); err != nil {
			failed = fmt.Errorf("variable %s=%q: want %s", Name(f), v, wanted(f))
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
