//go:build !linux

package daemon

import (
	"fmt"
	"io"
)

// Main says that there is no daemon on this system.
func Main(_ []string, _ string, _, stderr io.Writer) int {
	fmt.Fprintln(stderr, "cairnd: the build daemon runs on Linux only; cairn builds with any BuildKit that --engine names")
	return 1
}
