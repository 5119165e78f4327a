package wire

import (
	"context"
	"path/filepath"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/near"
	"github.com/cairnbuild/cairn/storage/registry"
)

// nearby are the places from which blobs of a registry are read first: the local
// cache, and the cache storage where one is set.
type nearby struct {
	*near.Near
	client *registry.Client // of the cache storage; nil without one
}

// A cache storage has to be quick or is no use: it gets less time than the storage.
const (
	mirrorConnect = 3 * time.Second
	mirrorAnswer  = 10 * time.Second
	mirrorIdle    = 15 * time.Second
	// fillTime bounds what a build spends at its end on filling it.
	fillTime = time.Minute
)

// nearby returns the places for the stages of a project in a registry. What was
// read is kept by project and storage: runs that may not read each other's stages
// do not find them here.
func (st *Storages) nearby(project, address string) (*nearby, error) {
	st.mu.Lock()
	defer st.mu.Unlock()
	if st.near != nil {
		return st.near, nil
	}
	n := &nearby{}
	o := near.Options{
		Cache: func(ctx context.Context) (near.Cache, error) { return st.fetched(ctx, project, address) },
		Admit: st.admit, Warn: st.warnNear,
	}
	if m := st.settings.CacheStorage; m != "" {
		var err error
		options := st.clientOptions()
		options.Retry = registry.Retry{Attempts: 2}
		options.Timeouts = registry.Timeouts{Connect: mirrorConnect, Answer: mirrorAnswer, Idle: mirrorIdle}
		if n.client, err = registry.NewClient(options); err != nil {
			return nil, err
		}
		if o.Mirror, err = n.client.Open(m); err != nil {
			return nil, err
		}
	}
	n.Near = near.New(o)
	st.near = n
	return n, nil
}

// fetched opens the layout of what was read from a storage.
func (st *Storages) fetched(ctx context.Context, project, address string) (near.Cache, error) {
	dir, err := st.settings.cacheDir(st.host)
	if err != nil {
		return nil, err
	}
	st.filled.Store(true)
	l, err := local.Open(ctx, filepath.Join(dir, hostcache.FetchedDir, project+"-"+shortHash(address)))
	if err != nil {
		return nil, err
	}
	return st.hold(l), nil
}

// admit reports whether the volume of the local cache has room below its high mark.
// What cannot be measured is no reason to do without a cache: a full volume says so itself.
func (st *Storages) admit(size int64) bool {
	dir, err := st.settings.cacheDir(st.host)
	if err != nil {
		return true
	}
	policy, err := hostcache.PolicyOf(st.host.Getenv)
	if err != nil {
		return true // told at the end of the build
	}
	rules, err := policy.Rules()
	if err != nil {
		return true
	}
	v, err := hostcache.Measure(dir)
	return err != nil || v.Used+size <= rules.Marks.High.Of(v)
}

func (st *Storages) warnNear(what string, err error) {
	if st.host.Log != nil {
		st.host.Log.Warn("the build goes on without "+what, zap.Error(err))
	}
}

// fill sends to the cache storage what it was found to lack.
func (n *nearby) fill(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, fillTime)
	defer cancel()
	n.Fill(ctx)
}

func (n *nearby) close() {
	if n.client != nil {
		n.client.Close()
	}
}
