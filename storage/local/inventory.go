package local

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// clockSlack is how much the times of files may lie behind the process's clock:
// the kernel stamps them with that of its last tick.
const clockSlack = time.Second

// Entry is a name of the layout with all that it leads to.
type Entry struct {
	Name
	// Content is the manifest, and what it refers to: config and layers, or the
	// manifests of an index with theirs. What is not there is left out.
	Content []ocispec.Descriptor
	// Layers are those of an image, the lowest first; nil for an index.
	Layers []digest.Digest
	// Manifests are those that an index names.
	Manifests []digest.Digest
	// Held says that a living process has it in use.
	Held bool
}

// Loose is content without a name.
type Loose struct {
	Digest digest.Digest
	Size   int64
	// Used is when it was last pushed or looked for.
	Used time.Time
	// Held says that a living process may have it in use: it was used since that began.
	Held bool
}

// Inventory is what a layout held at one moment, to evict from. It is for one
// goroutine.
type Inventory struct {
	// Entries are all names, in no particular order. Unreadable ones lead to nothing.
	Entries []Entry
	// Loose is content that no name leads to: layers of a run that is under way, or
	// kept to be used again.
	Loose []Loose

	storage *Storage
	memory  *Memory
	began   time.Time
	living  usage
	users   map[digest.Digest]int // how many entries lead to content
	entries map[string]*Entry
}

// Inventory reads all names and manifests; now is the time of this process's
// clock. It costs about 50 µs for each name, and less where m, which may be nil,
// remembers the manifest.
func (s *Storage) Inventory(ctx context.Context, now time.Time, m *Memory) (*Inventory, error) {
	inv := &Inventory{storage: s, memory: m, began: now.Add(-clockSlack), users: map[digest.Digest]int{}, entries: map[string]*Entry{}}
	if err := inv.read(ctx); err != nil {
		return nil, s.fail("take the inventory", "", err)
	}
	return inv, nil
}

func (inv *Inventory) read(ctx context.Context) error {
	if err := inv.readLiving(ctx); err != nil {
		return err
	}
	for n, err := range inv.storage.Names(ctx) {
		if err != nil && n.Tag == "" {
			return err
		}
		e := Entry{Name: n, Held: inv.living.tags[n.Tag]}
		if err == nil {
			if err := e.follow(ctx, inv, n.Descriptor); err != nil {
				return err
			}
		}
		inv.Entries = append(inv.Entries, e)
	}
	for i := range inv.Entries {
		e := &inv.Entries[i]
		inv.entries[e.Tag] = e
		for _, c := range e.Content {
			inv.users[c.Digest]++
		}
	}
	return inv.readLoose(ctx)
}

func (inv *Inventory) readLoose(ctx context.Context) error {
	for d, err := range inv.storage.digests(ctx) {
		if err != nil {
			return err
		}
		if inv.users[d] > 0 {
			continue
		}
		info, err := os.Stat(inv.storage.Path(d))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		since := inv.living.since
		inv.Loose = append(inv.Loose, Loose{
			Digest: d, Size: info.Size(), Used: info.ModTime(),
			Held: !since.IsZero() && !info.ModTime().Before(since),
		})
	}
	return nil
}

func (inv *Inventory) readLiving(ctx context.Context) error {
	l, err := inv.storage.lock(ctx, lockFile, alone)
	if err != nil {
		return err
	}
	defer l.unlock()
	inv.living, err = inv.storage.living()
	return err
}

// follow adds what the manifest d leads to, each once.
func (e *Entry) follow(ctx context.Context, inv *Inventory, d ocispec.Descriptor) error {
	m, err := inv.memory.references(ctx, inv.storage, d.Digest)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	e.add(m.manifest)
	for _, b := range m.blobs {
		if _, err := os.Stat(inv.storage.Path(b.Digest)); err == nil {
			e.add(b)
		}
	}
	if len(m.members) == 0 && len(m.blobs) > 0 && d.Digest == e.Descriptor.Digest {
		for _, b := range m.blobs[1:] { // the first is the config
			e.Layers = append(e.Layers, b.Digest)
		}
	}
	for _, c := range m.members {
		e.Manifests = append(e.Manifests, c.Digest)
		if err := e.follow(ctx, inv, c); err != nil {
			return err
		}
	}
	return nil
}

func (e *Entry) add(d ocispec.Descriptor) {
	for _, c := range e.Content {
		if c.Digest == d.Digest {
			return
		}
	}
	e.Content = append(e.Content, d)
}

// Evict removes a name, unless it was used since the inventory or is held by a
// living process, and the content that no other name of the inventory leads to
// and nobody has claimed since. It reports whether the name went.
//
// Names that were published since claimed what they lead to, so nothing of theirs
// goes; the layout's lock orders the two.
func (inv *Inventory) Evict(ctx context.Context, tag string) (bool, error) {
	went, err := inv.evict(ctx, tag)
	if err != nil {
		return went, inv.storage.fail("evict", tag, err)
	}
	return went, nil
}

func (inv *Inventory) evict(ctx context.Context, tag string) (bool, error) {
	e := inv.entries[tag]
	if e == nil {
		return false, nil
	}
	l, err := inv.storage.lock(ctx, lockFile, alone)
	if err != nil {
		return false, err
	}
	defer l.unlock()
	may, err := inv.mayGo(e)
	if !may || err != nil {
		return false, err
	}
	// The name first: what a crash leaves is content without a name, which a sweep
	// finds, and not a name without content.
	if err := removeIfThere(inv.storage.tagPath(tag)); err != nil {
		return false, err
	}
	delete(inv.entries, tag)
	for _, c := range e.Content {
		inv.users[c.Digest]--
		if inv.users[c.Digest] > 0 {
			continue
		}
		if err := inv.removeUnclaimed(c.Digest); err != nil {
			return true, err
		}
	}
	return true, nil
}

// mayGo looks at the name once more. The caller holds the lock alone.
func (inv *Inventory) mayGo(e *Entry) (bool, error) {
	info, err := os.Stat(inv.storage.tagPath(e.Tag))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil || info.ModTime().After(e.Used) {
		return false, err
	}
	now, err := inv.storage.living()
	return err == nil && !now.tags[e.Tag], err
}

// EvictLoose removes content that no name led to when the inventory was taken,
// unless somebody has claimed it since.
func (inv *Inventory) EvictLoose(ctx context.Context, d digest.Digest) error {
	if inv.users[d] > 0 {
		return nil
	}
	l, err := inv.storage.lock(ctx, lockFile, alone)
	if err == nil {
		defer l.unlock()
		err = inv.removeUnclaimed(d)
	}
	if err != nil {
		return inv.storage.fail("evict", d.String(), err)
	}
	return nil
}

func (inv *Inventory) removeUnclaimed(d digest.Digest) error {
	info, err := os.Stat(inv.storage.Path(d))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil || !info.ModTime().Before(inv.began) {
		return err
	}
	return removeIfThere(inv.storage.Path(d))
}
