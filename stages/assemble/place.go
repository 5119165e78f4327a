package assemble

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
)

// Reasons why files cannot be placed; they are wrapped by a [PlaceError].
var (
	// ErrUnknownName: an owner or group is no name of the image below.
	ErrUnknownName = errors.New("unknown name")
	// ErrIsDirectory: a file would take the place of a directory.
	ErrIsDirectory = errors.New("there is a directory at this path")
	// ErrNotDirectory: a path leads through a file.
	ErrNotDirectory = errors.New("a part of this path is not a directory")
	// ErrLinkLoop: the image's symbolic links lead in a circle.
	ErrLinkLoop = errors.New("too many levels of symbolic links")
	// ErrReserved: in a layer the name would remove a file and not be one.
	ErrReserved = errors.New(`names that begin with ".wh." mean removal in a layer`)
)

// maxFollow is how many symbolic links one path may lead through, as in Linux.
const maxFollow = 40

// PlaceError says which file of which set cannot be placed.
type PlaceError struct {
	// To is the target of the set of files.
	To string
	// Path is the file's absolute path in the image before links are followed,
	// "" for the set as a whole.
	Path string
	Err  error
}

// Error implements error.
func (e *PlaceError) Error() string {
	if e.Path == "" {
		return fmt.Sprintf("place files at %q: %v", e.To, e.Err)
	}
	return fmt.Sprintf("place files at %q: %q: %v", e.To, e.Path, e.Err)
}

// Unwrap returns the reason.
func (e *PlaceError) Unwrap() error { return e.Err }

// Tree is what this package needs of a [source.Tree]. It is used concurrently.
type Tree interface {
	// Files returns what a selection places, sorted.
	Files(sel stages.Selection) ([]source.File, error)
	// Sizes returns the sizes of the files in bytes, in their order.
	Sizes(ctx context.Context, files []source.File) ([]int64, error)
	// WriteLayer writes an uncompressed layer of directories and files.
	WriteLayer(ctx context.Context, w io.Writer, dirs []source.Dir, placed []source.Placed) error
}

// Place decides where the files of a stage go in the image below it, and which
// directories must be made for them. Targets are led through the image's
// symbolic links: an entry "lib/x" would else replace a link "lib" by a
// directory. Directories that exist are left as they are; new ones belong to
// the owner of the files when they are at or below the set's target, and to
// root above it. Sets are placed in order, each on top of those before it.
//
// Regular files of the image below are not known here: where one is in the way
// of a directory, the directory takes its place.
//
// Both results are sorted by path. Errors about the configuration are
// [PlaceError]s.
func Place(ctx context.Context, tree Tree, stage *stages.Stage, below *Image) ([]source.Dir, []source.Placed, error) {
	sets := stage.Recipe.Files
	if len(sets) != len(stage.Selections) {
		return nil, nil, fmt.Errorf("stage %s has %d sets of files and %d selections", stage.Digest, len(sets), len(stage.Selections))
	}
	if len(sets) == 0 {
		return nil, nil, nil
	}
	t, err := below.Tables(ctx)
	if err != nil {
		return nil, nil, err
	}
	p := placer{below: t, made: make(map[string]int)}
	for i, set := range sets {
		files, err := tree.Files(stage.Selections[i])
		if err != nil {
			return nil, nil, fmt.Errorf("list files for %q: %w", set.To, err)
		}
		if err := p.set(set, files); err != nil {
			return nil, nil, err
		}
	}
	slices.SortFunc(p.dirs, func(a, b source.Dir) int { return strings.Compare(a.Path, b.Path) })
	slices.SortFunc(p.placed, func(a, b source.Placed) int { return strings.Compare(a.Path, b.Path) })
	return p.dirs, p.placed, nil
}

// placer collects what a stage puts on top of an image.
type placer struct {
	below  *Tables
	dirs   []source.Dir
	placed []source.Placed
	// made has the path of everything in dirs, as madeDir, and in placed, as its index.
	made map[string]int
}

const madeDir = -1

// fileSet is a set of files that is being placed.
type fileSet struct {
	to       []string // components
	uid, gid int
	// resolved remembers where the directories of the set are.
	resolved map[string]string
}

