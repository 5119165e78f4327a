//go:build !linux

package testbed

import "os/exec"

// endWithParent does nothing: only Linux can end a child with its parent.
func endWithParent(*exec.Cmd) {}

// detach does nothing: engines run on Linux only.
func detach([]byte, string) []error { return nil }
