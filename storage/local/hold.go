package local

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// holdsDir holds a file for each process that has names in use: a line each.
const holdsDir = "holds"

// Hold is a storage whose names stay while it is open: what is read, or
// published, through it is not evicted before Close or the end of the process,
// however that comes.
//
// A name is noted before it is read, so one that was found is there to stay. When
// the hold ends its names count as used, also when a process was killed: whoever
// finds what it noted sees to that.
//
// Indexes of builds are not noted, so that a build in which nothing has changed
// writes nothing; that one was used is remembered about once an hour.
type Hold struct {
	*Storage
	mu    sync.Mutex
	file  *os.File // locked by this process; nil before the first name
	noted map[string]bool
	seen  map[string]bool // indexes of builds
}

// seenAgain is after how long the use of a build's index is written down again.
const seenAgain = time.Hour

var _ storage.Storage = (*Hold)(nil)

// Hold returns the storage with a hold on what is used through it. It writes
// nothing before the first name is used.
func (s *Storage) Hold() *Hold { return &Hold{Storage: s, noted: map[string]bool{}, seen: map[string]bool{}} }

// Close ends the hold; now is the time of this process's clock.
func (h *Hold) Close(ctx context.Context, now time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for tag := range h.seen {
		info, err := os.Stat(h.tagPath(tag))
		if err == nil && now.Sub(info.ModTime()) > seenAgain {
			h.noted[tag] = true
		}
	}
	l, err := h.lock(ctx, lockFile, shared)
	if err != nil {
		return h.fail("end the hold", "", err)
	}
	defer l.unlock()
	err = h.used(h.noted)
	if h.file != nil {
		err = errors.Join(err, h.file.Close(), removeIfThere(h.file.Name()))
		h.file = nil
	}
	if err != nil {
		return h.fail("end the hold", "", err)
	}
	return nil
}

// used marks names as used now. The caller holds the layout's lock.
func (s *Storage) used(tags map[string]bool) error {
	for tag := range tags {
		if err := touch(s.tagPath(tag)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// Resolve implements [storage.Resolver].
func (h *Hold) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	if err := h.note(ctx, ref); err != nil {
		return ocispec.Descriptor{}, h.fail("hold", ref, err)
	}
	return h.Storage.Resolve(ctx, ref)
}

// Manifest implements [storage.Fetcher].
func (h *Hold) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	if err := h.note(ctx, ref); err != nil {
		return storage.Manifest{}, h.fail("hold", ref, err)
	}
	return h.Storage.Manifest(ctx, ref)
}

// Publish implements [storage.Publisher].
func (h *Hold) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	if err := h.note(ctx, tag); err != nil {
		return h.fail("hold", tag, err)
	}
	return h.Storage.Publish(ctx, tag, m)
}

// note writes the tag down. The layout's lock orders it with evictions: an
// evictor that comes later reads it, and one that came first has already removed
// what the caller will therefore not find.
func (h *Hold) note(ctx context.Context, ref string) error {
	tag, _, err := storage.ParseRef(ref)
	if err != nil || tag == "" {
		return nil //nolint:nilerr // what is no name holds nothing; the read itself refuses it
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if storage.IsBuildTag(tag) {
		h.seen[tag] = true
		return nil
	}
	if h.noted[tag] {
		return nil
	}
	l, err := h.lock(ctx, lockFile, shared)
	if err != nil {
		return err
	}
	defer l.unlock()
	if h.file == nil {
		if h.file, err = h.newHold(); err != nil {
			return err
		}
	}
	if _, err := h.file.WriteString(tag + "\n"); err != nil {
		return err
	}
	h.noted[tag] = true
	return nil
}

// newHold returns a new locked file. The caller holds the layout's lock, without
// which nobody takes it for a leftover.
func (s *Storage) newHold() (*os.File, error) {
	if err := os.MkdirAll(s.path(holdsDir), 0o700); err != nil {
		return nil, err
	}
	f, err := os.CreateTemp(s.path(holdsDir), "run-*")
	if err != nil {
		return nil, err
	}
	ok, err := tryLock(f, alone)
	if err == nil && !ok {
		err = fmt.Errorf("%s, just created, is locked by another", f.Name())
	}
	if err != nil {
		f.Close() // it is empty
		return nil, errors.Join(err, removeIfThere(f.Name()))
	}
	return f, nil
}

// heldTags returns what living processes have in use. What dead ones had counts
// as used now. The caller holds the layout's lock alone.
func (s *Storage) heldTags() (map[string]bool, error) {
	entries, err := os.ReadDir(s.path(holdsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	living := map[string]bool{}
	for _, e := range entries {
		path := filepath.Join(s.path(holdsDir), e.Name())
		tags := map[string]bool{}
		dead, err := readHold(path, tags)
		if err != nil {
			return nil, err
		}
		if dead {
			if err := errors.Join(s.used(tags), removeIfThere(path)); err != nil {
				return nil, err
			}
			continue
		}
		maps.Copy(living, tags)
	}
	return living, nil
}

// readHold adds the names in a hold's file and reports whether its process is
// dead. A last line that is not whole was never used.
func readHold(path string, out map[string]bool) (bool, error) {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil // it has ended in order
	}
	if err != nil {
		return false, err
	}
	defer f.Close() // releases the lock on what is dead
	dead, err := tryLock(f, alone)
	if err != nil {
		return false, err
	}
	r := bufio.NewReader(f)
	for {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return dead, nil
		}
		if err != nil {
			return false, err
		}
		if tag := strings.TrimSuffix(line, "\n"); storage.CheckTag(tag) == nil {
			out[tag] = true
		}
	}
}
