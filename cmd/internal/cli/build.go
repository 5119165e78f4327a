package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"runtime"
	"sync"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/synchronization"
)

type buildOptions struct {
	parallel       int
	unsynchronized string
	patience       time.Duration
	reportFile     string
	secrets, ssh   lines
}

// Words of --unsynchronized.
const (
	unsynchronizedFail = "fail"
	unsynchronizedKeep = "keep-local"
)

func (a *app) buildCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [IMAGE...]",
		Short: "Build the project's images, or only those named",
		Long: `Build brings every image of the commit into the stages storage. What is there is
not built again: when nothing has changed, one request answers for all images and
nothing is started.

With --output json, standard output is one document as docs/report.schema.json
describes it, also when the build fails; --report-file writes the same to a file.
docs/observability.md tells of traces, metrics and logs.`,
		Example: `  # everything, into the storage of this host
  cairn build

  # two images, into a registry, with a report for a program
  cairn build backend site --stages-storage registry.example.com/shop/stages --output json

  # a Dockerfile of a project without a cairn.yaml
  cairn build --dockerfile Dockerfile

  # with files that are not committed yet
  cairn build --dev

  # with a secret and the keys of an SSH agent for the commands that mount them
  cairn build --secret id=npm-token,src=$HOME/.npm-token --ssh default`,
		ValidArgsFunction: a.completeImages(0),
		PreRunE:           func(cmd *cobra.Command, _ []string) error { return errors.Join(o.check(cmd), a.checkQuick(cmd)) },
		RunE:              func(cmd *cobra.Command, args []string) error { return a.build(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	a.quickFlags(f)
	f.IntVar(&o.parallel, "parallel", 0, "`NUMBER` of stages that run at once on this host; 0 for as many as it has processors")
	f.StringVar(&o.unsynchronized, "unsynchronized", unsynchronizedFail, "`WHAT` to do without a ledger: fail, or keep-local to build and publish nothing")
	f.Var(&o.secrets, "secret", "a secret for the commands that mount it: `id=ID,src=FILE` or id=ID,env=VARIABLE; may be repeated, a variable has one on each line")
	f.Var(&o.ssh, "ssh", "an SSH agent for the commands that mount it: `ID[=SOCKET]`, or ID=KEYFILE for an agent with that key; may be repeated, a variable has one on each line")
	f.StringVar(&o.reportFile, "report-file", "", "`FILE` that gets the build report as JSON, also when the build fails")
	f.DurationVar(&o.patience, "wait-timeout", build.DefaultPatience, "`DURATION` for which a stage is waited for that another runner is making")
	complete(cmd, "unsynchronized", unsynchronizedFail, unsynchronizedKeep)
	return cmd
}

// quickFlags name a Dockerfile in the place of a configuration.
func (a *app) quickFlags(f *pflag.FlagSet) {
	f.StringVar(&a.settings.Quick.Dockerfile, "dockerfile", "", "`PATH` of a Dockerfile that makes the only image of a project without a cairn.yaml; the project's directory is the context and names the project")
	f.StringVar(&a.settings.Quick.Target, "target", "", "build stage of --dockerfile to make, by its `NAME`")
}

// checkQuick refuses what only --dockerfile gives a meaning.
func (a *app) checkQuick(cmd *cobra.Command) error {
	if a.settings.Quick.Target != "" && a.settings.Quick.Dockerfile == "" {
		return usagef(cmd, "--target %s: it is a stage of the file that --dockerfile names", a.settings.Quick.Target)
	}
	return nil
}

func (o buildOptions) check(cmd *cobra.Command) error {
	if o.parallel < 0 {
		return usagef(cmd, "--parallel %d: want a number that is not negative", o.parallel)
	}
	if o.patience <= 0 {
		return usagef(cmd, "--wait-timeout %s: want a duration above 0, for instance 2h", o.patience)
	}
	if o.unsynchronized != unsynchronizedFail && o.unsynchronized != unsynchronizedKeep {
		return usagef(cmd, "--unsynchronized %s: want fail or keep-local", o.unsynchronized)
	}
	return nil
}

func (a *app) build(ctx context.Context, o buildOptions, images []string) error {
	w := a.newWitness(ctx)
	rep, err := a.runBuild(ctx, o, images, w)
	if err == nil && len(rep.Kept) > 0 {
		// It did what --unsynchronized told it, which is not what others can use.
		err = &build.KeptError{Kept: rep.Kept, Err: errors.New("the ledger could not be reached")}
	}
	w.close(ctx, rep, err)
	if failed := writeReport(ctx, o.reportFile, rep, err); failed != nil && err == nil {
		err = failed
	} else if failed != nil {
		a.warnf("%v", failed)
	}
	return a.closeBuild(ctx, rep, err)
}

// runBuild plans and builds. The report is there when the run has begun.
func (a *app) runBuild(ctx context.Context, o buildOptions, images []string, w *witness) (*build.Report, error) {
	w.trace.Begin("plan")
	given, err := wire.ParseGiven(a.host, o.secrets, o.ssh)
	if err != nil {
		return nil, err
	}
	p, st, err := a.open(ctx)
	if err != nil {
		return nil, err
	}
	defer st.Close()
	a.warnConfig(p.Config)
	planned, err := p.Plan(ctx, st, images)
	if err != nil {
		return nil, err
	}
	w.trace.Begin("look up")
	a.warnUnpinned(planned)
	a.warnArgs(planned)
	if o.parallel == 0 {
		o.parallel = runtime.NumCPU()
	}
	show := a.newProgress(ctx)
	b := &wire.Builder{
		Settings: a.settings, Host: a.host, Storages: st, Project: p, Given: given,
		Parallel: o.parallel, Observer: w.observer(show), KeepLocal: o.unsynchronized == unsynchronizedKeep,
		Patience: o.patience, Outage: newOutages(a.settings.LedgerAddress(a.host), a.host.Now, show).observe,
		Waiting: func(w synchronization.Awaited) { show.note(waitingText(w)) },
		Moved: func(m synchronization.Move) {
			show.note(fmt.Sprintf("the storage was switched meanwhile: going on in %s with the ledger %s", m.To.Storage, m.To.Ledger))
		},
	}
	// The work tree is looked at while the storage answers.
	var dirty sync.WaitGroup
	dirty.Go(func() { a.warnDirty(ctx, p, show.note) })
	rep, err := b.Run(ctx, planned)
	dirty.Wait()
	show.close()
	a.settings = b.Settings // a switch may have been followed
	if err != nil {
		err = explainFailure(p, planned, err)
	}
	return rep, err
}

// buildDocument is the report of a build, with how it failed.
type buildDocument struct {
	*build.Report
	Error *failure `json:"error,omitempty"`
}

// documentOf is the report of a build that ended with err; rep may be nil.
func documentOf(ctx context.Context, rep *build.Report, err error) buildDocument {
	doc := buildDocument{Report: rep}
	if err != nil {
		f := failureOf(ctx, err)
		doc.Error = &f
	}
	return doc
}

// closeBuild shows the report, also that of a failed run, and passes on how it ended.
func (a *app) closeBuild(ctx context.Context, rep *build.Report, err error) error {
	if rep == nil {
		return err
	}
	if err != nil {
		a.showFailure(ctx, rep, err)
	} else {
		a.warnAlone(rep)
	}
	a.warnLosses(rep)
	if rep.Unlisted != "" {
		a.warnf("the build has no index, for the ledger does not answer: the next build looks for each image again (%s)", rep.Unlisted)
	}
	if a.output == formatJSON {
		doc := documentOf(ctx, rep, err)
		if err != nil {
			err = &reportedError{err}
		}
		return errors.Join(err, writeJSON(a.Out, doc))
	}
	if err != nil {
		return err
	}
	return a.showReport(rep)
}

// explainFailure adds to the failure of a command which files it could have seen,
// and to that of an import where it stands.
func explainFailure(p *wire.Project, planned *stages.Plan, err error) error {
	var missing *engine.MissingPathError
	if errors.As(err, &missing) {
		return explainImport(p, planned, missing, err)
	}
	var exit *engine.ExitError
	if !errors.As(err, &exit) {
		return err
	}
	if hint := undeclaredHint(p, planned, exit); hint != "" {
		return &hintedError{err, hint}
	}
	return err
}

func writeJSON(w io.Writer, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return fmt.Errorf("write the result: %w", err)
	}
	return nil
}
