package source

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
)

// MaxChanges bounds the list that [Repository.Dirty] returns.
const MaxChanges = 10_000

// ChangeKind says how a path of the work tree differs from HEAD.
type ChangeKind string

// The kinds of changes.
const (
	ChangeModified  ChangeKind = "modified"
	ChangeAdded     ChangeKind = "added"
	ChangeUntracked ChangeKind = "untracked"
	ChangeDeleted   ChangeKind = "deleted"
)

// Change is a path of the work tree that a build from HEAD leaves out, or takes
// in an older state.
type Change struct {
	// Path is relative to the project's directory.
	Path string
	Kind ChangeKind
}

// diskFile is a file of the work tree whose content git does not hold.
type diskFile struct {
	path string
	mode Mode
	size int64
}

// Dirty lists what differs between HEAD and the work tree below the project's
// directory, ignored files apart, in git's order: at most [MaxChanges] of them.
// In a bare repository nothing does.
func (r *Repository) Dirty(ctx context.Context) ([]Change, error) {
	if !r.workTree {
		return nil, nil
	}
	g, _, err := r.unfiltered(ctx)
	if err != nil {
		return nil, err
	}
	var out []Change
	err = g.stream(ctx, func(status io.Reader) error {
		return eachRecord(status, func(rec []byte) error {
			if c, ok := r.parseChange(rec); ok && len(out) < MaxChanges {
				out = append(out, c)
			}
			return nil
		})
	}, "status", "--porcelain", "-z", "--untracked-files=all", "--no-renames", "--ignore-submodules=dirty", "--", ".")
	return out, err
}

// parseChange reads "XY <path>", the path relative to the root of the work tree.
func (r *Repository) parseChange(rec []byte) (Change, bool) {
	if len(rec) < 4 {
		return Change{}, false
	}
	path := string(rec[3:])
	if r.prefix != "" {
		var ok bool
		if path, ok = strings.CutPrefix(path, r.prefix+"/"); !ok {
			return Change{}, false
		}
	}
	c := Change{Path: path, Kind: ChangeModified}
	switch index, tree := rec[0], rec[1]; {
	case index == '?':
		c.Kind = ChangeUntracked
	case tree == 'D' || index == 'D':
		c.Kind = ChangeDeleted
	case index == 'A':
		c.Kind = ChangeAdded
	}
	return c, true
}

// WorkTree returns the files of the work tree: tracked ones as they are on disk
// and untracked ones that are not ignored. Files that git knows to be unchanged
// keep the object id of the index; others get that of their raw bytes, and
// nothing is written to the repository. So a clean work tree has the identities
// of HEAD.
//
// Errors: [ErrNoWorkTree], [ErrTooLarge], [ErrGit].
func (r *Repository) WorkTree(ctx context.Context) (*Tree, error) {
	if !r.workTree {
		return nil, &Error{Op: "read work tree", Subject: r.git.dir, Class: ErrNoWorkTree}
	}
	g, fileMode, err := r.unfiltered(ctx)
	if err != nil {
		return nil, err
	}
	w := &workTree{idLen: r.idLen, fileMode: fileMode, deleted: map[string]bool{}, onDisk: map[string]diskFile{}}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return g.stream(gctx, func(out io.Reader) error { return eachRecord(out, w.addIndexed) }, "ls-files", "-s", "-z")
	})
	group.Go(func() error {
		return g.stream(gctx, func(out io.Reader) error { return eachRecord(out, w.addTouched) },
			"ls-files", "-z", "-t", "-m", "-d", "-o", "--exclude-standard")
	})
	if err := group.Wait(); err != nil {
		return nil, corrupt("read work tree", "", err)
	}
	files, err := w.list(ctx, g.dir)
	if err != nil {
		return nil, err
	}
	t := newTree(r, "work tree", files)
	t.onDisk = w.onDisk
	return t, nil
}

