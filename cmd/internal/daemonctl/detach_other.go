//go:build !linux

package daemonctl

import (
	"errors"
	"os/exec"
)

func detach(*exec.Cmd) error {
	return errors.New("the build daemon runs on Linux only; name a BuildKit to build with by --engine")
}
