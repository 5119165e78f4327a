package inventory

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// Source is what an inventory is read from.
type Source interface {
	storage.Resolver
	storage.Fetcher
	storage.Lister
	Address() string
}

// Usage is what a [Source] offers beside that where it knows when names were used.
type Usage interface {
	// LastUsed returns when the tag was last used, or [storage.ErrNotFound].
	LastUsed(ctx context.Context, tag string) (time.Time, error)
}

// Options are the choices of [Read]; the zero value is good.
type Options struct {
	// Index is the path of the index on disk, whose directory is made where needed.
	// Empty reads every manifest.
	Index string
	// Now is written to the index for names that it does not have.
	Now time.Time
	// Fresh asks the storage for each name, with a HEAD where the index knows it.
	Fresh bool
	// Concurrency bounds the requests in flight, 8 where it is 0.
	Concurrency int
	// Progress, where set, is told how many of all names are read; by one goroutine
	// at a time.
	Progress func(done, total int)
}

const (
	defaultConcurrency = 8
	// maxNames bounds a listing.
	maxNames = 2_000_000
	// maxDepth bounds how deep indexes in indexes are followed.
	maxDepth = 8
	// savedEvery is after how many manifests a reading writes down what it has
	// learnt, so that one that is killed has not read in vain.
	savedEvery = 2500
)

// Read reads the inventory of a storage. Manifests that are missing, corrupt or
// not what their name promises are carried as broken. It fails where the storage
// cannot be listed, or refuses or is unable to answer: then it would look as if
// less were there than is.
func Read(ctx context.Context, s Source, o Options) (*Inventory, error) {
	r := newReader(s, o)
	if err := r.read(ctx); err != nil {
		err = fmt.Errorf("read the inventory of %s: %w", s.Address(), err)
		return nil, errors.Join(err, r.saveSome())
	}
	r.inv.count()
	if err := r.saveAll(); err != nil {
		r.inv.IndexError = errors.Join(r.inv.IndexError, err)
	}
	return r.inv, nil
}

// reader is one reading.
type reader struct {
	source Source
	usage  Usage // nil where the source is none
	o      Options
	// known is what the index said at the beginning; it is not changed.
	known catalogue

	saving sync.Mutex
	mu     sync.Mutex
	inv    *Inventory
	// learnt is what the names read so far are, for the index.
	learnt  map[string]record
	digests interned
	done    int
}

func newReader(s Source, o Options) *reader {
	if o.Concurrency <= 0 {
		o.Concurrency = defaultConcurrency
	}
	if o.Progress == nil {
		o.Progress = func(int, int) {}
	}
	r := &reader{
		source: s, o: o, learnt: map[string]record{}, digests: interned{},
		inv: &Inventory{Address: s.Address(), Manifests: map[digest.Digest]*Manifest{}, Broken: map[digest.Digest]error{}},
	}
	r.usage, _ = s.(Usage)
	return r
}

func (r *reader) read(ctx context.Context) error {
	if r.o.Index != "" {
		r.known, r.inv.IndexError = load(r.o.Index, r.source.Address())
	}
	for _, m := range r.known.manifests {
		r.digests.manifest(m)
	}
	if err := r.list(ctx); err != nil {
		return err
	}
	if err := r.names(ctx); err != nil {
		return err
	}
	for range maxDepth {
		if more, err := r.members(ctx); !more || err != nil {
			return err
		}
	}
	return nil
}

func (r *reader) list(ctx context.Context) error {
	for tag, err := range r.source.Tags(ctx) {
		if err != nil {
			return err
		}
		if len(r.inv.Names) == maxNames {
			return fmt.Errorf("%w: more than %d tags", storage.ErrTooLarge, maxNames)
		}
		r.inv.Names = append(r.inv.Names, Name{Tag: tag, Kind: KindOf(tag)})
	}
	// Pages that change while they are read may repeat a name.
	slices.SortFunc(r.inv.Names, func(a, b Name) int { return strings.Compare(a.Tag, b.Tag) })
	r.inv.Names = slices.CompactFunc(r.inv.Names, func(a, b Name) bool { return a.Tag == b.Tag })
	return nil
}

func (r *reader) names(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Concurrency)
	for i := range r.inv.Names {
		n := &r.inv.Names[i]
		if n.Kind == KindForeign {
			r.progress()
			continue
		}
		g.Go(func() error {
			defer r.progress()
			return r.name(ctx, n)
		})
	}
	return g.Wait()
}

func (r *reader) progress() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.done++
	r.o.Progress(r.done, len(r.inv.Names))
}

// name fills in n.
func (r *reader) name(ctx context.Context, n *Name) error {
	before := r.known.names[n.Tag]
	m, err := r.remembered(ctx, n, before)
	modified := before.Modified
	n.Asked = r.o.Fresh || m == nil
	if err == nil && m == nil {
		m, modified, err = r.fetch(ctx, n.Tag)
	}
	if err == nil {
		n.Kind, err = fit(n.Tag, m)
	}
	if err != nil {
		return breaks(err, &n.Broken)
	}
	if m.Digest != before.Digest {
		before.Seen = r.o.Now
	}
	n.Manifest, n.Seen, n.Modified = m, before.Seen, modified
	r.use(n)
	return r.lastUse(ctx, n)
}

