package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// status asks the daemon that belongs to the host's own state directory; ok is
// false where none runs.
func (h *host) status(t *testing.T) (s testbed.CairndStatus, ok bool) {
	t.Helper()
	s, err := testbed.AskCairnd(t.Context(), shared.bin, filepath.Join(h.state, "daemon"), filepath.Join(h.state, "run", "cairnd.sock"))
	return s, err == nil
}

// endDaemon ends the host's own daemon, where one runs, and waits for its end.
func (h *host) endDaemon(ctx context.Context) error {
	s, err := testbed.AskCairnd(ctx, shared.bin, filepath.Join(h.state, "daemon"), filepath.Join(h.state, "run", "cairnd.sock"))
	if err != nil {
		return nil // none runs
	}
	if err := syscall.Kill(s.PID, syscall.SIGTERM); err != nil {
		return err
	}
	deadline := time.NewTimer(limit)
	defer deadline.Stop()
	tick := time.NewTicker(10 * time.Millisecond)
	defer tick.Stop()
	for alive(s.PID) {
		select {
		case <-tick.C:
		case <-deadline.C:
			return errors.Join(fmt.Errorf("cairnd %d does not end", s.PID), syscall.Kill(s.PID, syscall.SIGKILL))
		}
	}
	return nil
}

// alive reports whether a process runs; one that only waits to be reaped does not.
func alive(pid int) bool {
	threads, err := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
	if err != nil {
		return false
	}
	// The first thread of an engine can be through while the last one still ends
	// the processes of the engine's namespace.
	return slices.ContainsFunc(threads, func(path string) bool {
		stat, err := os.ReadFile(path)
		_, after, _ := strings.Cut(string(stat), ") ")
		return err == nil && !strings.HasPrefix(after, "Z") && !strings.HasPrefix(after, "X")
	})
}
