//go:build !linux

package testbed

import (
	"errors"
	"os/exec"
	"time"
)

// endWithParent does nothing: only Linux can end a child with its parent.
func endWithParent(*exec.Cmd) {}

// detach does nothing: engines run on Linux only.
func detach([]byte, string) []error { return nil }

// Terminate does nothing: daemons run on Linux only.
func Terminate(int) error { return errors.ErrUnsupported }

// Ended reports that there is no daemon.
func Ended(int) bool { return true }

// processorTime is known on Linux only.
func processorTime(int) (time.Duration, error) { return 0, errors.ErrUnsupported }
