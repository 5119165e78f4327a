package local

import (
	"context"
	"fmt"
	"os"
	"time"
)

// mode is how a lock is held.
type mode bool

const (
	shared mode = false
	alone  mode = true
)

// Locks are held for microseconds, so one that is busy is soon free; the longest
// pause only matters when a holder has been stopped.
const (
	firstPause = 50 * time.Microsecond
	longPause  = 20 * time.Millisecond
)

// held is a lock of the operating system on a file. It belongs to the open file,
// so it excludes goroutines of one process as well as other processes, and it
// ends with its holder however that ends.
type held struct{ f *os.File }

// lock waits for the lock on the file name of the layout, as long as ctx lasts.
func (s *Storage) lock(ctx context.Context, name string, m mode) (*held, error) {
	f, err := os.OpenFile(s.path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := waitLock(ctx, f, m); err != nil {
		f.Close() // nothing was written
		return nil, fmt.Errorf("wait for %s: %w", f.Name(), err)
	}
	return &held{f}, nil
}

func waitLock(ctx context.Context, f *os.File, m mode) error {
	for pause := firstPause; ; pause = min(2*pause, longPause) {
		if err := ctx.Err(); err != nil {
			return err
		}
		ok, err := tryLock(f, m)
		if ok || err != nil {
			return err
		}
		timer := time.NewTimer(pause)
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
}

// unlock ends the hold: closing the file is what releases it.
func (l *held) unlock() { l.f.Close() }
