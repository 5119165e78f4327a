package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// limit is the deadline of any single wait. It is far above what a wait takes on
// a quiet machine: machines that run tests are busy.
const limit = 90 * time.Second

// lab is what the tests share.
type lab struct {
	dir      string
	bin      string
	registry *testbed.Registry
	counter  counter
	serials  serials
	engines  [2]*testbed.Cairnd
	yard     func() (*testbed.Buildkitd, error)
}

// shared is set by TestMain, before any test runs.
var shared *lab

func TestMain(m *testing.M) {
	ctx := context.Background()
	l, err := newLab(ctx)
	code := 1
	if err == nil {
		shared = l
		code = m.Run()
	}
	if l != nil {
		err = errors.Join(err, l.close())
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		code = 1
	}
	os.Exit(code)
}

// newLab starts what nearly all tests need. It returns what was begun on errors too.
func newLab(ctx context.Context) (*lab, error) {
	// Not the test's own directory: the path of a unix socket has 107 bytes at most.
	dir, err := os.MkdirTemp("/tmp", "ce")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, bin: filepath.Join(dir, "bin")}
	if err := testbed.Compile(ctx, l.bin, "./cmd/cairn", "./cmd/cairnd"); err != nil {
		return l, err
	}
	if l.counter.Counter, err = testbed.StartCounter(ctx, nil); err != nil {
		return l, err
	}
	if l.registry, err = testbed.StartRegistry(ctx, testbed.RegistryOptions{}); err != nil {
		return l, err
	}
	for _, what := range []string{"busybox", "toolchain"} {
		if _, err := l.registry.PushBase(ctx, what); err != nil {
			return l, err
		}
	}
	for i := range l.engines {
		if l.engines[i], err = testbed.StartCairnd(ctx, l.bin, filepath.Join(dir, fmt.Sprint("d", i))); err != nil {
			return l, err
		}
	}
	l.yard = sync.OnceValues(func() (*testbed.Buildkitd, error) {
		return testbed.StartBuildkitd(ctx, testbed.BuildkitdOptions{Insecure: []string{l.registry.Address()}})
	})
	return l, nil
}

func (l *lab) close() error {
	var errs []error
	for _, e := range l.engines {
		if e != nil {
			errs = append(errs, e.Stop())
		}
	}
	if l.yard != nil {
		if b, err := l.yard(); err == nil {
			errs = append(errs, b.Stop())
		}
	}
	if l.registry != nil {
		errs = append(errs, l.registry.Stop())
	}
	if l.counter.Counter != nil {
		errs = append(errs, l.counter.Stop())
	}
	return errors.Join(append(errs, testbed.RemoveAll(l.dir))...)
}

// await polls until cond holds; what says what is awaited.
func await(t *testing.T, what string, cond func() bool) {
	t.Helper()
	deadline := time.After(limit)
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !cond() {
		select {
		case <-tick.C:
		case <-deadline:
			t.Fatalf("%s: not within %v", what, limit)
		case <-t.Context().Done():
			t.Fatal(context.Cause(t.Context()))
		}
	}
}
