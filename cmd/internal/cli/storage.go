package cli

import (
	"context"
	"errors"
	"fmt"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

func (a *app) storageCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "storage",
		Short:   "Look at a stages storage",
		Long:    `The commands of storage are about the repository that stages live in.`,
		Example: "  cairn storage check registry.example.com/shop/stages",
	})
	cmd.AddCommand(&cobra.Command{
		Use:   "check REPOSITORY",
		Short: "Try whether a repository can serve as stages storage",
		Long: `Check runs against REPOSITORY what Cairn's own implementations have to pass. It
makes tags that begin with cairn-check- and removes them again; blobs stay for the
registry's own collector.`,
		Example: `  cairn storage check registry.example.com/shop/stages
  cairn storage check registry.example.com/shop/stages --output json`,
		Args: usageArgs(cobra.ExactArgs(1)),
		RunE: func(cmd *cobra.Command, args []string) error { return a.checkStorage(cmd.Context(), args[0]) },
	})
	return cmd
}

// checkedProject is the directory of the local storage that "check :local" uses.
const checkedProject = "storage-check"

// errCheckFailed ends a check in which something failed.
var errCheckFailed = errors.New("the storage failed checks: Cairn would not work well with it")

type checkReport struct {
	Name      string   `json:"name"`
	Outcome   string   `json:"outcome"`
	Why       string   `json:"why"`
	Error     string   `json:"error,omitempty"`
	Notes     []string `json:"notes,omitempty"`
	Leftovers []string `json:"leftovers,omitempty"`
	Seconds   float64  `json:"seconds"`
}

func (a *app) checkStorage(ctx context.Context, address string) error {
	st, err := wire.NewStorages(a.settings, a.host)
	if err != nil {
		return err
	}
	defer st.Close()
	s, err := st.Open(ctx, checkedProject, address)
	if err != nil {
		return err
	}
	if _, err := s.Resolve(ctx, storage.ProjectTag); err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err // not worth a try of everything
	}
	run, err := newSalt(a.host.Rand)
	if err != nil {
		return err
	}
	var all []checkReport
	failed := 0
	for r := range storagetest.CheckAll(ctx, s, storagetest.Options{Run: run, Now: a.host.Now}) {
		rep := checkReport{
			Name: r.Name, Outcome: string(r.Outcome), Why: r.Why, Notes: r.Notes,
			Leftovers: r.Leftovers, Seconds: r.Duration.Seconds(),
		}
		if r.Err != nil {
			rep.Error = r.Err.Error()
		}
		if r.Outcome == storagetest.Failed {
			failed++
		}
		all = append(all, rep)
		if a.output == formatText {
			a.showCheck(rep)
		}
	}
	if err := context.Cause(ctx); err != nil {
		return err
	}
	if a.output == formatJSON {
		if err := writeJSON(a.Out, all); err != nil {
			return err
		}
	} else {
		fmt.Fprintf(a.Out, "%d of %d checks passed or are optional\n", len(all)-failed, len(all))
		if p := st.Product(address); p.Name != "" {
			fmt.Fprintf(a.Out, "the registry is %s%s; deletions need %s\n", p.Name, map[bool]string{false: " (unverified: tell us how this went)"}[p.Verified], p.Needs)
		}
	}
	if failed > 0 {
		return &reportedError{errCheckFailed} // the outcome of each check is on standard output
	}
	return nil
}

func (a *app) showCheck(r checkReport) {
	fmt.Fprintf(a.Out, "%-11s  %-40s  %s\n", r.Outcome, r.Name, seconds(r.Seconds))
	if r.Error != "" {
		fmt.Fprintf(a.Out, "             %s\n             why it matters: %s\n", printable(r.Error), r.Why)
	}
	for _, n := range r.Notes {
		fmt.Fprintf(a.Out, "             note: %s\n", printable(n))
	}
	for _, l := range r.Leftovers {
		fmt.Fprintf(a.Out, "             left behind: %s\n", printable(l))
	}
}
