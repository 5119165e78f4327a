package source

import (
	"archive/tar"
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"github.com/klauspost/compress/gzip"
)

// Placed is a file at its place in an image.
type Placed struct {
	// Path is where it goes: slash-separated, clean, without a leading slash,
	// after the base's symbolic links to directories have been followed.
	Path     string
	File     File
	UID, GID int
}

// Dir is a directory that a layer makes.
type Dir struct {
	// Path is written as [Placed.Path] is.
	Path     string
	UID, GID int
}

const (
	// epoch is 2000-01-01 UTC in seconds since 1970: the time of directories and
	// symbolic links, and the earliest of files.
	epoch = 946684800
	// timeSpan is how many seconds after epoch the latest file can be: five years,
	// so that files are always older than what commands make.
	timeSpan = 5 * 365 * 24 * 60 * 60
)

// fileTime derives a file's time from its content: file servers make validators
// of time and size, so that a changed file needs a changed time.
func fileTime(f File) (time.Time, error) {
	if f.Mode == ModeSymlink {
		return time.Unix(epoch, 0).UTC(), nil
	}
	if len(f.Object) < 16 {
		return time.Time{}, corruptFile(f, errors.New("no object id"))
	}
	id, err := hex.DecodeString(f.Object[:16])
	if err != nil {
		return time.Time{}, corruptFile(f, err)
	}
	return time.Unix(epoch+int64(binary.BigEndian.Uint64(id)%timeSpan), 0).UTC(), nil
}

// WriteLayer writes the layer that holds dirs and placed as an uncompressed tar,
// whose bytes depend on the arguments and the files' contents alone: entries in
// the byte order of their paths, and so directories before what is in them;
// numeric owners; permissions 0644, 0755 for executables and directories, 0777
// for symbolic links; times derived from content or fixed; PAX records only
// where a header cannot hold a value. The order of the arguments does not matter.
//
// Errors: [ErrConflict] and those of [Tree.Contents].
func (t *Tree) WriteLayer(ctx context.Context, w io.Writer, dirs []Dir, placed []Placed) error {
	dirs, placed = slices.Clone(dirs), slices.Clone(placed)
	slices.SortFunc(dirs, func(a, b Dir) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(placed, func(a, b Placed) int { return strings.Compare(a.Path, b.Path) })
	if err := checkLayer(dirs, placed); err != nil {
		return err
	}
	l := layer{tar: tar.NewWriter(w), dirs: dirs}
	files := make([]File, len(placed))
	for i, p := range placed {
		files[i] = p.File
	}
	err := t.Contents(ctx, files, func(_ File, size int64, r io.Reader) error {
		p := placed[0]
		placed = placed[1:]
		if err := l.writeDirs(p.Path); err != nil {
			return err
		}
		return l.writeFile(p, size, r)
	})
	if err != nil {
		return err
	}
	if err := l.writeDirs(""); err != nil {
		return err
	}
	return l.tar.Close()
}

// layer is a layer that is being written.
type layer struct {
	tar  *tar.Writer
	dirs []Dir // those to come
}

// writeDirs writes the directories that come before path, all for "".
func (l *layer) writeDirs(path string) error {
	for len(l.dirs) > 0 && (path == "" || l.dirs[0].Path < path) {
		d := l.dirs[0]
		l.dirs = l.dirs[1:]
		err := l.tar.WriteHeader(&tar.Header{
			Typeflag: tar.TypeDir, Name: d.Path + "/", Mode: 0o755, Uid: d.UID, Gid: d.GID,
			ModTime: time.Unix(epoch, 0).UTC(),
		})
		if err != nil {
			return fmt.Errorf("write directory %q to a layer: %w", d.Path, err)
		}
	}
	return nil
}

func (l *layer) writeFile(p Placed, size int64, r io.Reader) error {
	mtime, err := fileTime(p.File)
	if err != nil {
		return err
	}
	h := &tar.Header{Typeflag: tar.TypeReg, Name: p.Path, Mode: 0o644, Size: size, Uid: p.UID, Gid: p.GID, ModTime: mtime}
	switch p.File.Mode {
	case ModeExecutable:
		h.Mode = 0o755
	case ModeSymlink:
		if size > maxTarget {
			return corruptFile(p.File, fmt.Errorf("the target of the symbolic link has %d bytes", size))
		}
		target, err := io.ReadAll(r)
		if err != nil {
			return err
		}
		h.Typeflag, h.Mode, h.Size, h.Linkname = tar.TypeSymlink, 0o777, 0, string(target)
	}
	if err := l.tar.WriteHeader(h); err != nil {
		return fmt.Errorf("write %q to a layer: %w", p.Path, err)
	}
	if h.Typeflag == tar.TypeSymlink {
		return nil
	}
	_, err = io.Copy(l.tar, r)
	return err
}

// checkLayer refuses what would have an unpacker write somewhere else or the
// order of entries decide. Its arguments are sorted.
func checkLayer(dirs []Dir, placed []Placed) error {
	files := make(map[string]struct{}, len(placed))
	conflict := func(path string, why string) error {
		return &Error{Op: "write layer", Subject: fmt.Sprintf("%q", path), Class: ErrConflict, Err: errors.New(why)}
	}
	for i, p := range placed {
		if i > 0 && placed[i-1].Path == p.Path {
			return conflict(p.Path, "two files go there")
		}
		files[p.Path] = struct{}{}
	}
	lastDir := ""
	check := func(path string) error {
		if err := checkPath(path); err != nil {
			return conflict(path, err.Error())
		}
		if parent(path) == lastDir {
			return nil
		}
		lastDir = parent(path)
		for dir := lastDir; dir != ""; dir = parent(dir) {
			if _, ok := files[dir]; ok {
				return conflict(dir, fmt.Sprintf("it is a file, and %q is below it", path))
			}
		}
		return nil
	}
	for i, d := range dirs {
		if _, ok := files[d.Path]; ok || i > 0 && dirs[i-1].Path == d.Path {
			return conflict(d.Path, "the directory stands there already")
		}
		if err := check(d.Path); err != nil {
			return err
		}
	}
	for _, p := range placed {
		if err := check(p.Path); err != nil {
			return err
		}
	}
	return nil
}

// Compress returns a writer that compresses a layer to w with gzip; closing it
// ends the stream and leaves w open. Equal layers become equal bytes on every
// machine, and fast: there is no name and no time in the header.
func Compress(w io.Writer) io.WriteCloser {
	z, err := gzip.NewWriterLevel(w, gzip.BestSpeed)
	if err != nil { // only for a level that does not exist
		return gzip.NewWriter(w)
	}
	return z
}
