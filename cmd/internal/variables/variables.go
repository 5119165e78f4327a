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

// Name returns the variable of a flag.
func Name(flag string) string {
	return prefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

// Has reports whether a flag can be given as a variable: all but those that ask
// for something else than the command to be run, or are hidden.
func Has(f *pflag.Flag) bool { return f.Name != "help" && f.Name != "version" && !f.Hidden }

// Read sets the flags of a command that were not given from their variables. An
// empty variable is one that is not set: CI systems make such.
func Read(cmd *cobra.Command, getenv func(string) string) error {
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		v := getenv(Name(f.Name))
		if f.Changed || v == "" || !Has(f) || failed != nil {
			return
		}
		if err := cmd.Flags().Set(f.Name, v); err != nil {
			failed = fmt.Errorf("variable %s=%q: want %s", Name(f.Name), v, wanted(f))
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
