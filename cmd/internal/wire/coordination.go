package wire

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/synchronization"
	synclocal "github.com/cairnbuild/cairn/synchronization/local"
)

// Ledger opens the project's ledger for a storage; asked counts the requests to
// it. The ledger of a host is one
// for each storage: the same project may be built into several.
func (s Settings) Ledger(ctx context.Context, h Host, project string, asked *atomic.Int64) (*synchronization.Ledger, error) {
	if err := s.Check(ctx); err != nil {
		return nil, err
	}
	dir, err := s.stateDir(h)
	if err != nil {
		return nil, err
	}
	dir = filepath.Join(dir, "ledger", project+"-"+shortHash(s.Storage))
	b, err := synclocal.Open(ctx, dir, synclocal.Options{Now: h.Now, Rand: h.Rand})
	if err != nil {
		return nil, err
	}
	return synchronization.Open(ctx, counted{b, asked}, project, synchronization.Options{
		Now: h.Now, Rand: h.Rand, Logger: h.Log, Holder: holder(),
	})
}

// counted counts what is asked of a ledger's store.
type counted struct {
	synchronization.Backend
	asked *atomic.Int64
}

// Read implements lock.Cells.
func (c counted) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	c.asked.Add(1)
	return c.Backend.Read(ctx, shards...)
}

// Swap implements lock.Cells.
func (c counted) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	c.asked.Add(1)
	return c.Backend.Swap(ctx, shard, changes)
}

// Watch implements lock.Cells.
func (c counted) Watch(ctx context.Context, shard string) (<-chan struct{}, error) {
	c.asked.Add(1)
	return c.Backend.Watch(ctx, shard)
}

// Renew implements lock.Sessions.
func (c counted) Renew(ctx context.Context, group string, r lock.Record) error {
	c.asked.Add(1)
	return c.Backend.Renew(ctx, group, r)
}

// Records implements lock.Sessions.
func (c counted) Records(ctx context.Context, group string) ([]lock.Record, error) {
	c.asked.Add(1)
	return c.Backend.Records(ctx, group)
}

// Remove implements lock.Sessions.
func (c counted) Remove(ctx context.Context, group, session string, seq uint64) error {
	c.asked.Add(1)
	return c.Backend.Remove(ctx, group, session, seq)
}

// holder says for people which process this is.
func holder() string {
	name, err := os.Hostname()
	if err != nil {
		name = "unknown host"
	}
	return fmt.Sprintf("%s, process %d", name, os.Getpid())
}

// Engine connects to the engine that the settings name, or to the host's own
// daemon, which is started when none runs.
func (s Settings) Engine(ctx context.Context, h Host) (*engine.Engine, error) {
	address := s.EngineAddress
	if address == "" {
		var err error
		address, _, err = daemonctl.Ensure(ctx, daemonctl.Options{Paths: s.daemonPaths(h), Beside: h.Program})
		if err != nil {
			return nil, err
		}
	}
	return engine.Dial(ctx, address, engine.Options{Now: h.Now, Proxy: proxy(h)})
}

// proxy hands the proxy variables of the environment to commands; both spellings are in use.
func proxy(h Host) engine.Proxy {
	get := func(upper, lower string) string {
		if v := h.Getenv(upper); v != "" {
			return v
		}
		return h.Getenv(lower)
	}
	return engine.Proxy{
		HTTP: get("HTTP_PROXY", "http_proxy"), HTTPS: get("HTTPS_PROXY", "https_proxy"),
		FTP: get("FTP_PROXY", "ftp_proxy"), No: get("NO_PROXY", "no_proxy"), All: get("ALL_PROXY", "all_proxy"),
	}
}

// Builder runs builds of one project.
type Builder struct {
	Settings Settings
	Host     Host
	Storages *Storages
	Project  *Project
	// Parallel, Observer and KeepLocal are those of build.Options.
	Parallel  int
	Observer  build.Observer
	KeepLocal bool
}

// Run plans the named images, or all, and builds what is missing.
func (b *Builder) Run(ctx context.Context, images []string) (rep *build.Report, err error) {
	began := b.Host.Began
	name := b.Project.Config.Name
	p, err := b.Project.Plan(ctx, b.Storages, images)
	if err != nil {
		return nil, err
	}
	st, err := b.Storages.Stages(ctx, name)
	if err != nil {
		return nil, err
	}
	second, err := b.Storages.Second(ctx, name, st)
	if err != nil {
		return nil, err
	}
	engines := &engines{settings: b.Settings, host: b.Host}
	defer engines.close()
	rep, err = build.Run(ctx, build.Options{
		Plan: p, Files: b.Project.Tree, Storage: st, Second: second,
		Pad:  func(ctx context.Context) (build.Pad, error) { return b.Storages.Pad(ctx, name, st) },
		Base: b.Storages.Base,
		Ledger: func(ctx context.Context) (*synchronization.Ledger, error) {
			return b.Settings.Ledger(ctx, b.Host, name, &b.Storages.asked)
		},
		Engine: engines.start,
		Counts: b.Storages.Counts, Now: b.Host.Now, Began: began, Parallel: b.Parallel, Observer: b.Observer, KeepLocal: b.KeepLocal,
	})
	if err == nil {
		err = b.Storages.Tidy(ctx)
	}
	return rep, err
}

// engines keeps the connections that one build opened: a second one when the
// first engine died.
type engines struct {
	settings Settings
	host     Host
	open     []*engine.Engine
}

func (e *engines) start(ctx context.Context) (build.Engine, error) {
	eng, err := e.settings.Engine(ctx, e.host)
	if err != nil {
		return nil, err
	}
	e.open = append(e.open, eng)
	return eng, nil
}

func (e *engines) close() {
	for _, eng := range e.open {
		// The run is over; how a connection ends changes nothing.
		_ = eng.Close()
	}
}
