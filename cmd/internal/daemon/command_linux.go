package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/telemetry"
	"github.com/cairnbuild/cairn/cmd/internal/variables"
)

// Main runs cairnd with its arguments and returns the exit code: one of those
// that [daemonctl] names, or 0.
func Main(args []string, version string, stdout, stderr io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, os.Interrupt)
	defer stop()
	usage := true
	cmd := newCommand(version, func() { usage = false })
	cmd.SetArgs(args)
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)
	err := cmd.ExecuteContext(ctx)
	if err == nil {
		return 0
	}
	fmt.Fprintf(stderr, "cairnd: %v\n", err)
	switch {
	case usage:
		return daemonctl.ExitUsage
	case errors.Is(err, ErrRunning):
		return daemonctl.ExitRunning
	default:
		return daemonctl.ExitFailure
	}
}

// newCommand returns the root command; parsed is called when the command line was found right.
func newCommand(version string, parsed func()) *cobra.Command {
	root := &cobra.Command{
		Use: "cairnd", Short: "The build daemon of Cairn", Version: version,
		SilenceErrors: true, SilenceUsage: true,
		PersistentPreRunE: func(cmd *cobra.Command, _ []string) error {
			err := variables.Read(cmd, os.Getenv)
			if err == nil {
				parsed()
			}
			return err
		},
	}
	paths := daemonctl.DefaultPaths(daemonctl.UserID(os.Geteuid(), os.Getenv), os.Getenv)
	root.PersistentFlags().StringVar(&paths.State, "state", paths.State, "directory of the engine's cache, logs and locks")
	root.PersistentFlags().StringVar(&paths.Socket, "socket", paths.Socket, "unix socket of the BuildKit API")
	root.AddCommand(serveCommand(version, &paths), engineCommandLine(&paths), statusCommand(&paths), dialCommand(&paths), versionCommand(version))
	return root
}

func serveCommand(version string, paths *daemonctl.Paths) *cobra.Command {
	c := Config{Version: version}
	var readyFD int
	var log telemetry.LogOptions
	var remote string
	cmd := &cobra.Command{
		Use: "serve", Short: "Serve builds until nobody needs it", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			exe, err := os.Executable()
			if err != nil {
				return err
			}
			c.Paths, c.Executable, c.Ready = *paths, exe, readyOn(readyFD)
			if _, err := c.Eviction.Policy.Rules(); err != nil {
				return err
			}
			if c.Cleaning.Schedule != "" {
				c.IdleTimeout = 0
			}
			if c.Remote, err = ParseRemote(remote); err != nil {
				return err
			}
			if c.Log, err = log.Logger(cmd.ErrOrStderr()); err != nil {
				return err
			}
			return Serve(cmd.Context(), c)
		},
	}
	cmd.Flags().DurationVar(&c.IdleTimeout, "idle-timeout", 10*time.Minute, "leave after this time without a connection; 0 for never")
	cmd.Flags().StringVar(&remote, "listen", "", "`ADDRESS` on which builds of other machines are served: tcp://HOST:PORT?ca=FILE&cert=FILE&key=FILE")
	cmd.Flags().StringVar(&c.Metrics.Address, "metrics-address", "", "loopback `ADDRESS` (127.0.0.1:9464) on which to serve /metrics, /healthz and /readyz besides the socket")
	cmd.Flags().BoolVar(&c.Metrics.Open, "metrics-open", false, "allow a --metrics-address that others can reach: who reads there is not asked who he is")
	cmd.Flags().StringVar(&log.Format, "log-format", telemetry.FormatText, "`FORMAT` of the log on standard error: text or json")
	cmd.Flags().StringVar(&log.Level, "log-level", "info", "`LEVEL` from which on the log is written: debug, info, warn or error")
	c.Eviction.Policy.Flags(cmd.Flags())
	cmd.Flags().StringVar(&c.Eviction.Cache, "cache-dir", defaultCache(), "`DIRECTORY` of local stages and fetched layers, from which is evicted besides the engine's records")
	cmd.Flags().DurationVar(&c.Eviction.Interval, "eviction-interval", time.Minute, "look about so often whether the volume is too full; 0 for never")
	cmd.Flags().StringVar(&c.Cleaning.Schedule, "cleanup-schedule", "", "clean up the storages of projects at these times, in the five `FIELDS` of cron; the daemon then does not leave when idle")
	cmd.Flags().StringArrayVar(&c.Cleaning.Projects, "cleanup-project", nil, "`DIRECTORY` of a project to clean up, or DIRECTORY=REPOSITORY with its stages storage; may be given several times")
	engineFlags(cmd, &c.Network, &c.KeepBytes, &readyFD)
	return cmd
}

