// Command testbed runs a command beside servers that it starts on loopback and
// ends with it:
//
//	go run ./hack/cmd/testbed registry --base busybox --base toolchain -- COMMAND…
//
// COMMAND finds the registry's host:port in CAIRN_DEMO_REGISTRY, and the bases
// in it as base/NAME:latest.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/cairnbuild/cairn/hack/testbed"
)

func main() { os.Exit(run()) }

// run returns the exit code: that of the command, where it ran.
func run() int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	root := &cobra.Command{Use: "testbed", SilenceUsage: true, SilenceErrors: true}
	root.AddCommand(registryCommand())
	err := root.ExecuteContext(ctx)
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1)
	default:
		fmt.Fprintln(os.Stderr, "testbed:", err)
		return 1
	}
}

func registryCommand() *cobra.Command {
	var bases []string
	c := &cobra.Command{
		Use:   "registry [--base NAME]… -- COMMAND [ARG]…",
		Short: "Run a command beside a registry that holds base images",
		Args:  cobra.MinimumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			return withRegistry(cmd.Context(), bases, args)
		},
	}
	c.Flags().StringArrayVar(&bases, "base", nil, "a base image to hold: busybox, toolchain, bash or big-N with N MiB")
	return c
}

// withRegistry runs command and returns its error.
func withRegistry(ctx context.Context, bases, command []string) (err error) {
	r, err := testbed.StartRegistry(ctx, testbed.RegistryOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, r.Stop()) }()
	for _, what := range bases {
		if _, err := r.PushBase(ctx, what); err != nil {
			return err
		}
	}
	run := exec.CommandContext(ctx, command[0], command[1:]...)
	run.Stdin, run.Stdout, run.Stderr = os.Stdin, os.Stdout, os.Stderr
	run.Env = append(os.Environ(), "CAIRN_DEMO_REGISTRY="+r.Address())
	run.Cancel = func() error { return run.Process.Signal(syscall.SIGTERM) }
	return run.Run()
}
