package cli

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

type purgeOptions struct {
	wire.CleanupOptions
	contexts                 lines
	dryRun, yes, removeInUse bool
}

func (a *app) purgeCommand() *cobra.Command {
	var o purgeOptions
	cmd := &cobra.Command{
		Use:   "purge",
		Short: "Remove everything of the project from the storage, and its ledger",
		Long: `Purge removes all stages and builds of the project, the marker that makes the storage
the project's, and the ledger in which its runners coordinate. It asks for the
project's name first. Tags that Cairn has not made stay, and so does what they stand
on: remove them first to be rid of that as well.

It refuses while runners are at work, and where a cluster uses an image of the storage
or cannot be read. What was published within the last 15 minutes stays, and with it
the marker and the ledger: run it again then. In a cluster it needs the right to
delete ConfigMaps in the ledger's namespace, which runners do not have.`,
		Example: `  cairn purge --dry-run
  cairn purge --without-kube --yes`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			o.Contexts = o.contexts
			return a.purge(cmd, o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and do nothing")
	f.BoolVar(&o.yes, "yes", false, "do not ask for the project's name")
	variables.Apart(f.Lookup("yes"), "purge-yes")
	f.Var(&o.contexts, "kube-context", "`CONTEXT` of the kubeconfig whose cluster is asked what it uses; may be given several times (default all)")
	f.BoolVar(&o.WithoutKube, "without-kube", false, "ask no cluster what it uses: what is deployed may go")
	f.BoolVar(&o.removeInUse, "remove-in-use", false, "remove also what clusters use")
	return cmd
}

// purgeReport is a purge as JSON, see docs/purge.schema.json; sizes are bytes.
type purgeReport struct {
	Project string `json:"project"`
	Storage string `json:"storage"`
	Ledger  string `json:"ledger"`
	DryRun  bool   `json:"dryRun"`
	// Stages and Builds count what is to go, Freed what the storage's own garbage
	// collector gains by that.
	Stages int   `json:"stages"`
	Builds int   `json:"builds"`
	Freed  int64 `json:"freed"`
	// Foreign are the tags that Cairn has not made.
	Foreign     []string        `json:"foreign"`
	Stays       []purgeStay     `json:"stays"`
	InUse       []purgeStay     `json:"inUse"`
	Clusters    []string        `json:"clusters"`
	WithoutKube string          `json:"withoutKube,omitempty"`
	Unread      []cleanupUnread `json:"unread"`
	// Busy are the runners that are at work.
	Busy    []string        `json:"busy"`
	Removed *cleanupOutcome `json:"removed,omitempty"`
	Failed  []string        `json:"failed,omitempty"`
	// LedgerRemoved says that the marker and the ledger are gone as well.
	LedgerRemoved bool     `json:"ledgerRemoved"`
	Error         *failure `json:"error,omitempty"`
}

// purgeStay is a tag with why it stays, or what uses it.
type purgeStay struct {
	Tag string `json:"tag"`
	Why string `json:"why"`
}

func reportPurge(project string, p *wire.Purge, dryRun bool) purgeReport {
	base := reportCleanup(project, p.Cleanup, dryRun)
	r := purgeReport{
		Project: project, Storage: base.Storage, Ledger: p.Ledger, DryRun: dryRun, Freed: base.Freed,
		Foreign: base.Foreign, Stays: []purgeStay{}, InUse: []purgeStay{}, Busy: []string{},
		Clusters: base.Clusters, WithoutKube: base.WithoutKube, Unread: base.Unread,
	}
	for _, v := range p.Verdicts {
		switch {
		case v.Kind == inventory.KindMarker, v.Kind == inventory.KindForeign:
		case v.Keep && v.Reasons[0].Code != cleanup.Broken:
			r.Stays = append(r.Stays, purgeStay{v.Tag, v.Reasons[0].Text})
		case v.Kind == inventory.KindStage:
			r.Stages++
		default:
			r.Builds++
		}
	}
	for _, v := range p.InUse {
		for _, reason := range v.Reasons {
			if reason.Code == cleanup.InUse {
				r.InUse = append(r.InUse, purgeStay{v.Tag, reason.Text})
			}
		}
	}
	for _, h := range p.Busy {
		r.Busy = append(r.Busy, holderName(h))
	}
	return r
}

func holderName(h synchronization.Holder) string {
	if h.Name == "" {
		return h.Session
	}
	return h.Name
}

func (a *app) purge(cmd *cobra.Command, o purgeOptions) error {
	ctx := cmd.Context()
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	a.warnConfig(p.Config)
	steps := newSteps(a.Err, a.host.Now)
	o.Progress = steps.tell
	plan, err := a.settings.PlanPurge(ctx, a.host, p, st, o.CleanupOptions)
	if err != nil {
		return err
	}
	report := reportPurge(p.Config.Name, plan, o.dryRun)
	err = refusePurge(report, plan, o)
	if err == nil && !o.dryRun {
		if err = a.confirm(cmd, report, o.yes); err == nil {
			err = a.purgeAway(ctx, plan, &report, steps)
		}
	}
	if shown := a.showPurge(report, err); shown != nil {
		return shown
	}
	if err != nil && a.output == formatJSON {
		return &reportedError{err}
	}
	return err
}

// refusePurge returns why nothing may be removed.
func refusePurge(r purgeReport, p *wire.Purge, o purgeOptions) error {
	switch {
	case len(r.Busy) > 0:
		return &purgeBusyError{r.Busy}
	case len(p.Unread) > 0:
		return &unreadError{len(p.Unread), p.Unread[0]}
	case len(r.InUse) > 0 && !o.removeInUse:
		return &inUseError{r.InUse}
	}
	return nil
}

// purgeBusyError says that runners are at work.
type purgeBusyError struct{ runners []string }

// Error implements error.
func (e *purgeBusyError) Error() string {
	return fmt.Sprintf("%s at work in the project, the first: %s", verbed(len(e.runners), "runner is", "runners are"), e.runners[0])
}

// Hint says what to do.
func (*purgeBusyError) Hint() string {
	return "have them end and no more begin, then run it again; \"cairn locks ls\" lists what they are at work on"
}

func verbed(n int, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %s", n, many)
}

// inUseError says that clusters use what is to be removed.
type inUseError struct{ used []purgeStay }

// Error implements error.
func (e *inUseError) Error() string {
	return fmt.Sprintf("%s in clusters, the first: %s: %s", verbed(len(e.used), "name is in use", "names are in use"), e.used[0].Tag, e.used[0].Why)
}

// Hint says what to do.
func (*inUseError) Hint() string {
	return "remove what uses them from the clusters, or say that they shall go with --remove-in-use"
}

// leftError says that a purge is not complete.
type leftError struct {
	left  int
	first string
}

// Error implements error.
func (e *leftError) Error() string {
	return fmt.Sprintf("%s, the first: %s; the marker and the ledger stay with them", verbed(e.left, "tag of the project is left", "tags of the project are left"), e.first)
}

// Hint says what to do.
func (*leftError) Hint() string {
	return "what was published lately goes 15 minutes later, and what tags stand on that Cairn has not made when these are gone: run it again then"
}

// errNotConfirmed ends a purge that nobody has confirmed.
var errNotConfirmed = errors.New("the project's name was not given: nothing was removed")

// maxAnswer bounds what is read of an answer, in bytes.
const maxAnswer = 4096

// confirm asks for the project's name.
func (a *app) confirm(cmd *cobra.Command, r purgeReport, yes bool) error {
	if yes {
		return nil
	}
	fmt.Fprintf(a.Err, "This removes %s and %s (%s) of project %s from %s, and the ledger %s.\nThe project's name: ",
		plural(r.Stages, "stage"), plural(r.Builds, "build"), bytesText(r.Freed), r.Project, r.Storage, r.Ledger)
	answer, err := bufio.NewReader(io.LimitReader(a.In, maxAnswer)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if strings.TrimSpace(answer) != r.Project {
		return &usageError{cmd.CommandPath(), errNotConfirmed}
	}
	return nil
}

// purgeAway removes, and notes in the report what became of it.
func (a *app) purgeAway(ctx context.Context, p *wire.Purge, report *purgeReport, steps *steps) error {
	w := &removing{steps: steps, total: len(p.Remove)}
	out, err := p.Apply(ctx, w.run(0))
	report.Removed, report.Failed, report.LedgerRemoved = removedOf(out.Outcome), w.failed, out.LedgerRemoved
	if out.Failed > 0 {
		err = errors.Join(err, &removalError{failed: out.Failed, first: w.failed[0]})
	}
	if err == nil && len(out.Left) > 0 {
		err = &leftError{len(out.Left), out.Left[0]}
	}
	return err
}

// showPurge writes the report, with the error that it ends with.
func (a *app) showPurge(r purgeReport, err error) error {
	if a.output == formatJSON {
		r.Error = failed(err)
		return writeJSON(a.Out, r)
	}
	a.showNames("not made by Cairn and not touched", r.Foreign)
	a.showNames("in use", stayWords(r.InUse))
	a.showNames("stays", stayWords(r.Stays))
	switch {
	case r.Removed != nil:
		end := "the marker and the ledger stay"
		if r.LedgerRemoved {
			end = "the marker and the ledger " + r.Ledger + " are gone as well"
		}
		_, err = fmt.Fprintf(a.Out, "removed %s of project %s from %s; %s\n", plural(r.Removed.Removed+r.Removed.Gone, "tag"), r.Project, r.Storage, end)
		return err
	case r.DryRun:
		_, err = fmt.Fprintf(a.Out, "would remove %s and %s of project %s from %s, which frees %s when the storage collects its garbage, and the ledger %s\n",
			plural(r.Stages, "stage"), plural(r.Builds, "build"), r.Project, r.Storage, bytesText(r.Freed), r.Ledger)
		return err
	}
	return nil
}

func stayWords(all []purgeStay) []string {
	var out []string
	for _, s := range all {
		out = append(out, s.Tag+" ("+s.Why+")")
	}
	return out
}

// removing follows a removal.
type removing struct {
	steps  *steps
	total  int
	done   int
	failed []string // the first of them
}

// run returns how the removal is carried out.
func (w *removing) run(grace time.Duration) wire.CleanupRun {
	return wire.CleanupRun{
		Grace: grace,
		Waiting: func(h synchronization.Holder) {
			w.steps.note(fmt.Sprintf("waiting for %s, which is at work on %s", h.Name, h.Digest.Short()))
		},
		Done: func(r sweep.Result) {
			w.done++
			w.steps.tell("removing", w.done, w.total)
			if r.Fate == sweep.Failed && len(w.failed) < maxFailed {
				w.failed = append(w.failed, fmt.Sprintf("%s: %v", r.Name.Tag(), r.Err))
			}
		},
	}
}
