package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
)

func (a *app) hostCommand() *cobra.Command {
	cmd := group(&cobra.Command{
		Use:     "host",
		Short:   "Look after this host's local cache",
		Long:    `The commands of host are about what builds leave on this machine.`,
		Example: "  cairn host cleanup --dry-run",
	})
	cmd.AddCommand(a.hostCleanupCommand())
	return cmd
}

type hostCleanupOptions struct {
	policy hostcache.Policy
	dryRun bool
}

func (a *app) hostCleanupCommand() *cobra.Command {
	var o hostCleanupOptions
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Evict what was used least recently when the volume is too full",
		Long: `Cleanup looks at the volume of the local cache. Where it is fuller than the high
mark, it removes stages on disk, layers that were read from a storage, commits of
other repositories and the engine's records, least recently used first, until the
low mark is met. What a running build uses, results that are not yet published and
what was used in the last hour stay. A layer that several stages share goes with the
last of them. What the volume gained is measured.

Marks are shares of the volume, such as 80%, or sizes, such as 200GiB. The build
daemon does the same by itself while it runs, and a build that has made something
when it ends; docs/host-cache.md explains both. One process of a host evicts at a
time: this command waits for another's pass.`,
		Example: `  cairn host cleanup
  cairn host cleanup --dry-run
  cairn host cleanup --high 60% --low 50% --min-age 24h`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error { return a.cleanHost(cmd, o) },
	}
	f := cmd.Flags()
	o.policy.Flags(f)
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and do nothing")
	return cmd
}

// errStillFull ends a cleanup that could not free enough.
var errStillFull = errors.New("the volume is still fuller than the low mark: what may be evicted is not enough")

func (a *app) cleanHost(cmd *cobra.Command, o hostCleanupOptions) error {
	rules, err := o.policy.Rules()
	if err != nil {
		return usagef(cmd, "%w", err)
	}
	rules.Now = a.host.Now()
	passes, err := a.settings.CleanHost(cmd.Context(), a.host, wire.HostCleanup{
		Rules: rules, DryRun: o.dryRun,
		Waiting: func(path string) {
			a.warnf("another process evicts from this volume (it holds %s): waiting for its end", path)
		},
	})
	full := false
	reports := make([]hostReport, len(passes))
	for i, p := range passes {
		reports[i] = reportPass(p, o.dryRun)
		full = full || !o.dryRun && !p.Met()
	}
	if err := a.showPasses(reports); err != nil {
		return err
	}
	if cause := context.Cause(cmd.Context()); cause != nil {
		return cause
	}
	if full {
		err = errors.Join(err, errStillFull)
	}
	if err != nil && a.output == formatJSON {
		return &reportedError{err} // the reports say it
	}
	return err
}

// hostReport is a pass as it is shown; sizes are bytes.
type hostReport struct {
	Path    string        `json:"path"`
	DryRun  bool          `json:"dryRun"`
	Total   int64         `json:"total"`
	Used    int64         `json:"used"`
	Goal    int64         `json:"goal"`
	After   int64         `json:"after"`
	Freed   int64         `json:"freed"`
	Ours    int64         `json:"ours"`
	Foreign int64         `json:"foreign"`
	Evicted []hostVerdict `json:"evicted"`
	Blocked []hostBlock   `json:"blocked"`
}

type hostVerdict struct {
	Store  string    `json:"store"`
	ID     string    `json:"id"`
	Used   time.Time `json:"used"`
	Bytes  int64     `json:"bytes"`
	Reason string    `json:"reason"`
}

type hostBlock struct {
	Reason string `json:"reason"`
	Items  int    `json:"items"`
	Bytes  int64  `json:"bytes"`
}

func reportPass(p wire.HostPass, dryRun bool) hostReport {
	r := hostReport{
		Path: p.Path, DryRun: dryRun, Total: p.Volume.Total, Used: p.Volume.Used, Goal: p.Goal,
		After: p.After.Used, Freed: p.Freed(), Ours: p.Ours, Foreign: p.Foreign,
		Evicted: []hostVerdict{}, Blocked: []hostBlock{},
	}
	gone := p.Evicted
	if dryRun {
		gone = p.Evict[:p.Enough]
	}
	for _, v := range gone {
		r.Evicted = append(r.Evicted, hostVerdict{v.Store, v.ID, v.Used.UTC(), v.Frees, v.Reason})
	}
	for _, b := range p.Blocked {
		r.Blocked = append(r.Blocked, hostBlock(b))
	}
	return r
}

func (a *app) showPasses(all []hostReport) error {
	if a.output == formatJSON {
		return writeJSON(a.Out, all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(a.Out, "Nothing of Cairn is on this host")
		return err
	}
	for _, r := range all {
		if err := a.showPass(r); err != nil {
			return err
		}
	}
	return nil
}

func (a *app) showPass(r hostReport) error {
	share := func(n int64) string { return fmt.Sprintf("%.1f %%", 100*float64(n)/float64(r.Total)) }
	fmt.Fprintf(a.Out, "%s: %s of %s used (%s), %s of it Cairn's\n",
		r.Path, bytesText(r.Used), bytesText(r.Total), share(r.Used), bytesText(r.Ours))
	if r.Goal == 0 {
		_, err := fmt.Fprintln(a.Out, "  below the high mark: nothing to do")
		return err
	}
	if r.DryRun {
		if err := a.showVerdicts(r.Evicted); err != nil {
			return err
		}
		fmt.Fprintf(a.Out, "  would evict %s\n", plural(len(r.Evicted), "item"))
	} else {
		fmt.Fprintf(a.Out, "  evicted %s, freed %s: now %s used (%s)\n",
			plural(len(r.Evicted), "item"), bytesText(r.Freed), bytesText(r.After), share(r.After))
	}
	if r.DryRun || r.After <= r.Goal {
		return nil
	}
	for _, b := range r.Blocked {
		fmt.Fprintf(a.Out, "  stays: %s, %s: %s\n", plural(b.Items, "item"), bytesText(b.Bytes), b.Reason)
	}
	_, err := fmt.Fprintf(a.Out, "  %s of the volume are not Cairn's\n", bytesText(r.Foreign))
	return err
}

func (a *app) showVerdicts(all []hostVerdict) error {
	w := a.table()
	for _, v := range slices.SortedFunc(slices.Values(all), func(x, y hostVerdict) int { return cmp.Or(x.Used.Compare(y.Used), cmp.Compare(x.ID, y.ID)) }) {
		fmt.Fprintf(w, "  %s\t%s\t%s\tlast used %s\t%s\n", v.Store, shortID(v.ID), bytesText(v.Bytes), v.Used.Format(time.RFC3339), v.Reason)
	}
	return w.Flush()
}

// shortID is enough of an id to know it by.
func shortID(s string) string {
	const enough = 24
	if len(s) > enough {
		return s[:enough]
	}
	return s
}
