package e2e

import (
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

// A user who is not root builds with a daemon of their own, in a user namespace.
func TestWithoutRootTheDaemonRunsInAUserNamespace(t *testing.T) {
	t.Parallel()
	p := oneCommand(t)
	user, home := newUser(t)
	src := filepath.Join(home, "src")
	if out, err := exec.CommandContext(t.Context(), "sh", "-c",
		`cp -r "$1" "$2" && cp "$3"/cairn "$3"/cairnd "$4"/ && chown -R 12345:12345 "$2"`, "sh", p.dir, src, shared.bin, user).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	as := func(path, program string, args ...string) (string, error) {
		cmd := exec.CommandContext(t.Context(), "unshare", append([]string{"--mount", "--propagation", "private", "sh", "-c", asBuilder, "sh", user, filepath.Join(user, program)}, args...)...)
		cmd.Dir = "/"
		cmd.Env = []string{"HOME=" + home, "PATH=" + path, "CI=true"}
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	path := os.Getenv("PATH")

	// git is all that is there: nothing that makes a namespace.
	git, err := exec.LookPath("git")
	if err != nil {
		t.Fatal(err)
	}
	bare := filepath.Join(user, "bin")
	if err := errors.Join(os.Mkdir(bare, 0o755), os.Symlink(git, filepath.Join(bare, "git"))); err != nil {
		t.Fatal(err)
	}
	setpriv := []string{"--reuid", fmt.Sprint(builder), "--regid", fmt.Sprint(builder), "--clear-groups", "--", filepath.Join(user, "cairn"), "build", "--dir", src}
	cmd := exec.CommandContext(t.Context(), "setpriv", setpriv...)
	cmd.Dir, cmd.Env = "/", []string{"HOME=" + home, "PATH=" + bare, "CI=true"}
	if out, err := cmd.CombinedOutput(); err == nil || cmd.ProcessState.ExitCode() != 8 || !strings.Contains(string(out), "hint: install rootlesskit and uidmap") {
		t.Errorf("without rootlesskit: %v: %s", err, out)
	}

	if out, err := as(path, "cairn", "build", "--dir", src); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := as(path, "cairnd", "status")
	if err != nil || !strings.Contains(out, `"ready": true`) {
		t.Fatalf("the daemon: %v: %s", err, out)
	}
	t.Cleanup(func() { endRootless(t, out) })
	if out, err := as(path, "cairn", "export", "--dir", src, "--to", "tar:"+filepath.Join(home, "x.tar")); err != nil {
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
