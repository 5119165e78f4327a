package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/moby/buildkit/client"

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

// CleanHost makes a pass over each volume that has a part of the host's local
// state. The engine is started where it has records, since it alone can remove
// them. The results are those that there are, also with an error.
func (s Settings) CleanHost(ctx context.Context, h Host, rules host.Rules, dryRun bool) (out []HostPass, err error) {
	places, closeAll, err := s.places(ctx, h)
	defer func() { err = errors.Join(err, closeAll()) }()
	volumes, verr := hostcache.Volumes(places)
	errs := []error{err, verr}
	for _, v := range volumes {
		p := v.Passer()
		p.DryRun = dryRun
		res, err := p.Pass(ctx, rules)
		if err != nil {
			errs = append(errs, fmt.Errorf("clean up %s: %w", v.Path, err))
		}
		if res.Volume.Total > 0 {
			out = append(out, HostPass{v.Path, res})
		}
	}
	return out, errors.Join(errs...)
}

// places returns where the host has state. What cannot be read is an error and
// the rest is returned; the function closes what was opened.
func (s Settings) places(ctx context.Context, h Host) ([]hostcache.Place, func() error, error) {
	none := func() error { return nil }
	cache, err := s.cacheDir(h)
	if err != nil {
		return nil, none, err
	}
	var places []hostcache.Place
	layouts, err := hostcache.Layouts(ctx, cache, h.Now)
	errs := []error{err}
	if len(layouts) > 0 {
		places = append(places, hostcache.Place{Path: cache, Stores: layouts})
	}
	paths := s.daemonPaths(h)
	if _, err := os.Stat(filepath.Join(paths.State, "engine")); errors.Is(err, fs.ErrNotExist) {
		return places, none, errors.Join(errs...)
	}
	engine, err := s.records(ctx, h)
	if err != nil {
		return places, none, errors.Join(append(errs, err)...)
	}
	places = append(places, hostcache.Place{Path: paths.State, Stores: []host.Store{hostcache.Engine(engine)}})
	return places, engine.Close, errors.Join(errs...)
}

// records connects to the host's own engine.
func (s Settings) records(ctx context.Context, h Host) (*client.Client, error) {
	address, _, err := daemonctl.Ensure(ctx, daemonctl.Options{Paths: s.daemonPaths(h), Beside: h.Program})
	if err != nil {
		return nil, fmt.Errorf("start the engine, which alone can remove its records: %w", err)
	}
	return client.New(ctx, address)
}
