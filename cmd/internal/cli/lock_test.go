package cli

import (
	"path/filepath"
	"strings"
	"testing"
)

func TestALockThatCannotBeWrittenIsToldByItsName(t *testing.T) {
	path := filepath.Join(t.TempDir(), "missing", "cairn.lock")
	f := failureOf(t.Context(), writeLock(path, []byte("x")))
	if !strings.HasPrefix(f.Message, "write "+path+": ") || strings.Contains(f.Message, ".cairn-lock-") || !strings.Contains(f.Hint, "writable") {
		t.Errorf("got %+v", f)
	}
}
