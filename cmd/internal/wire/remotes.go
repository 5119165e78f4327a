package wire

import (
	"context"
	"path/filepath"
	"sync"

	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
)

// Remotes reads the other repositories that a project takes files from; it
// implements plan.Remotes.
type Remotes struct {
	tree *source.Tree
	// open returns the cache; what is opened of it stays until this process ends.
	open func() (*source.Remotes, error)
}

func newRemotes(s Settings, h Host, t *source.Tree) Remotes {
	return Remotes{tree: t, open: sync.OnceValues(func() (*source.Remotes, error) {
		dir, err := s.cacheDir(h)
		if err != nil {
			return nil, err
		}
		return &source.Remotes{Dir: filepath.Join(dir, hostcache.GitDir), AllowFile: s.AllowFileURLs, Now: h.Now}, nil
	})}
}

// ResolveRemote asks the remote itself, over the network.
func (r Remotes) ResolveRemote(ctx context.Context, remote stages.Remote) (string, error) {
	cache, err := r.open()
	if err != nil {
		return "", err
	}
	return cache.Resolve(ctx, remote)
}

// OpenRemote attaches the files of a commit to the project's tree.
func (r Remotes) OpenRemote(ctx context.Context, remote stages.Remote, commit string) error {
	cache, err := r.open()
	if err != nil {
		return err
	}
	files, err := cache.Commit(ctx, remote, commit)
	if err != nil {
		return err
	}
	r.tree.Attach(remote, files)
	return nil
}
