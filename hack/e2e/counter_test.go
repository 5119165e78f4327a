package e2e

import (
	"fmt"
	"testing"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// counter is what commands of stages ask, for tests to count them and to have
// their hands on one that runs.
type counter struct{ *testbed.Counter }

func (c counter) count(name string) int { return c.Count(name) }

// hold has commands that ask for name wait until the result is called, or the
// test ends.
func (c counter) hold(t *testing.T, name string) (open func()) {
	t.Helper()
	open = c.Hold(name)
	t.Cleanup(open)
	return open
}

// await waits until name was asked for n times.
func (c counter) await(t *testing.T, name string, n int) {
	t.Helper()
	await(t, fmt.Sprintf("command %s runs", name), func() bool { return c.count(name) >= n })
}
