package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/synchronization"
)

// ledger is the project's ledger for the storage, while it is open. The ledger of
// a host is one for each storage: the same project may be built into several.
type ledger struct {
	*synchronization.Ledger
	backend synchronization.Backend
}

// openLedger opens the ledger; asked counts the requests to it, and outage, which
// may be nil, is told when it does not answer.
func (s Settings) openLedger(ctx context.Context, h Host, project string, asked *atomic.Int64, outage func(lock.Outage)) (*ledger, error) {
	b, o, err := s.openBackend(ctx, h, project)
	if err != nil {
		return nil, err
	}
	o.Budget, o.Outage = s.SynchronizationTimeout, outage
	l, err := synchronization.Open(ctx, counted{b, asked}, project, o)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	opened := &ledger{l, b}
	if err := s.isMeant(ctx, l); err != nil {
		return nil, errors.Join(err, opened.close())
	}
	return opened, nil
}

// findLedger opens the ledger where there is one, to look at it. It makes nothing: where
// there is none it fails with [synchronization.ErrNone].
func (s Settings) findLedger(ctx context.Context, h Host, project string) (*ledger, error) {
	if err := s.hasLedger(h, project); err != nil {
		return nil, err
	}
	b, o, err := s.openBackend(ctx, h, project)
	if err != nil {
		return nil, err
	}
	o.Budget = s.SynchronizationTimeout
	l, err := synchronization.Find(ctx, b, project, o)
	if err != nil {
		return nil, errors.Join(err, b.Close())
	}
	return &ledger{l, b}, nil
}

// hasLedger fails with [synchronization.ErrNone] where the ledger would be on this host
// and is not. Opening one makes its directory, and the layout around it.
func (s Settings) hasLedger(h Host, project string) error {
	if s.LedgerAddress(h) != Local {
		return nil
	}
	dir, err := s.ledgerDir(h, project)
	if err == nil {
		_, err = os.Stat(dir)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", synchronization.ErrNone, err)
	}
	return err
}

// isMeant returns an error where a switch was followed to another ledger than this.
func (s Settings) isMeant(ctx context.Context, l *synchronization.Ledger) error {
	uid, err := l.UID(ctx)
	if err == nil && s.followed.uid != "" && s.followed.uid != uid {
		err = &OtherLedgerError{Address: l.Address()}
	}
	return err
}

