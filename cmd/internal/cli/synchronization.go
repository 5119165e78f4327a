package cli

import (
	"context"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/synchronization"
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
	cmd.AddCommand(a.manifestCommand(), a.adoptCommand())
	return cmd
}

func (a *app) adoptCommand() *cobra.Command {
	var reason string
	var yes bool
	cmd := &cobra.Command{
		Use:   "adopt",
		Short: "Have the storage accept a ledger that was made again",
		Long: `Adopt writes into the marker of the stages storage that its runners coordinate in the
ledger of --synchronization from now on. It is for a ledger that was lost, because its
namespace or cluster was deleted, and made again: to the storage that is another
ledger, and two ledgers would let two runners publish one stage differently.

The new ledger knows nothing of what was in flight in the old one. So be sure that no
run with the old ledger is under way, and that the last one ended at least 15 minutes
ago; then say so with --yes. Runs that still use the old ledger are refused afterwards.
The reason is kept in the marker.`,
		Example: `  cairn synchronization adopt --reason "cluster was reinstalled" --yes \
    --stages-storage registry.example.com/shop/stages`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			switch {
			case strings.TrimSpace(reason) == "":
				return usagef(cmd, "say why with --reason")
			case !yes:
				return usagef(cmd, "no run with the old ledger may be under way or have ended within %s: say with --yes that this is so",
					shortDuration(synchronization.DefaultDelta))
			}
			return a.adoptLedger(cmd.Context(), reason)
		},
	}
	cmd.Flags().StringVar(&reason, "reason", "", "`TEXT` that says why, for those who look for it later")
	cmd.Flags().BoolVar(&yes, "yes", false, "nobody publishes into the storage, and nobody has for 15 minutes")
	return cmd
}

func (a *app) adoptLedger(ctx context.Context, reason string) error {
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	was, err := a.settings.AdoptLedger(ctx, a.host, st, p.Config.Name, reason)
	if err != nil {
		return err
	}
	ledger := a.settings.LedgerAddress(a.host)
	if a.output == formatJSON {
		return writeJSON(a.Out, map[string]string{"ledger": ledger, "was": was})
	}
	if was == "" {
		_, err = fmt.Fprintf(a.Out, "Storage %s has no marker: its first publisher names the ledger\n", a.settings.Storage)
	} else {
		_, err = fmt.Fprintf(a.Out, "Storage %s belongs to the ledger %s\n", a.settings.Storage, ledger)
	}
	return err
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
