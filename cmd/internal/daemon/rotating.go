package daemon

import (
	"errors"
	"os"
	"sync"
)

// rotating is a log file that is begun anew when it has grown to max bytes; the
// one before is kept beside it, with ".1" at its name's end.
type rotating struct {
	path string
	max  int64
	mu   sync.Mutex
	file *os.File
	size int64
}

func openRotating(path string, max int64) (*rotating, error) {
	r := &rotating{path: path, max: max}
	if err := r.open(); err != nil {
		return nil, err
	}
	return r, nil
}

func (r *rotating) open() error {
	f, err := os.OpenFile(r.path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	fi, err := f.Stat()
	if err != nil {
		return errors.Join(err, f.Close())
	}
	r.file, r.size = f, fi.Size()
	return nil
}

// Write implements [io.Writer].
func (r *rotating) Write(p []byte) (int, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.size+int64(len(p)) > r.max && r.size > 0 {
		if err := errors.Join(r.file.Close(), os.Rename(r.path, r.path+".1"), r.open()); err != nil {
			return 0, err
		}
	}
	n, err := r.file.Write(p)
	r.size += int64(n)
	return n, err
}

// Close implements [io.Closer].
func (r *rotating) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.file.Close()
}
