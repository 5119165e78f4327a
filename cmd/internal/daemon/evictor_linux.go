package daemon

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/client"
	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
	"github.com/cairnbuild/cairn/storage/local"
)

// Eviction is how a daemon keeps the volumes of its host below a mark.
type Eviction struct {
	// Cache is the cache directory of the user's builds; may be empty.
	Cache string
	// Policy says when a volume is too full.
	Policy hostcache.Policy
	// Interval is how often the volumes are looked at, about; 0 for never.
	Interval time.Duration
}

// evictor looks at the host's volumes and evicts from those that are too full.
type evictor struct {
	rules    host.Rules
	interval time.Duration
	on       hostcache.Host
	log      *zap.Logger
	metrics  *evictionMetrics
	// measure returns the fill levels, and pass makes a pass over the volumes.
	measure func() ([]hostcache.Fill, error)
	pass    func(ctx context.Context, r host.Rules) ([]passed, error)
	// warned belongs to the look that is under way; there is one at a time.
	warned warnings

	mu      sync.Mutex // under it: what is told
	running bool
	volumes []daemonctl.VolumeStatus
}

// passed is a pass over one volume.
type passed struct {
	hostcache.Place
	host.Result
	err  error
	took time.Duration
}

// passTime is how long the passes of one look may take. They hold the locks of their
// volumes, for which other processes wait.
const passTime = 10 * time.Minute

// errPassTime is the cause with which such passes end.
var errPassTime = fmt.Errorf("it has taken %s; the next pass goes on", passTime)

// rememberedManifests bounds what a daemon remembers of layouts between passes.
const rememberedManifests = 65536

func newEvictor(c Config, e *supervisor) (*evictor, error) {
	rules, err := c.Eviction.Policy.Rules()
	if err != nil {
		return nil, err
	}
	memory, err := local.NewMemory(rememberedManifests)
	if err != nil {
		return nil, err
	}
	v := &evictor{rules: rules, interval: c.Eviction.Interval, log: c.Log, metrics: newEvictionMetrics(), warned: warnings{}}
	v.on = hostcache.Host{Cache: c.Eviction.Cache, State: c.Paths.State, Now: time.Now, Memory: memory}
	v.measure = v.on.Fills
	v.pass = func(ctx context.Context, r host.Rules) ([]passed, error) { return v.passOver(ctx, r, c, e) }
	return v, nil
}

// run looks again and again until ctx ends. The first look is soon: a daemon that
// was away may find a full volume.
func (v *evictor) run(ctx context.Context) error {
	if v.interval <= 0 {
		return nil
	}
	for wait := v.interval / 10; ; wait = v.interval {
		// Daemons of several users or hosts on one volume do not look in step.
		t := time.NewTimer(wait/2 + rand.N(wait/2+1)) //nolint:gosec // nobody gains by guessing it
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		v.look(ctx)
	}
}

// look measures, and makes a pass where a volume is above its high mark. Errors are
// told in log, status and metrics: a daemon that cannot evict still builds.
func (v *evictor) look(ctx context.Context) {
	if !v.begin() {
		return
	}
	defer v.end()
	fills, err := v.measure()
	v.trouble("cannot measure the volume of the local cache", err)
	if err != nil {
		v.metrics.failed()
		return
	}
	v.measured(fills)
	tooFull := func(f hostcache.Fill) bool { return f.Used > v.rules.Marks.High.Of(f.Volume) }
	for _, f := range fills {
		if !tooFull(f) {
			v.warned.over(f.Path)
		}
	}
	if !slices.ContainsFunc(fills, tooFull) {
		return
	}
	rules := v.rules
	rules.Now = time.Now()
	limited, cancel := context.WithTimeoutCause(ctx, passTime, errPassTime)
	defer cancel()
	all, err := v.pass(limited, rules)
	v.trouble("parts of the local cache cannot be looked at", err)
	for _, p := range all {
		v.passed(p)
	}
	if fills, err := v.measure(); err == nil {
		v.measured(fills)
	}
}

// trouble warns of what keeps from looking; err is nil where nothing does.
func (v *evictor) trouble(what string, err error) {
	if err == nil {
		v.warned.over(what)
		return
	}
	if v.warned.due(what, warning{text: err.Error()}, time.Now()) {
		v.log.Warn(what, zap.Error(err))
	}
}

