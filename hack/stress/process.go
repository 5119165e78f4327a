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

// process is one runner: a "cairn build" with a world of its own.
type process struct {
	name  string
	host  *host
	front *front
	cmd   *exec.Cmd
	out   bytes.Buffer
	log   *os.File
	done  chan struct{}

	mu     sync.Mutex
	killed bool
}

// start begins a runner on a host.
func (r *round) start(name string, h *host, program string, skew time.Duration) (*process, error) {
	f := &front{
		runner: name, record: r.record, dice: newDice(r.seed, streamOf(name)), rates: r.rates(), weather: &r.weather,
		repository: r.project.name, registry: r.lab.toRegistry, api: r.lab.toAPI,
	}
	if err := f.open(r.ctx, r.lab.cert); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err))
	}
	p := &process{name: name, host: h, front: f, done: make(chan struct{})}
	var err error
	if p.log, err = os.Create(filepath.Join(r.dir, name+".log")); err != nil {
		return nil, errors.Join(err, f.close())
	}
	p.cmd = exec.Command(filepath.Join(r.lab.bin, program), "build", "--output", "json",
		"--dir", r.project.dir, "--cache-dir", filepath.Join(h.dir, "c"), "--state-dir", filepath.Join(h.dir, "s"),
		"--engine", h.engine.Address(), "--stages-storage", r.lab.registry.Address()+"/"+r.project.name,
		"--synchronization", fmt.Sprintf("kubernetes://%s?kubeconfig=%s&ttl=%s", namespace, r.lab.kubeconfig, r.lab.ttl))
	p.cmd.Dir, p.cmd.Env = h.dir, r.lab.environ(filepath.Join(h.dir, "h"))
	if skew != 0 {
		p.cmd.Env = append(p.cmd.Env, "CAIRN_CLOCK_SKEW="+skew.String())
	}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, p.log
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	r.record.add(history.Event{Kind: history.Start, Runner: name})
	if err := f.space.run(p.cmd.Start); err != nil {
		return nil, errors.Join(fmt.Errorf("start %s: %w", name, err), f.close(), p.log.Close())
	}
	go func() {
		defer close(p.done)
		r.ended(p, p.cmd.Wait())
	}()
	return p, nil
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
	if rep, err := readReport(r.project.name, p.out.Bytes()); err != nil {
		e.Note = err.Error()
	} else {
		e.Report = rep
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
	select {
	case <-p.done:
		return false
	default:
	}
	if p.killed {
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
	select {
	case <-p.done:
		return false
	default:
	}
	if p.killed || p.cmd.Process.Signal(syscall.SIGSTOP) != nil {
		return false
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
			st := history.Stage{Digest: strings.TrimPrefix(s.Digest, "sha256:")}
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
