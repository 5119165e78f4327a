package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
)

// Repository is the git repository that holds a project. It is safe for
// concurrent use and holds nothing open.
type Repository struct {
	git git
	// prefix is the project's directory below the root of the work tree,
	// slash-separated, "" for the root itself.
	prefix   string
	idLen    int // bytes of an object id: 20 or 32
	shallow  bool
	workTree bool
	// disk is where the work tree has what is listed, "" without one.
	disk string
	at   place
}

// Open finds the repository of the project in dir, which may be any directory
// of a work tree, of a linked one too, or a bare repository.
//
// Errors: [ErrNotRepository], [ErrUnsafe], [ErrGitMissing], [ErrGitTooOld],
// [ErrGit], or that of the file system when dir cannot be read.
func Open(ctx context.Context, dir string) (*Repository, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, err
	}
	if st, err := os.Stat(abs); err != nil {
		return nil, err
	} else if !st.IsDir() {
		return nil, &os.PathError{Op: "open", Path: abs, Err: errors.New("not a directory")}
	}
	g := git{dir: abs}
	// The prefix comes last, since a directory's name may hold line breaks.
	out, err := g.output(ctx, "rev-parse", "--is-inside-work-tree", "--is-shallow-repository", "--show-object-format", "--show-prefix")
	if err != nil && !exited(err) {
		return nil, err
	}
	r, ok := parseRepository(g, string(out))
	if err != nil || !ok {
		return nil, g.diagnose(ctx, err)
	}
	return r, nil
}

// parseRepository reads the answer of rev-parse in [Open]. An old git repeats
// the options that it does not know: not ok.
func parseRepository(g git, out string) (*Repository, bool) {
	lines := strings.SplitN(out, "\n", 4)
	if len(lines) != 4 {
		return nil, false
	}
	r := &Repository{git: g, workTree: lines[0] == "true", shallow: lines[1] == "true"}
	switch lines[2] {
	case "sha1":
		r.idLen = 20
	case "sha256":
		r.idLen = 32
	default:
		return nil, false
	}
	r.prefix = strings.TrimSuffix(strings.TrimSuffix(lines[3], "\n"), "/")
	if r.workTree {
		r.disk = g.dir
	}
	return r, true
}

// diagnose says why git does not take the directory for a repository. Git's exit
// code is 128 for everything and its words are translated, so the reasons are
// looked for themselves, in the order in which git comes to them.
func (g git) diagnose(ctx context.Context, cause error) error {
	version, err := g.output(ctx, "version")
	if err != nil {
		return err
	}
	if tooOld(string(version)) {
		return &Error{
			Op: "open", Subject: g.dir, Class: ErrGitTooOld, Hint: "install git 2.31 or newer",
			Err: errors.New(strings.TrimSpace(string(version))),
		}
	}
	top, gitDir := discover(g.dir)
	if top == "" {
		return &Error{
			Op: "open", Subject: g.dir, Class: ErrNotRepository,
			Hint: "source files come from git: run it in a clone, or begin one with git init and a commit",
		}
	}
	if ownedByOther(top) || ownedByOther(gitDir) {
		return &Error{
			Op: "open", Subject: g.dir, Class: ErrUnsafe,
			Hint: fmt.Sprintf("when you trust its owner, run: git config --global --add safe.directory %q", top),
		}
	}
	if cause == nil {
		cause = errors.New("git rev-parse gave an unexpected answer")
	}
	return &Error{Op: "open", Subject: g.dir, Class: ErrGit, Err: cause}
}

// discover looks upwards for a repository the way git does. It returns the
// directory that git names in its ownership check and the git directory (or the
// file that points to it); both are "" when there is none.
func discover(dir string) (top, gitDir string) {
	for {
		dot := filepath.Join(dir, ".git")
		if _, err := os.Lstat(dot); err == nil {
			return dir, dot
		}
		if isBare(dir) {
			return dir, dir
		}
		up := filepath.Dir(dir)
		if up == dir {
			return "", ""
		}
		dir = up
	}
}

func isBare(dir string) bool {
	for _, name := range []string{"HEAD", "objects", "refs"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			return false
		}
	}
	return true
}

// tooOld reports whether the answer of "git version" is below 2.31, the first
// whose rev-parse knows all options that are used here. What it cannot read is
// taken for new.
func tooOld(version string) bool {
	var major, minor int
	if _, err := fmt.Sscanf(version, "git version %d.%d", &major, &minor); err != nil {
		return false
	}
	return major < 2 || major == 2 && minor < 31
}

