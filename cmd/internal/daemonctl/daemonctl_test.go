package daemonctl_test

import (
	"encoding/json"
	"errors"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
)

func TestDefaultPathsFollowTheUser(t *testing.T) {
	env := func(kv ...string) func(string) string {
		return func(name string) string {
			for _, s := range kv {
				if v, ok := strings.CutPrefix(s, name+"="); ok {
					return v
				}
			}
			return ""
		}
	}
	for name, c := range map[string]struct {
		uid  int
		env  func(string) string
		want daemonctl.Paths
	}{
		"root":                      {0, env("HOME=/root"), daemonctl.Paths{State: "/var/lib/cairn", Socket: "/run/cairn/cairnd.sock"}},
		"a user":                    {7, env("HOME=/home/u"), daemonctl.Paths{State: "/home/u/.local/state/cairn", Socket: "/home/u/.local/state/cairn/run/cairnd.sock"}},
		"a user with XDG variables": {7, env("HOME=/home/u", "XDG_STATE_HOME=/s", "XDG_RUNTIME_DIR=/run/user/7"), daemonctl.Paths{State: "/s/cairn", Socket: "/run/user/7/cairn/cairnd.sock"}},
	} {
		if got := daemonctl.DefaultPaths(c.uid, c.env); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
	if got := (daemonctl.Paths{Socket: "/r/c.sock"}).HTTP(); got != "/r/c.http.sock" {
		t.Errorf("HTTP socket is %s", got)
	}
}

func paths(t *testing.T) daemonctl.Paths {
	t.Helper()
	dir, err := os.MkdirTemp("", "dc") // short: the path of a socket is limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	return daemonctl.Paths{State: filepath.Join(dir, "s"), Socket: filepath.Join(dir, "c.sock")}
}

// fake answers as a daemon would.
func fake(t *testing.T, p daemonctl.Paths, code int, s daemonctl.Status) {
	t.Helper()
	l, err := net.Listen("unix", p.HTTP())
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(code)
		_ = json.NewEncoder(w).Encode(s)
	})}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Close(); <-done })
}

func TestADaemonOfAnotherProtocolIsToldWithAHint(t *testing.T) {
	p := paths(t)
	fake(t, p, http.StatusOK, daemonctl.Status{Protocol: 99, PID: 4711, Version: "v9", Ready: true})
	_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p})
	var protocol *daemonctl.ProtocolError
	if !errors.As(err, &protocol) || !strings.Contains(protocol.Hint(), "kill 4711") {
		t.Errorf("error is %v", err)
	}
}

func TestAReadyDaemonIsTakenAsItIs(t *testing.T) {
	p := paths(t)
	fake(t, p, http.StatusOK, daemonctl.Status{Protocol: daemonctl.Protocol, Ready: true})
	address, started, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p})
	if address != "unix://"+p.Socket || started || err != nil {
		t.Errorf("got %s, %v, %v", address, started, err)
	}
}

func TestADaemonThatNeverGetsReadyIsNotAwaitedForEver(t *testing.T) {
	p := paths(t)
	fake(t, p, http.StatusOK, daemonctl.Status{Protocol: daemonctl.Protocol})
	_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p, Timeout: 50 * time.Millisecond})
	if err == nil || !strings.Contains(err.Error(), "was not ready within 50ms") {
		t.Errorf("error is %v", err)
	}
}

func TestTheHomeDirectoryIsKnownOnWindowsToo(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		want string
	}{
		"Unix":               {map[string]string{"HOME": "/home/a"}, "/home/a"},
		"Windows":            {map[string]string{"USERPROFILE": `C:\Users\a`}, `C:\Users\a`},
		"a shell on Windows": {map[string]string{"HOME": "/c/a", "USERPROFILE": `C:\Users\a`}, "/c/a"},
		"nowhere":            {nil, ""},
	} {
		if got := daemonctl.Home(func(k string) string { return tt.env[k] }); got != tt.want {
			t.Errorf("%s: it is %q", name, got)
		}
	}
}

func TestNoDaemonAnswers(t *testing.T) {
	if _, err := daemonctl.Ask(t.Context(), paths(t)); !errors.Is(err, daemonctl.ErrNotRunning) {
		t.Errorf("error is %v", err)
	}
}

func TestNoDaemonToStart(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: paths(t), Beside: filepath.Join(t.TempDir(), "cairn")})
	if !errors.Is(err, daemonctl.ErrNoDaemon) {
		t.Errorf("error is %v", err)
	}
}

func TestAPathTooLongForASocketIsToldWithAHint(t *testing.T) {
	for n, ok := range map[int]bool{107: true, 108: false} {
		dir := "/" + strings.Repeat("d", n-len("/"+"/cairnd.engine.sock"))
		err := daemonctl.Paths{Socket: dir + "/cairnd.sock"}.Check()
		var path *daemonctl.PathError
		if (err == nil) != ok || !ok && (!errors.As(err, &path) || !strings.Contains(path.Hint(), "--state-dir")) {
			t.Errorf("%d bytes: got %v", n, err)
		}
	}
}

func TestADirectoryThatCannotBeMadeIsToldWithAHint(t *testing.T) {
	p := paths(t)
	if err := os.WriteFile(p.State, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	p.State = filepath.Join(p.State, "below")
	_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p})
	var path *daemonctl.PathError
	if !errors.As(err, &path) || path.Path != p.State {
		t.Errorf("error is %v", err)
	}
}

func TestADaemonDoesNotInheritWhatIsMeantForOneBuild(t *testing.T) {
	t.Setenv("CI_TOKEN", "secret")
	t.Setenv("HTTPS_PROXY", "http://user:secret@proxy")
	t.Setenv("SSL_CERT_FILE", "/certificates")
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cairnd"), []byte("#!/bin/sh\nenv >&2\nexit 1\n"), 0o755); err != nil {
		t.Fatal(err)
	}
	p := paths(t)
	_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p, Beside: filepath.Join(dir, "cairn")})
	var start *daemonctl.StartError
	if !errors.As(err, &start) {
		t.Fatalf("error is %v", err)
	}
	log, err := os.ReadFile(p.DaemonLog())
	if err != nil {
		t.Fatal(err)
	}
	got := "\n" + string(log)
	if strings.Contains(got, "secret") || !strings.Contains(got, "\nSSL_CERT_FILE=/certificates\n") || !strings.Contains(got, "\nPATH=") {
		t.Errorf("the daemon inherits:\n%s", got)
	}
}

func TestADaemonThatFailsToStartIsQuoted(t *testing.T) {
	dir := t.TempDir()
	script := "#!/bin/sh\necho 'runc is not on PATH' >&2\nexit 1\n"
	if err := os.WriteFile(filepath.Join(dir, "cairnd"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: paths(t), Beside: filepath.Join(dir, "cairn")})
	var start *daemonctl.StartError
	if !errors.As(err, &start) || start.Output != "runc is not on PATH" {
		t.Errorf("error is %v", err)
	}
}
