// Command cairnd is the build daemon of Cairn.
package main

import (
	"os"

	"github.com/cairnbuild/cairn/cmd/internal/daemon"
)

// version is set when a release is linked.
var version = "devel"

func main() {
	os.Exit(daemon.Main(os.Args[1:], version, os.Stdout, os.Stderr))
}
