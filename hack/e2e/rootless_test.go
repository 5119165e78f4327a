package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// builder is the user that the tests of rootless builds make up.
const builder = 12345

// asBuilder is a shell script that runs a command as a user that only this
// process and its children know, with 65,536 subordinate ids. The machine's
// own files stay as they are.
const asBuilder = `set -e
for f in passwd group subuid subgid; do mount --bind "$1/$f" /etc/$f; done
shift
exec setpriv --reuid 12345 --regid 12345 --clear-groups -- "$@"`

// newUser writes the files that make the user known, with a home, into a directory.
func newUser(t *testing.T) (dir, home string) {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "cu")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := testbed.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	home = filepath.Join(dir, "h")
	files := map[string]string{"subuid": "builder:300000:65536\n", "subgid": "builder:300000:65536\n"}
	for name, line := range map[string]string{
		"passwd": fmt.Sprintf("builder:x:%d:%d::%s:/bin/sh\n", builder, builder, home),
		"group":  fmt.Sprintf("builder:x:%d:\n", builder),
	} {
		there, err := os.ReadFile("/etc/" + name)
		if err != nil {
			t.Fatal(err)
		}
		files[name] = string(there) + line
	}
	for name, content := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(os.Chmod(dir, 0o755), os.Mkdir(home, 0o700), os.Chown(home, builder, builder)); err != nil {
		t.Fatal(err)
	}
	return dir, home
}

// unprivileged is a user without root, with a project and cairn's programs.
type unprivileged struct {
	// dir holds the programs and what makes the user known, home is the user's own.
	dir, home string
	// src is the work tree.
	src string
}

func newUnprivileged(t *testing.T) *unprivileged {
	t.Helper()
	p := oneCommand(t)
	u := &unprivileged{}
	u.dir, u.home = newUser(t)
	u.src = filepath.Join(u.home, "src")
	if out, err := exec.CommandContext(t.Context(), "sh", "-c",
		`cp -r "$1" "$2" && cp "$3"/cairn "$3"/cairnd "$4"/ && chown -R 12345:12345 "$2"`, "sh", p.dir, u.src, shared.bin, u.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return u
}

// command returns a call of one of the user's programs, or of the machine's.
func (u *unprivileged) command(ctx context.Context, path, program string, args ...string) *exec.Cmd {
	if own := filepath.Join(u.dir, program); isThere(own) {
		program = own
	}
	cmd := exec.CommandContext(ctx, "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", asBuilder, "sh", u.dir, program}, args...)...)
	cmd.Dir = "/"
	cmd.Env = []string{"HOME=" + u.home, "PATH=" + path, "CI=true"}
	return cmd
}

func isThere(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A BuildKit without root does as well as one with it, for a user who has neither.
func TestWithoutRootAnyRootlessBuildKitWillDo(t *testing.T) {
	t.Parallel()
	yard, err := shared.yard()
	if err != nil {
		t.Fatal(err)
	}
	u, path := newUnprivileged(t), os.Getenv("PATH")
	socket, state := filepath.Join(u.home, "b.sock"), filepath.Join(u.home, "engine")
	if out, err := exec.CommandContext(t.Context(), "cp", filepath.Join(filepath.Dir(yard.Buildctl()), "buildkitd"), yard.Buildctl(), u.dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	engine := u.command(context.WithoutCancel(t.Context()), path, "rootlesskit", "--net=host", filepath.Join(u.dir, "buildkitd"),
		"--addr", "unix://"+socket, "--root", state, "--otel-socket-path", filepath.Join(u.home, "otel.sock"), "--oci-worker-net=host")
	run := filepath.Join(u.home, "run")
	if err := errors.Join(os.Mkdir(run, 0o700), os.Chown(run, builder, builder)); err != nil {
		t.Fatal(err)
	}
	engine.Env = append(engine.Env, "XDG_RUNTIME_DIR="+run) // runc's state is there
	var said output
	engine.Stdout, engine.Stderr = &said, &said
	if err := engine.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := engine.Process.Signal(syscall.SIGTERM); err != nil {
			t.Error(err)
		}
		_ = engine.Wait() // it tells of the signal
	})
	await(t, "the engine's answer", func() bool {
		return u.command(t.Context(), path, "buildctl", "--addr", "unix://"+socket, "debug", "workers").Run() == nil || strings.Contains(said.String(), "error:")
	})
	out, err := u.command(t.Context(), path, "cairn", "build", "--dir", u.src, "--engine", "unix://"+socket).CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s\nthe engine: %s", err, out, said.String())
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", engine.Process.Pid))
	if err != nil || !strings.Contains(string(status), fmt.Sprintf("\nUid:\t%d\t%[1]d\t%[1]d\t", builder)) {
		t.Errorf("the engine runs as somebody else (%v):\n%s", err, status)
	}
	if isThere(filepath.Join(u.home, ".local", "state", "cairn", "daemon")) {
		t.Error("a daemon was started beside it")
	}
}

// A user who is not root builds with a daemon of their own, in a user namespace.
func TestWithoutRootTheDaemonRunsInAUserNamespace(t *testing.T) {
	t.Parallel()
	u := newUnprivileged(t)
	as := func(path, program string, args ...string) (string, error) {
		out, err := u.command(t.Context(), path, program, args...).CombinedOutput()
		return string(out), err
	}
	path := os.Getenv("PATH")

	// git is all that is there: nothing that makes a namespace.
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(u.dir, "bin")
	if err := errors.Join(os.Mkdir(bare, 0o755), os.Symlink(git, filepath.Join(bare, "git"))); err != nil {
		t.Fatal(err)
	}
	setpriv := []string{"--reuid", fmt.Sprint(builder), "--regid", fmt.Sprint(builder), "--clear-groups", "--", filepath.Join(u.dir, "cairn"), "build", "--dir", u.src}
	cmd := exec.CommandContext(t.Context(), "setpriv", setpriv...)
	cmd.Dir, cmd.Env = "/", []string{"HOME=" + u.home, "PATH=" + bare, "CI=true"}
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 8 || !strings.Contains(string(out), "hint: install rootlesskit and uidmap") {
		t.Errorf("without rootlesskit: %v: %s", err, out)
	}

	if out, err := as(path, "cairn", "build", "--dir", u.src); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := as(path, "cairnd", "status")
	if err != nil || !strings.Contains(out, `"ready": true`) {
		t.Fatalf("the daemon: %v: %s", err, out)
	}
	t.Cleanup(func() { endRootless(t, out) })
	if out, err := as(path, "cairn", "export", "--dir", u.src, "--to", "tar:"+filepath.Join(u.home, "x.tar")); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
}

// endRootless ends a daemon by its status, and waits for its end. Only its own
// user can ask for that: outside of its namespace, root is somebody else.
func endRootless(t *testing.T, status string) {
	t.Helper()
	var s testbed.CairndStatus
	if err := json.Unmarshal([]byte(status), &s); err != nil {
		t.Fatal(err)
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for end := time.After(limit); alive(s.PID); {
		select {
		case <-tick.C:
		case <-end:
			t.Fatalf("cairnd %d does not end", s.PID)
		}
	}
}
