package testbed

import (
	"os/exec"
	"strings"
	"syscall"
)

// endWithParent has the kernel end the server when the test binary dies, by a
// panic or its time limit for instance, and cannot clean up.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}

// detach unmounts everything below a directory, given the lines of /proc/self/mounts.
func detach(mounts []byte, below string) []error {
	var errs []error
	for line := range strings.Lines(string(mounts)) {
		if f := strings.Fields(line); len(f) > 1 && strings.HasPrefix(f[1], below) {
			errs = append(errs, syscall.Unmount(f[1], syscall.MNT_DETACH))
		}
	}
	return errs
}
