package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// shape is how large a round is and what befalls it.
type shape struct {
	runners, engines, images int
	// work is how many MiB each command hashes, besides what it is about.
	work int
	// faults: the proxies spoil exchanges.
	faults bool
	// clocks is by how much the runners' clocks are wrong, in turn; none is by nothing.
	clocks                         []time.Duration
	kills, stops, restarts, bursts int
	// limit is the deadline of the round.
	limit time.Duration
	cleaning
}

// guard is for how long a runner may rely on a look at its entry, and delta is Δ,
// as cairn has them.
const (
	guard = 30 * time.Second
	delta = 15 * time.Minute
)

// round is one commit built by many.
type round struct {
	lab     *lab
	shape   shape
	seed    uint64
	dir     string
	project project
	past    *past // of a round with cleaners
	hosts   []*host
	record  *recorder
	weather weather
	dice    *dice
	plan    []blow
	ctx     context.Context // of the round; what strikes late needs it too
	later   tasks           // what the round itself still does
	crash   sync.Mutex

	kills, stops, restarts, bursts atomic.Int64

	mu        sync.Mutex
	processes []*process
	serial    int
	errs      []error
	clean     bool // the last run: nothing goes wrong any more
	// cleaners are those that clean up meanwhile.
	cleaners []*process
}

// outcome is what a round showed.
type outcome struct {
	seed                           uint64
	shape                          shape
	wall                           time.Duration
	kills, stops, restarts, bursts int64
	faults                         int64
	commands, distinct             int
	runnerSeconds, startSeconds    float64
	engineSeconds                  float64
	violations                     []history.Violation
	history                        *history.History
	dir                            string
	nonzero                        int
	sweeps                         sweeps
}

// play runs one round.
func (l *lab) play(ctx context.Context, seed uint64, s shape, hosts []*host) (*outcome, error) {
	name := fmt.Sprintf("r%x", seed)
	r := &round{lab: l, shape: s, seed: seed, dir: filepath.Join(l.dir, "r", name), dice: newDice(seed, 3), plan: plan(seed, s), hosts: hosts}
	if err := os.MkdirAll(r.dir, 0o755); err != nil {
		return nil, err
	}
	var err error
	if s.waves > 0 {
		r.past, err = l.newPast(ctx, name, s)
		r.project = r.past.project
	} else {
		r.project, err = l.newProject(ctx, name, s.images, s.work)
	}
	if err != nil {
		return nil, err
	}
	r.record = newRecorder(history.History{
		Name:   fmt.Sprintf("seed %d, %d runners, %d engines, %d images", seed, s.runners, s.engines, s.images),
		Faults: s.faults || s.kills+s.stops+s.restarts+s.bursts > 0,
		Guard:  cmp.Or(s.guard, guard), Delta: cmp.Or(s.delta, delta), Grace: s.grace, Tomb: tomb(),
	})
	defer l.listen(name, func(c string) { r.record.add(history.Event{Kind: history.Command, Command: c}) })()
	r.record.onStrike(r.strike)
	var cancel context.CancelFunc
	r.ctx, cancel = context.WithCancel(ctx)
	defer cancel()
	return r.run(ctx)
}

// run is the course of a round.
func (r *round) run(ctx context.Context) (*outcome, error) {
	observer, err := r.observe(ctx)
	if err != nil {
		return nil, err
	}
	before := r.engineSeconds()
	begin := time.Now()
	if r.past != nil {
		r.waves(ctx)
	} else {
		r.commit()
	}
	out := &outcome{seed: r.seed, shape: r.shape, wall: time.Since(begin), dir: r.dir}
	out.engineSeconds = r.engineSeconds() - before
	r.settle()
	out.runnerSeconds = r.runnerSeconds()
	if err := ctx.Err(); err != nil { // the servers may be gone already
		observer()
		return nil, errors.Join(context.Cause(ctx), r.close())
	}
	r.lastRun()
	observer()
	if err := r.finals(ctx); err != nil {
		r.fail(err)
	}
	r.sum(out)
	return out, r.close()
}

// commit has all runners build the one commit that there is.
func (r *round) commit() {
	for i := range r.shape.runners {
		h := r.hosts[i%len(r.hosts)]
		r.launch(job{name: fmt.Sprintf("%s-%d", h.name(), i), host: h, dir: r.project.dir, skew: r.skew(i)})
	}
	r.mu.Lock()
	r.serial = r.shape.runners
	r.mu.Unlock()
	r.await(r.shape.limit)
}

