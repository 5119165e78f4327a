package hostcache

import (
	"context"
	"errors"
	"path/filepath"
	"time"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/storage/local"
)

// What lies where below the cache directory.
const (
	// StagesDir has a layout for the local stages of each project.
	StagesDir = "stages"
	// KeptDir has one for the results of each project that wait to be published.
	KeptDir = "kept"
	// FetchedDir has one for what was read from each storage.
	FetchedDir = "fetched"
	// GitDir has the commits of other repositories.
	GitDir = "git"
)

// Host is where the local state of a host is.
type Host struct {
	// Cache is the cache directory, State that of the daemon. Either may be empty,
	// and need not exist.
	Cache, State string
	// Records opens the engine's records, and is the one to close them. Where it is
	// nil, or gives nil without an error, the engine is left out.
	Records func(ctx context.Context) (Records, error)
	// Now is the clock.
	Now func() time.Time
	// Memory remembers what manifests lead to from one pass to the next; may be nil.
	Memory *local.Memory
}

// Volumes returns the volumes on which the host has state, with what can be
// evicted from each. What cannot be read is an error, and the rest is returned.
func (h Host) Volumes(ctx context.Context) ([]Place, error) {
	var places []Place
	var errs []error
	if h.Cache != "" && isDir(h.Cache) {
		stores, err := h.layouts(ctx)
		errs = append(errs, err)
		if dir := filepath.Join(h.Cache, GitDir); isDir(dir) {
			stores = append(stores, &commits{dir: dir})
		}
		places = append(places, newPlace(PlaceCache, h.Cache, stores...))
	}
	if h.State != "" && isDir(filepath.Join(h.State, "engine")) {
		stores, err := h.engine(ctx)
		errs = append(errs, err)
		places = append(places, newPlace(PlaceEngine, h.State, stores...))
	}
	volumes, err := Volumes(places)
	return volumes, errors.Join(append(errs, err)...)
}

func (h Host) engine(ctx context.Context) ([]host.Store, error) {
	if h.Records == nil {
		return nil, nil
	}
	r, err := h.Records(ctx)
	if err != nil || r == nil {
		return nil, err
	}
	return []host.Store{Engine(r)}, nil
}

// Fill is how full the volume of a place is.
type Fill struct {
	// Name and Path are those of the place.
	Name, Path string
	host.Volume
}

// Fills measures the volumes that the host's directories are on, each once. It
// costs a few system calls and reads nothing.
func (h Host) Fills() ([]Fill, error) {
	var places []Place
	if h.Cache != "" && isDir(h.Cache) {
		places = append(places, Place{Name: PlaceCache, Path: h.Cache})
	}
	if h.State != "" && isDir(h.State) {
		places = append(places, Place{Name: PlaceEngine, Path: h.State})
	}
	volumes, err := Volumes(places)
	if err != nil {
		return nil, err
	}
	out := make([]Fill, len(volumes))
	for i, v := range volumes {
		out[i] = Fill{Name: v.Name, Path: v.Path}
		if out[i].Volume, err = Measure(v.Path); err != nil {
			return nil, err
		}
	}
	return out, nil
}
