package daemonctl

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

// Options of [Ensure].
type Options struct {
	Paths Paths
	// Beside is the path of a program, usually cairn itself, in whose directory
	// cairnd is looked for before PATH.
	Beside string
	// Cache is the cache directory that a daemon that is started evicts from; ""
	// leaves it the user's.
	Cache string
	// IdleTimeout is given to a daemon that is started; 0 leaves its default.
	IdleTimeout time.Duration
	// Timeout limits how long to wait for a daemon; 0 means 30 seconds.
	Timeout time.Duration
}

const (
	defaultTimeout = 30 * time.Second
	firstPause     = 5 * time.Millisecond
	longestPause   = 200 * time.Millisecond
	maxDaemonLog   = 1 << 20
	logTail        = 4 << 10
)

// ErrNoDaemon says that there is no cairnd to start.
var ErrNoDaemon = errors.New("cairnd is neither beside cairn nor on PATH")

// ErrNotHere says that this system has no build daemon.
var ErrNotHere = errors.New("the build daemon runs on Linux only")

// ErrNoRootless says that there is nothing to start a daemon with for a user who
// is not root.
var ErrNoRootless = errors.New("without root, cairnd is started by rootlesskit, which is not on PATH")

// StartError says that a daemon was started and ended again.
type StartError struct {
	// Program is the path of cairnd.
	Program string
	// Output holds the last lines of its log.
	Output string
	Err    error
}

// Error implements error.
func (e *StartError) Error() string {
	return fmt.Sprintf("%s ended: %v\n%s", e.Program, e.Err, e.Output)
}

func (e *StartError) Unwrap() error { return e.Err }

// Ensure returns the address of a running daemon and starts one when there is
// none. However many processes do so at once, one daemon results. The daemon
// stays for at least its idle timeout from now on.
//
// Errors: [ErrNotHere], [ErrNoDaemon], [ErrNoRootless], [*PathError], [*ProtocolError], [*StartError], or the end of the context.
func Ensure(ctx context.Context, o Options) (address string, started bool, err error) {
	if !supported {
		return "", false, ErrNotHere
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, o.Timeout,
		fmt.Errorf("the build daemon of %s was not ready within %v", o.Paths.State, o.Timeout))
	defer cancel()
	if err := o.Paths.Check(); err != nil {
		return "", false, err
	}
	if d, err := hold(ctx, o.Paths); d == ready || err != nil {
		return o.Paths.Address(), false, err
	}
	if err := os.MkdirAll(o.Paths.State, 0o700); err != nil {
		return "", false, &PathError{o.Paths.State, err, "name a directory that may be written with --state-dir"}
	}
	lock := flock.New(o.Paths.startLock())
	if _, err := lock.TryLockContext(ctx, firstPause); err != nil {
		return "", false, fmt.Errorf("wait for another process that starts the build daemon: %w", orCause(ctx, err))
	}
	defer lock.Close()
	for pause := firstPause; ; pause = min(2*pause, longestPause) {
		d, err := hold(ctx, o.Paths)
		if d == ready || err != nil {
			return o.Paths.Address(), started, err
		}
		if d == absent {
			began, err := start(ctx, o)
			if err != nil {
				return "", false, err
			}
			started = started || began
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return "", false, context.Cause(ctx)
		}
	}
}

type daemonState int

const (
	absent daemonState = iota
	starting
	ready
)

// hold asks a daemon that runs to stay.
func hold(ctx context.Context, p Paths) (daemonState, error) {
	s, err := ask(ctx, p, http.MethodPost, HoldPath)
	switch {
	case errors.Is(err, ErrNotRunning):
		return absent, orCause(ctx, nil)
	case err != nil:
		return absent, err
	case s.Ready:
		return ready, nil
	default:
		return starting, nil
	}
}

