// Package local is a ledger's backend for the processes of one host: files in a
// directory, guarded by file locks.
//
// A shard is one JSON file. A change writes a new file beside it, syncs it and
// renames it into place under the shard's lock, so a reader sees all of a change
// or none, and so does a host that lost its power. Readers take the lock too:
// nobody sees a change before it is safe on disk.
//
// A session keeps a lock file locked for as long as its process lives. The
// system frees the lock of a process that ends in any way, so others learn of its
// death at once and need not wait for its TTL. A process that is only stopped is
// found by its TTL, as everywhere.
//
// The directory must be on a file system whose locks work, so of this host.
package local

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// Options are what a backend needs besides its directory.
type Options struct {
	// Now is the host's clock, which all processes share. Required.
	Now func() time.Time
	// Rand gives the UIDs of shards. It must be safe for concurrent use. Required.
	Rand io.Reader
}

// Backend is one process's access to the directory. It is safe for concurrent use.
type Backend struct {
	dir string
	o   Options

	life     context.Context
	end      context.CancelFunc
	watchers sync.WaitGroup

	mu    sync.Mutex
	alive map[string]*os.File // lock files of this process's sessions, by path
}

// file is a shard as it is stored.
type file struct {
	UID      string            `json:"uid"`
	Revision uint64            `json:"revision"`
	Data     map[string]string `json:"data"`
}

