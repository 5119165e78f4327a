// Package cli holds the commands of cairn: one file a command, which reads flags,
// calls one function and writes what a person or a program reads. No other
// package prints.
//
// Results go to standard output, everything else to standard error. How an error
// is told and which exit code it has is decided in one place, in exit.go.
package cli

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/telemetry"
	"github.com/cairnbuild/cairn/cmd/internal/variables"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization"
)

// version is set by the linker, which can set nothing but a package variable.
var version = "dev"

// Process is what a command line gets from the system.
type Process struct {
	// Args are the arguments without the program's name.
	Args     []string
	In       io.Reader
	Out, Err io.Writer
	// Env looks up an environment variable.
	Env func(name string) (string, bool)
	World
}

// World is what a test may have otherwise than it is on a machine.
type World struct {
	// Now is the clock; nil is the system's.
	Now func() time.Time
	// Late is what the ledger and builds take for the latest moments at which
	// something can arrive; zero is what all runners take it for.
	Late wire.Late
}

// Main runs the command line of this process and returns the exit code. The
// first SIGINT or SIGTERM ends the run in order, the second one at once.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	return MainIn(World{}, args, in, out, errw)
}

// MainIn is Main in another world than this machine's. Tests have clocks of
// runners go wrong by it, and Δ pass while they wait.
func MainIn(w World, args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := interruptible(context.Background())
	defer stop()
	return Run(ctx, Process{Args: args, In: in, Out: out, Err: errw, Env: os.LookupEnv, World: w})
}

// Run runs a command line and returns the exit code.
func Run(ctx context.Context, p Process) int {
	a := &app{Process: p}
	if err := a.root().ExecuteContext(ctx); err != nil {
		return a.fail(ctx, err)
	}
	return exitOK
}

// app is what all commands share: global flags and the process's surroundings.
type app struct {
	Process
	settings wire.Settings
	output   string
	script   bool // standard output is a script: a failure is not told there
	log      telemetry.LogOptions
	host     wire.Host
}

// Words of --output and --log-format.
const (
	formatText = telemetry.FormatText
	formatJSON = telemetry.FormatJSON
)

func (a *app) root() *cobra.Command {
	root := group(&cobra.Command{
		Use:   "cairn",
		Short: "Build container images in stages that all runners share",
		Long: `Cairn splits each image build into stages, names every stage by the content that
goes into it, and keeps the stages in a container registry. Exactly one runner
builds and publishes a new stage; all others adopt it.

Every flag can be given as a variable as well: --stages-storage is
CAIRN_STAGES_STORAGE. A flag goes before its variable.`,
		Example: `  cairn build
  cairn plan backend
  cairn explain backend --against main`,
		Version:           version,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
	})
	root.SilenceUsage, root.SilenceErrors = true, true
	root.SetFlagErrorFunc(func(cmd *cobra.Command, err error) error { return &usageError{cmd.CommandPath(), err} })
	root.SetArgs(a.Args)
	root.SetIn(a.In)
	root.SetOut(a.Out)
	root.SetErr(a.Err)
	a.globalFlags(root)
	root.AddCommand(
		a.initCommand(), a.buildCommand(), a.planCommand(), a.explainCommand(), a.lockCommand(), a.exportCommand(),
		a.stagesCommand(), a.storageCommand(), a.synchronizationCommand(), a.locksCommand(), a.hostCommand(), a.cleanupCommand(), a.purgeCommand(), a.ciEnvCommand(), a.versionCommand(),
	)
	root.SetHelpCommand(helpCommand())
	root.InitDefaultCompletionCmd(a.Args...)
	describeCompletion(root)
	return root
}

