package source

import (
	"context"
	"path/filepath"
	"strings"
)

// origin is where contents of files are: a repository with its objects, its Git
// LFS store and, for a work tree, what lies on disk.
type origin struct {
	git   git
	idLen int
	at    place
	// dir is the work tree, and onDisk tells where in it contents are that git
	// does not hold.
	dir    string
	onDisk map[diskKey]diskFile
	// store is the directory of Git LFS objects.
	store memo[struct{}, string]
}

// place says where a repository stands in a project.
type place struct {
	// path is that of a submodule below the project's directory, "" for the
	// project's own repository.
	path string
	// outer is the path of the outermost submodule that path is in: what git
	// has to be told to fetch.
	outer string
	// depth counts the submodules that path is in.
	depth int
	// remote repositories are those of a URL.
	remote bool
}

// below returns a path in the repository as one below the project's directory.
func (p place) below(path string) string {
	if p.path == "" {
		return path
	}
	return p.path + "/" + path
}

// diskKey names a content that only the work tree has.
type diskKey struct {
	object string
	lfs    bool
}

// disk returns where on disk a file's content is.
func (o *origin) disk(f File) (diskFile, bool) {
	d, ok := o.onDisk[diskKey{f.Object, f.LFS}]
	return d, ok
}

// lfsStore returns the directory of the repository's Git LFS objects: lfs.storage
// of its configuration, or lfs/objects beside its object database.
func (o *origin) lfsStore(ctx context.Context) (string, error) {
	return o.store.get(struct{}{}, func() (string, error) {
		dir, err := o.git.line(ctx, "rev-parse", "--path-format=absolute", "--git-common-dir")
		if err != nil {
			return "", err
		}
		storage, err := o.git.line(ctx, "config", "--type=path", "lfs.storage")
		switch {
		case err != nil && !exited(err): // exit code 1: it is not set
			return "", err
		case err != nil || storage == "":
			storage = "lfs"
		}
		if !filepath.IsAbs(storage) {
			storage = filepath.Join(dir, storage)
		}
		return filepath.Join(storage, "objects"), nil
	})
}

// line runs a git command whose answer is one line, which may hold line breaks
// itself.
func (g git) line(ctx context.Context, args ...string) (string, error) {
	out, err := g.output(ctx, args...)
	return strings.TrimSuffix(string(out), "\n"), err
}
