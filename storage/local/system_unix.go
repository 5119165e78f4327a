//go:build unix

package local

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

// tryLock takes the lock on f without waiting; false means that another has it.
func tryLock(f *os.File, m mode) (bool, error) {
	how := unix.LOCK_SH
	if m == alone {
		how = unix.LOCK_EX
	}
	for {
		err := unix.Flock(int(f.Fd()), how|unix.LOCK_NB)
		switch {
		case err == nil:
			return true, nil
		case errors.Is(err, unix.EWOULDBLOCK):
			return false, nil
		case errors.Is(err, unix.EINTR):
			continue
		}
		return false, &os.PathError{Op: "flock", Path: f.Name(), Err: err}
	}
}

// rename gives a file another name, whose file it replaces.
func rename(from, to string) error { return os.Rename(from, to) }

// isBusy reports whether err says that somebody has the file open; that hinders
// nobody here.
func isBusy(error) bool { return false }

// touch gives a file the present time, as the file system knows it.
func touch(path string) error {
	if err := unix.UtimesNanoAt(unix.AT_FDCWD, path, nil, 0); err != nil {
		return &os.PathError{Op: "touch", Path: path, Err: err}
	}
	return nil
}

// writable reports whether this process may change what is in dir.
func writable(dir string) bool { return unix.Access(dir, unix.W_OK) == nil }

// syncDir makes renames and removals in dir survive a crash. File systems that
// cannot do that say so with EINVAL or ENOTSUP, and have nothing to wait for.
func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	err = d.Sync()
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	return err
}

func isFull(err error) bool { return errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) }

func isReadOnly(err error) bool { return errors.Is(err, unix.EROFS) }
