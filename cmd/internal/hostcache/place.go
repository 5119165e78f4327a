package hostcache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"

	"github.com/cairnbuild/cairn/cleanup/host"
)

// Names of places.
const (
	PlaceCache  = "cache"
	PlaceEngine = "engine"
)

// Place is a directory with the stores in it.
type Place struct {
	// Name is [PlaceCache] or [PlaceEngine].
	Name   string
	Path   string
	Stores []host.Store
	// locks are the files that whoever makes a pass over the place holds.
	locks []string
}

// passLock is the file in a place's directory that is held during a pass.
const passLock = "eviction.lock"

func newPlace(name, path string, stores ...host.Store) Place {
	return Place{Name: name, Path: path, Stores: stores, locks: []string{filepath.Join(path, passLock)}}
}

// Volumes merges places that are on the same volume: its fill level is theirs
// together. Name and path are those of the first.
func Volumes(places []Place) ([]Place, error) {
	var out []Place
	at := map[string]int{}
	for _, p := range places {
		volume, err := volumeOf(p.Path)
		if err != nil {
			return nil, err
		}
		if i, ok := at[volume]; ok {
			out[i].Stores = append(out[i].Stores, p.Stores...)
			out[i].locks = append(out[i].locks, p.locks...)
			continue
		}
		at[volume] = len(out)
		out = append(out, p)
	}
	return out, nil
}

// ErrBusy says that another process makes a pass over the same volume.
var ErrBusy = errors.New("another process evicts from this volume")

// lockPause is how long is waited before a pass's lock is tried again.
const lockPause = 100 * time.Millisecond

// PassOptions are how a pass is made.
type PassOptions struct {
	// Wait is for how long another process's pass over the volume is waited for; a
	// longer one gives [ErrBusy].
	Wait time.Duration
	// Waiting is called before such a wait; it may be nil.
	Waiting func(path string)
	// DryRun has nothing evicted, and waits for nobody.
	DryRun bool
}

// Pass makes a pass over the volume; of all processes of a host, one at a time.
func (p Place) Pass(ctx context.Context, r host.Rules, o PassOptions) (host.Result, error) {
	passer := host.Passer{Stores: p.Stores, Measure: func() (host.Volume, error) { return Measure(p.Path) }, DryRun: o.DryRun}
	if o.DryRun {
		return passer.Pass(ctx, r)
	}
	held, err := p.lock(ctx, o)
	defer func() {
		for _, l := range held {
			_ = l.Close() // nothing was written to it
		}
	}()
	if err != nil {
		return host.Result{}, err
	}
	return passer.Pass(ctx, r)
}

// lock takes the locks of all places of the volume, in an order that all
// processes have in common. What it has taken it returns also with an error.
func (p Place) lock(ctx context.Context, o PassOptions) (held []*flock.Flock, err error) {
	limited, cancel := context.WithTimeout(ctx, o.Wait)
	defer cancel()
	for _, path := range slices.Sorted(slices.Values(p.locks)) {
		l := flock.New(path)
		held = append(held, l)
		ok, err := l.TryLock()
		if err == nil && !ok && o.Wait > 0 {
			if o.Waiting != nil {
				o.Waiting(path)
			}
			ok, err = l.TryLockContext(limited, lockPause)
			if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
				err = nil
			}
		}
		if err != nil {
			return held, fmt.Errorf("lock the volume of %s: %w", p.Path, err)
		}
		if !ok {
			return held, fmt.Errorf("%w (%s)", ErrBusy, path)
		}
	}
	return held, nil
}

// isDir reports whether there is a directory at path.
func isDir(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}
