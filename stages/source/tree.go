package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"
	"sync"

	"github.com/bmatcuk/doublestar/v4"

	"github.com/cairnbuild/cairn/stages"
)

// MaxRead bounds the files that [Tree.Read] returns, in bytes.
const MaxRead = 16 << 20

// Tree is the list of files of a commit or a work tree below the project's
// directory. It does not change, but other repositories' trees can be attached to
// it. It is safe for concurrent use.
type Tree struct {
	repo  *Repository
	id    string
	files *listing
	// submodules are the indexes of files that are none.
	submodules []int

	mu     sync.RWMutex
	remote map[stages.Remote]*Tree

	matches    memo[matchKey, bitset]
	filters    memo[string, bitset]
	partitions memo[string, *partition]
}

func newTree(r *Repository, id string, files *listing) *Tree {
	t := &Tree{repo: r, id: id, files: files}
	for i, m := range files.modes {
		if m == ModeSubmodule {
			t.submodules = append(t.submodules, i)
		}
	}
	return t
}

// Attach has selections of mappings of that remote be answered from its tree.
// The first tree of a remote stays.
func (t *Tree) Attach(remote stages.Remote, files *Tree) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.remote == nil {
		t.remote = make(map[stages.Remote]*Tree)
	}
	if t.remote[remote] == nil {
		t.remote[remote] = files
	}
}

// of returns the tree that a mapping's files come from.
func (t *Tree) of(m *stages.Mapping) (*Tree, error) {
	if m.Remote.IsZero() {
		return t, nil
	}
	t.mu.RLock()
	defer t.mu.RUnlock()
	if from := t.remote[m.Remote]; from != nil {
		return from, nil
	}
	return nil, &Error{Op: "add", Subject: m.Remote.URL, Class: ErrRemote, Err: errors.New("its files were not read beforehand")}
}

// File is a file of a [stages.Selection].
type File struct {
	// Path is below the selection's To, as raw bytes; "" when the mapping adds a
	// single file, which To then names.
	Path string
	Mode Mode
	// Object is git's id of the content, in hexadecimal digits.
	Object string
	// LFS says that the file belongs to Git LFS: where the object is a pointer, the
	// content is what that names.
	LFS bool

	// Absent says why a submodule's files are not here; nil for all other files.
	Absent error

	// name is the path in the tree, for messages.
	name string
	// from is where the content is.
	from *origin
}

// label names the file for a person.
func (f File) label() string {
	if f.name != "" {
		return f.name
	}
	return f.Path
}

// ID returns the commit's id or "work tree". It is for people: no identity
// depends on it.
func (t *Tree) ID() string { return t.id }

// Identity returns the digest of the files that sel places, and how many they
// are. It is the sha256 of a sorted listing of paths below To, modes and object
// ids, with a mark on files of Git LFS; To itself is not part of it. It is computed in memory, once for equal
// selections.
//
// Errors: [ErrNoSuchPath], [ErrPattern], [ErrSubmodule].
func (t *Tree) Identity(sel stages.Selection) (id stages.Digest, files int, err error) {
	_, p, err := t.selected(sel)
	if err != nil || p == nil {
		return stages.DigestOf([]byte(identityHeader)), 0, err
	}
	return p.id, p.files, nil
}

// Files lists the files that sel places, sorted by the bytes of their paths.
// Its errors are those of [Tree.Identity].
func (t *Tree) Files(sel stages.Selection) ([]File, error) {
	v, p, err := t.selected(sel)
	if err != nil || p == nil {
		return nil, err
	}
	out := make([]File, 0, p.files)
	for i := range p.set.all {
		out = append(out, v.entry(v.lo+i, v.target(i)))
	}
	return out, nil
}

// Read returns the content of a regular file; name is relative to the project's
// directory. Symbolic links are not followed.
//
// Errors: [fs.ErrNotExist], [ErrNotRegular], [ErrTooLarge] above [MaxRead],
// [ErrLFSPointer], [ErrLFSMissing], [ErrCorrupt].
func (t *Tree) Read(ctx context.Context, name string) ([]byte, error) {
	i, ok := t.all().find(path.Clean(name))
	if !ok {
		if lo, hi := t.all().below(0, path.Clean(name)); lo < hi {
			return nil, &Error{Op: "read", Subject: name, Class: ErrNotRegular, Err: errors.New("it is a directory")}
		}
		return nil, &fs.PathError{Op: "read", Path: name, Err: fs.ErrNotExist}
	}
	f := t.files.entry(i, name)
	if f.Mode != ModeRegular && f.Mode != ModeExecutable {
		return nil, &Error{Op: "read", Subject: name, Class: ErrNotRegular}
	}
	var content bytes.Buffer
	err := t.Contents(ctx, []File{f}, func(_ File, size int64, r io.Reader) error {
		if size > MaxRead {
			return &Error{Op: "read", Subject: name, Class: ErrTooLarge, Err: fmt.Errorf("%d bytes, at most %d", size, MaxRead)}
		}
		_, err := io.Copy(&content, r)
		return err
	})
	return content.Bytes(), err
}