// unfiltered returns a git that runs no content filters, and whether the file
// system's executable bits count. A comparison of a file with the index would
// run the filters that the configuration names: they can run any program, and
// files are taken raw here.
func (r *Repository) unfiltered(ctx context.Context) (git, bool, error) {
	g, fileMode := r.git, true
	out, err := g.output(ctx, "config", "-z", "--get-regexp", `^(filter\..*\.(clean|process|required)|core\.filemode)$`)
	if err != nil && !exited(err) { // exit code 1: there are none
		return g, false, err
	}
	g.options = slices.Clone(g.options)
	for rec := range bytes.SplitSeq(out, []byte{0}) {
		key, value, _ := strings.Cut(string(rec), "\n")
		switch {
		case key == "core.filemode":
			fileMode = value != "false"
		case strings.HasSuffix(key, ".required"):
			g.options = append(g.options, "-c", key+"=false")
		case strings.HasPrefix(key, "filter."):
			g.options = append(g.options, "-c", key+"=")
		}
	}
	return g, fileMode, nil
}

// workTree gathers what git says about a work tree.
type workTree struct {
	idLen    int
	fileMode bool
	indexed  []indexed
	deleted  map[string]bool
	touched  []string // modified or untracked
	onDisk   map[string]diskFile
}

// indexed is a file of the index or, once hashed, of the disk.
type indexed struct {
	path string
	mode Mode
	id   []byte
}

// addIndexed takes "<mode> <id> <stage>\t<path>". Of a path in conflict any one
// entry does: git names it as modified too.
func (w *workTree) addIndexed(rec []byte) error {
	head, path, ok := strings.Cut(string(rec), "\t")
	fields := strings.Fields(head)
	if !ok || len(fields) != 3 {
		return fmt.Errorf("%q is no entry of an index", rec)
	}
	f := indexed{path: path, mode: parseMode(fields[0]), id: make([]byte, w.idLen)}
	if f.mode == 0 {
		return fmt.Errorf("mode %q of %q", fields[0], path)
	}
	if err := decodeID(f.id, []byte(fields[1])); err != nil {
		return err
	}
	if n := len(w.indexed); n > 0 && w.indexed[n-1].path == path {
		return nil
	}
	w.indexed = append(w.indexed, f)
	return nil
}

// addTouched takes "<tag> <path>": R for deleted, C for changed, ? for untracked.
// What is deleted is changed too.
func (w *workTree) addTouched(rec []byte) error {
	tag, path, ok := strings.Cut(string(rec), " ")
	if !ok || len(tag) != 1 {
		return fmt.Errorf("%q is no entry of a work tree", rec)
	}
	if tag == "R" {
		w.deleted[path] = true
	} else {
		w.touched = append(w.touched, path)
	}
	return nil
}

// list joins the index with what is on disk.
func (w *workTree) list(ctx context.Context, dir string) (*listing, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	slices.Sort(w.touched)
	disk, stale := []indexed(nil), maps.Clone(w.deleted)
	for _, path := range slices.Compact(w.touched) {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if w.deleted[path] {
			continue
		}
		f, ok, err := w.read(root, path)
		if err != nil {
			return nil, err
		}
		stale[path] = true
		if ok {
			disk = append(disk, f)
		}
	}
	all := slices.DeleteFunc(w.indexed, func(f indexed) bool { return stale[f.path] })
	all = append(all, disk...)
	slices.SortFunc(all, func(a, b indexed) int { return strings.Compare(a.path, b.path) })
	b := newBuilder(w.idLen)
	for _, f := range all {
		if err := b.add(f.path, f.mode, f.id); err != nil {
			return nil, corrupt("read work tree", f.path, err)
		}
	}
	return b.finish(), nil
}