// passOver makes a pass over each volume that is too full.
func (v *evictor) passOver(ctx context.Context, r host.Rules, c Config, e *supervisor) ([]passed, error) {
	on := v.on
	var engine *client.Client
	on.Records = func(ctx context.Context) (hostcache.Records, error) {
		if _, ready, _ := e.state(); !ready {
			return nil, nil // one that has just died comes back, and so does the next pass
		}
		var err error
		// Past the proxy: who evicts is nobody that the daemon stays for.
		engine, err = client.New(ctx, "unix://"+c.Paths.Engine())
		return engine, err
	}
	volumes, err := on.Volumes(ctx)
	var out []passed
	for _, place := range volumes {
		began := time.Now()
		res, perr := place.Pass(ctx, r, hostcache.PassOptions{})
		out = append(out, passed{place, res, perr, time.Since(began)})
	}
	if engine != nil {
		err = errors.Join(err, engine.Close())
	}
	return out, err
}

func (v *evictor) begin() bool {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.running {
		return false
	}
	v.running = true
	return true
}

func (v *evictor) end() {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.running = false
}

// measured notes fill levels.
func (v *evictor) measured(fills []hostcache.Fill) {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now()
	for _, f := range fills {
		s := v.volume(f.Name, f.Path)
		s.Total, s.Used, s.MeasuredAt = f.Total, f.Used, now
		s.High, s.Low = v.rules.Marks.High.Of(f.Volume), v.rules.Marks.Low.Of(f.Volume)
		v.metrics.measured(f)
	}
}

// passed notes a pass in log, status and metrics. What was evicted is always told.
func (v *evictor) passed(p passed) {
	if errors.Is(p.err, hostcache.ErrBusy) {
		v.metrics.passes.WithLabelValues(passBusy).Inc()
		v.log.Info("another process evicts from the volume", zap.String("volume", p.Name), zap.String("path", p.Path))
		return
	}
	if p.err == nil && p.Goal == 0 {
		return // of several volumes this one has room
	}
	line := v.tell(p)
	v.metrics.passed(p)
	v.mu.Lock()
	defer v.mu.Unlock()
	s := v.volume(p.Name, p.Path)
	s.LastPass = passStatus(p, line)
}

// tell writes a pass to the log, and returns a line that says the same.
func (v *evictor) tell(p passed) string {
	fields := append(hostcache.Fields(p.Place, p.Result), zap.Duration("took", p.took))
	line := fmt.Sprintf("evicted %d items, freed %d bytes", len(p.Evicted), p.Freed())
	switch {
	case p.err != nil:
		line = fmt.Sprintf("%s, and failed: %v", line, p.err)
		if v.warned.due(p.Path, warning{text: p.err.Error()}, time.Now()) {
			v.log.Error("eviction from the local cache failed", append(fields, zap.Error(p.err))...)
			return line
		}
	case !p.Met():
		line = fmt.Sprintf("%s, which is not enough: %s", line, hostcache.Blocked(p.Result))
		if v.warned.due(p.Path, stays(p), time.Now()) {
			v.log.Warn("the volume of the local cache stays too full", fields...)
			return line
		}
	default:
		v.warned.over(p.Path)
	}
	if len(p.Evicted) > 0 {
		v.log.Info("evicted from the local cache", fields...)
	}
	return line
}

func passStatus(p passed, line string) *daemonctl.PassStatus {
	s := &daemonctl.PassStatus{
		EndedAt: time.Now(), Seconds: p.took.Seconds(), Line: line, Met: p.Met() && p.err == nil,
		Evicted: len(p.Evicted), Freed: p.Freed(), Ours: p.Ours, Foreign: p.Foreign,
	}
	for _, b := range p.Blocked {
		s.Blocked = append(s.Blocked, daemonctl.BlockStatus(b))
	}
	return s
}

// volume returns the status of a volume. The caller holds the lock.
func (v *evictor) volume(name, path string) *daemonctl.VolumeStatus {
	for i := range v.volumes {
		if v.volumes[i].Path == path {
			return &v.volumes[i]
		}
	}
	v.volumes = append(v.volumes, daemonctl.VolumeStatus{Volume: name, Path: path})
	return &v.volumes[len(v.volumes)-1]
}

// status tells of the volumes and whether a pass is under way.
func (v *evictor) status() ([]daemonctl.VolumeStatus, bool) {
	v.mu.Lock()
	defer v.mu.Unlock()
	return slices.Clone(v.volumes), v.running
}
