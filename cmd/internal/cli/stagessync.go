package cli

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
)

type syncOptions struct {
	from, to             string
	images               []string
	since                time.Duration
	current, dry, remove bool
}

func (a *app) syncStagesCommand() *cobra.Command {
	var o syncOptions
	cmd := &cobra.Command{
		Use:   "sync",
		Short: "Copy stages from one storage to another",
		Long: `Sync brings stages, the indexes of builds and what is attached to them from one
storage to another. An address is a repository of a registry, :local, oci:DIRECTORY
for an OCI image layout or oci-archive:FILE.tar for a tar of one, to be carried to
where no network leads.

What the target has is not sent again, so a sync that was interrupted goes on where it
was. A stage that the target has otherwise is left as it is and reported, and so is
what the source has lost; the exit code is 10 then, and the rest is copied. Stages are
named under entries of the target's ledger where runners publish there
(--synchronization). docs/sync.md tells more.`,
		Example: `  # everything, to the registry of another site
  cairn stages sync --from registry.example.com/shop/stages --to mirror.example.org/shop/stages

  # the current build, in a file
  cairn stages sync --from registry.example.com/shop/stages --to oci-archive:shop.tar --only-current-build`,
		Args:    usageArgs(cobra.NoArgs),
		PreRunE: func(cmd *cobra.Command, _ []string) error { return a.checkSync(cmd, o) },
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.syncStages(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.from, "from", "", "`ADDRESS` to copy from")
	f.StringVar(&o.to, "to", "", "`ADDRESS` to copy to")
	variables.Apart(f.Lookup("from"), "sync-from")
	variables.Apart(f.Lookup("to"), "sync-to")
	f.StringSliceVar(&o.images, "image", nil, "`NAME` of an image, to leave others out; may be given several times (~ is the nameless one)")
	f.DurationVar(&o.since, "since", 0, "leave out what was not used for this `DURATION`, or, in a registry, has been there for longer")
	f.BoolVar(&o.current, "only-current-build", false, "copy the stages and indexes of the current commit's build only")
	f.BoolVar(&o.dry, "dry-run", false, "say what would be done, and do nothing")
	f.BoolVar(&o.remove, "remove-source", false, "remove from the source what the target was seen to have")
	return cmd
}

func (a *app) checkSync(cmd *cobra.Command, o syncOptions) error {
	switch {
	case o.from == "" || o.to == "":
		return usagef(cmd, "--from and --to are needed")
	case o.from == o.to:
		return usagef(cmd, "--from and --to are the same storage")
	case o.since < 0:
		return usagef(cmd, "--since %s: want a duration above 0, for instance 720h", o.since)
	case o.remove && o.dry:
		return usagef(cmd, "--remove-source and --dry-run exclude each other")
	}
	st, err := wire.NewStorages(a.settings, a.host)
	if err != nil {
		return err
	}
	defer st.Close()
	if o.remove {
		err = st.CheckRemoval(o.from)
	}
	return errors.Join(err, st.CheckEnd("--from", o.from), st.CheckEnd("--to", o.to))
}

// syncStages runs a sync. Only what depends on a configuration needs one: a mirror
// has none.
func (a *app) syncStages(ctx context.Context, o syncOptions) error {
	st, err := wire.NewStorages(a.settings, a.host)
	if err != nil {
		return err
	}
	defer st.Close()
	w := wire.SyncOptions{
		From: o.from, To: o.to, Since: o.since, DryRun: o.dry, Remove: o.remove, Progress: &transfer.Progress{},
	}
	for _, name := range o.images {
		w.Images = append(w.Images, imageName(name))
	}
	if err := a.ofProject(ctx, st, o, &w); err != nil {
		return err
	}
	stop := a.watchSync(w.Progress)
	done, err := a.settings.Sync(ctx, a.host, st, w)
	stop()
	return a.closeSync(ctx, st, o, done, err)
}

func (a *app) ofProject(ctx context.Context, st *wire.Storages, o syncOptions, w *wire.SyncOptions) error {
	p, err := a.settings.Open(ctx, a.host)
	if err != nil {
		if o.current || o.from == wire.Local || o.to == wire.Local {
			return err
		}
		return nil
	}
	w.Project = p.Config.Name
	if o.current {
		w.Plan, err = p.Plan(ctx, st, nil)
	}
	return err
}

// watchSync shows the progress until the returned function is called.
func (a *app) watchSync(p *transfer.Progress) (stop func()) {
	m := a.newMeter()
	return m.watch(func() string { return syncText(p.Amounts(), m.elapsed()) })
}

func syncText(n transfer.Amounts, took time.Duration) string {
	if n.Units == 0 {
		return fmt.Sprintf("looked at %d of %s", n.Seen, plural(int(n.Names), "name"))
	}
	return fmt.Sprintf("%d of %s, %s", n.Done, plural(int(n.Units), "manifest"), flow(n.Settled, n.Bytes, took))
}

// syncReport is a sync as JSON, see docs/stages-sync.schema.json.
type syncReport struct {
	Project string `json:"project"`
	From    string `json:"from"`
	To      string `json:"to"`
	DryRun  bool   `json:"dryRun"`
	// Copied are names that were given, or would be; Same those that both had.
	Copied int `json:"copied"`
	Same   int `json:"same"`
	Other  int `json:"other"`
	// Ledger: stages were named under entries of the target's ledger.
	Ledger  bool         `json:"ledger"`
	Blobs   blobReport   `json:"blobs"`
	Skipped []syncSkip   `json:"skipped"`
	Missing []string     `json:"missing"`
	Removed []string     `json:"removed"`
	Request requestCount `json:"requests"`
	Seconds float64      `json:"seconds"`
	Error   *failure     `json:"error,omitempty"`
}

// blobReport counts blobs and bytes by how they came.
type blobReport struct {
	Copied  int   `json:"copied"`
	Mounted int   `json:"mounted"`
	Present int   `json:"present"`
	Bytes   int64 `json:"bytesCopied"`
	Planned int64 `json:"bytesPlanned"`
}

type requestCount struct {
	Registry int64 `json:"registry"`
	Ledger   int64 `json:"ledger"`
}

type syncSkip struct {
	Tag    string `json:"tag"`
	Kind   string `json:"kind"`
	Reason string `json:"reason"`
	Error  string `json:"error"`
}

// skippedError says that something was not copied.
type skippedError struct{ skipped, missing int }

func (e *skippedError) Error() string {
	if e.skipped == 0 {
		return fmt.Sprintf("the source lacks %s", plural(e.missing, "name"))
	}
	return fmt.Sprintf("%s not copied", plural(e.skipped, "name"))
}

func (e *skippedError) Hint() string {
	if e.skipped == 0 {
		return "build the commit first: cairn build"
	}
	return "the list says why each stays; what is different was decided separately, and what is corrupt has to be built again"
}

func (a *app) reportSync(st *wire.Storages, o syncOptions, done *wire.Sync) syncReport {
	counts := st.Counts()
	r := syncReport{
		From: o.from, To: o.to, DryRun: o.dry, Skipped: []syncSkip{}, Missing: []string{}, Removed: []string{},
		Request: requestCount{counts.RegistryRequests, counts.LedgerRequests},
		Seconds: a.host.Now().Sub(a.host.Began).Seconds(),
	}
	if done == nil {
		return r
	}
	r.Project, r.Other, r.Ledger = done.Project, done.Others, done.Ledger
	r.Missing, r.Removed = append(r.Missing, done.Missing...), append(r.Removed, done.Removed...)
	if done.Plan == nil {
		return r
	}
	r.Same, r.Blobs.Planned = len(done.Plan.Same), done.Plan.Bytes
	skips := done.Plan.Skips
	if done.Result == nil {
		for _, u := range done.Plan.Units {
			if u.Tag != "" {
				r.Copied++
			}
		}
	} else {
		skips = done.Result.Skips
		r.Copied, r.Blobs.Bytes = len(done.Result.Named), done.Result.Bytes[storage.Copied]
		b := done.Result.Blobs
		r.Blobs.Copied, r.Blobs.Mounted, r.Blobs.Present = b[storage.Copied], b[storage.Mounted], b[storage.Present]
	}
	for _, s := range skips {
		r.Skipped = append(r.Skipped, syncSkip{printable(s.Tag), string(s.Kind), string(s.Reason), printable(s.Err.Error())})
	}
	return r
}

func (a *app) closeSync(ctx context.Context, st *wire.Storages, o syncOptions, done *wire.Sync, err error) error {
	r := a.reportSync(st, o, done)
	if err == nil && len(r.Skipped)+len(r.Missing) > 0 {
		err = &skippedError{len(r.Skipped), len(r.Missing)}
	}
	if a.output == formatJSON {
		if err != nil {
			f := failureOf(ctx, err)
			r.Error = &f
			err = &reportedError{err}
		}
		return errors.Join(err, writeJSON(a.Out, r))
	}
	if done == nil || done.Plan == nil {
		return err
	}
	return errors.Join(a.showSync(r), err)
}

// skipsShown is how many names that were not copied are listed.
const skipsShown = 50

func (a *app) showSync(r syncReport) error {
	for i, s := range r.Skipped {
		if i == skipsShown {
			fmt.Fprintf(a.Out, "and %d more; --output json lists all\n", len(r.Skipped)-i)
			break
		}
		fmt.Fprintf(a.Out, "skipped %s %s: %s: %s\n", s.Kind, s.Tag, s.Reason, s.Error)
	}
	for _, tag := range r.Missing {
		fmt.Fprintf(a.Out, "missing %s\n", tag)
	}
	if r.DryRun {
		_, err := fmt.Fprintf(a.Out, "would copy %s with at most %s; %d are there already\n", plural(r.Copied, "name"), bytesText(r.Blobs.Planned), r.Same)
		return err
	}
	fmt.Fprintf(a.Out, "copied %s; %d were there already\n", plural(r.Copied, "name"), r.Same)
	if len(r.Removed) > 0 {
		fmt.Fprintf(a.Out, "removed %s from %s\n", plural(len(r.Removed), "name"), r.From)
	}
	_, err := fmt.Fprintf(a.Out, "%s sent, %d mounted, %d there already; %s sent in %s\n",
		plural(r.Blobs.Copied, "blob"), r.Blobs.Mounted, r.Blobs.Present, bytesText(r.Blobs.Bytes), seconds(r.Seconds))
	return err
}
