package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// job is what a runner is to do: a "cairn build", or a "cairn cleanup".
type job struct {
	name string
	host *host
	// dir is the work tree, of a clone for a cleaner.
	dir     string
	cleaner bool
	skew    time.Duration
}

// process is one runner with a world of its own.
type process struct {
	job
	front *front
	cmd   *exec.Cmd
	out   bytes.Buffer
	log   *os.File
	done  chan struct{}
	// paused is closed when it is paused for the first time.
	paused chan struct{}

	mu      sync.Mutex
	killed  bool
	stopped bool
}

// over reports whether it has ended.
func (p *process) over() bool {
	select {
	case <-p.done:
		return true
	default:
		return false
	}
}

// start begins a runner on its host.
func (r *round) start(j job) (*process, error) {
	f := &front{
		runner: j.name, record: r.record, dice: newDice(r.seed, streamOf(j.name)), rates: r.rates(), late: r.shape.late(), weather: &r.weather,
		repository: r.project.name, registry: r.lab.toRegistry, api: r.lab.toAPI,
	}
	if err := f.open(r.ctx, r.lab.cert); err != nil {
		return nil, fmt.Errorf("start %s: %w", j.name, err)
	}
	p := &process{job: j, front: f, done: make(chan struct{}), paused: make(chan struct{})}
	var err error
	if p.log, err = os.Create(filepath.Join(r.dir, j.name+".log")); err != nil {
		return nil, errors.Join(err, f.close())
	}
	p.cmd = r.command(j)
	p.cmd.Stdout, p.cmd.Stderr = &p.out, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	begin := history.Event{Kind: history.Start, Runner: j.name}
	if j.cleaner {
		begin.Kind = history.Clean
	}
	r.record.add(begin)
	if err := f.space.run(p.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", j.name, err), f.close(), p.log.Close())
	}
	go func() {
		defer close(p.done)
		r.ended(p, p.cmd.Wait())
	}()
	return p, nil
}

// command is the command line of a job.
func (r *round) command(j job) *exec.Cmd {
	program := "cairn"
	if j.skew != 0 || r.shape.delta != 0 {
		program = "skewed"
	}
	args := []string{
		"--output", "json", "--dir", j.dir, "--cache-dir", filepath.Join(j.host.dir, "c"), "--state-dir", filepath.Join(j.host.dir, "s"),
		"--stages-storage", r.lab.registry.Address() + "/" + r.project.name,
		"--synchronization", fmt.Sprintf("kubernetes://%s?kubeconfig=%s&ttl=%s", namespace, r.lab.kubeconfig, r.lab.ttl),
	}
	if j.cleaner {
		args = append([]string{"cleanup", "--without-kube", "--allow-empty-keep", "--removal-grace", r.shape.grace.String()}, args...)
	} else {
		args = append([]string{"build", "--engine", j.host.engine.Address()}, args...)
	}
	cmd := exec.Command(filepath.Join(r.lab.bin, program), args...)
	cmd.Dir, cmd.Env = j.host.dir, r.lab.environ(filepath.Join(j.host.dir, "h"))
	for name, d := range map[string]time.Duration{"CAIRN_CLOCK_SKEW": j.skew, "CAIRN_LATE_DELTA": r.shape.delta, "CAIRN_LATE_GUARD": r.shape.guard} {
		if d != 0 {
			cmd.Env = append(cmd.Env, name+"="+d.String())
		}
	}
	return cmd
}

// streamOf turns a name into the number of a stream of chances.
func streamOf(name string) uint64 {
	var n uint64
	for _, c := range name {
		n = n*131 + uint64(c)
	}
	return n
}

// ended notes how a runner ended.
func (r *round) ended(p *process, _ error) {
	e := history.Event{Kind: history.End, Runner: p.name, Exit: p.cmd.ProcessState.ExitCode()}
	p.mu.Lock()
	killed := p.killed
	p.mu.Unlock()
	if killed && e.Exit < 0 {
		return // by us; that was noted
	}
	if p.cleaner {
		e.Note = "" // what it says it has done is in the history already
	} else if rep, err := readReport(r.project.name, p.out.Bytes()); err != nil {
		e.Note = err.Error()
	} else {
		e.Report = rep
	}
	if r.past != nil && e.Report != nil { // the plans of commits tell which command is whose
		for i := range e.Report.Stages {
			e.Report.Stages[i].Command = ""
		}
	}
	if e.Exit != 0 {
		e.Note += lastLines(p.log.Name())
	}
	r.record.add(e)
}

// lastLines returns the end of what a runner said.
func lastLines(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	const most = 600
	if len(b) > most {
		b = b[len(b)-most:]
	}
	return strings.ReplaceAll(strings.TrimSpace(string(b)), "\n", " | ")
}

// kill ends a runner as the crash of its machine would, and reports whether it ran.
func (r *round) kill(p *process) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed || p.over() {
		return false
	}
	p.killed = true
	r.record.add(history.Event{Kind: history.Kill, Runner: p.name})
	_ = p.cmd.Process.Kill() // it may have ended by itself this moment
	return true
}

// pause stops a runner for a while, and reports whether it ran.
func (r *round) pause(p *process, d time.Duration) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.killed || p.over() || p.cmd.Process.Signal(syscall.SIGSTOP) != nil {
		return false
	}
	if !p.stopped {
		p.stopped = true
		close(p.paused)
	}
	r.record.add(history.Event{Kind: history.Stop, Runner: p.name, Note: d.String()})
	r.later.run(func() {
		<-time.After(d)
		_ = p.cmd.Process.Signal(syscall.SIGCONT) // it may have been killed meanwhile
	})
	return true
}

// close gives up what the runner had. It has ended.
func (p *process) close() error { return errors.Join(p.front.close(), p.log.Close()) }

// readReport reads a build report.
func readReport(project string, b []byte) (*history.Report, error) {
	if len(b) == 0 {
		return nil, nil
	}
	var in struct {
		Root   string
		Images []struct {
			Name, Ref string
			Stages    []struct {
				Name, Digest string
				Manifest     *string
			}
		}
	}
	if err := json.Unmarshal(b, &in); err != nil {
		return nil, fmt.Errorf("read the report: %w", err)
	}
	out := &history.Report{Root: in.Root, Images: map[string]string{}}
	for _, i := range in.Images {
		out.Images[i.Name] = i.Ref
		for _, s := range i.Stages {
			st := history.Stage{Image: i.Name, Digest: strings.TrimPrefix(s.Digest, "sha256:")}
			if s.Manifest != nil {
				st.Manifest = *s.Manifest
			}
			if s.Name != "from" && s.Name != "source" {
				st.Command = commandName(project, i.Name, s.Name)
			}
			out.Stages = append(out.Stages, st)
		}
	}
	return out, nil
}