// remembered returns the manifest of n where the index has it, nil where it must
// be fetched.
func (r *reader) remembered(ctx context.Context, n *Name, before record) (*Manifest, error) {
	if before.Digest == "" || n.Kind == KindMarker {
		return nil, nil
	}
	if !r.o.Fresh {
		return r.known.manifests[before.Digest], nil
	}
	d, err := r.source.Resolve(ctx, n.Tag)
	if err != nil || d.Digest != before.Digest {
		return nil, err
	}
	return r.known.manifests[d.Digest], nil
}

// fetch reads a manifest from the storage.
func (r *reader) fetch(ctx context.Context, ref string) (*Manifest, time.Time, error) {
	got, err := r.source.Manifest(ctx, ref)
	if err != nil {
		return nil, time.Time{}, err
	}
	m, err := describe(got)
	if err != nil {
		return nil, time.Time{}, err
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.digests.manifest(m)
	r.inv.Fetched++
	if ref == storage.ProjectTag {
		r.inv.Marker = got
	}
	return m, got.Modified, nil
}

// use notes that a name leads to its manifest, and writes down what was learnt now
// and then.
func (r *reader) use(n *Name) {
	r.mu.Lock()
	if same := r.inv.Manifests[n.Manifest.Digest]; same != nil {
		n.Manifest = same
	}
	r.inv.Manifests[n.Manifest.Digest] = n.Manifest
	r.learnt[n.Tag] = record{n.Manifest.Digest, n.Seen, n.Modified}
	due := r.inv.Fetched > 0 && r.inv.Fetched%savedEvery == 0
	r.mu.Unlock()
	if due {
		// What goes wrong here goes wrong again at the end, and is told then.
		_ = r.saveSome()
	}
}

func (r *reader) lastUse(ctx context.Context, n *Name) error {
	if r.usage == nil {
		return nil
	}
	t, err := r.usage.LastUsed(ctx, n.Tag)
	if err != nil && !errors.Is(err, storage.ErrNotFound) { // removed since it was listed
		return err
	}
	n.Used = t
	return nil
}

// members reads the members of indexes that no name leads to. It reports whether
// there were any, which may be indexes again.
func (r *reader) members(ctx context.Context) (bool, error) {
	missing := map[digest.Digest]bool{}
	for _, m := range r.inv.Manifests {
		for _, c := range m.Members {
			if r.inv.Manifests[c.Digest] == nil && r.inv.Broken[c.Digest] == nil {
				missing[c.Digest] = true
			}
		}
	}
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(r.o.Concurrency)
	for _, d := range slices.Sorted(maps.Keys(missing)) {
		g.Go(func() error { return r.member(ctx, d) })
	}
	return len(missing) > 0, g.Wait()
}

func (r *reader) member(ctx context.Context, d digest.Digest) error {
	m := r.known.manifests[d]
	var broken error
	if m == nil {
		var err error
		m, _, err = r.fetch(ctx, d.String())
		if err != nil {
			if err := breaks(err, &broken); err != nil {
				return err
			}
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if broken != nil {
		r.inv.Broken[d] = broken
	} else {
		r.inv.Manifests[d] = m
	}
	return nil
}

// breaks notes an error that is about one manifest alone, and returns all others:
// they leave open what is there.
func breaks(err error, broken *error) error {
	for _, class := range []error{storage.ErrNotFound, storage.ErrCorrupt, storage.ErrTooLarge, storage.ErrInvalid} {
		if errors.Is(err, class) {
			*broken = err
			return nil
		}
	}
	return err
}

// saveSome writes down what is known so far; a reading that does so already is let be.
func (r *reader) saveSome() error {
	if r.o.Index == "" || !r.saving.TryLock() {
		return nil
	}
	defer r.saving.Unlock()
	r.mu.Lock()
	all := catalogue{maps.Clone(r.known.names), maps.Clone(r.known.manifests)}
	all.add(r.learnt, r.inv.Manifests)
	r.mu.Unlock()
	theirs, _ := load(r.o.Index, r.source.Address()) // what cannot be read is written anew
	all.join(theirs)
	return all.save(r.o.Index, r.source.Address(), r.o.Now)
}

// saveAll writes down exactly what the storage holds.
func (r *reader) saveAll() error {
	if r.o.Index == "" || maps.Equal(r.learnt, r.known.names) && len(r.inv.Manifests) == len(r.known.manifests) {
		return nil
	}
	var all catalogue
	all.add(r.learnt, r.inv.Manifests)
	return all.save(r.o.Index, r.source.Address(), r.o.Now)
}
