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
	"path/filepath"
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
	// oid is set where the content is that of a Git LFS pointer: its sha256.
	oid string
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
	files, err := r.listDisk(ctx)
	if err != nil {
		return nil, err
	}
	return newTree(r, "work tree", files), nil
}

// listDisk lists the work tree, those of its submodules included.
func (r *Repository) listDisk(ctx context.Context) (*listing, error) {
	g, keeps, err := r.unfiltered(ctx)
	if err != nil {
		return nil, err
	}
	w := &workTree{repo: r, keeps: keeps, deleted: map[string]bool{}, origin: r.origin()}
	group, gctx := errgroup.WithContext(ctx)
	group.Go(func() error {
		return g.stream(gctx, func(out io.Reader) error { return eachRecord(out, w.addIndexed) }, "ls-files", "-s", "-z")
	})
	group.Go(func() error {
		return g.stream(gctx, func(out io.Reader) error { return eachRecord(out, w.addTouched) },
			"ls-files", "-z", "-t", "-m", "-d", "-o", "--exclude-standard")
	})
	if err := group.Wait(); err != nil {
		return nil, corrupt("read work tree", r.at.path, err)
	}
	files, err := w.list(ctx)
	if err != nil {
		return nil, err
	}
	return graft(ctx, files, r.checkedOut(ctx))
}

// checkedOut returns a lister of the work trees of submodules. One that is not
// checked out is what the commit says, as it is for git.
func (r *Repository) checkedOut(ctx context.Context) lister {
	committed := r.committed(ctx, "HEAD")
	return func(ctx context.Context, path, commit string) submodule {
		bases, err := r.gitDirs(ctx)
		if err != nil {
			return submodule{why: err}
		}
		dir, at := r.linkedDir(bases, path), r.at.inner(path)
		if dir == "" || at.depth > maxDepth {
			return committed(ctx, path, commit)
		}
		disk := r.below(path)
		s := &Repository{git: git{dir: disk, options: []string{"--git-dir=" + dir, "--work-tree=" + disk}}, idLen: r.idLen, workTree: true, at: at, disk: disk}
		files, err := s.listDisk(ctx)
		return submodule{files: files, why: err}
	}
}

// modesOnDisk says what of git's modes the file system keeps, as git has found out
// about it: on Windows usually neither.
type modesOnDisk struct {
	// executables: executable bits count. links: a symbolic link is one on disk,
	// and not a file with its target.
	executables, links bool
}

// unfiltered returns a git that runs no content filters, and what of modes there
// is on disk. A comparison of a file with the index would
// run the filters that the configuration names: they can run any program, and
// files are taken raw here.
func (r *Repository) unfiltered(ctx context.Context) (git, modesOnDisk, error) {
	g, keeps := r.git, modesOnDisk{executables: true, links: true}
	out, err := g.output(ctx, "config", "-z", "--get-regexp", `^(filter\..*\.(clean|process|required)|core\.(filemode|symlinks))$`)
	if err != nil && !exited(err) { // exit code 1: there are none
		return g, keeps, err
	}
	g.options = slices.Clone(g.options)
	for rec := range bytes.SplitSeq(out, []byte{0}) {
		key, value, _ := strings.Cut(string(rec), "\n")
		switch {
		case key == "core.filemode":
			keeps.executables = value != "false"
		case key == "core.symlinks":
			keeps.links = value != "false"
		case strings.HasSuffix(key, ".required"):
			g.options = append(g.options, "-c", key+"=false")
		case strings.HasPrefix(key, "filter."):
			g.options = append(g.options, "-c", key+"=")
		}
	}
	return g, keeps, nil
}

