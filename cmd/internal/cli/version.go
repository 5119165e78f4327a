package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/stages"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:     "version",
		Short:   "Print the version",
		Example: "  cairn version --output json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version      string `json:"version"`
				RecipeFormat int    `json:"recipeFormat"`
				Go           string `json:"go"`
				Platform     string `json:"platform"`
			}{version, stages.RecipeFormat, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if a.output == "json" {
				return writeJSON(a.out, v)
			}
			_, err := fmt.Fprintf(a.out, "cairn %s (recipe format %d, %s, %s)\n", v.Version, v.RecipeFormat, v.Go, v.Platform)
			return err
		},
	}
}

// usageArgs makes a wrong number of arguments a usage error.
func usageArgs(check cobra.PositionalArgs) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if err := check(cmd, args); err != nil {
			return &usageError{err}
		}
		return nil
	}
}
