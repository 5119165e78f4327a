package daemonctl

import (
	"os/exec"
	"syscall"
)

// supported says that this system can have a daemon.
const supported = true

// detach gives the daemon a session of its own, so that it survives the terminal.
func detach(cmd *exec.Cmd) error {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return nil
}