// workTree gathers what git says about a work tree.
type workTree struct {
	repo    *Repository
	origin  *origin
	keeps   modesOnDisk
	indexed []indexed
	deleted map[string]bool
	touched []string // modified or untracked
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
	f := indexed{path: path, mode: parseMode(fields[0]), id: make([]byte, w.repo.idLen)}
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
func (w *workTree) list(ctx context.Context) (*listing, error) {
	root, err := os.OpenRoot(w.repo.disk)
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
	b := newBuilder(w.repo.idLen)
	for _, f := range all {
		if err := b.add(f.path, f.mode, f.id); err != nil {
			return nil, corrupt("read work tree", f.path, err)
		}
	}
	l := b.finish()
	l.origins = []*origin{w.origin}
	return l, w.takeLFS(ctx, root, l, stale)
}

// takeLFS gives the files of Git LFS that are on disk the ids of the pointers
// that a commit would hold in their place.
func (w *workTree) takeLFS(ctx context.Context, root *os.Root, l *listing, onDisk map[string]bool) error {
	above, err := w.repo.attributesOnDisk()
	if err != nil {
		return err
	}
	if err := l.markLFS(ctx, w.repo.prefix, above); err != nil || l.lfs == nil {
		return err
	}
	for i := range l.lfs.all {
		if !onDisk[l.path(i)] {
			continue
		}
		d, id, err := pointTo(ctx, root, l.path(i), l.modes[i], l.idLen)
		if err != nil {
			return err
		}
		copy(l.id(i), id)
		w.origin.onDisk[diskKey{l.hexID(i), true}] = d
	}
	return nil
}

// read computes mode and id of a path on disk. It is not ok where there is
// nothing that git would take: the file is gone, a directory, a socket.
func (w *workTree) read(root *os.Root, path string) (indexed, bool, error) {
	tracked, isTracked := w.find(path)
	if isTracked && tracked.mode == ModeSubmodule {
		return tracked, true, nil
	}
	if nested, ok := strings.CutSuffix(path, "/"); ok { // another repository, which git would add as a submodule
		return indexed{nested, ModeSubmodule, make([]byte, w.repo.idLen)}, true, nil
	}
	if throughSymlink(root, path) {
		return indexed{}, false, nil
	}
	st, err := root.Lstat(path)
	if err != nil {
		return indexed{}, false, err
	}
	if st.Mode()&fs.ModeSymlink == 0 && !st.Mode().IsRegular() {
		return indexed{}, false, nil
	}
	f := indexed{path: path, mode: w.modeOf(st.Mode(), tracked, isTracked)}
	var size int64
	f.id, size, err = hashDisk(root, path, f.mode, w.repo.idLen)
	if err != nil {
		return f, false, err
	}
	if !isTracked || !bytes.Equal(f.id, tracked.id) {
		w.origin.onDisk[diskKey{hex.EncodeToString(f.id), false}] = diskFile{path: path, mode: f.mode, size: size}
	}
	return f, true, nil
}

// modeOf returns git's mode of a file or link on disk. Where the disk cannot keep
// links, or who may execute a file, the index says it.
func (w *workTree) modeOf(onDisk fs.FileMode, tracked indexed, isTracked bool) Mode {
	switch {
	case onDisk&fs.ModeSymlink != 0:
		return ModeSymlink
	case !w.keeps.links && isTracked && tracked.mode == ModeSymlink:
		return ModeSymlink
	case !w.keeps.executables && isTracked && tracked.mode != ModeSymlink:
		return tracked.mode
	case w.keeps.executables && onDisk&0o100 != 0:
		return ModeExecutable
	default:
		return ModeRegular
	}
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

// openDisk opens a file, or the target of a symbolic link, below root. Where the
// system has no links, the target is what stands in a file.
func openDisk(root *os.Root, path string, mode Mode) (io.ReadCloser, int64, error) {
	if mode == ModeSymlink {
		st, err := root.Lstat(path)
		if err != nil {
			return nil, 0, err
		}
		if st.Mode()&fs.ModeSymlink != 0 {
			target, err := root.Readlink(path)
			target = filepath.ToSlash(target) // as git has it
			return io.NopCloser(strings.NewReader(target)), int64(len(target)), err
		}
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
func (o *origin) diskContent(ctx context.Context, f File, d diskFile, fn consumer) error {
	root, err := os.OpenRoot(o.dir)
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
	if d.oid != "" {
		err = o.checkedLFS(f, pointer{oid: d.oid, size: d.size}, r, fn)
	} else {
		err = o.blob(ctx, f, size, r, fn)
	}
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
