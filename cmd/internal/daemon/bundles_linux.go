package daemon

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// forgetRuns removes what an engine that was killed has left of the commands that
// ran: their description holds their environment, which secrets may be part of.
// The directory around it stays, because something may still be mounted there.
func forgetRuns(root string) error {
	left, err := filepath.Glob(filepath.Join(root, "*", "executor", "*", "config.json"))
	if err != nil {
		return fmt.Errorf("look for what commands have left: %w", err)
	}
	var errs []error
	for _, path := range left {
		if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}
