package cli

import (
	"fmt"

	"github.com/spf13/cobra"
)

type manifestOptions struct {
	namespace               string
	accounts, users, groups []string
}

func (a *app) synchronizationCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "synchronization",
		Short:   "Set up where runners coordinate",
		Long:    `The commands of synchronization are about the cluster that ledgers live in.`,
		Example: "  cairn synchronization manifest --namespace ci | kubectl apply -f -",
	})
	cmd.AddCommand(a.manifestCommand())
	return cmd
}

func (a *app) manifestCommand() *cobra.Command {
	var o manifestOptions
	cmd := &cobra.Command{
		Use:   "manifest",
		Short: "Print the namespace and the rights that ledgers need",
		Long: `Manifest prints, for kubectl apply, a namespace with a role that allows exactly what
Cairn does in it. Whoever may write there can decide what all others adopt, so give
each scope of trust a namespace of its own: builds of forks never share one with
builds of protected branches. Unless subjects are named, a service account "cairn"
is made. No cluster is asked.`,
		Example: `  cairn synchronization manifest | kubectl apply -f -
  cairn synchronization manifest --namespace ci-forks --group gitlab:forks
  cairn synchronization manifest --service-account runners:default`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			text, err := a.settings.Manifest(o.namespace, o.accounts, o.users, o.groups)
			if err != nil {
				return &usageError{cmd.CommandPath(), err}
			}
			_, err = fmt.Fprint(a.Out, text)
			return err
		},
	}
	f := cmd.Flags()
	f.StringVar(&o.namespace, "namespace", "", "the `NAMESPACE` (default that of --synchronization, or cairn-synchronization)")
	f.StringSliceVar(&o.accounts, "service-account", nil, "a service account `NAMESPACE:NAME` that may use it; may be repeated")
	f.StringSliceVar(&o.users, "user", nil, "a `USER` that may use it; may be repeated")
	f.StringSliceVar(&o.groups, "group", nil, "a `GROUP` that may use it; may be repeated")
	return cmd
}
