//go:build !linux

package daemonctl

import "os/exec"

// supported says that this system can have a daemon.
const supported = false

func detach(*exec.Cmd) error { return ErrNotHere }
