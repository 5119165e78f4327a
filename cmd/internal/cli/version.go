package cli

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/stages"
)

// versionDocument is what "version --output json" prints.
type versionDocument struct {
	Version string `json:"version"`
	// Commit is that of the sources, "" where the build did not know it; Modified
	// that they differed from it.
	Commit   string `json:"commit,omitempty"`
	Modified bool   `json:"modified,omitempty"`
	// RecipeFormat is that of the recipes it writes.
	RecipeFormat int    `json:"recipeFormat"`
	Go           string `json:"go"`
	Platform     string `json:"platform"`
	// BuildKit is the version of the engine that cairnd of this version runs.
	BuildKit string `json:"buildkit,omitempty"`
}

func (a *app) versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "Print the version",
		Long: `Version prints what this program is and which recipes it writes: two versions with
one recipe format name stages alike and share them. With --output json it also has
the commit that it was built from and the version of BuildKit that belongs to it.`,
		Example: "  cairn version --output json",
		Args:    usageArgs(cobra.NoArgs),
		RunE: func(*cobra.Command, []string) error {
			v := describeVersion()
			if a.output == formatJSON {
				return writeJSON(a.Out, v)
			}
			_, err := fmt.Fprintf(a.Out, "cairn %s (recipe format %d, %s, %s)\n", v.Version, v.RecipeFormat, v.Go, v.Platform)
			return err
		},
	}
}

// buildKitModule is the module of the engine.
const buildKitModule = "github.com/moby/buildkit"

// describeVersion reads what the Go linker has written into the program.
func describeVersion() versionDocument {
	v := versionDocument{
		Version: version, RecipeFormat: stages.RecipeFormat,
		Go: runtime.Version(), Platform: runtime.GOOS + "/" + runtime.GOARCH,
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return v
	}
	for _, s := range info.Settings {
		switch s.Key {
		case "vcs.revision":
			v.Commit = s.Value
		case "vcs.modified":
			v.Modified = s.Value == "true"
		}
	}
	for _, m := range info.Deps {
		if m.Path == buildKitModule {
			v.BuildKit = m.Version
		}
	}
	return v
}