func orCause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// start starts a daemon and waits until it is ready. It returns false when one
// that serves the same state runs already: it is then starting, or leaving.
func start(ctx context.Context, o Options) (bool, error) {
	program, err := find(o.Beside)
	if err != nil {
		return false, err
	}
	log, err := openLog(o.Paths.DaemonLog())
	if err != nil {
		return false, err
	}
	defer log.Close()
	r, w, err := os.Pipe()
	if err != nil {
		return false, err
	}
	defer r.Close()

	argv, err := commandLine(program, o)
	if err != nil {
		return false, errors.Join(err, w.Close())
	}
	// Not bound to the context: the daemon outlives this process.
	cmd := exec.Command(argv[0], argv[1:]...)
	cmd.Dir, cmd.Stdout, cmd.Stderr = "/", log, log
	cmd.Env = environment(os.Environ())
	cmd.ExtraFiles = make([]*os.File, readyFD-2)
	cmd.ExtraFiles[readyFD-3] = w
	if err := detach(cmd); err != nil {
		return false, errors.Join(err, w.Close())
	}
	err = cmd.Start()
	_ = w.Close() // the daemon has its own; failing, it only delays the end of the pipe
	if err != nil {
		return false, fmt.Errorf("start %s: %w", program, err)
	}
	if awaitReady(ctx, r) {
		return true, cmd.Process.Release()
	}
	if ctx.Err() != nil {
		return false, errors.Join(context.Cause(ctx), cmd.Process.Release())
	}
	err = cmd.Wait()
	var exit *exec.ExitError
	if errors.As(err, &exit) && exit.ExitCode() == ExitRunning {
		return false, nil
	}
	return false, &StartError{Program: program, Output: tail(o.Paths.DaemonLog()), Err: err}
}

// readyFD is the descriptor on which a daemon tells that it is ready. It is not
// one of the first: rootlesskit takes those for itself.
const readyFD = 9

// commandLine returns what starts a daemon: for a user who is not root by
// rootlesskit, which makes a user namespace in which that user is.
func commandLine(program string, o Options) ([]string, error) {
	argv := []string{program, "serve", "--state", o.Paths.State, "--socket", o.Paths.Socket, "--ready-fd", strconv.Itoa(readyFD)}
	if o.IdleTimeout > 0 {
		argv = append(argv, "--idle-timeout", o.IdleTimeout.String())
	}
	if o.Cache != "" {
		argv = append(argv, "--cache-dir", o.Cache)
	}
	if os.Geteuid() == 0 {
		return argv, nil
	}
	rootlesskit, err := exec.LookPath("rootlesskit")
	if err != nil {
		return nil, ErrNoRootless
	}
	return append([]string{rootlesskit}, argv...), nil
}

// environment returns what of a process's variables a daemon inherits. It
// outlives the process and serves others: what is meant for one build, such as
// proxies, goes with that build, and secrets of a CI job have no place in it. Of
// Cairn's own variables it gets those that say when the host's volume is too full.
func environment(all []string) []string {
	var kept []string
	for _, v := range all {
		name, _, _ := strings.Cut(v, "=")
		switch {
		case name == "PATH", name == "HOME", name == "USER", name == "TMPDIR", name == "LANG",
			name == "CAIRN_HIGH", name == "CAIRN_LOW", name == "CAIRN_MIN_AGE", name == "CAIRN_EVICTION_INTERVAL",
			strings.HasPrefix(name, "XDG_"), strings.HasPrefix(name, "SSL_CERT_"):
			kept = append(kept, v)
		}
	}
	return kept
}

// awaitReady reads from the pipe whose other end only the daemon holds: a byte
// when it is ready, the end when it has ended before.
func awaitReady(ctx context.Context, r *os.File) bool {
	stop := context.AfterFunc(ctx, func() { _ = r.SetReadDeadline(time.Unix(1, 0)) })
	defer stop()
	n, _ := r.Read(make([]byte, 1))
	return n == 1
}

// find returns the path of cairnd.
func find(beside string) (string, error) {
	if beside != "" {
		p := filepath.Join(filepath.Dir(beside), "cairnd")
		if fi, err := os.Stat(p); err == nil && fi.Mode().IsRegular() {
			return p, nil
		}
	}
	p, err := exec.LookPath("cairnd")
	if err != nil {
		return "", ErrNoDaemon
	}
	return filepath.Abs(p)
}

// openLog opens the daemon's log for writing and begins a new one when it is long.
func openLog(path string) (*os.File, error) {
	flags := os.O_CREATE | os.O_WRONLY | os.O_APPEND
	if fi, err := os.Stat(path); err == nil && fi.Size() > maxDaemonLog {
		flags |= os.O_TRUNC
	}
	return os.OpenFile(path, flags, 0o600)
}

func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	if len(b) > logTail {
		b = b[len(b)-logTail:]
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	return strings.Join(lines[max(0, len(lines)-5):], "\n")
}