func (l *ledger) close() error {
	l.Close()
	return l.backend.Close()
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
func holder() string { return fmt.Sprintf("%s, process %d", hostName(), os.Getpid()) }

func hostName() string {
	name, err := os.Hostname()
	if err != nil {
		return "unknown host"
	}
	return name
}

// Builder runs builds of one project.
type Builder struct {
	Settings Settings
	Host     Host
	Storages *Storages
	Project  *Project
	Given    *Given
	// Parallel, Observer and KeepLocal are those of build.Options.
	Parallel  int
	Observer  build.Observer
	KeepLocal bool
	// Patience is that of build.Options.
	Patience time.Duration
	// Outage is told when the ledger does not answer; it may be nil.
	Outage func(lock.Outage)
	// Waiting is told what a build waits for whose ledger is being closed or opened,
	// Moved of a switch that it follows; both may be nil.
	Waiting func(synchronization.Awaited)
	Moved   func(synchronization.Move)
}

// LedgerAwayError says that the ledger did not answer for as long as it may be away.
type LedgerAwayError struct {
	Address string
	Err     error
}

// Error implements error.
func (e *LedgerAwayError) Error() string {
	return fmt.Sprintf("the ledger %s does not answer: %v", e.Address, e.Err)
}

// Unwrap returns the cause.
func (e *LedgerAwayError) Unwrap() error { return e.Err }

// Run builds what is missing of a plan of the project. A build under which the
// ledger was closed goes on when it is open again, and where its stages have moved
// if it may follow; what it had made is kept and not made again.
func (b *Builder) Run(ctx context.Context, p *stages.Plan) (*build.Report, error) {
	for hops := 0; ; hops++ {
		rep, err := b.runHere(ctx, p)
		if err == nil {
			return rep, nil
		}
		moved, sent, err := b.sentOn(ctx, b.Project.Config.Name, err)
		if !sent || moved != nil && !b.Settings.Follow || hops == maxHops {
			return rep, err
		}
		if moved == nil {
			continue
		}
		if err := b.follow(moved); err != nil {
			return rep, err
		}
	}
}

// runHere runs a build where the settings say.
func (b *Builder) runHere(ctx context.Context, p *stages.Plan) (rep *build.Report, err error) {
	name := b.Project.Config.Name
	st, err := b.Storages.Stages(ctx, name)
	if err != nil {
		return nil, err
	}
	second, err := b.Storages.Second(ctx, name, st)
	if err != nil {
		return nil, err
	}
	defer func() {
		b.warn("end the hold on the local cache", b.Storages.Release(context.WithoutCancel(ctx)))
		b.warn("evict from the local cache", b.Storages.Relieve(ctx))
	}()
	open := &opened{settings: b.Settings, host: b.Host, given: b.Given, outage: b.Outage, builder: b}
	defer func() { b.warn("close the ledger", open.close()) }()
	rep, err = build.Run(ctx, build.Options{
		Plan: p, Files: b.Project.Tree, Storage: st, Second: second,
		Pad:  func(ctx context.Context) (build.Pad, error) { return b.Storages.Pad(ctx, name, st) },
		Base: b.Storages.Base,
		Ledger: func(ctx context.Context) (*synchronization.Ledger, error) {
			return open.ledger(ctx, name, &b.Storages.asked)
		},
		Engine: open.engine, Offer: b.Given.Offer,
		Counts: b.Storages.Counts, Now: b.Host.Now, Began: b.Host.Began,
		Parallel: b.Parallel, Observer: b.Observer, KeepLocal: b.KeepLocal, Patience: b.Patience, Delta: b.Host.Late.Delta,
	})
	if errors.Is(err, synchronization.ErrUnavailable) {
		err = &LedgerAwayError{Address: b.Settings.LedgerAddress(b.Host), Err: err}
	}
	if err == nil {
		b.warn("tidy the local cache", b.Storages.Tidy(ctx))
	}
	return rep, err
}

// warn logs what went wrong after the build was decided: what is published stays
// so, and the next build has nothing to mend.
func (b *Builder) warn(what string, err error) {
	if err != nil && b.Host.Log != nil {
		b.Host.Log.Warn("cannot "+what, zap.Error(err))
	}
}

// opened is what one build opened and must close: the ledger, and the engine,
// of which there is one for each platform, and a second one when the first died.
type opened struct {
	settings Settings
	host     Host
	given    *Given
	outage   func(lock.Outage)
	builder  *Builder
	ledgers  []*ledger
	mu       sync.Mutex
	engines  []*engine.Engine // under mu: those of several platforms are opened at once
}

func (o *opened) ledger(ctx context.Context, project string, asked *atomic.Int64) (*synchronization.Ledger, error) {
	l, err := o.settings.openLedger(ctx, o.host, project, asked, o.outage)
	if err != nil {
		return nil, err
	}
	o.ledgers = append(o.ledgers, l)
	return l.Ledger, o.calm(ctx, l.Ledger)
}

func (o *opened) engine(ctx context.Context, p stages.Platform) (build.Engine, error) {
	e, err := o.settings.Engine(ctx, o.host, p, o.given)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.engines = append(o.engines, e)
	return e, nil
}

func (o *opened) close() error {
	for _, e := range o.engines {
		// The run is over; how a connection ends changes nothing.
		_ = e.Close()
	}
	var err error
	for _, l := range o.ledgers {
		err = errors.Join(err, l.close())
	}
	return err
}
