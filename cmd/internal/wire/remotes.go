package wire

import (
	"context"
	"path/filepath"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
)

// Remotes reads the other repositories that a project takes files from; it
// implements plan.Remotes.
type Remotes struct {
	settings Settings
	host     Host
	tree     *source.Tree
}

// ResolveRemote asks the remote itself, over the network.
func (r Remotes) ResolveRemote(ctx context.Context, remote stages.Remote) (string, error) {
	cache, err := r.cache()
	if err != nil {
		return "", err
	}
	return cache.Resolve(ctx, remote)
}

// OpenRemote attaches the files of a commit to the project's tree.
func (r Remotes) OpenRemote(ctx context.Context, remote stages.Remote, commit string) error {
	cache, err := r.cache()
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

func (r Remotes) cache() (*source.Remotes, error) {
	dir, err := r.settings.cacheDir(r.host)
	if err != nil {
		return nil, err
	}
	return &source.Remotes{Dir: filepath.Join(dir, "git"), AllowFile: r.settings.AllowFileURLs, Now: r.host.Now}, nil
}
