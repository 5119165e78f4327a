package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// engineProcess is a cairnd that was started here, with the network of the machine.
type engineProcess struct {
	cmd  *exec.Cmd
	dir  string
	bin  string
	done chan struct{}
}

// startEngine starts a daemon with its state in dir and waits until it takes work.
func startEngine(ctx context.Context, bin, dir string) (*engineProcess, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	log, err := os.Create(filepath.Join(dir, "serve.log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	e := &engineProcess{dir: dir, bin: bin, done: make(chan struct{})}
	e.cmd = exec.Command(filepath.Join(bin, "cairnd"), "serve", "--state", dir, "--socket", e.socket(), "--idle-timeout", "0", "--network", "host")
	e.cmd.Stdout, e.cmd.Stderr = log, log
	e.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := e.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(e.done)
		_ = e.cmd.Wait() // it is ended by a signal
	}()
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for {
		if s, err := daemonStatus(ctx, bin, dir, e.socket()); err == nil && s.Ready {
			return e, nil
		}
		select {
		case <-tick.C:
		case <-e.done:
			said, _ := os.ReadFile(log.Name())
			return nil, fmt.Errorf("cairnd ended: %s", said)
		case <-deadline.C:
			return nil, errors.Join(fmt.Errorf("cairnd is not ready within %v", limit), e.stop(ctx))
		}
	}
}

func (e *engineProcess) socket() string  { return filepath.Join(e.dir, "r", "d.sock") }
func (e *engineProcess) address() string { return "unix://" + e.socket() }

func (e *engineProcess) stop(context.Context) error {
	if err := e.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	select {
	case <-e.done:
		return nil
	case <-time.After(limit):
		return errors.Join(fmt.Errorf("cairnd %d does not end", e.cmd.Process.Pid), e.cmd.Process.Kill())
	}
}

// status is what "cairnd status" tells.
type status struct {
	PID, EnginePID, Restarts int
	Ready                    bool
}

func daemonStatus(ctx context.Context, bin, state, socket string) (status, error) {
	var s status
	out, err := exec.CommandContext(ctx, filepath.Join(bin, "cairnd"), "status", "--state", state, "--socket", socket).Output()
	if err != nil {
		return s, err
	}
	err = json.Unmarshal(out, &s)
	return s, err
}

// status asks the daemon that belongs to the host's own state directory; ok is
// false where none runs.
func (h *host) status(t *testing.T) (s status, ok bool) {
	t.Helper()
	s, err := daemonStatus(t.Context(), shared.bin, filepath.Join(h.state, "daemon"), filepath.Join(h.state, "run", "cairnd.sock"))
	return s, err == nil
}

// endDaemon ends the host's own daemon, where one runs, and waits for its end.
func (h *host) endDaemon(ctx context.Context) error {
	s, err := daemonStatus(ctx, shared.bin, filepath.Join(h.state, "daemon"), filepath.Join(h.state, "run", "cairnd.sock"))
	if err != nil {
		return nil // none runs
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		return err
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alive(s.PID) {
		select {
		case <-tick.C:
		case <-deadline.C:
			return errors.Join(fmt.Errorf("cairnd %d does not end", s.PID), syscall.Kill(s.PID, syscall.SIGKILL))
		}
	}
	return nil
}

// alive reports whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	// The first thread of an engine can be through while the last one still ends
	// the processes of the engine's namespace.
	return slices.ContainsFunc(threads, func(path string) bool {
		stat, err := os.ReadFile(path)
		_, after, _ := strings.Cut(string(stat), ") ")
		return err == nil && !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
	})
}

// removeAll removes a tree in which an engine may have left mounts.
func removeAll(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			errs = append(errs, syscall.Unmount(f[1], syscall.MNT_DETACH))
		}
	}
	return errors.Join(append(errs, os.RemoveAll(dir))...)
}
