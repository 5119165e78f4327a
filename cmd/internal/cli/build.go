package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"runtime"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages/build"
)

type buildOptions struct {
	parallel       int
	unsynchronized string
}

func (a *app) buildCommand() *cobra.Command {
	var o buildOptions
	cmd := &cobra.Command{
		Use:   "build [IMAGE...]",
		Short: "Build the project's images, or only those named",
		Long: `Build brings every image of the commit into the stages storage. What is there is
not built again: when nothing has changed, one request answers for all images and
nothing is started.`,
		Example: `  # everything, into the storage of this host
  cairn build

  # two images, into a registry, with a report for a program
  cairn build backend site --stages-storage registry.example.com/shop/stages --output json

  # with files that are not committed yet
  cairn build --dev`,
		RunE: func(cmd *cobra.Command, args []string) error { return a.build(cmd.Context(), o, args) },
	}
	f := cmd.Flags()
	f.IntVar(&o.parallel, "parallel", runtime.NumCPU(), "how many stages run at once on this host")
	f.StringVar(&o.unsynchronized, "unsynchronized", "fail", "what to do without a ledger: fail, or keep-local to build and publish nothing")
	return cmd
}

func (a *app) build(ctx context.Context, o buildOptions, images []string) error {
	if o.parallel < 1 {
		return &usageError{fmt.Errorf("--parallel %d: want at least 1", o.parallel)}
	}
	if o.unsynchronized != "fail" && o.unsynchronized != "keep-local" {
		return &usageError{fmt.Errorf("--unsynchronized %s: want fail or keep-local", o.unsynchronized)}
	}
	if err := a.settings.Check(ctx); err != nil {
		return &usageError{err}
	}
	p, st, err := a.open(ctx)
	if err != nil {
		return err
	}
	defer st.Close()
	a.warnDirty(ctx, p)
	show := newProgress(a.err, terminal(a.err), a.host.Now)
	b := &wire.Builder{
		Settings: a.settings, Host: a.host, Storages: st, Project: p,
		Parallel: o.parallel, Observer: show, KeepLocal: o.unsynchronized == "keep-local",
	}
	rep, err := b.Run(ctx, images)
	show.close()
	return a.closeBuild(rep, err)
}

// closeBuild shows the report, also that of a failed run, and passes on how it ended.
func (a *app) closeBuild(rep *build.Report, err error) error {
	if rep == nil {
		return err
	}
	if a.output == "json" {
		if err := writeJSON(a.out, rep); err != nil {
			return err
		}
		if err != nil {
			return &reportedError{err}
		}
		return a.keptLocal(rep)
	}
	if err != nil {
		a.showFailure(rep, err)
		return err
	}
	a.showReport(rep)
	return a.keptLocal(rep)
}

// keptLocal turns a run that published nothing, as it was told to, into its exit code.
func (a *app) keptLocal(rep *build.Report) error {
	if len(rep.Kept) == 0 {
		return nil
	}
	return &build.KeptError{Kept: rep.Kept, Err: errors.New("the ledger could not be reached")}
}

func writeJSON(w interface{ Write([]byte) (int, error) }, v any) error {
	e := json.NewEncoder(w)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// maxListed is how many left-out files are named.
const maxListed = 10

// warnDirty lists what the work tree has and the commit has not.
func (a *app) warnDirty(ctx context.Context, p *wire.Project) {
	if a.settings.Dev {
		return
	}
	changes, err := p.Repo.Dirty(ctx)
	if err != nil || len(changes) == 0 {
		return // a build from the commit does not need the work tree
	}
	fmt.Fprintf(a.err, "warning: %d uncommitted changes are left out (--dev includes them):\n", len(changes))
	for i, c := range changes {
		if i == maxListed {
			fmt.Fprintf(a.err, "  … and %d more\n", len(changes)-maxListed)
			break
		}
		fmt.Fprintf(a.err, "  %s %s\n", c.Kind, printable(c.Path))
	}
}
