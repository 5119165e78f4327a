package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
)

// cleanupGrace is for how long a build may use what the index of a build told it.
const cleanupGrace = 24 * time.Hour

type cleanupOptions struct {
	wire.CleanupOptions
	contexts, alsoKnownAs lines
	grace                 time.Duration
	dryRun                bool
}

func (a *app) cleanupCommand() *cobra.Command {
	var o cleanupOptions
	cmd := &cobra.Command{
		Use:   "cleanup",
		Short: "Remove stages and builds that nothing needs any more",
		Long: `Cleanup plans the commits that the keep policies of cairn.yaml keep, looks into
Kubernetes clusters for what is in use, and removes from the storage what neither
needs: first the indexes of builds, and after the grace period the stages that they
named. Everything gets a verdict with a reason. Builds may run meanwhile. Tags that
Cairn has not made are never touched.

A cluster that cannot be read keeps everything, and the exit code is 11. What cannot
be planned, because its base is not pinned or an old commit has an error, keeps all
builds that may be of it. docs/cleanup.md says more.`,
		Example: `  cairn cleanup --dry-run
  cairn cleanup --kube-context production --kube-context staging
  cairn cleanup --without-kube --dry-run --output json`,
		Args: usageArgs(cobra.NoArgs),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if o.grace < 0 {
				return usagef(cmd, "--removal-grace %s: want a duration that is not negative", o.grace)
			}
			o.Contexts, o.AlsoKnownAs = o.contexts, o.alsoKnownAs
			return a.clean(cmd.Context(), o)
		},
	}
	f := cmd.Flags()
	f.BoolVar(&o.dryRun, "dry-run", false, "say what would be done, and do nothing")
	f.Var(&o.contexts, "kube-context", "`CONTEXT` of the kubeconfig whose cluster is asked what it uses; may be given several times (default all)")
	f.BoolVar(&o.WithoutKube, "without-kube", false, "ask no cluster what it uses: what is deployed may go")
	f.Var(&o.alsoKnownAs, "also-known-as", "`REPOSITORY` by which clusters name the storage, a mirror for instance; may be given several times")
	f.StringVar(&o.KeepList, "keep-list", "", "`FILE` of images to keep, one on each line: REPOSITORY@sha256:…, REPOSITORY:TAG, a digest or a tag")
	f.BoolVar(&o.WithoutFetch, "without-fetch", false, "take branches and tags as this clone knows them, without asking the remote")
	f.BoolVar(&o.AllowEmptyKeep, "allow-empty-keep", false, "go on where nothing that is kept is in the storage, and remove everything")
	f.DurationVar(&o.grace, "removal-grace", cleanupGrace, "`DURATION` for which a stage stays after the last name of it has gone")
	cmd.AddCommand(a.cleanupManifestCommand())
	return cmd
}

func (a *app) clean(ctx context.Context, o cleanupOptions) error {
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	a.warnConfig(p.Config)
	steps := newSteps(a.Err, a.host.Now)
	o.Progress = steps.tell
	c, err := a.settings.PlanCleanup(ctx, a.host, p, st, o.CleanupOptions)
	if err != nil && !errors.Is(err, cleanup.ErrKeepsNothing) {
		return err
	}
	a.warnCleanup(c)
	report := reportCleanup(p.Config.Name, c, o.dryRun)
	if err == nil && !o.dryRun && len(c.Unread) == 0 && len(c.Verdicts) > 0 {
		w := &removing{steps: steps, total: len(c.Remove)}
		var out sweep.Outcome
		out, err = c.Apply(ctx, w.run(o.grace))
		report.Removed, report.Failed = removedOf(out), w.failed
		if out.Failed > 0 {
			err = errors.Join(err, &removalError{failed: out.Failed, first: w.failed[0]})
		}
	}
	if len(c.Unread) > 0 {
		err = errors.Join(err, &unreadError{len(c.Unread), c.Unread[0]})
	}
	if shown := a.showCleanup(report, err); shown != nil {
		return shown
	}
	if err != nil && a.output == formatJSON {
		return &reportedError{err}
	}
	return err
}

// maxFailed bounds the failures that a report names.
const maxFailed = 20

// warnCleanup tells what made a plan keep more than its policies say.
func (a *app) warnCleanup(c *wire.Cleanup) {
	if c.IndexError != nil {
		a.warnf("%v", c.IndexError)
	}
	for i, why := range c.Open {
		if i == maxListed {
			a.warnf("… and %d more", len(c.Open)-maxListed)
			break
		}
		a.warnf("all builds that may be of it are kept: %s", why)
	}
	told := 0
	for _, commit := range c.Commits {
		if len(commit.Unplanned) == 0 {
			continue
		}
		if told++; told > maxListed {
			continue
		}
		a.warnf("all builds that may be of it are kept: %s (%.12s) cannot be planned: %s", commit.Why, commit.ID, commit.Unplanned[0].Why)
	}
	if told > maxListed {
		a.warnf("… and %d more", told-maxListed)
	}
	for _, u := range c.Unread {
		a.warnf("%v", u)
	}
}

// unreadError says that something that may use the storage could not be read.
type unreadError struct {
	problems int
	first    interface{ Hint() string }
}

// Error implements error.
func (e *unreadError) Error() string {
	return fmt.Sprintf("everything is kept: %s of clusters could not be read", plural(e.problems, "resource"))
}

// Hint says what to do.
func (e *unreadError) Hint() string { return e.first.Hint() }

// removalError says that some removals failed.
type removalError struct {
	failed int
	first  string
}

// Error implements error.
func (e *removalError) Error() string {
	return fmt.Sprintf("%s failed, the first: %s", plural(e.failed, "removal"), e.first)
}

// Hint says what to do.
func (e *removalError) Hint() string {
	return "the storage or the ledger refused; run it again when the cause is gone, and it goes on from there"
}

// classifyCleanup is about cleanups and purges.
func classifyCleanup(err error) (int, string) {
	var unread *unreadError
	var failed *removalError
	var inUse *inUseError
	var busy *purgeBusyError
	var left *leftError
	switch {
	case errors.As(err, &busy):
		return exitLedger, ""
	case errors.As(err, &inUse):
		return exitUnread, ""
	case errors.As(err, &left):
		return exitPartly, ""
	case errors.Is(err, cleanup.ErrKeepsNothing):
		return exitConfig, "check keepPolicies, the branches of the remote and --stages-storage; if all of it shall go, --allow-empty-keep"
	case errors.Is(err, wire.ErrCleanupDisabled):
		return exitConfig, "remove cleanup.disable"
	case errors.As(err, &failed):
		return exitStorage, ""
	case errors.As(err, &unread):
		return exitUnread, ""
	}
	return 0, ""
}
