package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/sys/userns"
	"go.uber.org/zap"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
)

// Config of a daemon.
type Config struct {
	Paths daemonctl.Paths
	// IdleTimeout is how long the daemon stays without a connection; 0 for ever.
	IdleTimeout time.Duration
	// KeepBytes is how much the engine's cache may hold; 0 leaves BuildKit's
	// choice, which follows the size of the volume.
	KeepBytes int64
	// Network is how commands reach the network: auto, host or cni.
	Network string
	// Version is reported to clients.
	Version string
	// Executable is the program that runs the engine: cairnd itself.
	Executable string
	// Ready is called once, when the engine takes work.
	Ready func()
	// Remote, where set, is served besides the socket.
	Remote *Remote
	// Metrics are served over TCP as well, for a Prometheus that cannot read the socket.
	Metrics MetricsServer
	// Eviction is how the host's volumes are kept from filling up.
	Eviction Eviction
	// Cleaning is when it cleans up storages. With a schedule it does not leave when idle.
	Cleaning Cleaning
	// Log is the daemon's own; the engine has another one.
	Log *zap.Logger
}

// ErrRunning says that another daemon serves the state directory.
var ErrRunning = errors.New("another cairnd serves this state directory")

// drainTime is how long connections may last after the daemon was told to end.
const drainTime = 10 * time.Second

// Serve runs a daemon until ctx ends, it has been idle for long enough (both
// give nil), or its engine cannot be kept running.
func Serve(ctx context.Context, c Config) error {
	if err := preflight(); err != nil {
		return err
	}
	if err := c.Paths.Check(); err != nil {
		return err
	}
	if err := makeDirs(c.Paths); err != nil {
		return err
	}
	lock := flock.New(c.Paths.Lock())
	locked, err := lock.TryLock()
	if err != nil {
		return err
	}
	defer lock.Close()
	if !locked {
		return fmt.Errorf("%w: %s", ErrRunning, c.Paths.State)
	}
	log, err := openRotating(c.Paths.EngineLog(), maxEngineLog)
	if err != nil {
		return err
	}
	defer log.Close()

	d := &daemon{
		config: c, usage: newUsage(time.Now()),
		engine: newSupervisor(engineCommand(c), log, c.Paths.EngineLog(), c.Log),
	}
	if d.evictor, err = newEvictor(c, d.engine); err != nil {
		return err
	}
	if d.cleaner, err = newCleaner(c.Cleaning, c.Log); err != nil {
		return err
	}
	d.metrics = newMetrics(d)
	err = d.run(ctx)
	if errors.Is(err, errIdle) {
		c.Log.Info("leaving: nobody has connected", zap.Duration("idle", c.IdleTimeout))
		return nil
	}
	return err
}

// preflight finds out early, and says well, what the engine would only fail on later.
func preflight() error {
	if os.Geteuid() != 0 {
		return errors.New("cairnd needs root, or the mapped root of a user namespace: run \"rootlesskit cairnd serve\"")
	}
	if _, err := exec.LookPath("runc"); err != nil {
		return errors.New("runc is not on PATH: install the package runc of your distribution")
	}
	return nil
}

// makeDirs makes the directories and refuses one that others could write to or
// have put elsewhere.
func makeDirs(p daemonctl.Paths) error {
	dir := filepath.Dir(p.Socket)
	for _, d := range []string{p.State, dir} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			return err
		}
		if err := checkOwn(d); err != nil {
			return err
		}
	}
	return nil
}

// checkOwn refuses what is not a directory, a link to one included, that this
// user alone can write to.
func checkOwn(dir string) error {
	fi, err := os.Lstat(dir)
	if err != nil {
		return err
	}
	st, ok := fi.Sys().(*syscall.Stat_t)
	if !ok || !fi.IsDir() || int(st.Uid) != os.Geteuid() || fi.Mode().Perm()&0o022 != 0 {
		return fmt.Errorf("%s must be a directory, not a link, belong to the user of the daemon and be writable for no one else", dir)
	}
	return nil
}

// daemon is one serving process.
type daemon struct {
	config  Config
	usage   *usage
	engine  *supervisor
	metrics *metrics
	evictor *evictor
	cleaner *cleaner
}

