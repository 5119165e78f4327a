// Package runner runs bin/cairn as a CI runner would, on a machine of its own:
// a home directory without any state, and a git repository to build from.
//
// The demo and the benchmarks use it.
package runner

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Report is what is used of the build report that cairn prints.
type Report struct {
	Root   string
	Images []struct {
		Name   string
		Stages []struct {
			Name, Digest, Result string
			BytesPushed          int64
		}
	}
	Requests struct {
		// Registry and Ledger are null where cairn cannot observe them.
		Registry, Ledger *int64
	}
	EngineStarted            bool
	BytesPulled, BytesPushed *int64
	Seconds                  float64
}

// Count returns how many stages of the images have the result. Stages that several images share are counted for each.
func (r Report) Count(result string) int {
	n := 0
	for _, i := range r.Images {
		for _, s := range i.Stages {
			if s.Result == result {
				n++
			}
		}
	}
	return n
}

// Measure is what a run cost.
type Measure struct {
	Wall time.Duration
	// RSS is the largest resident size, in bytes.
	RSS int64
}

// Machine is a home directory, to which cairn keeps all its state.
type Machine struct {
	// Home is a directory that nobody else uses.
	Home string
	// Bin is the directory of cairn and cairnd.
	Bin string
	// Env is added to the environment, as NAME=value.
	Env []string
}

// Make makes the home, with the directory for sockets that a login would make.
func (m Machine) Make() error { return os.MkdirAll(filepath.Join(m.Home, ".run"), 0o700) }

// Cairn runs cairn with args in dir; what it says goes to messages, which may
// be nil. It returns what it printed on its output.
func (m Machine) Cairn(ctx context.Context, dir string, messages io.Writer, args ...string) ([]byte, Measure, error) {
	var out, tail bytes.Buffer
	cmd := exec.CommandContext(ctx, filepath.Join(m.Bin, "cairn"), args...)
	cmd.Dir, cmd.Env, cmd.Stdout = dir, m.environ(), &out
	cmd.Stderr = &tail
	if messages != nil {
		cmd.Stderr = io.MultiWriter(messages, &tail)
	}
	begin := time.Now()
	err := cmd.Run()
	cost := Measure{Wall: time.Since(begin), RSS: maxRSS(cmd.ProcessState)}
	if err != nil {
		return nil, cost, fmt.Errorf("cairn %s: %w\n%s", strings.Join(args, " "), err, tail.String())
	}
	return out.Bytes(), cost, nil
}

// Run is a call of cairn that is under way.
type Run struct {
	cmd  *exec.Cmd
	done chan struct{}
}

// Start begins a call of cairn, of which nothing is read. It ends with ctx at the latest.
func (m Machine) Start(ctx context.Context, dir string, args ...string) (*Run, error) {
	r := &Run{exec.CommandContext(ctx, filepath.Join(m.Bin, "cairn"), args...), make(chan struct{})}
	r.cmd.Dir, r.cmd.Env = dir, m.environ()
	if err := r.cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		defer close(r.done)
		_ = r.cmd.Wait() // how it ended does not matter to who kills it
	}()
	return r, nil
}

// Done is closed when it has ended.
func (r *Run) Done() <-chan struct{} { return r.done }

// Kill ends it as a crash of its machine would. That it has ended by itself does no harm.
func (r *Run) Kill() { _ = r.cmd.Process.Kill() }

// RSS returns the largest resident size in bytes, when it is done.
func (r *Run) RSS() int64 { return maxRSS(r.cmd.ProcessState) }

// Build runs "cairn build" with more args and reads its report.
func (m Machine) Build(ctx context.Context, dir string, messages io.Writer, args ...string) (Report, Measure, error) {
	out, cost, err := m.Cairn(ctx, dir, messages, append([]string{"build", "--output", "json"}, args...)...)
	if err != nil {
		return Report{}, cost, err
	}
	var r Report
	if err := json.Unmarshal(out, &r); err != nil {
		return Report{}, cost, fmt.Errorf("read the build report: %w: %s", err, out)
	}
	return r, cost, nil
}

// environ gives cairn nothing of the caller's settings and state.
func (m Machine) environ() []string {
	env := []string{
		"HOME=" + m.Home,
		"PATH=" + m.Bin + string(filepath.ListSeparator) + os.Getenv("PATH"),
		"TMPDIR=" + os.TempDir(),
		"XDG_CACHE_HOME=" + filepath.Join(m.Home, ".cache"),
		"XDG_CONFIG_HOME=" + filepath.Join(m.Home, ".config"),
		"XDG_STATE_HOME=" + filepath.Join(m.Home, ".state"),
		"XDG_DATA_HOME=" + filepath.Join(m.Home, ".data"),
		"XDG_RUNTIME_DIR=" + filepath.Join(m.Home, ".run"),
		// Else root's daemon would be the one of the whole system.
		"CAIRN_STATE_DIR=" + filepath.Join(m.Home, "state"),
	}
	return append(env, m.Env...)
}

// Daemons returns the ids of the processes that this machine's cairn has left
// running. They are found by their environment, which names the home.
func (m Machine) Daemons() ([]int, error) {
	all, err := filepath.Glob("/proc/[0-9]*/environ")
	if err != nil {
		return nil, err
	}
	var pids []int
	for _, path := range all {
		env, err := os.ReadFile(path)
		if err != nil {
			continue // it has ended, or is somebody else's
		}
		if !bytes.Contains(append([]byte{0}, env...), []byte("\x00HOME="+m.Home+"\x00")) {
			continue
		}
		pid, err := strconv.Atoi(filepath.Base(filepath.Dir(path)))
		if err != nil {
			return nil, err
		}
		pids = append(pids, pid)
	}
	return pids, nil
}

// Remove ends what still runs and removes the home.
func (m Machine) Remove(ctx context.Context) error {
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for signal, begin := syscall.SIGTERM, time.Now(); ; {
		pids, err := m.Daemons()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return removeAll(m.Home)
		}
		for _, pid := range pids {
			if err := syscall.Kill(pid, signal); err != nil && !errors.Is(err, syscall.ESRCH) {
				return fmt.Errorf("end process %d: %w", pid, err)
			}
		}
		if time.Since(begin) > 10*time.Second {
			signal = syscall.SIGKILL
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}

// removeAll removes a tree in which an engine may have left mounts.
func removeAll(dir string) error {
	mounts, err := os.ReadFile("/proc/self/mounts")
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], dir+"/") {
			if err := syscall.Unmount(f[1], syscall.MNT_DETACH); err != nil {
				return fmt.Errorf("unmount %s: %w", f[1], err)
			}
		}
	}
	return os.RemoveAll(dir)
}

func maxRSS(s *os.ProcessState) int64 {
	if s == nil {
		return 0
	}
	u, ok := s.SysUsage().(*syscall.Rusage)
	if !ok {
		return 0
	}
	return u.Maxrss * 1024
}
