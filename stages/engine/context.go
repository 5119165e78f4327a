package engine

import (
	"context"
	"io"
	"io/fs"
	"path"
	"slices"
	"time"

	"github.com/moby/buildkit/client/llb"
	"github.com/tonistiigi/fsutil"
	fstypes "github.com/tonistiigi/fsutil/types"
)

func contextName(j *Job) string { return "context-" + j.Key }

// context makes the context of a job's Dockerfile readable for the engine.
func (b *builder) context(j *Job) (llb.State, error) {
	if j.Dockerfile.Context == nil && j.Dockerfile.Source.Part == nil {
		return llb.Scratch(), nil
	}
	// A group that takes no files may stand on others that do: for the frontend there
	// is a context, which nobody asks for.
	if err := b.trees.addContext(b.ctx, j); err != nil {
		return llb.State{}, err
	}
	return llb.Local(contextName(j),
		llb.SessionID(b.session), llb.SharedKeyHint(j.Key), llb.Differ(llb.DiffNone, true),
		llb.WithCustomName("send the context of "+j.Name), platform(j.Platform)), nil
}

// addContext lists the files of a context, unless that was done before.
func (s *treeSource) addContext(ctx context.Context, j *Job) error {
	s.mu.Lock()
	delete(s.failed, contextName(j))
	known := s.contexts[contextName(j)]
	s.mu.Unlock()
	if known != nil {
		return nil
	}
	c := &contextFS{ctx: s.ctx, tree: j.Dockerfile.Context}
	if err := c.list(ctx); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.contexts[contextName(j)] = c
	return nil
}

// contextFS sends a tree as it is, at one time. The engine compares contents, not
// times, when it looks for earlier results.
type contextFS struct {
	ctx     context.Context // of the session
	tree    Tree
	entries []Entry
	now     time.Time
}

func (c *contextFS) list(ctx context.Context) error {
	if c.tree == nil {
		return nil
	}
	err := c.tree.Walk(ctx, func(e Entry) error {
		e.Path = path.Join("/", e.Path)
		c.entries = append(c.entries, e)
		return nil
	})
	slices.SortFunc(c.entries, func(a, b Entry) int { return compareSent(a.Path, b.Path) })
	return err
}

func (c *contextFS) at(now time.Time) *contextFS {
	return &contextFS{ctx: c.ctx, tree: c.tree, entries: c.entries, now: now}
}

// Walk implements [fsutil.FS]. Only the whole tree is ever asked for.
func (c *contextFS) Walk(_ context.Context, _ string, fn fs.WalkDirFunc) error {
	for _, e := range c.entries {
		p := e.Path[1:]
		if p == "" {
			continue
		}
		err := fn(p, &fsutil.DirEntryInfo{Stat: &fstypes.Stat{
			Path: p, Mode: uint32(e.Mode), Uid: uint32(e.UID), Gid: uint32(e.GID),
			Size: e.Size, ModTime: c.now.UnixNano(), Linkname: e.Link,
		}}, nil)
		if err != nil {
			return err
		}
	}
	return nil
}

// Open implements [fsutil.FS].
func (c *contextFS) Open(p string) (io.ReadCloser, error) {
	return c.tree.Open(c.ctx, path.Join("/", p))
}
