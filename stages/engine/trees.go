package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

// treeSource hands the files of jobs to the engine, each tree under a name of its own.
type treeSource struct {
	// ctx is that of the session: files are read on the engine's demand, which
	// carries no context of ours.
	ctx   context.Context
	now   func() time.Time
	mu    sync.Mutex
	trees map[string]*listing
	// contexts are those of Dockerfiles.
	contexts map[string]*contextFS
	// failed tells by the name of a tree why a file of it could not be read.
	failed map[string]error
}

func newTreeSource(ctx context.Context, now func() time.Time) *treeSource {
	return &treeSource{ctx: ctx, now: now, trees: map[string]*listing{}, contexts: map[string]*contextFS{}, failed: map[string]error{}}
}

func treeName(j *Job) string { return "files-" + j.Key }

// add lists the files of j, unless that was done before.
func (s *treeSource) add(ctx context.Context, j *Job) (*listing, error) {
	s.mu.Lock()
	delete(s.failed, treeName(j))
	l := s.trees[treeName(j)]
	s.mu.Unlock()
	if l != nil {
		return l, nil
	}
	l, err := list(ctx, j.Files)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.trees[treeName(j)] = l
	return l, nil
}

// find returns the tree with a name.
func (s *treeSource) find(name string) (fsutil.FS, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c, ok := s.contexts[name]; ok {
		return c.at(s.now()), true
	}
	l, ok := s.trees[name]
	if !ok {
		return nil, false
	}
	return &treeFS{ctx: s.ctx, listing: l, now: s.now()}, true
}

// fail keeps the first error of a tree.
func (s *treeSource) fail(name string, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.failed[name] == nil {
		s.failed[name] = err
	}
}

// failure returns why a file that the job needs could not be read, nil where none
// failed. The engine itself passes on no more than a text.
func (s *treeSource) failure(j *Job) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var failed error
	// The function given here never fails.
	_ = j.visit(map[*Job]bool{}, func(j *Job) error {
		for _, name := range []string{treeName(j), contextName(j)} {
			if err := s.failed[name]; failed == nil && err != nil {
				failed = fmt.Errorf("%s: %w", j.Name, err)
			}
		}
		return nil
	})
	return failed
}

// listing is a tree in groups, parents first.
//
// The engine's copy gives directories that exist the mode and owner of those
// that it copies: a file for /tmp would take the sticky bit from it. So a
// directory that may exist is not copied. It is made, which leaves one that
// exists alone, and then filled with its files. Only where a directory is new for
// sure is all below it copied with it, in one step of the engine instead of many.
type listing struct {
	tree   Tree
	groups []*group
}

// group is what one step of the engine copies: the content of a directory.
type group struct {
	Entry
	// content are files, and new directories with all that is in them, in the
	// order in which they are sent.
	content []Entry
}

func list(ctx context.Context, t Tree) (*listing, error) {
	byPath := map[string]*directory{}
	err := t.Walk(ctx, func(e Entry) error {
		e.Path = path.Join("/", e.Path)
		if e.Mode.IsDir() {
			get(byPath, e.Path).Entry = e
			return nil
		}
		d := get(byPath, path.Dir(e.Path))
		d.files = append(d.files, e)
		return nil
	})
	if err != nil {
		return nil, err
	}
	dirs := slices.SortedFunc(maps.Values(byPath), func(a, b *directory) int { return strings.Compare(a.Path, b.Path) })
	return &listing{tree: t, groups: grouped(dirs)}, nil
}

type directory struct {
	Entry
	files []Entry
}

// get returns the directory of a path, with those on the way to it.
func get(byPath map[string]*directory, p string) *directory {
	if d := byPath[p]; d != nil {
		return d
	}
	d := &directory{Entry: Entry{Path: p, Mode: fs.ModeDir | defaultDirMode}}
	byPath[p] = d
	if p != "/" {
		get(byPath, path.Dir(p))
	}
	return d
}

const defaultDirMode = 0o755

// grouped puts new directories into the group of a new parent, and gives every
// other directory a group of its own. dirs are sorted, parents first.
func grouped(dirs []*directory) []*group {
	var all []*group
	of := map[string]*group{}
	for _, d := range dirs {
		g := of[path.Dir(d.Path)]
		if g == nil || !g.New || !d.New || d.Path == "/" {
			g = &group{Entry: d.Entry}
			all = append(all, g)
		} else {
			g.content = append(g.content, d.Entry)
		}
		of[d.Path] = g
		g.content = append(g.content, d.files...)
	}
	for _, g := range all {
		slices.SortFunc(g.content, func(a, b Entry) int { return compareSent(a.Path, b.Path) })
	}
	return all
}

