package cli

import (
	"github.com/spf13/cobra"
)

// complete has the shell offer the words that a flag takes.
func complete(cmd *cobra.Command, flag string, words ...string) {
	// It fails only for a flag that does not exist, which a test finds.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
}

// completeImages has the shell offer the project's images, at most as many as
// the command takes (0: any number) and none twice.
func (a *app) completeImages(most int) cobra.CompletionFunc {
	return func(cmd *cobra.Command, args []string, _ string) ([]cobra.Completion, cobra.ShellCompDirective) {
		if most > 0 && len(args) >= most || a.prepare(cmd) != nil {
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		p, err := a.settings.Open(cmd.Context(), a.host)
		if err != nil { // a shell has no place for errors
			return nil, cobra.ShellCompDirectiveNoFileComp
		}
		given := make(map[string]bool, len(args))
		for _, name := range args {
			given[name] = true
		}
		var names []cobra.Completion
		for _, img := range p.Config.Images {
			if img.Name != "" && !given[img.Name] {
				names = append(names, img.Name)
			}
		}
		return names, cobra.ShellCompDirectiveNoFileComp
	}
}
