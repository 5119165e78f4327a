// Package cli holds the commands of cairn: one file a command, which reads flags,
// calls one function and writes what a person or a program reads. No other
// package prints.
package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"golang.org/x/term"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
)

// version is set by the linker.
var version = "dev" //nolint:gochecknoglobals // the linker can set nothing else

// envPrefix begins the variable of every flag.
const envPrefix = "CAIRN_"

// streams are the three that every command has.
type streams struct {
	in       io.Reader
	out, err io.Writer
}

// app is what all commands share: global flags and the process's surroundings.
type app struct {
	streams
	settings  wire.Settings
	output    string
	logFormat string
	logLevel  string
	host      wire.Host
}

// Main runs the command line and returns the exit code.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := interruptible()
	defer stop()
	a := &app{streams: streams{in, out, errw}}
	root := a.root()
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	if err := root.ExecuteContext(ctx); err != nil {
		return a.fail(ctx, err)
	}
	return exitOK
}

// errInterrupted is why a run ends that was interrupted from outside.
var errInterrupted = errors.New("interrupted")

// interruptible returns a context that ends with the first SIGINT or SIGTERM.
// A second one ends the process at once.
func interruptible() (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(context.Background())
	sig := make(chan os.Signal, 1)
	signal.Notify(sig, os.Interrupt, syscall.SIGTERM)
	go func() {
		select {
		case <-sig:
			signal.Stop(sig)
			cancel(errInterrupted)
		case <-ctx.Done():
		}
	}()
	return ctx, func() {
		signal.Stop(sig)
		cancel(nil)
	}
}

func (a *app) root() *cobra.Command {
	root := &cobra.Command{
		Use:   "cairn",
		Short: "Build container images in stages that all runners share",
		Long: `Cairn splits each image build into stages, names every stage by the content that
goes into it, and keeps the stages in a container registry. Exactly one runner
builds and publishes a new stage; all others adopt it.`,
		SilenceUsage:      true,
		SilenceErrors:     true,
		Version:           version,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error { return a.prepare(cmd) },
		CompletionOptions: cobra.CompletionOptions{HiddenDefaultCmd: false},
	}
	root.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return &usageError{err} })
	f := root.PersistentFlags()
	f.StringVar(&a.settings.Dir, "dir", ".", "the project's `DIRECTORY`, which holds cairn.yaml")
	f.BoolVar(&a.settings.Dev, "dev", false, "use the work tree, uncommitted files included, instead of the commit")
	f.StringVar(&a.settings.Storage, "stages-storage", wire.Local, "where stages live: a `REPOSITORY` of a registry, or :local")
	f.StringVar(&a.settings.Secondary, "secondary-storage", "", "a `REPOSITORY` that is only read: what it has is taken over")
	f.StringVar(&a.settings.Synchronization, "synchronization", wire.Local, "`ADDRESS` of the ledger in which runners coordinate")
	f.StringVar(&a.settings.EngineAddress, "engine", "", "`ADDRESS` of a BuildKit to use in place of this host's daemon (unix://PATH, tcp://HOST:PORT)")
	f.StringVar(&a.settings.RegistryCA, "registry-ca", "", "`FILE` of PEM certificates to trust besides the system's")
	f.StringVar(&a.settings.CacheDir, "cache-dir", "", "`DIRECTORY` of :local stages and of results not yet published (default ~/.cache/cairn)")
	f.StringVar(&a.settings.StateDir, "state-dir", "", "`DIRECTORY` of the local ledger, and of a daemon of its own (default ~/.local/state/cairn)")
	f.StringVar(&a.output, "output", "text", "`FORMAT` of the result: text or json")
	f.StringVar(&a.logFormat, "log-format", "text", "`FORMAT` of the log on standard error: text or json")
	f.StringVar(&a.logLevel, "log-level", "warn", "`LEVEL` from which on the log is written: debug, info, warn, error")
	root.AddCommand(
		a.buildCommand(), a.planCommand(), a.explainCommand(), a.lockCommand(), a.exportCommand(),
		a.storageCommand(), a.versionCommand(),
	)
	return root
}

// prepare reads the environment where a flag was not given, and checks what all
// commands share.
func (a *app) prepare(cmd *cobra.Command) error {
	var failed error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		v, ok := os.LookupEnv(envName(f.Name))
		if f.Changed || !ok || f.Name == "help" || f.Name == "version" {
			return
		}
		if err := cmd.Flags().Set(f.Name, v); err != nil && failed == nil {
			failed = &usageError{fmt.Errorf("%s=%q: %w", envName(f.Name), v, err)}
		}
	})
	if failed != nil {
		return failed
	}
	if a.output != "text" && a.output != "json" {
		return &usageError{fmt.Errorf("--output %s: want text or json", a.output)}
	}
	log, err := a.logger()
	if err != nil {
		return err
	}
	a.host = wire.NewHost(log, version)
	dir, err := filepath.Abs(a.settings.Dir)
	if err != nil {
		return err
	}
	a.settings.Dir = dir
	return nil
}

// envName returns the variable of a flag.
func envName(flag string) string {
	return envPrefix + strings.ToUpper(strings.ReplaceAll(flag, "-", "_"))
}

func (a *app) logger() (*zap.Logger, error) {
	level, err := zapcore.ParseLevel(a.logLevel)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--log-level %s: want debug, info, warn or error", a.logLevel)}
	}
	var enc zapcore.Encoder
	switch a.logFormat {
	case "json":
		enc = zapcore.NewJSONEncoder(zap.NewProductionEncoderConfig())
	case "text":
		enc = zapcore.NewConsoleEncoder(zap.NewDevelopmentEncoderConfig())
	default:
		return nil, &usageError{fmt.Errorf("--log-format %s: want text or json", a.logFormat)}
	}
	return zap.New(zapcore.NewCore(enc, zapcore.AddSync(a.err), level)), nil
}

// terminal returns the width of w where it is a terminal that shows live rows,
// else 0.
func terminal(w io.Writer) int {
	f, ok := w.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || os.Getenv("TERM") == "dumb" || os.Getenv("CI") != "" {
		return 0
	}
	width, _, err := term.GetSize(int(f.Fd()))
	if err != nil || width < 20 {
		return 0
	}
	return width
}

// open reads the project and warns of what a build from the commit leaves out.
func (a *app) open(ctx context.Context) (*wire.Project, *wire.Storages, error) {
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