// compareSent orders paths as they are sent: what is in a directory follows it at
// once, whatever characters its neighbours' names begin with.
func compareSent(a, b string) int {
	return strings.Compare(strings.ReplaceAll(a, "/", "\x00"), strings.ReplaceAll(b, "/", "\x00"))
}

// place returns the actions that put the files, which the engine gets as from, into an image.
func (l *listing) place(from llb.State) *llb.FileAction {
	var all *llb.FileAction
	for i, g := range l.groups {
		// What is made for want of a target gets this mode and owner too.
		usual := g.Mode.Perm() == defaultDirMode && g.UID == 0 && g.GID == 0
		if g.Path != "/" && (!usual || len(g.content) == 0) {
			all = g.mkdir(all)
		}
		if len(g.content) > 0 {
			all = g.fill(all, from, flat(i))
		}
	}
	return all
}

func (g *group) mkdir(before *llb.FileAction) *llb.FileAction {
	owner := llb.ChownOpt{User: &llb.UserOpt{UID: g.UID}, Group: &llb.UserOpt{UID: g.GID}}
	if before == nil {
		return llb.Mkdir(g.Path, g.Mode.Perm(), llb.WithParents(true), owner)
	}
	return before.Mkdir(g.Path, g.Mode.Perm(), llb.WithParents(true), owner)
}

func (g *group) fill(before *llb.FileAction, from llb.State, name string) *llb.FileAction {
	info := &llb.CopyInfo{CopyDirContentsOnly: true, CreateDestPath: true, AlwaysReplaceExistingDestPaths: true}
	if before == nil {
		return llb.Copy(from, "/"+name, g.Path, info)
	}
	return before.Copy(from, "/"+name, g.Path, info)
}

// below returns the path of an entry of the group, relative to the group.
func (g *group) below(e Entry) string {
	return strings.TrimPrefix(strings.TrimPrefix(e.Path, g.Path), "/")
}

// flat names the directory in which the content of the i-th group is sent.
// The names have the order of their numbers, which the receiver insists on.
func flat(i int) string { return fmt.Sprintf("%08d", i) }

// treeFS sends a listing. In it everything was changed just now: make, cargo and
// the like must not take files of this commit for older than what an earlier
// stage made from those of another commit.
type treeFS struct {
	ctx     context.Context
	listing *listing
	now     time.Time
}

// Walk implements [fsutil.FS]. Only the whole tree is ever asked for.
func (t *treeFS) Walk(_ context.Context, _ string, fn fs.WalkDirFunc) error {
	for i, g := range t.listing.groups {
		if len(g.content) == 0 {
			continue
		}
		if err := t.visit(flat(i), Entry{Mode: fs.ModeDir | defaultDirMode}, fn); err != nil {
			return err
		}
		for _, e := range g.content {
			if err := t.visit(flat(i)+"/"+g.below(e), e, fn); err != nil {
				return err
			}
		}
	}
	return nil
}

func (t *treeFS) visit(p string, e Entry, fn fs.WalkDirFunc) error {
	return fn(p, &fsutil.DirEntryInfo{Stat: &fstypes.Stat{
		Path: p, Mode: uint32(e.Mode), Uid: uint32(e.UID), Gid: uint32(e.GID),
		Size: e.Size, ModTime: t.now.UnixNano(), Linkname: e.Link,
	}}, nil)
}

// Open implements [fsutil.FS].
func (t *treeFS) Open(p string) (io.ReadCloser, error) {
	number, rest, _ := strings.Cut(strings.TrimPrefix(p, "/"), "/")
	i, err := strconv.Atoi(number)
	if err != nil || i < 0 || i >= len(t.listing.groups) {
		return nil, fmt.Errorf("%s: %w", p, os.ErrNotExist)
	}
	return t.listing.tree.Open(t.ctx, path.Join(t.listing.groups[i].Path, rest))
}

// noFiles stands where the engine's client library wants the files in the session
// of a run. They come from the engine's own session.
type noFiles struct{}

func (noFiles) Walk(context.Context, string, fs.WalkDirFunc) error {
	return errors.New("the session that holds the files is gone")
}

func (noFiles) Open(p string) (io.ReadCloser, error) {
	return nil, fmt.Errorf("%s: %w", p, os.ErrNotExist)
}
