package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/stages"
)

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Version prints what this program is and which recipes it writes: two versions with
one recipe format name stages alike and share them.`,
		Example: "  cairn version --output json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := struct {
				Version      string `json:"version"`
				RecipeFormat int    `json:"recipeFormat"`
				Go           string `json:"go"`
				Platform     string `json:"platform"`
			}{version, stages.RecipeFormat, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH}
			if a.output == formatJSON {
				return writeJSON(a.Out, v)
			}
			_, err := fmt.Fprintf(a.Out, "cairn %s (recipe format %d, %s, %s)\n", v.Version, v.RecipeFormat, v.Go, v.Platform)
			return err
		},
	}
}
