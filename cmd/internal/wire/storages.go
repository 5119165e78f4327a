package wire

import (
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/memo"
	"github.com/cairnbuild/cairn/storage/readonly"
	"github.com/cairnbuild/cairn/storage/registry"
	"github.com/cairnbuild/cairn/storage/secondary"
)

// Storages opens the storages of one process. They share connections, tokens
// and counters.
type Storages struct {
	settings Settings
	host     Host
	client   *registry.Client

	requests, sent, received atomic.Int64
	asked                    atomic.Int64 // of the ledger
	filled                   atomic.Bool  // the local cache may have grown

	mu    sync.Mutex
	near  *nearby // nil before stages of a registry were opened
	pad   *local.Storage
	holds []*local.Hold
	// bases are the repositories of bases, by address: images for several
	// platforms read the same ones.
	bases map[string]storage.Storage
}

// NewStorages reads no file and opens no connection.
func NewStorages(s Settings, h Host) (*Storages, error) {
	st := &Storages{settings: s, host: h, bases: make(map[string]storage.Storage)}
	var err error
	st.client, err = registry.NewClient(st.clientOptions())
	return st, err
}

func (st *Storages) clientOptions() registry.Options {
	return registry.Options{
		CAFile: st.settings.RegistryCA, UserAgent: "cairn/" + st.host.Version, Now: st.host.Now, Jitter: rand.Float64,
		Getenv: st.host.Getenv, Logger: st.host.Log, Observe: st.observe, RequestID: st.host.requestIDs(),
	}
}

func (st *Storages) observe(e registry.Exchange) {
	logExchange(st.host.Log, e)
	if e.Kind != registry.KindAuth {
		st.requests.Add(1)
	}
	st.sent.Add(e.Sent)
	// What an error or a token has to say is neither a manifest nor a blob.
	if e.Kind != registry.KindAuth && e.Status/100 == 2 {
		st.received.Add(e.Received)
	}
}

// Close ends idle connections.
func (st *Storages) Close() {
	st.client.Close()
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.near != nil {
		st.near.close()
	}
}

// Open opens the storage at an address.
func (st *Storages) Open(ctx context.Context, project, address string) (storage.Storage, error) {
	if address != Local {
		return st.client.Open(address)
	}
	dir, err := st.settings.stagesDir(st.host, project)
	if err != nil {
		return nil, err
	}
	return local.Open(ctx, dir)
}

// Product returns what is known of the registry of an address: nothing of [Local],
// and of some only when they have been asked something.
func (st *Storages) Product(address string) registry.Product {
	s, err := st.client.Open(address)
	if address == Local || err != nil {
		return registry.Product{}
	}
	return s.Product()
}

// Stages opens the storage that the settings name. What is used of one on this
// host stays until [Storages.Release], or the end of the process.
func (st *Storages) Stages(ctx context.Context, project string) (storage.Storage, error) {
	s, err := st.Open(ctx, project, st.settings.Storage)
	if err != nil {
		return nil, err
	}
	if l, ok := s.(*local.Storage); ok {
		return st.hold(l), nil
	}
	n, err := st.nearby(project, s.Address())
	if err != nil {
		return nil, err
	}
	return n.Over(s), nil
}

// hold keeps what is used of a layout from eviction.
func (st *Storages) hold(s *local.Storage) *local.Hold {
	h := s.Hold()
	st.mu.Lock()
	st.holds = append(st.holds, h)
	st.mu.Unlock()
	return h
}

// Release sends to the cache storage what that lacks, and gives up what was held.
// What is used later is not held.
func (st *Storages) Release(ctx context.Context) error {
	st.mu.Lock()
	holds, near := st.holds, st.near
	st.holds = nil
	st.mu.Unlock()
	if near != nil {
		near.fill(ctx)
	}
	var errs []error
	for _, h := range holds {
		errs = append(errs, h.Close(ctx, st.host.Now()))
	}
	return errors.Join(errs...)
}

// ResolveBase implements plan.Bases.
func (st *Storages) ResolveBase(ctx context.Context, reference string, p stages.Platform) (string, error) {
	return st.client.Bases().Resolve(ctx, reference, p)
}

