package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildkitdOptions say how a plain BuildKit is set up.
type BuildkitdOptions struct {
	// Insecure are the addresses of registries that are asked over plain HTTP.
	Insecure []string
}

// Buildkitd is a running plain BuildKit of the pinned version, the yardstick of
// the benchmarks. It keeps its state in a temporary directory.
type Buildkitd struct {
	dir      string
	buildctl string
	proc     *process
}

// StartBuildkitd starts a daemon and returns when it answers. It needs root and runc.
func StartBuildkitd(ctx context.Context, opts BuildkitdOptions) (_ *Buildkitd, err error) {
	daemon, err := tool("buildkitd", "buildkit")
	if err != nil {
		return nil, err
	}
	client, err := tool("buildctl", "buildkit")
	if err != nil {
		return nil, err
	}
	if _, err := program("runc"); err != nil {
		return nil, err
	}
	dir, err := os.MkdirTemp("", "cairn-buildkitd-")
	if err != nil {
		return nil, err
	}
	b := &Buildkitd{dir: dir, buildctl: client}
	defer func() {
		if err != nil {
			err = errors.Join(err, b.Stop())
		}
	}()
	if err = os.WriteFile(b.path("config.toml"), []byte(buildkitConfig(opts)), 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), daemon, "--config", b.path("config.toml"),
		"--root", b.path("root"), "--addr", b.Address(), "--otel-socket-path", b.path("otel.sock"))
	if b.proc, err = startProcess(cmd, nil); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	err = b.proc.await(ctx, func(ctx context.Context) error { return b.Command(ctx, "debug", "workers").Run() })
	if err != nil {
		return nil, err
	}
	return b, nil
}

// NewBuildkitd is [StartBuildkitd] for a test, which ends it.
func NewBuildkitd(t T, opts BuildkitdOptions) *Buildkitd {
	t.Helper()
	b, err := StartBuildkitd(t.Context(), opts)
	if err != nil {
		t.Fatalf("start buildkitd: %v", err)
	}
	t.Cleanup(func() {
		if err := b.Stop(); err != nil {
			t.Errorf("stop buildkitd: %v", err)
		}
	})
	return b
}

// buildkitConfig has the worker use the machine's network, which needs no
// network plugins, and never collect garbage, which would disturb a measurement.
func buildkitConfig(opts BuildkitdOptions) string {
	var c strings.Builder
	c.WriteString("[worker.oci]\n  snapshotter = \"overlayfs\"\n  networkMode = \"host\"\n  gc = false\n[worker.containerd]\n  enabled = false\n")
	for _, address := range opts.Insecure {
		fmt.Fprintf(&c, "[registry.%q]\n  http = true\n", address)
	}
	return c.String()
}

// Address returns the daemon's address, a unix socket.
func (b *Buildkitd) Address() string { return "unix://" + b.path("buildkitd.sock") }

// Command returns a call of buildctl against this daemon.
func (b *Buildkitd) Command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, b.buildctl, append([]string{"--addr", b.Address()}, args...)...)
}

// Stop ends the daemon and removes its state.
func (b *Buildkitd) Stop() error {
	var err error
	if b.proc != nil {
		err = b.proc.stop(stopGrace)
	}
	return errors.Join(err, os.RemoveAll(b.dir))
}

func (b *Buildkitd) path(name string) string { return filepath.Join(b.dir, name) }
