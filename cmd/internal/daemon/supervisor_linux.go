package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"sync"
	"time"

	"go.uber.org/zap"
)

const (
	// steady is how long an engine must run for its end to count as a single mishap.
	steady = 10 * time.Second
	// maxCrashes in a row are taken as proof that the next start would not help.
	maxCrashes   = 5
	firstBackoff = 100 * time.Millisecond
	maxBackoff   = 5 * time.Second
	maxEngineLog = 8 << 20
)

// supervisor keeps one engine running.
type supervisor struct {
	command func(context.Context) *exec.Cmd
	output  io.Writer
	logPath string
	log     *zap.Logger

	mu     sync.Mutex
	pid    int
	starts int
	isUp   bool
	// ready is closed while the engine takes work; ended when that one, for which
	// ready was closed, has ended.
	ready, ended chan struct{}
}

func newSupervisor(command func(context.Context) *exec.Cmd, output io.Writer, logPath string, log *zap.Logger) *supervisor {
	return &supervisor{command: command, output: output, logPath: logPath, log: log, ready: make(chan struct{}), ended: make(chan struct{})}
}

// state returns the engine's process id, whether it takes work, and how often it was started again.
func (s *supervisor) state() (pid int, ready bool, restarts int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.pid, s.isUp, max(0, s.starts-1)
}

// awaitReady waits until the engine takes work, and returns what is closed when
// that engine has ended.
func (s *supervisor) awaitReady(ctx context.Context) (ended <-chan struct{}, err error) {
	for {
		s.mu.Lock()
		ready, ended := s.ready, s.ended
		s.mu.Unlock()
		select {
		case <-ready:
			return ended, nil
		case <-ended:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// run starts the engine again and again until ctx ends. It returns an error when
// the engine dies too often.
func (s *supervisor) run(ctx context.Context) error {
	// The kernel ties the signal that the engine gets at our death to the thread
	// that started it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	backoff, crashes := firstBackoff, 0
	for {
		began := time.Now()
		err := s.once(ctx)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) >= steady {
			backoff, crashes = firstBackoff, 0
		}
		if crashes++; crashes == maxCrashes {
			return fmt.Errorf("the engine has ended %d times in a row, its log is %s: %w", crashes, s.logPath, err)
		}
		s.log.Error("the engine has ended and is started again", zap.Duration("in", backoff), zap.Error(err))
		select {
		case <-time.After(backoff):
		case <-ctx.Done():
			return nil
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// once runs one engine to its end.
func (s *supervisor) once(ctx context.Context) error {
	r, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer r.Close()
	cmd := s.command(ctx)
	cmd.ExtraFiles = []*os.File{w}
	cmd.Stdout, cmd.Stderr = s.output, s.output
	// The engine ends when this pipe does: we hold the other end, and nobody
	// else, as long as we live.
	life, err := cmd.StdinPipe()
	if err != nil {
		return errors.Join(err, w.Close())
	}
	defer life.Close()
	err = cmd.Start()
	_ = w.Close() // the engine has its own
	if err != nil {
		return err
	}
	var watch sync.WaitGroup
	watch.Go(func() {
		if n, _ := r.Read(make([]byte, 1)); n == 1 {
			s.up()
		}
	})
	s.began(cmd.Process.Pid)
	err = cmd.Wait()
	watch.Wait() // the pipe has ended with the engine
	s.down()
	if err == nil {
		err = errors.New("it ended by itself")
	}
	return err
}

func (s *supervisor) began(pid int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid = pid
	s.starts++
}

func (s *supervisor) up() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isUp = true
	close(s.ready)
}

func (s *supervisor) down() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pid, s.isUp = 0, false
	close(s.ended)
	s.ready, s.ended = make(chan struct{}), make(chan struct{})
}