// read computes mode and id of a path on disk. It is not ok where there is
// nothing that git would take: the file is gone, a directory, a socket.
func (w *workTree) read(root *os.Root, path string) (indexed, bool, error) {
	tracked, isTracked := w.find(path)
	if isTracked && tracked.mode == ModeSubmodule {
		return tracked, true, nil
	}
	if nested, ok := strings.CutSuffix(path, "/"); ok { // another repository, which git would add as a submodule
		return indexed{nested, ModeSubmodule, make([]byte, w.idLen)}, true, nil
	}
	if throughSymlink(root, path) {
		return indexed{}, false, nil
	}
	st, err := root.Lstat(path)
	if err != nil {
		return indexed{}, false, err
	}
	f := indexed{path: path, mode: ModeRegular}
	switch {
	case st.Mode()&fs.ModeSymlink != 0:
		f.mode = ModeSymlink
	case !st.Mode().IsRegular():
		return f, false, nil
	case !w.fileMode && isTracked && tracked.mode != ModeSymlink:
		f.mode = tracked.mode
	case w.fileMode && st.Mode()&0o100 != 0:
		f.mode = ModeExecutable
	}
	var size int64
	f.id, size, err = hashDisk(root, path, f.mode, w.idLen)
	if err != nil {
		return f, false, err
	}
	if !isTracked || !bytes.Equal(f.id, tracked.id) {
		w.onDisk[hex.EncodeToString(f.id)] = diskFile{path, f.mode, size}
	}
	return f, true, nil
}

// throughSymlink reports whether a directory of path is a symbolic link: what is
// behind it belongs to another place, and for git the path is deleted.
func throughSymlink(root *os.Root, path string) bool {
	for dir := parent(path); dir != ""; dir = parent(dir) {
		if st, err := root.Lstat(dir); err == nil && st.Mode()&fs.ModeSymlink != 0 {
			return true
		}
	}
	return false
}

// find returns the index's entry for a path.
func (w *workTree) find(path string) (indexed, bool) {
	i, ok := slices.BinarySearchFunc(w.indexed, path, func(f indexed, p string) int { return strings.Compare(f.path, p) })
	if !ok {
		return indexed{}, false
	}
	return w.indexed[i], true
}

// hashDisk returns the id that git would give to the raw bytes of a file.
func hashDisk(root *os.Root, path string, mode Mode, idLen int) (id []byte, size int64, err error) {
	r, size, err := openDisk(root, path, mode)
	if err != nil {
		return nil, 0, err
	}
	defer r.Close()
	h := newObjectHash(idLen, size)
	if n, err := io.Copy(h, r); err != nil {
		return nil, 0, err
	} else if n != size {
		return nil, 0, changedError(path)
	}
	return h.Sum(nil), size, nil
}

// openDisk opens a file, or the target of a symbolic link, below root.
func openDisk(root *os.Root, path string, mode Mode) (io.ReadCloser, int64, error) {
	if mode == ModeSymlink {
		target, err := root.Readlink(path)
		return io.NopCloser(strings.NewReader(target)), int64(len(target)), err
	}
	f, err := root.Open(path)
	if err != nil {
		return nil, 0, err
	}
	st, err := f.Stat()
	if err != nil {
		return nil, 0, errors.Join(err, f.Close())
	}
	return f, st.Size(), nil
}

// diskContent gives a file of the work tree to fn.
func (t *Tree) diskContent(f File, d diskFile, fn func(File, int64, io.Reader) error) error {
	root, err := os.OpenRoot(t.repo.git.dir)
	if err != nil {
		return err
	}
	defer root.Close()
	r, size, err := openDisk(root, d.path, d.mode)
	if errors.Is(err, fs.ErrNotExist) || err == nil && size != d.size {
		return errors.Join(changedError(d.path), closeIf(r))
	}
	if err != nil {
		return err
	}
	err = t.checked(f, size, r, fn)
	if errors.Is(err, ErrCorrupt) {
		err = changedError(d.path)
	}
	return errors.Join(err, r.Close())
}

func closeIf(c io.Closer) error {
	if c == nil {
		return nil
	}
	return c.Close()
}

func changedError(path string) error {
	return &Error{Op: "read work tree", Subject: fmt.Sprintf("%q", path), Class: ErrChanged, Hint: "run it again when nothing writes to the work tree"}
}