func (a *app) globalFlags(root *cobra.Command) {
	f := root.PersistentFlags()
	f.StringVar(&a.settings.Dir, "dir", ".", "the project's `DIRECTORY`, which holds cairn.yaml")
	f.BoolVar(&a.settings.Dev, "dev", false, "use the work tree, uncommitted files included, instead of the commit")
	f.StringVar(&a.settings.Storage, "stages-storage", wire.Local, "where stages live: a `REPOSITORY` of a registry, or :local")
	f.StringVar(&a.settings.Secondary, "secondary-storage", "", "a `REPOSITORY` that is only read: what it has is taken over")
	f.StringVar(&a.settings.CacheStorage, "cache-storage", "", "a `REPOSITORY` near this host from which layers are read first, and which is filled with those it lacks; a build never fails for its sake")
	f.StringVar(&a.settings.Synchronization, "synchronization", "", "`ADDRESS` of the ledger in which runners coordinate: kubernetes://NAMESPACE[?context=NAME&kubeconfig=FILE&ttl=DURATION] or :local (default :local for :local stages; for a registry kubernetes://cairn-synchronization where a kubeconfig is there)")
	f.StringSliceVar(&a.settings.Engines, "engine", nil, "`ADDRESS` of a BuildKit to use in place of this host's daemon, for one platform as PLATFORM=ADDRESS: unix://PATH, tcp://HOST:PORT, kube-pod://NAMESPACE/POD or docker-container://NAME; may be given several times")
	f.DurationVar(&a.settings.SynchronizationTimeout, "synchronization-timeout", lock.DefaultBudget, "`DURATION` for which the ledger may be away: a request that it does not answer is tried again for so long")
	f.BoolVar(&a.settings.Follow, "follow-switch", false, "go where a switch has moved the project's stages and ledger to (cairn stages switch-from-local)")
	f.StringVar(&a.settings.RegistryCA, "registry-ca", "", "`FILE` of PEM certificates to trust besides the system's")
	f.BoolVar(&a.settings.AllowFileURLs, "allow-file-urls", false, "let git mappings name repositories of this machine (file://)")
	f.StringVar(&a.settings.CacheDir, "cache-dir", "", "`DIRECTORY` of :local stages with their ledger, of layers that were read from a registry, of results not yet published, and of commits of other repositories (default ~/.cache/cairn)")
	f.StringVar(&a.settings.StateDir, "state-dir", "", "`DIRECTORY` of the local ledger of a registry, and of a daemon of its own (default ~/.local/state/cairn)")
	f.StringVar(&a.output, "output", formatText, "`FORMAT` of the result: text or json")
	f.StringVar(&a.log.Format, "log-format", formatText, "`FORMAT` of the log on standard error: text or json")
	f.StringVar(&a.log.Level, "log-level", "warn", "`LEVEL` from which on the log is written: debug, info, warn or error")
	complete(root, "output", formatText, formatJSON)
	complete(root, "log-format", formatText, formatJSON)
	complete(root, "log-level", "debug", "info", "warn", "error")
}

// prepare reads the environment where a flag was not given, and checks what all
// commands share.
func (a *app) prepare(cmd *cobra.Command) error {
	if err := variables.Read(cmd, a.getenv); err != nil {
		return &usageError{cmd.CommandPath(), err}
	}
	if a.output != formatText && a.output != formatJSON {
		return &usageError{cmd.CommandPath(), fmt.Errorf("--output %s: want text or json", a.output)}
	}
	log, err := a.log.Logger(a.Err)
	if err != nil {
		return &usageError{cmd.CommandPath(), err}
	}
	a.host = wire.NewHost(log, version)
	a.host.Getenv, a.host.Late = a.getenv, a.Late
	if a.Now != nil {
		a.host.Now, a.host.Began = a.Now, a.Now()
	}
	if a.settings.SynchronizationTimeout <= 0 {
		return usagef(cmd, "--synchronization-timeout %s: want a duration above 0, for instance 5m", a.settings.SynchronizationTimeout)
	}
	if err := a.settings.Check(); err != nil {
		return err
	}
	if a.settings.StateDir != "" { // the daemon runs in another directory
		if a.settings.StateDir, err = filepath.Abs(a.settings.StateDir); err != nil {
			return err
		}
	}
	a.settings.Dir, err = filepath.Abs(a.settings.Dir)
	return err
}

// open reads the project and opens what reaches its storages, with --follow-switch
// where these are now; the caller closes that.
func (a *app) open(ctx context.Context) (*wire.Project, *wire.Storages, error) {
	p, st, err := a.openHere(ctx)
	if err != nil || !a.settings.Follow {
		return p, st, err
	}
	a.settings, err = a.settings.Followed(ctx, a.host, p.Config.Name, a.tellMoved)
	if err != nil {
		st.Close()
		return nil, nil, err
	}
	st.Follow(a.settings)
	return p, st, nil
}

// tellMoved says which switch is followed.
func (a *app) tellMoved(m synchronization.Move) {
	a.warnf("followed the switch from %s to %s with the ledger %s: set CAIRN_STAGES_STORAGE and CAIRN_SYNCHRONIZATION to these", m.From.Storage, m.To.Storage, m.To.Ledger)
}

// openHere is open without following a switch.
func (a *app) openHere(ctx context.Context) (*wire.Project, *wire.Storages, error) {
	if st, err := os.Stat(a.settings.Dir); err != nil || !st.IsDir() {
		return nil, nil, &noDirectoryError{a.settings.Dir}
	}
	st, err := wire.NewStorages(a.settings, a.host)
	if err != nil {
		return nil, nil, err
	}
	p, err := a.settings.Open(ctx, a.host)
	if err != nil {
		st.Close()
		return nil, nil, err
	}
	return p, st, nil
}

// noDirectoryError says that --dir names no directory.
type noDirectoryError struct{ dir string }

func (e *noDirectoryError) Error() string { return "there is no directory " + e.dir }
func (e *noDirectoryError) Hint() string  { return "name the project's directory with --dir" }
