package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"iter"
	"maps"
	"os"
	"path/filepath"
	"strings"
)

// markLFS finds the files of a listing that attributes give to Git LFS. The
// listing is that of the directory prefix; above has the texts of attributes files
// of the directories above it.
func (l *listing) markLFS(ctx context.Context, prefix string, above map[string]string) error {
	var files []File
	for i := range l.len() {
		if name, ok := attributesOf(l, i); ok {
			files = append(files, l.entry(i, name))
		}
	}
	if len(files) == 0 && len(above) == 0 {
		return nil
	}
	texts, err := readAttributes(ctx, l, files, prefix)
	if err != nil {
		return err
	}
	maps.Copy(texts, above)
	l.mark(newAttributes(texts), prefix)
	return nil
}

// readAttributes returns the texts of attributes files by their directories.
// Paths of the files are below prefix.
func readAttributes(ctx context.Context, l *listing, files []File, prefix string) (map[string]string, error) {
	texts := make(map[string]string, len(files))
	err := (&Tree{files: l}).Contents(ctx, files, func(f File, size int64, body io.Reader) error {
		if size > maxAttributes {
			return &Error{Op: "read", Subject: f.Path, Class: ErrTooLarge, Err: fmt.Errorf("%d bytes, at most %d", size, maxAttributes)}
		}
		b, err := io.ReadAll(body)
		texts[joinDir(prefix, parent(f.Path))] = string(b)
		return err
	})
	return texts, err
}

// attributesOf returns the path of file i when it is an attributes file. Git
// does not follow one that is a symbolic link.
func attributesOf(l *listing, i int) (string, bool) {
	name := l.path(i)
	if !strings.HasSuffix(name, attributesFile) || l.modes[i] != ModeRegular && l.modes[i] != ModeExecutable {
		return "", false
	}
	return name, name == attributesFile || strings.HasSuffix(name, "/"+attributesFile)
}

// attributesAbove returns the texts of the attributes files in the directories
// above the project's.
func (r *Repository) attributesAbove(ctx context.Context, l *listing, commit string) (map[string]string, error) {
	if r.prefix == "" {
		return nil, nil
	}
	args := []string{"ls-tree", "-z", "--full-tree", commit, "--"}
	for dir := range dirsOf(r.prefix) {
		args = append(args, joinDir(dir, attributesFile))
	}
	var above *listing
	err := r.git.stream(ctx, func(out io.Reader) (err error) {
		above, err = parseTree(out, r.idLen)
		return err
	}, args...)
	if err != nil {
		return nil, err
	}
	above.origins = l.origins
	var files []File
	for i := range above.len() {
		if name, ok := attributesOf(above, i); ok {
			files = append(files, above.entry(i, name))
		}
	}
	return readAttributes(ctx, above, files, "")
}

// attributesOnDisk is attributesAbove for a work tree.
func (r *Repository) attributesOnDisk() (map[string]string, error) {
	texts := make(map[string]string)
	at := r.disk
	for dir := range dirsOf(r.prefix) {
		at = filepath.Dir(at)
		name := filepath.Join(at, attributesFile)
		st, err := os.Lstat(name)
		if errors.Is(err, fs.ErrNotExist) || err == nil && (!st.Mode().IsRegular() || st.Size() > maxAttributes) {
			continue
		}
		if err != nil {
			return nil, err
		}
		b, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		texts[dir] = string(b)
	}
	return texts, nil
}

// dirsOf yields the directories above a path, the nearest first and "" last;
// none for "".
func dirsOf(path string) iter.Seq[string] {
	return func(yield func(string) bool) {
		for path != "" {
			path = parent(path)
			if !yield(path) {
				return
			}
		}
	}
}

func joinDir(dir, name string) string {
	switch {
	case dir == "":
		return name
	case name == "":
		return dir
	default:
		return dir + "/" + name
	}
}

// mark notes which files the attributes give to Git LFS. Paths of the listing
// are below prefix.
func (l *listing) mark(a *attributes, prefix string) {
	if !a.lfs {
		return
	}
	set := newBitset(l.len())
	for i, m := range l.modes {
		if (m == ModeRegular || m == ModeExecutable) && a.isLFS(joinDir(prefix, l.path(i))) {
			set.set(i)
		}
	}
	if set.count() > 0 {
		l.lfs = set
	}
}

// pointTo returns how Git LFS commits a file of the work tree: the id of its
// pointer, and the file as the content of that. An empty file and one that is a
// pointer itself are committed as they are.
func pointTo(ctx context.Context, root *os.Root, path string, mode Mode, idLen int) (diskFile, []byte, error) {
	r, size, err := openDisk(root, path, mode)
	if err != nil {
		return diskFile{}, nil, err
	}
	defer r.Close()
	if err := ctx.Err(); err != nil {
		return diskFile{}, nil, err
	}
	var head bytes.Buffer
	h := sha256.New()
	n, err := io.Copy(h, io.TeeReader(io.LimitReader(r, lfsPointerMax), &head))
	if err == nil && n == lfsPointerMax {
		var rest int64
		rest, err = io.Copy(h, r)
		n += rest
	}
	if err != nil {
		return diskFile{}, nil, err
	}
	if n != size {
		return diskFile{}, nil, changedError(path)
	}
	d, blob := diskFile{path: path, mode: mode, size: size}, head.Bytes()
	if _, err := parsePointer(blob); err != nil && size > 0 {
		d.oid = hex.EncodeToString(h.Sum(nil))
		blob = pointer{oid: d.oid, size: size}.encode()
	}
	id := newObjectHash(idLen, int64(len(blob)))
	id.Write(blob)
	return d, id.Sum(nil), nil
}
