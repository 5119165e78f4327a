package testbed

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// rootfs is a file system tree that becomes a layer. Its tar is the same for
// the same entries: sorted, owned by root, all times zero.
type rootfs map[string]rootEntry

type rootEntry struct {
	mode    int64
	kind    byte // a tar type flag
	link    string
	content []byte
}

func (r rootfs) dir(name string, mode int64) {
	r.parents(name)
	r[name] = rootEntry{mode: mode, kind: tar.TypeDir}
}

func (r rootfs) file(name string, mode int64, content []byte) {
	r.parents(name)
	r[name] = rootEntry{mode: mode, kind: tar.TypeReg, content: content}
}

func (r rootfs) symlink(name, target string) {
	r.parents(name)
	r[name] = rootEntry{mode: 0o777, kind: tar.TypeSymlink, link: target}
}

func (r rootfs) parents(name string) {
	for dir := path.Dir(name); dir != "."; dir = path.Dir(dir) {
		if _, ok := r[dir]; !ok {
			r[dir] = rootEntry{mode: 0o755, kind: tar.TypeDir}
		}
	}
}

// tree adds what keep accepts from below the directory from, with names as
// inside of it; keep gets a slash-separated name and returns where it goes.
func (r rootfs) tree(from string, keep func(name string) (string, bool)) error {
	return filepath.WalkDir(from, func(file string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		rel, err := filepath.Rel(from, file)
		if err != nil {
			return err
		}
		to, ok := keep(filepath.ToSlash(rel))
		if !ok {
			return nil
		}
		return r.copy(file, to, d)
	})
}

func (r rootfs) copy(file, to string, d fs.DirEntry) error {
	if d.Type()&fs.ModeSymlink != 0 {
		target, err := os.Readlink(file)
		if err == nil {
			r.symlink(to, target)
		}
		return err
	}
	info, err := d.Info()
	if err != nil {
		return err
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	r.file(to, int64(info.Mode().Perm()), content)
	return nil
}

// tar returns the tree as an archive.
func (r rootfs) tar() ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, name := range slices.Sorted(maps.Keys(r)) {
		e := r[name]
		h := &tar.Header{Name: name, Mode: e.mode, Typeflag: e.kind, Linkname: e.link, Size: int64(len(e.content)), Format: tar.FormatUSTAR}
		if e.kind == tar.TypeDir {
			h.Name += "/"
		}
		if err := w.WriteHeader(h); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if _, err := w.Write(e.content); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
	}
	if err := w.Close(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// usrMerged returns where a file of a Debian package goes in a tree where bin,
// lib, lib64 and sbin are links into usr.
func usrMerged(name string) string {
	top, _, _ := strings.Cut(name, "/")
	switch top {
	case "bin", "lib", "lib64", "sbin":
		return "usr/" + name
	default:
		return name
	}
}

// opener makes bytes a source that can be opened again.
func opener(b []byte) func() (io.ReadCloser, error) {
	return func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }
}