func (p *placer) set(set stages.FileSet, files []source.File) error {
	uid, err := p.below.User(set.Owner)
	if err != nil {
		return &PlaceError{To: set.To, Err: fmt.Errorf("owner: %w", err)}
	}
	gid, err := p.below.Group(set.Group)
	if err != nil {
		return &PlaceError{To: set.To, Err: fmt.Errorf("group: %w", err)}
	}
	s := fileSet{to: components(set.To), uid: uid, gid: gid, resolved: make(map[string]string)}
	for _, f := range files {
		if err := p.file(&s, f); err != nil {
			return &PlaceError{To: set.To, Path: path.Join(set.To, f.Path), Err: err}
		}
	}
	return nil
}

// components splits a path; it has none for the root.
func components(p string) []string {
	return slices.DeleteFunc(strings.Split(p, "/"), func(s string) bool { return s == "" })
}

func (p *placer) file(s *fileSet, f source.File) error {
	parts := slices.Concat(s.to, components(f.Path))
	for _, name := range parts {
		if strings.HasPrefix(name, whiteoutPrefix) {
			return ErrReserved
		}
		if !validName(name) {
			return fmt.Errorf("%w: %q is no file name", ErrNotDirectory, name)
		}
	}
	if len(parts) == 0 {
		return ErrIsDirectory
	}
	dir, err := p.dir(s, parts[:len(parts)-1])
	if err != nil {
		return err
	}
	at := path.Join(dir, parts[len(parts)-1])
	placed := source.Placed{Path: at, File: f, UID: s.uid, GID: s.gid}
	i, again := p.made[at]
	switch {
	case again && i == madeDir, !again && p.below.IsDir(at):
		return ErrIsDirectory
	case again:
		// Two paths that were different before links were followed: the later set wins.
		p.placed[i] = placed
	default:
		p.made[at] = len(p.placed)
		p.placed = append(p.placed, placed)
	}
	return nil
}

// step is a component of a path that is being followed.
type step struct {
	name string
	// owned directories belong to the owner of the set when they must be made.
	owned bool
}

// dir follows a path to its directory, making what is missing, and returns the
// path without links.
func (p *placer) dir(s *fileSet, parts []string) (string, error) {
	key := strings.Join(parts, "/")
	if at, ok := s.resolved[key]; ok {
		return at, nil
	}
	todo := make([]step, len(parts))
	for i, name := range parts {
		todo[i] = step{name, i >= len(s.to)-1}
	}
	at, follows := "", 0
	for len(todo) > 0 {
		next := todo[0]
		todo = todo[1:]
		if next.name == ".." {
			at = parentOf(at)
			continue
		}
		to, target, err := p.enter(s, at, next)
		if err != nil {
			return "", err
		}
		if target == "" {
			at = to
			continue
		}
		if follows++; follows > maxFollow {
			return "", fmt.Errorf("%w: /%s", ErrLinkLoop, to)
		}
		if path.IsAbs(target) {
			at = ""
		}
		todo = append(linkSteps(target, next.owned), todo...)
	}
	s.resolved[key] = at
	return at, nil
}

// enter returns the path of a component of directory at, and the target when
// that is a link; what is missing becomes a directory.
func (p *placer) enter(s *fileSet, at string, next step) (to, target string, err error) {
	to = path.Join(at, next.name)
	if i, ok := p.made[to]; ok {
		if i != madeDir {
			return "", "", fmt.Errorf("%w: this stage puts a file at /%s", ErrNotDirectory, to)
		}
		return to, "", nil
	}
	if target, ok := p.below.Link(to); ok {
		if target == "" {
			return "", "", fmt.Errorf("%w: /%s is a link to nothing", ErrNotDirectory, to)
		}
		return to, target, nil
	}
	if p.below.IsDir(to) {
		return to, "", nil
	}
	d := source.Dir{Path: to}
	if next.owned {
		d.UID, d.GID = s.uid, s.gid
	}
	p.made[to] = madeDir
	p.dirs = append(p.dirs, d)
	return to, "", nil
}

// linkSteps are the components of a link's target. When they must be made, the
// last one takes the link's place and the others are above it.
func linkSteps(target string, owned bool) []step {
	var out []step
	for _, name := range components(target) {
		if name != "." {
			out = append(out, step{name: name})
		}
	}
	if len(out) > 0 {
		out[len(out)-1].owned = owned
	}
	return out
}

// parentOf returns the directory of a path in the image; the root's is the root.
func parentOf(p string) string { return p[:max(strings.LastIndexByte(p, '/'), 0)] }
