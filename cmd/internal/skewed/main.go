// Command skewed is cairn to which time means something else: on a machine whose
// clock is wrong by CAIRN_CLOCK_SKEW, or where nothing arrives later than
// CAIRN_LATE_DELTA and CAIRN_LATE_GUARD, so that a test need not wait for what cairn
// waits for. All of them are durations such as -1h, and 0s where they are not set.
// The stress test runs it: no library that skews the clock of a process from outside
// reaches a static Go program. It stands here and not below hack because only what
// is below cmd can see the command line.
package main

import (
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/cli"
)

func main() {
	w, err := world(os.Getenv)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	os.Exit(cli.MainIn(w, os.Args[1:], os.Stdin, os.Stdout, os.Stderr))
}

// world reads what time means.
func world(getenv func(string) string) (cli.World, error) {
	var errs []error
	read := func(name string) time.Duration {
		text := getenv(name)
		if text == "" {
			return 0
		}
		d, err := time.ParseDuration(text)
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", name, err))
		}
		return d
	}
	skew := read("CAIRN_CLOCK_SKEW")
	w := cli.World{Now: func() time.Time { return time.Now().Add(skew) }}
	w.Late.Delta, w.Late.Guard = read("CAIRN_LATE_DELTA"), read("CAIRN_LATE_GUARD")
	return w, errors.Join(errs...)
}