// run holds the parts together: any of them that ends, ends all.
func (d *daemon) run(ctx context.Context) error {
	api, err := listen(d.config.Paths.Socket)
	if err != nil {
		return err
	}
	defer api.Close()
	web, err := listen(d.config.Paths.HTTP())
	if err != nil {
		return err
	}
	defer web.Close()
	remote, err := d.config.Remote.listen(ctx, d.config.Log)
	if err != nil {
		return err
	}
	open, err := d.config.Metrics.listen(ctx)
	if err != nil {
		return errors.Join(err, closeIfOpen(remote))
	}
	defer func() { _ = closeIfOpen(remote) }()

	// The engine outlives ctx by the time that its connections are given to end.
	engineCtx, stopEngine := context.WithCancel(context.WithoutCancel(ctx))
	defer stopEngine()
	g, ctx := errgroup.WithContext(ctx)
	g.Go(func() error { return d.engine.run(engineCtx) })
	g.Go(func() error { return d.proxy(engineCtx, api) })
	if remote != nil {
		g.Go(func() error { return d.proxy(engineCtx, remote) })
	}
	server := newServer(d.handler())
	g.Go(func() error { return serve(server, web) })
	public := newServer(d.readOnly())
	if open != nil {
		g.Go(func() error { return serve(public, open) })
	}
	g.Go(func() error {
		if _, err := d.engine.awaitReady(ctx); err != nil {
			return nil // something else ends the daemon, and says why
		}
		if d.config.Ready != nil {
			d.config.Ready()
		}
		// On a busy machine an engine may take longer to start than it may be idle.
		d.usage.hold()
		return d.usage.awaitIdle(ctx, d.config.IdleTimeout, d.lastLook)
	})
	g.Go(func() error { return d.evictor.run(ctx) })
	g.Go(func() error { return d.cleaner.run(ctx) })
	g.Go(func() error {
		<-ctx.Done()
		d.usage.leave()
		_ = api.Close() // no new connections; proxy sees it
		_ = closeIfOpen(remote)
		drained := d.usage.drained(engineCtx, drainTime)
		stopEngine()
		last := context.WithoutCancel(engineCtx)
		return errors.Join(drained, server.Shutdown(last), public.Shutdown(last))
	})
	return g.Wait()
}

// closeIfOpen closes a listener that may not be there.
func closeIfOpen(l net.Listener) error {
	if l == nil {
		return nil
	}
	return l.Close()
}

// lastLook sees to it that a daemon which is about to leave does not leave a full
// volume behind: nobody looks after it then.
func (d *daemon) lastLook(ctx context.Context) {
	if d.config.Eviction.Interval > 0 {
		d.evictor.look(ctx)
	}
}

// listen makes a unix socket for this user in the place of one that a daemon or
// an engine has left behind. The lock that the daemon holds says that none runs.
func listen(path string) (net.Listener, error) {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	l, err := net.Listen("unix", path)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	if err := os.Chmod(path, 0o600); err != nil {
		return nil, errors.Join(err, l.Close())
	}
	return &ownListener{Listener: l, uid: os.Geteuid()}, nil
}

// engineCommand returns what makes the command of the engine, whose containers and
// mounts end with it: it gets a mount namespace and, where that is allowed, a
// process namespace of its own.
func engineCommand(c Config) func(ctx context.Context) *exec.Cmd {
	args := []string{
		"engine", "--state", c.Paths.State, "--socket", c.Paths.Engine(),
		"--network", c.Network, "--keep-bytes", fmt.Sprint(c.KeepBytes), "--ready-fd", "3",
	}
	attr := syscall.SysProcAttr{
		Setpgid: true, Pdeathsig: syscall.SIGTERM, Unshareflags: syscall.CLONE_NEWNS,
	}
	var env []string
	if userns.RunningInUserNS() {
		// runc keeps its state there unless it takes its user for the real root.
		env = []string{"XDG_RUNTIME_DIR=" + filepath.Join(c.Paths.State, "run"), "USER="}
	} else {
		attr.Cloneflags = syscall.CLONE_NEWPID
	}
	return func(ctx context.Context) *exec.Cmd {
		cmd := exec.CommandContext(ctx, c.Executable, args...)
		own := attr
		cmd.SysProcAttr = &own
		// Whoever reads the log of a command wants all of it.
		cmd.Env = append(os.Environ(), "BUILDKIT_STEP_LOG_MAX_SIZE=-1", "BUILDKIT_STEP_LOG_MAX_SPEED=-1")
		cmd.Env = append(cmd.Env, env...)
		cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
		cmd.WaitDelay = 5 * time.Second
		return cmd
	}
}
