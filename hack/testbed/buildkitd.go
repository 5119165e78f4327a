package testbed

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// BuildkitdOptions say how a plain BuildKit is set up.
type BuildkitdOptions struct {
	// Insecure are the addresses of registries that are asked over plain HTTP.
	Insecure []string
	// Platforms are those that the worker claims to run, beside its own.
	Platforms []string
	// TLS has it listen on loopback as well, where clients show a certificate.
	TLS bool
}

// Buildkitd is a running plain BuildKit of the pinned version, the yardstick of
// the benchmarks. It keeps its state in a temporary directory.
type Buildkitd struct {
	dir      string
	buildctl string
	proc     *process
	// tcp is HOST:PORT where it listens with TLS.
	tcp string
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
	args := []string{"--config", b.path("config.toml"), "--root", b.path("root"), "--addr", b.Address(), "--otel-socket-path", b.path("otel.sock")}
	if opts.TLS {
		if b.tcp, err = freeAddress(ctx); err != nil {
			return nil, err
		}
		if err = Certify(b.dir); err != nil {
			return nil, err
		}
		args = append(args, "--addr", "tcp://"+b.tcp, "--tlscacert", b.path("ca.crt"), "--tlscert", b.path("server.crt"), "--tlskey", b.path("server.key"))
	}
	cmd := exec.CommandContext(context.WithoutCancel(ctx), daemon, args...)
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
	c.WriteString("[worker.oci]\n  snapshotter = \"overlayfs\"\n  networkMode = \"host\"\n  gc = false\n")
	if len(opts.Platforms) > 0 {
		fmt.Fprintf(&c, "  platforms = [\"%s\"]\n", strings.Join(opts.Platforms, `", "`))
	}
	c.WriteString("[worker.containerd]\n  enabled = false\n")
	for _, address := range opts.Insecure {
		fmt.Fprintf(&c, "[registry.%q]\n  http = true\n", address)
	}
	return c.String()
}

// Address returns the daemon's address, a unix socket.
func (b *Buildkitd) Address() string { return "unix://" + b.path("buildkitd.sock") }

// TLSAddress returns the address with the files that a client shows and checks;
// "" where the daemon does not listen with TLS.
func (b *Buildkitd) TLSAddress() string {
	if b.tcp == "" {
		return ""
	}
	q := url.Values{"ca": {b.path("ca.crt")}, "cert": {b.path("client.crt")}, "key": {b.path("client.key")}}
	return "tcp://" + b.tcp + "?" + q.Encode()
}

// Buildctl returns the path of the client.
func (b *Buildkitd) Buildctl() string { return b.buildctl }

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
