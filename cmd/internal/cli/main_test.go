package cli

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/hack/testbed"
)

var update = flag.Bool("update", false, "write golden files and the reference anew")

const root = "../../.."

func TestMain(m *testing.M) {
	// Scripts run this program again, under these names.
	testscript.Main(testRunner{m}, map[string]func(){
		"cairn": func() { os.Exit(Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) },
	})
}

// testRunner ends what the tests have started.
type testRunner struct{ m *testing.M }

func (r testRunner) Run() int {
	code := r.m.Run()
	if err := shared.stop(); err != nil {
		fmt.Fprintln(os.Stderr, "after the tests:", err)
		code = max(code, 1)
	}
	return code
}

// servers are what several scripts share, each started when first needed.
type servers struct {
	mu       sync.Mutex
	dir      string
	bin      string // the directory of cairnd
	engine   string
	registry *testbed.Registry
}

var shared servers

// home returns a directory with a path short enough for sockets.
func (s *servers) home() (string, error) {
	if s.dir != "" {
		return s.dir, nil
	}
	var err error
	s.dir, err = os.MkdirTemp("", "cairn-cli-")
	return s.dir, err
}

// daemonDir returns a directory in which cairnd was built.
func (s *servers) daemonDir(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.buildDaemon(ctx)
}

func (s *servers) buildDaemon(ctx context.Context) (string, error) {
	if s.bin != "" {
		return s.bin, nil
	}
	home, err := s.home()
	if err != nil {
		return "", err
	}
	bin := filepath.Join(home, "bin")
	cmd := exec.CommandContext(ctx, "go", "build", "-ldflags", "-s -w", "-o", bin+"/", "./cmd/cairnd")
	cmd.Dir = root
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build cairnd: %w: %s", err, out)
	}
	s.bin = bin
	return bin, nil
}

// engineAddress returns the address of the daemon that scripts share.
func (s *servers) engineAddress(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.engine != "" {
		return s.engine, nil
	}
	bin, err := s.buildDaemon(ctx)
	if err != nil {
		return "", err
	}
	s.engine, _, err = daemonctl.Ensure(ctx, daemonctl.Options{Paths: daemonPaths(s.dir), Beside: filepath.Join(bin, "cairn"), IdleTimeout: time.Hour})
	return s.engine, err
}

// daemonPaths are those that cairn takes with --state-dir.
func daemonPaths(state string) daemonctl.Paths {
	return daemonctl.Paths{State: filepath.Join(state, "daemon"), Socket: filepath.Join(state, "run", "cairnd.sock")}
}

// registryAddress returns the address of the registry that scripts share; it
// holds the base images busybox and arm.
func (s *servers) registryAddress(ctx context.Context) (string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry != nil {
		return s.registry.Address(), nil
	}
	r, err := testbed.StartRegistry(ctx, testbed.RegistryOptions{})
	if err != nil {
		return "", err
	}
	s.registry = r
	if _, err := r.PushBase(ctx, "busybox"); err != nil {
		return "", err
	}
	return r.Address(), nil
}

// stop ends the servers and removes what they leave.
func (s *servers) stop() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.registry != nil {
		if err := s.registry.Stop(); err != nil {
			return err
		}
	}
	if s.dir == "" {
		return nil
	}
	if err := endDaemon(context.Background(), s.dir); err != nil {
		return err
	}
	return os.RemoveAll(s.dir)
}

// endDaemon ends the daemon of a state directory, where one runs, and waits for it.
func endDaemon(ctx context.Context, state string) error {
	paths := daemonPaths(state)
	status, err := daemonctl.Ask(ctx, paths)
	if err != nil {
		return nil //nolint:nilerr // none runs
	}
	if err := testbed.Terminate(status.PID); err != nil {
		return fmt.Errorf("end cairnd: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if testbed.Ended(status.PID) {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return fmt.Errorf("cairnd (process %d) has not ended: %w", status.PID, ctx.Err())
		}
	}
}
