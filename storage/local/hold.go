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

// holdsDir holds a file for each process that has something in use: the time
// when it began in the first line, and then a line for each name.
const holdsDir = "holds"

// Hold is a storage whose names stay while it is open: what is read, or
// published, through it is not evicted before Close or the end of the process,
// however that comes. Nor is content that it writes or finds, with a name or not.
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
func (s *Storage) Hold() *Hold {
	return &Hold{Storage: s, noted: map[string]bool{}, seen: map[string]bool{}}
}

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

// HasBlob implements [storage.Pusher].
func (h *Hold) HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error) {
	if err := h.begin(ctx); err != nil {
		return false, h.fail("hold", d.Digest.String(), err)
	}
	return h.Storage.HasBlob(ctx, d)
}

// PushBlob implements [storage.Pusher].
func (h *Hold) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if err := h.begin(ctx); err != nil {
		return h.fail("hold", d.Digest.String(), err)
	}
	return h.Storage.PushBlob(ctx, d, c)
}

// WriteBlob is that of [Storage].
func (h *Hold) WriteBlob(ctx context.Context, write func(w io.Writer) error) (ocispec.Descriptor, error) {
	if err := h.begin(ctx); err != nil {
		return ocispec.Descriptor{}, h.fail("hold", "", err)
	}
	return h.Storage.WriteBlob(ctx, write)
}

// begin sees to it that others know of this process.
func (h *Hold) begin(ctx context.Context) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.file != nil {
		return nil
	}
	l, err := h.lock(ctx, lockFile, shared)
	if err != nil {
		return err
	}
	defer l.unlock()
	h.file, err = h.newHold()
	return err
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
	if err == nil {
		err = writeBegin(f)
	}
	if err != nil {
		f.Close() // the file is thrown away
		return nil, errors.Join(err, removeIfThere(f.Name()))
	}
	return f, nil
}

// writeBegin writes the first line: the file system's own time, which is that of
// the content which comes later.
func writeBegin(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	_, err = f.WriteString(info.ModTime().UTC().Format(time.RFC3339Nano) + "\n")
	return err
}

// usage is what living processes have in use.
type usage struct {
	tags map[string]bool
	// since is when the first of them began; zero when there is none.
	since time.Time
}

// living returns what living processes have in use. What dead ones had counts as
// used now. The caller holds the layout's lock alone.
func (s *Storage) living() (usage, error) {
	all := usage{tags: map[string]bool{}}
	entries, err := os.ReadDir(s.path(holdsDir))
	if errors.Is(err, fs.ErrNotExist) {
		return all, nil
	}
	if err != nil {
		return all, err
	}
	for _, e := range entries {
		path := filepath.Join(s.path(holdsDir), e.Name())
		u, dead, err := readHold(path)
		if err == nil && dead {
			err = errors.Join(s.used(u.tags), removeIfThere(path))
		}
		if err != nil {
			return all, err
		}
		if dead {
			continue
		}
		maps.Copy(all.tags, u.tags)
		if all.since.IsZero() || !u.since.IsZero() && u.since.Before(all.since) {
			all.since = u.since
		}
	}
	return all, nil
}

// readHold reads a hold's file and reports whether its process is dead. A last
// line that is not whole was never used.
func readHold(path string) (usage, bool, error) {
	u := usage{tags: map[string]bool{}}
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return u, false, nil // it has ended in order
	}
	if err != nil {
		return u, false, err
	}
	defer f.Close() // releases the lock on what is dead
	dead, err := tryLock(f, alone)
	if err != nil {
		return u, false, err
	}
	for r := bufio.NewReader(f); ; {
		line, err := r.ReadString('\n')
		if errors.Is(err, io.EOF) {
			return u, dead, nil
		}
		if err != nil {
			return u, false, err
		}
		line = strings.TrimSuffix(line, "\n")
		if at, err := time.Parse(time.RFC3339Nano, line); err == nil {
			u.since = at
		} else if storage.CheckTag(line) == nil {
			u.tags[line] = true
		}
	}
}
