package hostcache

import (
	"context"
	"crypto/sha256"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
)

// Reasons why something stays, for people.
const (
	heldByRun    = "in use by a running build"
	notPublished = "not yet published"
	marker       = "says whose stages these are"
)

// layouts returns a store for each layout below the cache directory. A directory
// that is none is an error, and the others are returned.
func (h Host) layouts(ctx context.Context) ([]host.Store, error) {
	var out []host.Store
	var errs []error
	for _, kind := range []string{StagesDir, KeptDir, FetchedDir} {
		entries, err := os.ReadDir(filepath.Join(h.Cache, kind))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
		for _, e := range entries {
			s, err := local.Open(ctx, filepath.Join(h.Cache, kind, e.Name()))
			if err != nil {
				errs = append(errs, err)
				continue
			}
			out = append(out, &layout{
				name: kind + "/" + e.Name(), storage: s, now: h.Now, memory: h.Memory, unpublished: kind == KeptDir,
			})
		}
	}
	return out, errors.Join(errs...)
}

// layout is the stages, or the kept results, of a project.
type layout struct {
	name    string
	storage *local.Storage
	now     func() time.Time
	memory  *local.Memory
	// unpublished: what has a name here waits to be published.
	unpublished bool

	inventory *local.Inventory // as Items took it last
}

// Name implements [host.Store].
func (l *layout) Name() string { return l.name }

// Items implements [host.Store].
func (l *layout) Items(ctx context.Context) ([]host.Item, error) {
	inv, err := l.storage.Inventory(ctx, l.now(), l.memory)
	if err != nil {
		return nil, err
	}
	l.inventory = inv
	items := make([]host.Item, 0, len(inv.Entries)+len(inv.Loose))
	chains := newChains(inv.Entries)
	for i := range inv.Entries {
		e := &inv.Entries[i]
		it := host.Item{ID: e.Tag, Used: e.Used, Held: l.held(e), On: chains.below(e)}
		for _, c := range e.Content {
			it.Parts = append(it.Parts, host.Part{ID: c.Digest.String(), Size: c.Size})
		}
		items = append(items, it)
	}
	for _, c := range inv.Loose {
		it := host.Item{ID: c.Digest.String(), Used: c.Used, Parts: []host.Part{{ID: c.Digest.String(), Size: c.Size}}}
		if c.Held {
			it.Held = heldByRun
		}
		items = append(items, it)
	}
	return items, nil
}

func (l *layout) held(e *local.Entry) string {
	switch {
	case e.Held:
		return heldByRun
	case l.unpublished:
		return notPublished
	case e.Tag == storage.ProjectTag:
		return marker
	default:
		return ""
	}
}

// Evict implements [host.Store].
func (l *layout) Evict(ctx context.Context, ids []string) error {
	var errs []error
	for _, id := range ids {
		// No tag has a colon, and every digest has one.
		if d, err := digest.Parse(id); err == nil {
			errs = append(errs, l.inventory.EvictLoose(ctx, d))
			continue
		}
		_, err := l.inventory.Evict(ctx, id)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// chains finds what stands on what: a stage on the one whose layers its own begin
// with, an index on the stages that it names.
type chains struct {
	byLayers   map[[sha256.Size]byte]string // the tag of a stage with exactly these layers
	byManifest map[digest.Digest]string
}

func newChains(entries []local.Entry) chains {
	c := chains{map[[sha256.Size]byte]string{}, map[digest.Digest]string{}}
	for i := range entries {
		e := &entries[i]
		c.byManifest[e.Descriptor.Digest] = e.Tag
		var last [sha256.Size]byte
		for _, l := range e.Layers {
			last = extend(last, l)
		}
		if len(e.Layers) > 0 {
			c.byLayers[last] = e.Tag
		}
	}
	return c
}

func extend(below [sha256.Size]byte, layer digest.Digest) [sha256.Size]byte {
	return sha256.Sum256(append(below[:], layer...))
}

func (c chains) below(e *local.Entry) []string {
	var out []string
	for _, m := range e.Manifests {
		if tag, ok := c.byManifest[m]; ok {
			out = append(out, tag)
		}
	}
	var last [sha256.Size]byte
	nearest := ""
	for i, l := range e.Layers {
		if i == len(e.Layers)-1 {
			break // that is e itself, or another name for the same layers
		}
		last = extend(last, l)
		if tag, ok := c.byLayers[last]; ok {
			nearest = tag
		}
	}
	if nearest != "" {
		out = append(out, nearest)
	}
	return out
}
