package wire

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/moby/buildkit/client"
	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
)

// HostPass is the result of a pass over one of a host's volumes.
type HostPass struct {
	// Path is a directory on the volume.
	Path string
	host.Result
}

// passWait is for how long a pass that was asked for waits for another process's.
const passWait = 10 * time.Minute

// HostCleanup are the choices of [Settings.CleanHost].
type HostCleanup struct {
	Rules host.Rules
	// DryRun has nothing evicted.
	DryRun bool
	// Waiting is told where another process's pass is waited for; it may be nil.
	Waiting func(path string)
}

// CleanHost makes a pass over each volume that has a part of the host's local
// state. The engine is started where it has records, since it alone can remove
// them. The results are those that there are, also with an error.
func (s Settings) CleanHost(ctx context.Context, h Host, c HostCleanup) (out []HostPass, err error) {
	on, closeRecords, err := s.localState(h)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, closeRecords()) }()
	volumes, verr := on.Volumes(ctx)
	errs := []error{verr}
	for _, v := range volumes {
		res, err := v.Pass(ctx, c.Rules, hostcache.PassOptions{Wait: passWait, Waiting: c.Waiting, DryRun: c.DryRun})
		if err != nil {
			errs = append(errs, fmt.Errorf("clean up %s: %w", v.Path, err))
		}
		if res.Volume.Total > 0 {
			out = append(out, HostPass{v.Path, res})
		}
	}
	return out, errors.Join(errs...)
}

// localState is where this host has state. The engine is started when its records
// are asked for; the function ends the connection to it.
func (s Settings) localState(h Host) (hostcache.Host, func() error, error) {
	cache, err := s.cacheDir(h)
	if err != nil {
		return hostcache.Host{}, nil, err
	}
	var engine *client.Client
	on := hostcache.Host{Cache: cache, State: s.daemonPaths(h).State, Now: h.Now}
	on.Records = func(ctx context.Context) (hostcache.Records, error) {
		address, _, err := daemonctl.Ensure(ctx, s.daemonOptions(h))
		if err != nil {
			return nil, fmt.Errorf("start the engine, which alone can remove its records: %w", err)
		}
		engine, err = client.New(ctx, address)
		return engine, err
	}
	return on, func() error {
		if engine == nil {
			return nil
		}
		return engine.Close()
	}, nil
}

// relieve evicts after a build that may have filled the host's volume, where no
// daemon does: it looks at the volume's fill level, which costs nothing, and at
// more only above the high mark. What the engine has is left to the engine's
// daemon. Where that is not enough, or not possible, it is told.
func (s Settings) relieve(ctx context.Context, h Host) error {
	policy, err := hostcache.PolicyOf(h.Getenv)
	if err != nil {
		return err
	}
	rules, err := policy.Rules()
	if err != nil {
		return err
	}
	rules.Now = h.Now()
	cache, err := s.cacheDir(h)
	if err != nil {
		return err
	}
	on := hostcache.Host{Cache: cache, Now: h.Now}
	fills, err := on.Fills()
	if err != nil || len(fills) == 0 || fills[0].Used <= rules.Marks.High.Of(fills[0].Volume) {
		return err
	}
	volumes, err := on.Volumes(ctx)
	for _, v := range volumes {
		res, perr := v.Pass(ctx, rules, hostcache.PassOptions{})
		if errors.Is(perr, hostcache.ErrBusy) {
			continue // the other one sees to it
		}
		err = errors.Join(err, perr)
		if perr == nil && h.Log != nil {
			logPass(h.Log, v, res)
		}
	}
	return err
}

// logPass tells of a pass: quietly, unless the volume is still too full.
func logPass(log *zap.Logger, v hostcache.Place, r host.Result) {
	if r.Met() {
		log.Info("evicted from the local cache", hostcache.Fields(v, r)...)
		return
	}
	log.Warn("the volume of the local cache is too full, and what may be evicted is not enough: see cairn host cleanup --dry-run", hostcache.Fields(v, r)...)
}
