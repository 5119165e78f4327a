//go:build unix

package archive

import (
	"errors"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// tryLock takes the lock on the place at path without waiting: it is on the
// directory, so that nothing is left behind. It returns how to end it, and nil where
// another has it. File systems without locks are taken for free: what is looked
// for under the lock is then only looked for a moment before.
func tryLock(path string) (unlock func(), err error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	for {
		err = unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	unlock = func() { dir.Close() } // closing is what releases it
	if errors.Is(err, unix.EWOULDBLOCK) {
		unlock()
		return nil, nil
	}
	return unlock, nil
}
