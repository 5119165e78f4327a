// Command skewed is cairn on a machine whose clock is wrong by CAIRN_CLOCK_SKEW,
// a duration such as -1h. The stress test runs it: no library that skews the
// clock of a process from outside reaches a static Go program. It stands here and
// not below hack because only what is below cmd can see the command line.
package main

import (
	"fmt"
	"os"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/cli"
)

func main() {
	skew, err := time.ParseDuration(os.Getenv("CAIRN_CLOCK_SKEW"))
	if err != nil {
		fmt.Fprintln(os.Stderr, "CAIRN_CLOCK_SKEW:", err)
		os.Exit(2)
	}
	os.Exit(cli.MainAt(func() time.Time { return time.Now().Add(skew) }, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}
