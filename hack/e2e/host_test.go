package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// host is a machine on which cairn runs: directories that nobody else uses.
type host struct {
	dir, home, cache, state string
	// engine is the address of a shared engine; empty for a daemon of the host's own.
	engine string
	// env is added to the environment.
	env []string
	// flags are given to each call.
	flags []string
	// through is a command that runs cairn, where that needs one.
	through []string
}

// newHost returns a host without any state that uses one of the shared engines, 0
// or 1; with ownDaemon cairn starts one itself.
func newHost(t *testing.T, engine int) *host {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ce")
	if err != nil {
		t.Fatal(err)
	}
	h := &host{dir: dir, home: filepath.Join(dir, "h"), cache: filepath.Join(dir, "c"), state: filepath.Join(dir, "s")}
	if err := os.Mkdir(h.home, 0o755); err != nil {
		t.Fatal(err)
	}
	if engine != ownDaemon {
		h.engine = shared.engines[engine].Address()
	}
	t.Cleanup(func() {
		if err := errors.Join(h.endDaemon(context.WithoutCancel(t.Context())), testbed.RemoveAll(dir)); err != nil {
			t.Errorf("remove a host: %v", err)
		}
	})
	return h
}

const ownDaemon = -1

// on returns the same host with another of the shared engines.
func (h *host) on(engine int) *host {
	other := *h
	other.engine = shared.engines[engine].Address()
	return &other
}

// with returns the same host with another environment.
func (h *host) with(env []string) *host {
	other := *h
	other.env = env
	return &other
}

// report is the build report, as far as it is looked at.
type report struct {
	Project, Root string
	Images        []struct {
		Name, Platform, Ref string
		Stages              []struct {
			Name, Digest, Result string
			Manifest             *string
			BytesPushed          int64
		}
	}
	Indexes                  []struct{ Name, Ref string }
	Requests                 struct{ Registry, Ledger int64 }
	EngineStarted            bool
	Reused                   struct{ Blobs, Bytes, Mirrored int64 }
	BytesPulled, BytesPushed int64
	Kept                     []string
	Losses                   []struct{ Objects []string }
}

// ref returns an image's reference by digest.
func (r report) ref(t *testing.T, image string) string {
	t.Helper()
	for _, i := range r.Images {
		if i.Name == image && i.Ref != "" {
			return i.Ref
		}
	}
	t.Fatalf("the report has no reference of image %q", image)
	return ""
}

// count returns how many stages of all images have one of the results.
func (r report) count(results ...string) int {
	n := 0
	for _, i := range r.Images {
		for _, s := range i.Stages {
			for _, result := range results {
				if s.Result == result {
					n++
				}
			}
		}
	}
	return n
}

// results maps image/stage to the result.
func (r report) results() map[string]string {
	out := make(map[string]string)
	for _, i := range r.Images {
		for _, s := range i.Stages {
			out[i.Name+"/"+s.Name] = s.Result
		}
	}
	return out
}

// result is how a call of cairn ended.
type result struct {
	code           int
	stdout, stderr string
	report         report
}

// errorLines returns the lines of the error and the hint.
func (r result) errorLines() (message, hint string) {
	for line := range strings.Lines(r.stderr) {
		if s, ok := strings.CutPrefix(line, "error: "); ok {
			message = strings.TrimSpace(s)
		}
		if s, ok := strings.CutPrefix(line, "hint: "); ok {
			hint = strings.TrimSpace(s)
		}
	}
	return message, hint
}

// running is a call of cairn that has begun.
type running struct {
	cmd      *exec.Cmd
	out, err output
	done     chan struct{}
}

// start begins a call of cairn for a project.
func (h *host) start(t *testing.T, p *project, args ...string) *running {
	t.Helper()
	args = append(append(args, "--dir", p.dir, "--cache-dir", h.cache, "--state-dir", h.state), h.flags...)
	if h.engine != "" {
		args = append(args, "--engine", h.engine)
	}
	r := &running{done: make(chan struct{})}
	argv := slices.Concat(h.through, []string{filepath.Join(shared.bin, "cairn")}, args)
	r.cmd = exec.Command(argv[0], argv[1:]...)
	r.cmd.Dir = h.home
	r.cmd.Env = append([]string{"HOME=" + h.home, "PATH=" + os.Getenv("PATH"), "TMPDIR=" + h.dir, "CI=true"}, h.env...)
	r.cmd.Stdout, r.cmd.Stderr = &r.out, &r.err
	// A process group of its own: what is killed is cairn and not what it started.
	r.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := r.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(r.done)
		_ = r.cmd.Wait() // the exit code is looked at by wait
	}()
	t.Cleanup(func() {
		_ = r.cmd.Process.Kill() // it has ended by now, unless the test failed
		<-r.done
	})
	return r
}

// kill ends cairn at once, as a crash of its machine would.
func (r *running) kill(t *testing.T) {
	t.Helper()
	if err := r.cmd.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Fatal(err)
	}
	<-r.done
}

// wait waits for the end and reads the report, where there is one.
func (r *running) wait(t *testing.T) result {
	t.Helper()
	select {
	case <-r.done:
	case <-time.After(3 * limit):
		_ = r.cmd.Process.Signal(syscall.SIGQUIT) // it then says where it stands
		<-r.done
		t.Fatalf("cairn did not end within %v:\n%s", 3*limit, r.err.String())
	}
	res := result{code: r.cmd.ProcessState.ExitCode(), stdout: r.out.String(), stderr: r.err.String()}
	if strings.HasPrefix(res.stdout, "{") {
		if err := json.Unmarshal([]byte(res.stdout), &res.report); err != nil {
			t.Fatalf("read the report: %v: %s", err, res.stdout)
		}
	}
	return res
}

func (h *host) run(t *testing.T, p *project, args ...string) result {
	t.Helper()
	return h.start(t, p, args...).wait(t)
}

// startBuild begins a build into a storage.
func (h *host) startBuild(t *testing.T, p *project, storage string, args ...string) *running {
	t.Helper()
	return h.start(t, p, append([]string{"build", "--output", "json", "--stages-storage", storage}, args...)...)
}

// build builds and fails the test when that fails.
func (h *host) build(t *testing.T, p *project, storage string, args ...string) report {
	t.Helper()
	return succeeded(t, h.startBuild(t, p, storage, args...).wait(t))
}

func succeeded(t *testing.T, r result) report {
	t.Helper()
	if r.code != 0 {
		t.Fatalf("cairn ends with %d:\n%s%s", r.code, r.stdout, r.stderr)
	}
	return r.report
}

// output collects what a process writes and can be read meanwhile.
type output struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (o *output) Write(p []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(p)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}