// plainName is what a shard, a group or a session may be called, so that it is
// the name of a file in the directory and nothing else.
var plainName = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]*[a-z0-9])?$`)

// Open returns the backend that lives in dir, which is made when missing. The
// values of ctx, not its end, are used by what runs until Close.
func Open(ctx context.Context, dir string, o Options) (*Backend, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return nil, fmt.Errorf("open ledger directory: %w", err)
	}
	if err := os.MkdirAll(abs, 0o700); err != nil {
		return nil, fmt.Errorf("open ledger directory: %w", err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	return &Backend{dir: abs, o: o, life: life, end: end, alive: map[string]*os.File{}}, nil
}

// Address names the backend for people.
func (b *Backend) Address() string { return ":local" }

// Close ends the watches and gives up this process's sessions, which others see
// at once as dead.
func (b *Backend) Close() error {
	b.end()
	b.watchers.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	var errs []error
	for path, f := range b.alive {
		errs = append(errs, f.Close())
		delete(b.alive, path)
	}
	return errors.Join(errs...)
}

// Now implements [lock.Cells].
func (b *Backend) Now(ctx context.Context) (time.Time, error) {
	if err := ctx.Err(); err != nil {
		return time.Time{}, err
	}
	return b.o.Now(), nil
}

// Read implements [lock.Cells]. Each shard is read by itself.
func (b *Backend) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	found := map[string]lock.Snapshot{}
	for _, shard := range shards {
		s, err := b.readLocked(ctx, shard)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found[shard] = s
	}
	return found, nil
}

func (b *Backend) readLocked(ctx context.Context, shard string) (s lock.Snapshot, err error) {
	unlock, err := b.guard(ctx, shard, false)
	if err != nil {
		return lock.Snapshot{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return b.load(shard)
}

// Swap implements [lock.Cells].
func (b *Backend) Swap(ctx context.Context, shard string, changes []lock.Change) (s lock.Snapshot, err error) {
	unlock, err := b.guard(ctx, shard, true)
	if err != nil {
		return lock.Snapshot{}, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	s, err = b.load(shard)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return lock.Snapshot{}, err
	}
	if !s.Holds(changes) {
		return lock.Snapshot{}, lock.ErrConflict
	}
	if s.UID == "" {
		if s.UID, err = b.uid(); err != nil {
			return lock.Snapshot{}, err
		}
	}
	s.Revision++
	s.Data = s.After(changes)
	return s, b.store(shard, s)
}

func (b *Backend) uid() (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(b.o.Rand, id[:]); err != nil {
		return "", fmt.Errorf("name a shard: %w", err)
	}
	return hex.EncodeToString(id[:]), nil
}

func (b *Backend) path(name, suffix string) string { return filepath.Join(b.dir, name+suffix) }

// load reads a shard; the caller holds its lock.
func (b *Backend) load(shard string) (lock.Snapshot, error) {
	raw, err := os.ReadFile(b.path(shard, ".json"))
	if err != nil {
		return lock.Snapshot{}, fmt.Errorf("read shard %s: %w", shard, err)
	}
	var f file
	if err := json.Unmarshal(raw, &f); err != nil {
		return lock.Snapshot{}, fmt.Errorf("read shard %s: %s is damaged: %w", shard, b.path(shard, ".json"), err)
	}
	return lock.Snapshot(f), nil
}

// store writes a shard; the caller holds its lock. A failure of the last sync
// leaves it unknown whether the change lasts.
func (b *Backend) store(shard string, s lock.Snapshot) error {
	raw, err := json.Marshal(file(s))
	if err != nil {
		return fmt.Errorf("write shard %s: %w", shard, err)
	}
	if err := replace(b.path(shard, ".json"), raw, true); err != nil {
		return fmt.Errorf("write shard %s: %w", shard, err)
	}
	if err := syncDir(b.dir); err != nil {
		return fmt.Errorf("write shard %s: %w: %w", shard, lock.ErrAmbiguous, err)
	}
	return nil
}

// replace puts content into place at once. The caller is the only writer of path.
func replace(path string, content []byte, durable bool) (err error) {
	tmp := path + ".new"
	f, err := os.OpenFile(tmp, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(content)
	if err == nil && durable {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return errors.Join(err, os.Remove(tmp))
	}
	return os.Rename(tmp, path)
}

// guard takes the file lock that belongs to a shard or a group of sessions, to
// read or to write. The request's deadline bounds the wait; nothing was done then.
func (b *Backend) guard(ctx context.Context, name string, write bool) (unlock func() error, err error) {
	if !plainName.MatchString(name) {
		return nil, fmt.Errorf("%q cannot be the name of a shard", name)
	}
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("lock %s: %w: %w", name, lock.ErrUnavailable, context.Cause(ctx))
	}
	f, err := os.OpenFile(b.path(name, ".lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	if err := waitLock(ctx, f, write); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", name, err), f.Close())
	}
	return f.Close, nil // closing the file frees its lock
}

// Pauses between two attempts at a file lock. The system's own wait cannot be
// interrupted, and the locks are held for milliseconds.
const (
	firstLockPause = 200 * time.Microsecond
	maxLockPause   = 5 * time.Millisecond
)

func waitLock(ctx context.Context, f *os.File, write bool) error {
	for pause := firstLockPause; ; pause = min(2*pause, maxLockPause) {
		ok, err := tryLock(f, write)
		if err != nil || ok {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return fmt.Errorf("%w: %w", lock.ErrUnavailable, context.Cause(ctx))
		}
	}
}

// watchEvery is how often a watch looks at its file. Looking is one stat.
const watchEvery = 25 * time.Millisecond

// Watch implements [lock.Cells]. A change replaces the file, so another file,
// size or time of change is what it looks for.
func (b *Backend) Watch(ctx context.Context, shard string) (<-chan struct{}, error) {
	if err := errors.Join(ctx.Err(), b.life.Err()); err != nil {
		return nil, err
	}
	if !plainName.MatchString(shard) {
		return nil, fmt.Errorf("%q cannot be the name of a shard", shard)
	}
	ch := make(chan struct{}, 1)
	path := b.path(shard, ".json")
	last := stat(path)
	b.watchers.Go(func() {
		defer close(ch)
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
			case <-ctx.Done():
				return
			case <-b.life.Done():
				return
			}
			if now := stat(path); !unchanged(last, now) {
				last = now
				wake(ch)
			}
		}
	})
	return ch, nil
}

func wake(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}

// stat returns nil for a file that cannot be looked at.
func stat(path string) fs.FileInfo {
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	return info
}

func unchanged(a, b fs.FileInfo) bool {
	if a == nil || b == nil {
		return a == nil && b == nil
	}
	return os.SameFile(a, b) && a.Size() == b.Size() && a.ModTime().Equal(b.ModTime())
}
