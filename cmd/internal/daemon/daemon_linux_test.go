package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
)

// dialAs is the environment variable that has the test program only connect to a socket.
const dialAs = "CAIRN_TEST_DIAL"

var cairnd string

func TestMain(m *testing.M) {
	if path := os.Getenv(dialAs); path != "" {
		os.Exit(dialAndRead(path))
	}
	os.Exit(testMain(m))
}

// dialAndRead returns 0 when a byte comes from the socket.
func dialAndRead(path string) int {
	c, err := net.Dial("unix", path)
	if err != nil {
		return 2
	}
	if n, _ := c.Read(make([]byte, 1)); n != 1 {
		return 3
	}
	return 0
}

func testMain(m *testing.M) int {
	tmp, err := os.MkdirTemp("", "cd")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	cairnd = filepath.Join(tmp, "cairnd")
	if out, err := exec.Command("go", "build", "-o", cairnd, "../../cairnd").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build cairnd: %v\n%s", err, out)
		return 1
	}
	return m.Run()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func paths(t *testing.T) daemonctl.Paths {
	t.Helper()
	dir, err := os.MkdirTemp("", "cd") // short: the path of a socket is limited
	check(t, err)
	t.Cleanup(func() { os.RemoveAll(dir) })
	return daemonctl.Paths{State: filepath.Join(dir, "s"), Socket: filepath.Join(dir, "r", "c.sock")}
}

// ensure has a daemon run until the test ends.
func ensure(t *testing.T, p daemonctl.Paths, idle time.Duration) daemonctl.Status {
	t.Helper()
	_, started, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p, Beside: cairnd, IdleTimeout: idle})
	check(t, err)
	if !started {
		t.Fatal("a daemon was running already")
	}
	s, err := daemonctl.Ask(t.Context(), p)
	check(t, err)
	t.Cleanup(func() {
		_ = syscall.Kill(s.PID, syscall.SIGTERM)
		eventually(t, "the daemon ends", func() bool { return gone(s.PID) })
	})
	return s
}

// gone reports whether a process has ended, counting one whose parent, this
// program, has not asked for its end.
func gone(pid int) bool {
	var status syscall.WaitStatus
	if got, _ := syscall.Wait4(pid, &status, syscall.WNOHANG, nil); got == pid {
		return true
	}
	return syscall.Kill(pid, 0) != nil
}

func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(20 * time.Second); !done(); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("not within 20 seconds: %s", what)
		}
	}
}

func TestManyStartersGiveOneDaemon(t *testing.T) {
	p := paths(t)
	var mu sync.Mutex
	var wg sync.WaitGroup
	starts, pids := 0, map[int]bool{}
	for range 8 {
		wg.Go(func() {
			_, started, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p, Beside: cairnd})
			if err != nil {
				t.Error(err)
				return
			}
			s, err := daemonctl.Ask(t.Context(), p)
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			pids[s.PID] = true
			if started {
				starts++
			}
		})
	}
	wg.Wait()
	for pid := range pids {
		check(t, syscall.Kill(pid, syscall.SIGTERM))
		eventually(t, "the daemon ends", func() bool { return gone(pid) })
	}
	if starts != 1 || len(pids) != 1 {
		t.Errorf("%d were started, processes are %v", starts, pids)
	}
}

func TestTheDaemonLeavesWhenIdleAndNotBefore(t *testing.T) {
	p := paths(t)
	s := ensure(t, p, 500*time.Millisecond)
	c, err := net.Dial("unix", p.Socket)
	check(t, err)
	eventually(t, "the connection is counted", func() bool {
		s, err := daemonctl.Ask(t.Context(), p)
		return err == nil && s.Connections == 1
	})
	select {
	case <-time.After(time.Second): // twice the idle timeout
	case <-t.Context().Done():
	}
	if _, err := daemonctl.Ask(t.Context(), p); err != nil {
		t.Errorf("with a connection open the daemon has left: %v", err)
	}
	check(t, c.Close())
	eventually(t, "the daemon leaves", func() bool { return gone(s.PID) })
	eventually(t, "its engine leaves", func() bool { return syscall.Kill(s.EnginePID, 0) != nil })
	ensure(t, p, time.Minute) // over what the first one has left behind
}

func TestASecondDaemonIsRefused(t *testing.T) {
	p := paths(t)
	ensure(t, p, time.Minute)
	err := exec.Command(cairnd, "serve", "--state", p.State, "--socket", p.Socket).Run()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.ExitCode() != daemonctl.ExitRunning {
		t.Errorf("the second one ended with %v", err)
	}
}

func TestTheEngineEndsWithADaemonThatIsKilled(t *testing.T) {
	p := paths(t)
	s := ensure(t, p, time.Minute)
	check(t, syscall.Kill(s.PID, syscall.SIGKILL))
	eventually(t, "the engine ends", func() bool { return syscall.Kill(s.EnginePID, 0) != nil })
	ensure(t, p, time.Minute) // the lock and the sockets of the dead do not matter
}

