//go:build unix

package source

import (
	"os/exec"
	"syscall"
)

// detach gives a command a session without a terminal. It ends with its context
// all the same; what it has started itself ends when its pipes close.
func detach(cmd *exec.Cmd) { cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} }
