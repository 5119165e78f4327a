package daemon

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhatCommandsLeftInAKilledEngineIsForgotten(t *testing.T) {
	root := t.TempDir()
	write := func(path string) string {
		path = filepath.Join(root, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte("TOKEN=secret"), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	gone := write("runc-overlayfs/executor/k3x/config.json")
	stays := []string{write("runc-overlayfs/executor/k3x/rootfs/config.json"), write("runc-overlayfs/executor/hosts"), write("runc-overlayfs/snapshots/1/config.json")}
	for range 2 {
		if err := forgetRuns(root); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Stat(gone); !os.IsNotExist(err) {
		t.Errorf("%s is there: %v", gone, err)
	}
	for _, path := range stays {
		if _, err := os.Stat(path); err != nil {
			t.Error(err)
		}
	}
}
