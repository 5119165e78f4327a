package source

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/gofrs/flock"
)

const (
	// inUse is the file of a remote's directory in the cache that whoever reads
	// from it holds locked, together with others, and whoever removes holds alone.
	inUse = "in-use"
	// holdPause is how long is waited before a lock is tried again.
	holdPause = 10 * time.Millisecond
	// usedAgain is after how long the use of a commit is written down again, so
	// that a build in which nothing has changed writes nothing.
	usedAgain = time.Hour
)

// hold keeps the commits of the remote with this directory from eviction until
// [Remotes.Close] or the end of the process.
func (r *Remotes) hold(ctx context.Context, home string) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.holds[home] != nil {
		return nil
	}
	l := flock.New(filepath.Join(home, inUse))
	if _, err := l.TryRLockContext(ctx, holdPause); err != nil {
		if errors.Is(err, fs.ErrPermission) {
			return nil // who may not write here does not share it with one who removes
		}
		return err
	}
	if r.holds == nil {
		r.holds = make(map[string]*flock.Flock)
	}
	r.holds[home] = l
	return nil
}

// Close gives up what was held: commits that were opened may be evicted from now on.
func (r *Remotes) Close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var errs []error
	for _, l := range r.holds {
		errs = append(errs, l.Close())
	}
	r.holds = nil
	return errors.Join(errs...)
}

// markUsed has a commit's directory show when it was used last. Where that may
// not be written, the order of eviction is all that suffers.
func (r *Remotes) markUsed(dir string) {
	now := r.Now()
	if st, err := os.Stat(dir); err == nil && now.Sub(st.ModTime()) > usedAgain {
		_ = os.Chtimes(dir, now, now)
	}
}

// CachedCommit is a commit of another repository that a cache holds.
type CachedCommit struct {
	// ID names it in the cache.
	ID string
	// Used is when it was last opened, to about an hour.
	Used time.Time
	// Size is the sum of its files, in bytes.
	Size int64
	// Held says that a running process has it open, or is fetching from its remote.
	Held bool
}

// CachedCommits yields the commits that the cache in dir holds, and what fetches
// that died have left. It ends with the first error. There is none where dir is not.
func CachedCommits(ctx context.Context, dir string) iter.Seq2[CachedCommit, error] {
	return func(yield func(CachedCommit, error) bool) {
		homes, err := subdirectories(dir)
		if err != nil {
			yield(CachedCommit{}, err)
			return
		}
		for _, home := range homes {
			commits, err := subdirectories(filepath.Join(dir, home))
			held := false
			if err == nil {
				held, err = isInUse(filepath.Join(dir, home))
			}
			for _, c := range commits {
				id := filepath.Join(home, c)
				at := CachedCommit{ID: filepath.ToSlash(id), Held: held}
				if err == nil {
					err = errors.Join(ctx.Err(), at.measure(filepath.Join(dir, id)))
				}
				if err != nil {
					break
				}
				if !yield(at, nil) {
					return
				}
			}
			if err != nil {
				yield(CachedCommit{}, err)
				return
			}
		}
	}
}

func subdirectories(dir string) ([]string, error) {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var out []string
	for _, e := range entries {
		if e.IsDir() {
			out = append(out, e.Name())
		}
	}
	return out, nil
}

// measure fills in size and use. What vanishes meanwhile counts for nothing.
func (c *CachedCommit) measure(dir string) error {
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if path == dir {
			c.Used = info.ModTime()
		}
		if info.Mode().IsRegular() {
			c.Size += info.Size()
		}
		return nil
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// isInUse reports whether a process holds the remote with this directory.
func isInUse(home string) (bool, error) {
	l := flock.New(filepath.Join(home, inUse))
	free, err := l.TryLock()
	return !free, errors.Join(err, l.Close())
}

// EvictCommit removes a commit from the cache in dir, unless a process holds its
// remote or it was used after since. What is fetched again later is the same.
func EvictCommit(dir, id string, since time.Time) error {
	home, name, ok := strings.Cut(id, "/")
	if !ok || !filepath.IsLocal(home) || !filepath.IsLocal(name) || strings.ContainsAny(name, `/\`) {
		return &Error{Op: "evict", Subject: id, Class: ErrUnknownRevision, Err: errors.New("that is no commit of the cache")}
	}
	home = filepath.Join(dir, home)
	l := flock.New(filepath.Join(home, inUse))
	free, err := l.TryLock()
	defer l.Close()
	if err != nil || !free {
		return err
	}
	path := filepath.Join(home, name)
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || info.ModTime().After(since) {
		return err
	}
	// Aside first: one who is killed here leaves what is swept, and not a
	// repository that looks whole.
	aside := path
	if !strings.HasPrefix(name, fetching) {
		aside = filepath.Join(home, fetching+"evicted-"+name)
		if err := errors.Join(os.RemoveAll(aside), os.Rename(path, aside)); err != nil {
			return err
		}
	}
	return os.RemoveAll(aside)
}