func TestACrashedEngineIsStartedAgain(t *testing.T) {
	p := paths(t)
	s := ensure(t, p, time.Minute)
	check(t, syscall.Kill(s.EnginePID, syscall.SIGKILL))
	eventually(t, "another engine is ready", func() bool {
		now, err := daemonctl.Ask(t.Context(), p)
		return err == nil && now.Ready && now.EnginePID != s.EnginePID && now.Restarts == 1
	})
}

func TestHealthAndMetricsAreServed(t *testing.T) {
	p := paths(t)
	ensure(t, p, time.Minute)
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", p.HTTP())
	}}}
	for path, want := range map[string]string{"/healthz": "ok", "/readyz": "ok", "/metrics": "cairnd_engine_ready 1"} {
		res, err := c.Get("http://cairnd" + path)
		check(t, err)
		body, err := io.ReadAll(res.Body)
		check(t, errors.Join(err, res.Body.Close()))
		if res.StatusCode != http.StatusOK || !strings.Contains(string(body), want) {
			t.Errorf("%s: %s\n%s", path, res.Status, body)
		}
	}
	fi, err := os.Stat(p.Socket)
	check(t, err)
	if fi.Mode().Perm() != 0o600 {
		t.Errorf("mode of the socket is %v", fi.Mode())
	}
}

func TestOtherUsersAreRefused(t *testing.T) {
	dir, err := os.MkdirTemp("", "cd")
	check(t, err)
	defer os.RemoveAll(dir)
	check(t, os.Chmod(dir, 0o755))
	self, err := os.ReadFile("/proc/self/exe")
	check(t, err)
	program := filepath.Join(dir, "test")
	check(t, os.WriteFile(program, self, 0o755))

	socket := filepath.Join(dir, "s")
	l, err := listen(socket)
	check(t, err)
	check(t, os.Chmod(socket, 0o666)) // so that only the check of the peer stands in the way
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{1})
			_ = c.Close()
		}
	}()
	for uid, want := range map[uint32]int{0: 0, 12345: 3} {
		cmd := exec.Command(program)
		cmd.Env = []string{dialAs + "=" + socket}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		_ = cmd.Run()
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("user %d: exit code %d, want %d", uid, got, want)
		}
	}
	check(t, l.Close())
	<-done
}

func TestADirectoryThatOthersCanWriteToIsRefused(t *testing.T) {
	for _, of := range []func(daemonctl.Paths) string{
		func(p daemonctl.Paths) string { return filepath.Dir(p.Socket) },
		func(p daemonctl.Paths) string { return p.State },
	} {
		p := paths(t)
		dir := of(p)
		check(t, os.MkdirAll(dir, 0o700))
		check(t, os.Chmod(dir, 0o777))
		if err := makeDirs(p); err == nil || !strings.Contains(err.Error(), dir) {
			t.Errorf("%s: error is %v", dir, err)
		}
		check(t, os.Chmod(dir, 0o700))
		if err := makeDirs(p); err != nil {
			t.Error(err)
		}
	}
}

func TestAStateDirectoryThatIsALinkOrAnothersIsRefused(t *testing.T) {
	p := paths(t)
	check(t, os.MkdirAll(filepath.Dir(p.State), 0o700))
	check(t, os.Symlink(t.TempDir(), p.State))
	if err := makeDirs(p); err == nil || !strings.Contains(err.Error(), p.State) {
		t.Errorf("a link: error is %v", err)
	}
	check(t, os.Remove(p.State))
	check(t, os.Mkdir(p.State, 0o700))
	check(t, os.Chown(p.State, 12345, 12345))
	if err := makeDirs(p); err == nil || !strings.Contains(err.Error(), p.State) {
		t.Errorf("of another user: error is %v", err)
	}
}

func TestAnEngineThatAlwaysDiesIsGivenUp(t *testing.T) {
	log, said := observer.New(zap.InfoLevel)
	s := newSupervisor(func(ctx context.Context) *exec.Cmd { return exec.CommandContext(ctx, "false") }, io.Discard, "/log", zap.New(log))
	err := s.run(t.Context())
	if err == nil || !strings.Contains(err.Error(), "5 times in a row, its log is /log") {
		t.Errorf("error is %v", err)
	}
	if said.Len() != maxCrashes-1 {
		t.Errorf("the log is %v", said.All())
	}
}

func TestMissingRuncIsToldWithItsPackage(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	if err := preflight(); err == nil || !strings.Contains(err.Error(), "install the package runc") {
		t.Errorf("error is %v", err)
	}
}

func TestExitCodesTellUsageFromFailure(t *testing.T) {
	p := paths(t)
	for name, c := range map[string]struct {
		args []string
		want int
	}{
		"unknown flag":     {[]string{"serve", "--nope"}, daemonctl.ExitUsage},
		"unknown command":  {[]string{"nope"}, daemonctl.ExitUsage},
		"no daemon to ask": {[]string{"status", "--socket", p.Socket}, daemonctl.ExitFailure},
		"version":          {[]string{"version"}, 0},
	} {
		if got := Main(c.args, "v1", io.Discard, io.Discard); got != c.want {
			t.Errorf("%s: exit code %d, want %d", name, got, c.want)
		}
	}
}
