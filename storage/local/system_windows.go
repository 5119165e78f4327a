package local

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/windows"
)

// tryLock takes the lock on f without waiting; false means that another has it.
// The locked byte lies far behind the contents, because locks are mandatory here.
func tryLock(f *os.File, m mode) (bool, error) {
	flags := uint32(windows.LOCKFILE_FAIL_IMMEDIATELY)
	if m == alone {
		flags |= windows.LOCKFILE_EXCLUSIVE_LOCK
	}
	at := &windows.Overlapped{Offset: 0, OffsetHigh: 1 << 30}
	err := windows.LockFileEx(windows.Handle(f.Fd()), flags, 0, 1, 0, at)
	if errors.Is(err, windows.ERROR_LOCK_VIOLATION) || errors.Is(err, windows.ERROR_IO_PENDING) {
		return false, nil
	}
	if err != nil {
		return false, &os.PathError{Op: "LockFileEx", Path: f.Name(), Err: err}
	}
	return true, nil
}

// How long a file that another process has open at the moment is waited for: what
// is in the layout is small or read in one go, and virus scanners take a moment.
const (
	renameTries = 9
	renameRest  = 2 * time.Millisecond // doubled each time: a second in all
)

// rename gives a file another name, whose file it replaces. Systems like this one
// refuse that while somebody reads the replaced one.
func rename(from, to string) error {
	for try := 1; ; try++ {
		err := os.Rename(from, to)
		if !isBusy(err) || try == renameTries {
			return err
		}
		time.Sleep(renameRest << try)
	}
}

// isBusy reports whether err says that somebody has the file open.
func isBusy(err error) bool {
	return errors.Is(err, windows.ERROR_SHARING_VIOLATION) || errors.Is(err, windows.ERROR_ACCESS_DENIED)
}

// touch gives a file the present time, as the system knows it.
func touch(path string) error {
	var now windows.Filetime
	windows.GetSystemTimeAsFileTime(&now)
	t := time.Unix(0, now.Nanoseconds())
	return os.Chtimes(path, t, t)
}

// writable leaves it to the first change to find out.
func writable(string) bool { return true }

// syncDir does nothing: directories cannot be flushed here, NTFS journals renames.
func syncDir(string) error { return nil }

func isFull(err error) bool {
	return errors.Is(err, windows.ERROR_DISK_FULL) || errors.Is(err, windows.ERROR_HANDLE_DISK_FULL)
}

func isReadOnly(err error) bool { return errors.Is(err, windows.ERROR_WRITE_PROTECT) }
