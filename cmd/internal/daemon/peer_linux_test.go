package daemon

import (
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// The engine's own socket asks who connects, whatever the modes of files say.
func TestOtherUsersAreRefusedByTheEngineToo(t *testing.T) {
	p := paths(t)
	ensure(t, p, time.Minute)
	dir := filepath.Dir(p.Engine())
	for path, mode := range map[string]os.FileMode{filepath.Dir(dir): 0o755, dir: 0o755, p.Engine(): 0o666} {
		check(t, os.Chmod(path, mode))
	}
	self, err := os.ReadFile("/proc/self/exe")
	check(t, err)
	program := filepath.Join(dir, "test")
	check(t, os.WriteFile(program, self, 0o755))
	check(t, os.Chmod(program, 0o755))
	for uid, want := range map[uint32]int{0: 0, 12345: 3} { // the first byte of an engine comes unasked
		cmd := exec.Command(program)
		cmd.Env = []string{dialAs + "=" + p.Engine()}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
		_ = cmd.Run() // the exit code says it all
		if got := cmd.ProcessState.ExitCode(); got != want {
			t.Errorf("user %d: exit code %d, want %d", uid, got, want)
		}
	}
}
