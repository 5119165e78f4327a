package engine

import (
	"archive/tar"
	"bytes"
	"errors"
	"io"
	"path"
	"slices"
	"strings"
)

// mountPoints returns the directories that the runtime mounts something on while
// commands run. Commands cannot reach what lies below such a mount. When a layer
// holds one of these directories all the same, the runtime has made it because the
// image had none, and it is no work of the commands.
func mountPoints() []string { return []string{"dev", "proc", "sys"} }

// filteredTar passes an archive on without what is dropped.
type filteredTar struct {
	drop func(name string) bool
	raw  io.Reader
	in   *tar.Reader
	out  *tar.Writer
	buf  bytes.Buffer
	left int64 // of the present entry
	end  bool
}

// filterLayer gives keep the archive that a job made, that of commands without the
// traces of mounts, unless nothing is in it.
func filterLayer(j *Job, raw io.Reader, keep func(io.Reader) error) (empty bool, err error) {
	drop := isMountPoint
	if j.Commands == nil {
		drop = func(string) bool { return false }
	}
	t, empty, err := newFilteredTar(raw, drop)
	if err != nil || empty {
		return empty, err
	}
	if err := keep(t); err != nil {
		return false, err
	}
	return false, discard(t)
}

const chunk = 256 << 10

// newFilteredTar reads r up to the first entry that is kept. Without one, empty is true.
func newFilteredTar(r io.Reader, drop func(name string) bool) (f *filteredTar, empty bool, err error) {
	f = &filteredTar{drop: drop, raw: r, in: tar.NewReader(r)}
	f.out = tar.NewWriter(&f.buf)
	if err := f.next(); err != nil {
		return nil, false, err
	}
	return f, f.end, nil
}

// Read implements [io.Reader].
func (f *filteredTar) Read(p []byte) (int, error) {
	for f.buf.Len() == 0 {
		if f.end {
			return 0, io.EOF
		}
		if err := f.fill(); err != nil {
			return 0, err
		}
	}
	return f.buf.Read(p)
}

func (f *filteredTar) fill() error {
	if f.left == 0 {
		return f.next()
	}
	n, err := io.CopyN(f.out, f.in, min(f.left, chunk))
	f.left -= n
	if errors.Is(err, io.EOF) {
		return io.ErrUnexpectedEOF
	}
	return err
}

// next writes the header of the next entry that is kept.
func (f *filteredTar) next() error {
	for {
		h, err := f.in.Next()
		if errors.Is(err, io.EOF) {
			f.end = true
			// Only the end of the stream says that it was what was promised.
			if err := discard(f.raw); err != nil {
				return err
			}
			return f.out.Close()
		}
		if err != nil {
			return err
		}
		if f.drop(h.Name) {
			continue
		}
		f.left = h.Size
		return f.out.WriteHeader(h)
	}
}

func isMountPoint(name string) bool {
	first, _, _ := strings.Cut(strings.TrimPrefix(path.Clean("/"+name), "/"), "/")
	return slices.Contains(mountPoints(), first)
}
