// Package testbed starts real servers on loopback (a registry, an API server, a plain
// BuildKit) and makes base images without a registry to pull from, for tests,
// benchmarks and the demo.
//
// Its functions take a context and return errors, so that programs can use
// them; the thin wrappers that begin with New take a [T] and end what they
// started with the test. What is missing on the machine is an error that names
// the program to run, never a reason to skip.
package testbed

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// ErrMissing is wrapped by errors about a program or file that hack/setup installs.
var ErrMissing = errors.New("missing")

// T is what the wrappers need of a test; *testing.T and *testing.B are one.
type T interface {
	Helper()
	Context() context.Context
	TempDir() string
	Cleanup(f func())
	Errorf(format string, args ...any)
	Fatalf(format string, args ...any)
}

// Root returns the root directory of the source tree: the nearest one above the
// working directory that holds hack/testbed.
func Root() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for {
		if _, err := os.Stat(filepath.Join(dir, "hack", "testbed", "doc.go")); err == nil {
			return dir, nil
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", fmt.Errorf("%w: the source tree: run this inside of it", ErrMissing)
		}
		dir = up
	}
}

// program returns the path of a system program.
func program(name string) (string, error) {
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w: the program %s: run hack/setup, which installs it (%w)", ErrMissing, name, err)
	}
	return path, nil
}

// tool returns the path of a program that is built from a module of hack/tools.
func tool(name, module string) (string, error) {
	root, err := Root()
	if err != nil {
		return "", err
	}
	path := filepath.Join(root, ".cache", "tools", "bin", name)
	if _, err := os.Stat(path); err != nil {
		return "", fmt.Errorf("%w: the program %s: run hack/tools/install %s, which builds it (%w)", ErrMissing, name, module, err)
	}
	return path, nil
}
