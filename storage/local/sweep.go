package local

import (
	"context"
	"errors"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"
)

// Swept is what a [Storage.Sweep] removed.
type Swept struct {
	Blobs int
	// Bytes is the sum of the blobs' sizes; what the file system gained may differ.
	Bytes int64
}

// Sweep removes content that no tag leads to and that was last pushed or looked
// for before unusedSince, which must lie further back than any run lasts: a run
// pushes blobs first and names them later. A manifest that cannot be read ends
// the sweep, because what it leads to is unknown.
func (s *Storage) Sweep(ctx context.Context, unusedSince time.Time) (Swept, error) {
	swept, err := s.sweep(ctx, unusedSince)
	if err != nil {
		return swept, s.fail("sweep", s.dir, err)
	}
	return swept, nil
}

func (s *Storage) sweep(ctx context.Context, unusedSince time.Time) (Swept, error) {
	var swept Swept
	if err := s.removeLeftovers(ctx); err != nil {
		return swept, err
	}
	live, err := s.mark(ctx)
	if err != nil {
		return swept, err
	}
	for d, err := range s.digests(ctx) {
		if err != nil {
			return swept, err
		}
		if live[d] {
			continue
		}
		n, err := s.removeUnused(ctx, d, unusedSince)
		if err != nil {
			return swept, err
		}
		if n >= 0 {
			swept.Blobs++
			swept.Bytes += n
		}
	}
	return swept, nil
}

// digests yields the digests of all content that is there, and ends with the first error.
func (s *Storage) digests(ctx context.Context) iter.Seq2[digest.Digest, error] {
	return func(yield func(digest.Digest, error) bool) {
		for algorithm, err := range listDir(ctx, s.path(blobsDir)) {
			if err != nil {
				yield("", err)
				return
			}
			for hex, err := range listDir(ctx, filepath.Join(s.path(blobsDir), algorithm)) {
				d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
				if err == nil && d.Validate() != nil {
					continue // no content of ours
				}
				if !yield(d, err) || err != nil {
					return
				}
			}
		}
	}
}

// mark returns all digests that tags lead to.
func (s *Storage) mark(ctx context.Context) (map[digest.Digest]bool, error) {
	live := map[digest.Digest]bool{}
	for n, err := range s.Names(ctx) {
		if err != nil {
			return nil, err
		}
		if err := s.markManifest(ctx, n.Descriptor.Digest, live); err != nil {
			return nil, err
		}
	}
	return live, nil
}

func (s *Storage) markManifest(ctx context.Context, d digest.Digest, live map[digest.Digest]bool) error {
	if live[d] {
		return nil
	}
	live[d] = true
	m, err := s.readManifest(ctx, d)
	if errors.Is(err, fs.ErrNotExist) {
		return nil // a name without content keeps nothing alive
	}
	if err != nil {
		return err
	}
	manifests, blobs, err := m.References()
	if err != nil {
		return err
	}
	for _, b := range blobs {
		live[b.Digest] = true
	}
	for _, c := range manifests {
		if err := s.markManifest(ctx, c.Digest, live); err != nil {
			return err
		}
	}
	return nil
}

// removeUnused removes d unless it was used since, and returns its size, or -1
// when it stays. Whoever claims d waits for the lock, and then finds it or not.
func (s *Storage) removeUnused(ctx context.Context, d digest.Digest, unusedSince time.Time) (int64, error) {
	l, err := s.lock(ctx, lockFile, alone)
	if err != nil {
		return -1, err
	}
	defer l.unlock()
	info, err := os.Stat(s.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return -1, nil
	}
	if err != nil {
		return -1, err
	}
	if !info.ModTime().Before(unusedSince) {
		return -1, nil
	}
	return info.Size(), removeIfThere(s.Path(d))
}

// removeLeftovers removes what killed writers left. A living writer holds the
// lock on its file from the moment in which the file can be seen here, but for
// the moment before the rename, in which it holds the layout's lock.
func (s *Storage) removeLeftovers(ctx context.Context) error {
	entries, err := os.ReadDir(s.path(ingestDir))
	if err != nil || len(entries) == 0 {
		return err
	}
	// The lock that may be held for long is waited for first.
	i, err := s.lock(ctx, indexLock, alone)
	if err != nil {
		return err
	}
	defer i.unlock()
	l, err := s.lock(ctx, lockFile, alone)
	if err != nil {
		return err
	}
	defer l.unlock()
	for _, e := range entries {
		if err := removeIfDead(s.path(filepath.Join(ingestDir, e.Name()))); err != nil {
			return err
		}
	}
	return nil
}

func removeIfDead(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	dead, err := tryLock(f, alone)
	f.Close() // before removing: some systems cannot remove an open file
	if err != nil || !dead {
		return err
	}
	return removeIfThere(path)
}