// Base opens the repository of a base, to be read only. What a digest names does
// not change, so its manifests are remembered.
func (st *Storages) Base(_ context.Context, reference string) (storage.Storage, error) {
	s, err := st.client.Bases().Open(reference)
	if err != nil {
		return nil, err
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	if known, ok := st.bases[s.Address()]; ok {
		return known, nil
	}
	source := readonly.New(s)
	if st.near != nil {
		source = st.near.Over(source)
	}
	remembered, err := memo.New(source, memo.Limits{})
	if err != nil {
		return nil, err
	}
	st.bases[s.Address()] = remembered
	return remembered, nil
}

// padKept is for how long the local cache keeps layers that no result to be
// published names: long enough for any run that reads them.
const padKept = 24 * time.Hour

// Pad opens the local cache: the storage itself where that is local.
func (st *Storages) Pad(ctx context.Context, project string, stages storage.Storage) (build.Pad, error) {
	st.filled.Store(true)
	if p, ok := stages.(build.Pad); ok {
		return p, nil
	}
	if st.settings.followed.local {
		// What was made before the switch and not published waits there. It is not
		// tidied as a cache: stages are in it.
		s, err := st.Open(ctx, project, Local)
		if l, ok := s.(*local.Storage); ok && err == nil {
			return st.hold(l), nil
		}
		return nil, err
	}
	dir, err := st.settings.cacheDir(st.host)
	if err != nil {
		return nil, err
	}
	p, err := local.Open(ctx, filepath.Join(dir, hostcache.KeptDir, project))
	if err != nil {
		return nil, err
	}
	h := st.hold(p)
	st.mu.Lock()
	st.pad = p
	st.mu.Unlock()
	return h, nil
}

// Tidy removes from the local cache what nothing will ask for again.
func (st *Storages) Tidy(ctx context.Context) error {
	st.mu.Lock()
	p := st.pad
	st.mu.Unlock()
	if p == nil {
		return nil
	}
	_, err := p.Sweep(ctx, st.host.Now().Add(-padKept))
	return err
}

// Relieve evicts from this host's local cache where what was opened here may have
// filled its volume. Otherwise it does nothing at all.
func (st *Storages) Relieve(ctx context.Context) error {
	if !st.filled.Load() {
		return nil
	}
	return st.settings.relieve(ctx, st.host)
}

// Counts implements build.Options.Counts.
func (st *Storages) Counts() build.Counts {
	c := build.Counts{RegistryRequests: st.requests.Load(), LedgerRequests: st.asked.Load(), BytesPulled: st.received.Load(), BytesPushed: st.sent.Load()}
	st.mu.Lock()
	near := st.near
	st.mu.Unlock()
	if near != nil {
		c.Reused = build.Reused(near.Counts())
	}
	return c
}

// Second opens the secondary storage beside the primary one, and those in which a
// switch that was followed has misses looked up; nil where there are none.
func (st *Storages) Second(ctx context.Context, project string, primary storage.Storage) (build.Second, error) {
	addresses := st.settings.followed.before
	if st.settings.Secondary != "" {
		addresses = append([]string{st.settings.Secondary}, addresses...)
	}
	var all []build.Second
	for _, address := range addresses {
		s, err := st.Open(ctx, project, address)
		if err != nil {
			return nil, err
		}
		source := readonly.New(s)
		all = append(all, second{source, secondary.New(primary, source, storage.CopyOptions{})})
	}
	switch len(all) {
	case 0:
		return nil, nil
	case 1:
		return all[0], nil
	}
	return &seconds{all: all, from: map[string]build.Second{}}, nil
}

// second implements build.Second: the run has asked the primary storage itself
// before it asks here.
type second struct {
	storage.Fetcher
	both *secondary.Storage
}

// Find implements build.Second.
func (s second) Find(ctx context.Context, ref string) (storage.Manifest, error) {
	return s.Manifest(ctx, ref)
}

// Adopt implements build.Second.
func (s second) Adopt(ctx context.Context, m storage.Manifest) error { return s.both.Adopt(ctx, m) }
