// Command cairn builds container images in stages that any number of runners share.
package main

import (
	"os"

	"github.com/cairnbuild/cairn/cmd/internal/cli"
)

func main() { os.Exit(cli.Main(os.Args[1:], os.Stdin, os.Stdout, os.Stderr)) }