// Commit returns the tree of the commit that rev names, limited to the project's
// directory. It needs that one commit and its trees, not its history.
//
// Errors: [ErrNoCommits], [ErrUnknownRevision], [ErrNotCommitted], [ErrCorrupt],
// [ErrTooLarge], [ErrGit].
func (r *Repository) Commit(ctx context.Context, rev string) (*Tree, error) {
	id, err := r.resolve(ctx, rev+"^{commit}")
	if err != nil {
		return nil, err
	}
	if id == "" {
		return nil, r.unresolved(ctx, rev)
	}
	treeish := id
	if r.prefix != "" {
		if treeish, err = r.resolve(ctx, id+":"+r.prefix); err != nil {
			return nil, err
		}
		if treeish == "" {
			return nil, &Error{
				Op: "read commit", Subject: rev, Class: ErrNotCommitted, Err: errors.New(r.prefix),
				Hint: "commit the directory, or build the work tree with --dev",
			}
		}
	}
	l, err := r.list(ctx, id, treeish)
	if err != nil {
		return nil, r.treeError(rev, err)
	}
	return newTree(r, id, l), nil
}

// Find returns the path, from the root of the repository, of a file of a commit that
// has one of the names; "" where no directory has any. Submodules are not looked into.
//
// Errors: [ErrCorrupt], [ErrGit].
func (r *Repository) Find(ctx context.Context, commit string, names []string) (string, error) {
	out, err := r.git.output(ctx, "ls-tree", "-r", "-z", "--name-only", "--full-tree", commit)
	if err != nil {
		return "", r.treeError(commit, err)
	}
	for file := range strings.SplitSeq(string(out), "\x00") {
		if slices.Contains(names, path.Base(file)) {
			return file, nil
		}
	}
	return "", nil
}

// list lists a tree of a commit, submodules included.
func (r *Repository) list(ctx context.Context, commit, treeish string) (*listing, error) {
	var l *listing
	err := r.git.stream(ctx, func(out io.Reader) (err error) {
		l, err = parseTree(out, r.idLen)
		return err
	}, "ls-tree", "-r", "-z", "--full-tree", treeish)
	if err != nil {
		return nil, err
	}
	l.origins = []*origin{r.origin()}
	above, err := r.attributesAbove(ctx, l, commit)
	if err != nil {
		return nil, err
	}
	if err := l.markLFS(ctx, r.prefix, above); err != nil {
		return nil, err
	}
	return graft(ctx, l, r.committed(ctx, commit))
}

func (r *Repository) origin() *origin {
	return &origin{git: r.git, idLen: r.idLen, at: r.at, dir: r.disk, onDisk: make(map[diskKey]diskFile)}
}

// treeError gives the class [ErrCorrupt] to a listing that git broke off: the
// commit was there, so an object below it is not.
func (r *Repository) treeError(rev string, err error) error {
	if !exited(err) {
		return err
	}
	return &Error{
		Op: "read commit", Subject: rev, Class: ErrCorrupt, Err: err,
		Hint: "run git fsck; a fresh clone mends it",
	}
}

// resolve returns the object id of a revision, "" when git knows none.
func (r *Repository) resolve(ctx context.Context, rev string) (string, error) {
	out, err := r.git.output(ctx, "rev-parse", "--verify", "--quiet", "--end-of-options", rev)
	if exited(err) {
		return "", nil
	}
	return string(bytes.TrimSpace(out)), err
}

// unresolved says why rev names no commit.
func (r *Repository) unresolved(ctx context.Context, rev string) error {
	id, err := r.resolve(ctx, rev)
	if err != nil {
		return err
	}
	if id != "" && !strings.EqualFold(id, rev) {
		// A name that leads to an id whose object is not there, or to no commit.
		if kind, err := r.git.output(ctx, "cat-file", "-t", id); err == nil {
			return &Error{Op: "read commit", Subject: rev, Class: ErrUnknownRevision, Err: fmt.Errorf("it names a %s", bytes.TrimSpace(kind))}
		}
		return &Error{Op: "read commit", Subject: rev, Class: ErrCorrupt, Err: fmt.Errorf("%s is missing", id), Hint: "run git fsck; a fresh clone mends it"}
	}
	if rev == "HEAD" {
		return &Error{Op: "read commit", Subject: rev, Class: ErrNoCommits, Hint: "commit your files first, or build the work tree with --dev"}
	}
	e := &Error{Op: "read commit", Subject: rev, Class: ErrUnknownRevision}
	if r.shallow {
		e.Hint = fmt.Sprintf("the clone is shallow; fetch the commit first: git fetch --depth 1 origin %s", rev)
	}
	return e
}
