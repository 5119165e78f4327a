package testbed

import (
	"os/exec"
	"syscall"
)

// endWithParent has the kernel end the server when the test binary dies, by a
// panic or its time limit for instance, and cannot clean up.
func endWithParent(cmd *exec.Cmd) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
}
