package build

import (
	"context"
	"io"
	"io/fs"
	"strings"

	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/source"
)

// Files are the project's sources; implemented by [source.Tree].
type Files interface {
	assemble.Tree
	// Reader opens single files.
	Reader() *source.Reader
}

// tree gives the engine the files that a command stage needs, at their places.
type tree struct {
	reader *source.Reader
	dirs   []source.Dir
	placed []source.Placed
	sizes  []int64
	byPath map[string]source.File
	links  map[string]string
}

// newTree reads what the engine must know beforehand: sizes and link targets.
func newTree(ctx context.Context, files Files, reader *source.Reader, dirs []source.Dir, placed []source.Placed) (*tree, error) {
	t := &tree{
		reader: reader, dirs: dirs, placed: placed,
		byPath: make(map[string]source.File, len(placed)), links: make(map[string]string),
	}
	all := make([]source.File, len(placed))
	for i, p := range placed {
		all[i] = p.File
		t.byPath[p.Path] = p.File
	}
	var err error
	if t.sizes, err = files.Sizes(ctx, all); err != nil {
		return nil, err
	}
	for _, p := range placed {
		if p.File.Mode != source.ModeSymlink {
			continue
		}
		if t.links[p.Path], err = linkTarget(ctx, t.reader, p.File); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// linkTarget reads what a symbolic link points to.
func linkTarget(ctx context.Context, r *source.Reader, f source.File) (string, error) {
	rc, err := r.Open(ctx, f)
	if err != nil {
		return "", err
	}
	defer rc.Close()
	b, err := io.ReadAll(rc)
	return string(b), err
}

// Walk implements [engine.Tree]. Directories to be emitted are those that the
// image below lacks. Those on the way that exist are given as well; the engine
// leaves them as they are.
func (t *tree) Walk(_ context.Context, fn func(engine.Entry) error) error {
	seen := map[string]bool{"": true}
	for _, d := range t.dirs {
		if err := t.parents(d.Path, seen, fn); err != nil {
			return err
		}
		seen[d.Path] = true
		if err := fn(engine.Entry{Path: d.Path, Mode: fs.ModeDir | 0o755, UID: d.UID, GID: d.GID, New: true}); err != nil {
			return err
		}
	}
	for i, p := range t.placed {
		if err := t.parents(p.Path, seen, fn); err != nil {
			return err
		}
		e := engine.Entry{Path: p.Path, Size: t.sizes[i], UID: p.UID, GID: p.GID, Mode: 0o644}
		switch p.File.Mode {
		case source.ModeExecutable:
			e.Mode = 0o755
		case source.ModeSymlink:
			e.Mode, e.Link, e.Size = fs.ModeSymlink|0o777, t.links[p.Path], 0
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// parents gives the directories above p that were not given yet.
func (t *tree) parents(p string, seen map[string]bool, fn func(engine.Entry) error) error {
	for i := range len(p) {
		if p[i] != '/' || seen[p[:i]] {
			continue
		}
		seen[p[:i]] = true
		if err := fn(engine.Entry{Path: p[:i], Mode: fs.ModeDir | 0o755}); err != nil {
			return err
		}
	}
	return nil
}

// Open implements [engine.Tree].
func (t *tree) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	f, ok := t.byPath[strings.TrimPrefix(path, "/")]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return t.reader.Open(ctx, f)
}

var _ engine.Tree = (*tree)(nil)
