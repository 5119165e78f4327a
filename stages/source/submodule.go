package source

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sync/errgroup"
)

const (
	// maxDepth bounds submodules inside of each other.
	maxDepth = 32
	// listers is how many submodules are listed at once.
	listers = 4
	// maxGitFile bounds the file that says where a git directory is, in bytes.
	maxGitFile = 4 << 10
)

// submodule is what was found out about a link to another repository's commit.
type submodule struct {
	// index is that of the link in the listing.
	index int
	// files are nil when the submodule cannot be read, for which why is the reason.
	files *listing
	why   error
}

// lister lists one submodule.
type lister func(ctx context.Context, path, commit string) submodule

// graft puts the files of submodules in place of the links to them. Links whose
// files are not here stay, with the reason: they matter only to who selects them.
func graft(ctx context.Context, l *listing, list lister) (*listing, error) {
	var subs []submodule
	for i, m := range l.modes {
		if m == ModeSubmodule {
			subs = append(subs, submodule{index: i})
		}
	}
	if len(subs) == 0 {
		return l, nil
	}
	var group errgroup.Group
	group.SetLimit(listers)
	for n := range subs {
		group.Go(func() error {
			i := subs[n].index
			subs[n] = list(ctx, l.path(i), l.hexID(i))
			subs[n].index = i
			return context.Cause(ctx)
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	grafted, err := merge(l, subs)
	if err != nil {
		return nil, corrupt("list submodules", "", err)
	}
	return grafted, nil
}

// committed returns a lister of the trees of the commits that the links in a
// commit of r name.
func (r *Repository) committed(ctx context.Context, commit string) lister {
	names := &memo[struct{}, map[string]string]{}
	return func(ctx context.Context, path, link string) submodule {
		known, err := names.get(struct{}{}, func() (map[string]string, error) { return r.submoduleNames(ctx, commit) })
		if err != nil {
			return submodule{why: err}
		}
		return r.submodule(ctx, path, known, link)
	}
}

// submoduleNames returns the names of submodules by their paths, which are
// relative to the root of the repository, from .gitmodules. Both are hostile.
func (r *Repository) submoduleNames(ctx context.Context, commit string) (map[string]string, error) {
	names := make(map[string]string)
	out, err := r.git.output(ctx, "config", "--blob", commit+":.gitmodules", "--no-includes", "-z", "--get-regexp", `^submodule\..*\.path$`)
	if exited(err) { // there is none, or it is malformed: what is in the work tree still counts
		return names, nil
	}
	for rec := range strings.SplitSeq(string(out), "\x00") {
		key, path, _ := strings.Cut(rec, "\n")
		name := strings.TrimSuffix(strings.TrimPrefix(key, "submodule."), ".path")
		if safePath(name) {
			names[path] = name
		}
	}
	return names, err
}

// safePath reports whether a path stays below the directory that it is joined to,
// as far as can be told without looking.
func safePath(path string) bool {
	return checkPath(path) == nil && !strings.ContainsAny(path, "\\\x00") && filepath.IsLocal(filepath.FromSlash(path))
}

// submodule lists the commit that a link at path names.
func (r *Repository) submodule(ctx context.Context, path string, names map[string]string, commit string) submodule {
	at := r.at.inner(path)
	if at.remote {
		return submodule{why: at.unavailable(errors.New("submodules of other repositories are not fetched"), "give it a git mapping of its own")}
	}
	if at.depth > maxDepth {
		return submodule{why: at.unavailable(fmt.Errorf("more than %d submodules inside of each other", maxDepth), "")}
	}
	inRoot := path
	if r.prefix != "" {
		inRoot = r.prefix + "/" + path
	}
	dirs, err := r.moduleDirs(ctx, names[inRoot], path)
	if err != nil {
		return submodule{why: err}
	}
	for _, dir := range dirs {
		s := &Repository{git: git{dir: dir, options: []string{"--git-dir=" + dir, "--work-tree=" + dir}}, idLen: r.idLen, at: at, disk: r.below(path)}
		files, err := s.list(ctx, commit, commit)
		if err == nil {
			return submodule{files: files}
		}
		if !exited(err) {
			return submodule{why: err}
		}
	}
	switch {
	case len(dirs) > 0:
		err = fmt.Errorf("its commit %s is missing in the clone", commit)
	case names[inRoot] == "":
		err = errors.New("it is not initialised, and no .gitmodules of the commit names it")
	default:
		err = errors.New("it is not initialised")
	}
	return submodule{why: at.unavailable(err, "")}
}

// inner returns the place of a submodule at path.
func (p place) inner(path string) place {
	in := place{path: p.below(path), outer: p.outer, depth: p.depth + 1, remote: p.remote}
	if in.outer == "" {
		in.outer = in.path
	}
	return in
}

// unavailable says why a submodule's files are not here, and what to do.
func (p place) unavailable(why error, instead string) error {
	hint := instead
	if hint == "" {
		hint = "run: git submodule update --init --recursive " + shellWord(p.outer)
	}
	return &Error{Op: "add", Subject: fmt.Sprintf("%q", p.path), Class: ErrSubmodule, Err: why, Hint: hint}
}

// moduleDirs returns the git directories, one or two, that a submodule can have:
// that of its name inside the git directory, and the one that its place in the
// work tree names.
func (r *Repository) moduleDirs(ctx context.Context, name, path string) ([]string, error) {
	bases, err := r.gitDirs(ctx)
	if err != nil {
		return nil, err
	}
	var out []string
	for _, base := range bases {
		if dir := filepath.Join(base, "modules", filepath.FromSlash(name)); name != "" && realDir(base, "modules/"+name) && isBare(dir) {
			out = append(out, dir)
		}
	}
	if dir := r.linkedDir(bases, path); dir != "" {
		out = append(out, dir)
	}
	return out, nil
}

// gitDirs returns the git directory of the repository and, for a linked work
// tree, the one that it shares.
func (r *Repository) gitDirs(ctx context.Context) ([]string, error) {
	var out []string
	for _, question := range []string{"--absolute-git-dir", "--git-common-dir"} {
		dir, err := r.git.line(ctx, "rev-parse", "--path-format=absolute", question)
		if err != nil {
			return nil, err
		}
		if len(out) == 0 || out[0] != dir {
			out = append(out, dir)
		}
	}
	return out, nil
}

// linkedDir returns the git directory of what is checked out at path in the work
// tree, "" for none. A commit cannot hold a .git, so what stands there is this
// machine's; still it must lie in the git directory of the project or be the
// user's own, and no symbolic link leads to it.
func (r *Repository) linkedDir(bases []string, path string) string {
	if r.disk == "" || !safePath(path) || !realDir(r.disk, path) {
		return ""
	}
	dot := filepath.Join(r.below(path), ".git")
	st, err := os.Lstat(dot)
	switch {
	case err != nil:
		return ""
	case st.IsDir() && isBare(dot) && !ownedByOther(dot):
		return dot
	case !st.Mode().IsRegular():
		return ""
	}
	dir := readGitFile(dot)
	for _, base := range bases {
		if inside(filepath.Join(base, "modules"), dir) && isBare(dir) {
			return dir
		}
	}
	return ""
}

// below returns where on disk a path of the repository is, "" without a work tree.
func (r *Repository) below(path string) string {
	if r.disk == "" {
		return ""
	}
	return filepath.Join(r.disk, filepath.FromSlash(path))
}

// readGitFile returns the directory that a file .git names, "" for none.
func readGitFile(name string) string {
	f, err := os.Open(name)
	if err != nil {
		return ""
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, maxGitFile))
	dir, ok := strings.CutPrefix(string(b), "gitdir: ")
	if err != nil || !ok {
		return ""
	}
	dir = strings.TrimRight(dir, "\r\n")
	if !filepath.IsAbs(dir) {
		dir = filepath.Join(filepath.Dir(name), dir)
	}
	return filepath.Clean(dir)
}

// realDir reports whether each part of path below base is a directory and no
// symbolic link.
func realDir(base, path string) bool {
	at := base
	for part := range strings.SplitSeq(path, "/") {
		at = filepath.Join(at, part)
		if st, err := os.Lstat(at); err != nil || !st.IsDir() || st.Mode()&fs.ModeSymlink != 0 {
			return false
		}
	}
	return true
}

// inside reports whether dir is really below base, links followed.
func inside(base, dir string) bool {
	base, err := filepath.EvalSymlinks(base)
	if err != nil {
		return false
	}
	if dir, err = filepath.EvalSymlinks(dir); err != nil {
		return false
	}
	rel, err := filepath.Rel(base, dir)
	return err == nil && filepath.IsLocal(rel) && rel != "."
}