// Glob returns the sorted paths of the files that match pattern as a whole: other
// than in a mapping, a pattern that names a directory does not mean what is
// below it. Submodules are not files.
func (t *Tree) Glob(ctx context.Context, pattern string) ([]string, error) {
	p := trimGlob(pattern)
	if !doublestar.ValidatePattern(p) {
		return nil, &Error{Op: "read glob", Subject: pattern, Class: ErrPattern}
	}
	base, rest := splitGlob(p)
	v := t.all()
	lo, hi := 0, v.size()
	if rest == "" {
		lo, _ = v.find(base)
		hi = min(lo+1, hi)
	} else if base != "" {
		lo, hi = v.below(0, base)
	}
	var out []string
	for i := lo; i < hi; i++ {
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if v.modes[i] != ModeSubmodule && doublestar.MatchUnvalidated(p, v.rel(i)) {
			out = append(out, v.rel(i))
		}
	}
	return out, nil
}

func (t *Tree) all() view { return view{listing: t.files, hi: t.files.len()} }

// view finds what a mapping adds.
func (t *Tree) view(m *stages.Mapping) (view, error) {
	all := t.all()
	add := m.Add
	if add == "." {
		return all, nil
	}
	i, ok := all.find(add)
	if ok && all.modes[i] != ModeSubmodule {
		return view{listing: t.files, lo: i, hi: i + 1, strip: strings.LastIndexByte(add, '/') + 1, file: true}, nil
	}
	if lo, hi := all.below(i, add); lo < hi {
		return view{listing: t.files, lo: lo, hi: hi, strip: len(add) + 1}, nil
	}
	return view{}, t.noSuchPath(m)
}

// noSuchPath tells what there is instead of what the mapping adds.
func (t *Tree) noSuchPath(m *stages.Mapping) error {
	for dir := m.Add; dir != "." && dir != "/"; dir = path.Dir(dir) {
		if i, ok := t.all().find(dir); ok && t.files.modes[i] == ModeSubmodule {
			return t.files.why(i)
		}
	}
	where := "the configuration file"
	if !m.Remote.IsZero() {
		where = "the root of the other repository"
	}
	dir := path.Dir(m.Add)
	names := t.children(dir)
	for ; len(names) == 0 && dir != "." && dir != "/"; names = t.children(dir) {
		dir = path.Dir(dir)
	}
	return &Error{
		Op: "add", Subject: fmt.Sprintf("%q to %q", m.Add, m.To), Class: ErrNoSuchPath,
		Err:  fmt.Errorf("the nearest directory in %s is %q, which holds %s", t.id, dir, quoteList(names)),
		Hint: "correct the path (it is relative to " + where + "), or commit the files",
	}
}

// children returns the names directly in a directory.
func (t *Tree) children(dir string) []string {
	v := t.all()
	lo, hi, strip := 0, v.size(), 0
	if dir != "." {
		lo, hi = v.below(0, dir)
		strip = len(dir) + 1
	}
	var names []string
	for i := lo; i < hi; {
		name, _, isDir := strings.Cut(v.rel(i)[strip:], "/")
		if i++; isDir {
			_, i = v.below(i-1, v.rel(i - 1)[:strip]+name)
			name += "/"
		}
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// quoteList names the first few of names.
func quoteList(names []string) string {
	const most = 10
	if len(names) == 0 {
		return "nothing"
	}
	quoted := make([]string, 0, most)
	for _, n := range names[:min(len(names), most)] {
		quoted = append(quoted, fmt.Sprintf("%q", n))
	}
	if more := len(names) - most; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(quoted, ", "), more)
	}
	return strings.Join(quoted, ", ")
}

// unavailable says why the files of submodule i, which a mapping adds, are not listed.
func (l *listing) unavailable(i int) error {
	return OrElse(l.why(i), "exclude it with excludePaths")
}

func (l *listing) why(i int) error {
	if why := l.absent[i]; why != nil {
		return why
	}
	return submoduleError(l.path(i))
}

func submoduleError(path string) error {
	return &Error{Op: "add", Subject: fmt.Sprintf("%q", path), Class: ErrSubmodule}
}

// OrElse adds to the hint of an error about a submodule what else can be done.
func OrElse(err error, hint string) error {
	var e *Error
	if !errors.As(err, &e) || !errors.Is(e.Class, ErrSubmodule) {
		return err
	}
	more := *e
	if more.Hint != "" {
		hint = more.Hint + "; or " + hint
	}
	more.Hint = hint
	return &more
}