// defaultCache is the cache directory that cairn has for this user; "" where
// there is no home.
func defaultCache() string {
	dir, err := daemonctl.UserDir("", os.Getenv("XDG_CACHE_HOME"), daemonctl.Home(os.Getenv), ".cache")
	if err != nil {
		return ""
	}
	return dir
}

func engineCommandLine(paths *daemonctl.Paths) *cobra.Command {
	var c EngineConfig
	var readyFD int
	cmd := &cobra.Command{
		Use: "engine", Short: "Run the build engine; serve does this", Args: cobra.NoArgs, Hidden: true,
		RunE: func(cmd *cobra.Command, _ []string) error {
			c.State, c.Socket, c.Ready, c.Life = paths.State, paths.Socket, readyOn(readyFD), cmd.InOrStdin()
			return RunEngine(cmd.Context(), c)
		},
	}
	engineFlags(cmd, &c.Network, &c.KeepBytes, &readyFD)
	return cmd
}

func engineFlags(cmd *cobra.Command, network *string, keep *int64, readyFD *int) {
	cmd.Flags().StringVar(network, "network", "auto", "network of commands: auto, host or cni")
	cmd.Flags().Int64Var(keep, "keep-bytes", 0, "bytes that the engine's cache may hold; 0 to go by the size of the volume")
	cmd.Flags().IntVar(readyFD, "ready-fd", 0, "file descriptor to write to when ready")
	// The flag exists: it was defined above.
	_ = cmd.Flags().MarkHidden("ready-fd")
}

// readyOn returns what tells the parent process, through an inherited pipe, that this one is ready.
func readyOn(fd int) func() {
	if fd == 0 {
		return func() {}
	}
	f := os.NewFile(uintptr(fd), "ready")
	return func() {
		// A parent that does not listen any more does not need to know.
		_, _ = f.Write([]byte{'\n'})
		_ = f.Close()
	}
}

func statusCommand(paths *daemonctl.Paths) *cobra.Command {
	return &cobra.Command{
		Use: "status", Short: "Show the status of the running daemon as JSON", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			s, err := daemonctl.Ask(cmd.Context(), *paths)
			if err != nil {
				return err
			}
			e := json.NewEncoder(cmd.OutOrStdout())
			e.SetIndent("", "  ")
			return e.Encode(s)
		},
	}
}

// dialCommand is what a build runs in a pod or a container to reach the daemon there.
func dialCommand(paths *daemonctl.Paths) *cobra.Command {
	return &cobra.Command{
		Use: "dial-stdio", Short: "Join standard input and output to the running daemon", Args: cobra.NoArgs,
		Long:    "Join standard input and output to the running daemon, for builds from outside of its pod.",
		Example: "  cairn build --engine 'kube-pod://NAMESPACE/POD?program=cairnd'",
		RunE: func(cmd *cobra.Command, _ []string) error {
			return dialStdio(cmd.Context(), paths.Socket, cmd.InOrStdin(), cmd.OutOrStdout())
		},
	}
}

func versionCommand(version string) *cobra.Command {
	return &cobra.Command{
		Use: "version", Short: "Show the version", Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			_, err := fmt.Fprintln(cmd.OutOrStdout(), version)
			return err
		},
	}
}