// launch starts a runner and keeps it. What goes wrong is one of the round's errors.
func (r *round) launch(j job) *process {
	p, err := r.start(j)
	if err != nil {
		r.fail(err)
		return nil
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if j.cleaner {
		r.cleaners = append(r.cleaners, p)
	} else {
		r.processes = append(r.processes, p)
	}
	return p
}

// skew is by how much a runner's clock is wrong.
func (r *round) skew(i int) time.Duration {
	if len(r.shape.clocks) == 0 {
		return 0
	}
	return r.shape.clocks[i%len(r.shape.clocks)]
}

func (r *round) rates() rates {
	if r.shape.faults && !r.isClean() {
		return troubled()
	}
	return rates{}
}

func (r *round) isClean() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.clean
}

// await waits until no runner runs and none is to come. Those that hang are asked
// where they stand, and ended: they are missing in the history then.
func (r *round) await(limit time.Duration) {
	over := time.NewTimer(limit)
	defer over.Stop()
	for {
		p := r.victim("")
		if p == nil {
			r.later.wait() // a replacement may be on its way
			if p = r.victim(""); p == nil {
				return
			}
		}
		select {
		case <-p.done:
		case <-over.C:
			for _, name := range r.names() {
				p := r.victim(name)
				r.fail(fmt.Errorf("runner %s hangs; %s says where", name, p.log.Name()))
				_ = p.cmd.Process.Signal(syscall.SIGCONT)
				_ = p.cmd.Process.Signal(syscall.SIGQUIT)
			}
			over.Reset(patience)
		}
	}
}

// settle waits for all that was sent late, with the servers as they should be.
func (r *round) settle() {
	r.later.wait()
	r.weather.pending.wait()
	r.weather.bursting.Store(false)
}

// lastRun is a run in which nothing goes wrong. It finds, or makes, all there is.
func (r *round) lastRun() {
	r.mu.Lock()
	r.clean = true
	r.mu.Unlock()
	r.record.onStrike(func(moment, int, string) {})
	if r.past != nil {
		r.lastWave()
		return
	}
	r.launch(job{name: "last", host: r.hosts[0], dir: r.project.dir})
	r.await(r.shape.limit)
}

// sum fills in what the round showed.
func (r *round) sum(o *outcome) {
	o.kills, o.stops, o.restarts, o.bursts = r.kills.Load(), r.stops.Load(), r.restarts.Load(), r.bursts.Load()
	o.faults = r.weather.total()
	o.history = r.record.history()
	distinct := map[string]bool{}
	for _, e := range o.history.Events {
		switch {
		case e.Kind == history.Command:
			o.commands++
			distinct[e.Command] = true
		case e.Kind == history.End && e.Exit != 0:
			o.nonzero++
		}
	}
	o.distinct = len(distinct)
	o.sweeps = sweepsOf(o.history)
	o.violations = history.Check(o.history)
}

// fail notes what went wrong with the round itself, or a runner that hangs.
func (r *round) fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.errs = append(r.errs, err)
}

// close gives up what the round had. It returns what went wrong with it.
func (r *round) close() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	errs := r.errs
	for _, p := range slices.Concat(r.processes, r.cleaners) {
		errs = append(errs, p.close())
	}
	return errors.Join(append(errs, os.RemoveAll(r.project.dir))...)
}

func (h *host) name() string { return filepath.Base(h.dir) }

// line is a round as one line.
func (o *outcome) line() string {
	var b strings.Builder
	fmt.Fprintf(&b, "seed %d: %d runners on %d engines, %d stages, %.1f s", o.seed, o.shape.runners, o.shape.engines, o.shape.images*6, o.wall.Seconds())
	if o.history.Faults {
		fmt.Fprintf(&b, "; %d kills, %d stops, %d API restarts, %d bursts, %d spoilt exchanges", o.kills, o.stops, o.restarts, o.bursts, o.faults)
	}
	if o.shape.waves > 0 {
		fmt.Fprintf(&b, "; %s", o.sweeps)
	}
	fmt.Fprintf(&b, "; %d commands, %d run again, %d runs ended with an error; %d violations", o.distinct, o.commands-o.distinct, o.nonzero, len(o.violations))
	return b.String()
}
