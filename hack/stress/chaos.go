package main

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"
)

// harm is what is done to a round at a moment.
type harm string

const (
	killing    harm = "kill"    // of a runner, followed by a new one
	stopping   harm = "stop"    // of a runner, for three times the TTL
	restarting harm = "restart" // of the API server, by kill -9
	bursting   harm = "burst"   // of errors at the registry
)

// blow is harm that strikes when a moment has come for the nth time.
type blow struct {
	moment moment
	nth    int
	harm   harm
}

// burstLasts is for how long the registry answers 503: less than the retries of a
// request last together, so that runs survive it.
const burstLasts = 700 * time.Millisecond

// plan deals the harm of a round out over its course, the same for the same seed.
func plan(seed uint64, s shape) []blow {
	if s.waves > 0 {
		return planCleaning(seed, s)
	}
	r := rand.New(rand.NewPCG(seed, 7))
	moments := []moment{commandRuns, entryAcquired, manifestSaved, stageDecided, tagPut, stageOver}
	var all []blow
	for _, h := range []struct {
		harm harm
		n    int
	}{{killing, s.kills}, {stopping, s.stops}, {restarting, s.restarts}, {bursting, s.bursts}} {
		for range h.n {
			m := moments[r.IntN(len(moments))]
			// Not all stages have commands, and the last ones of a round may not need
			// what is struck.
			all = append(all, blow{moment: m, nth: 1 + r.IntN(s.images*len(sections())*9/10), harm: h.harm})
		}
	}
	return all
}

// strike is called at each moment of the round.
func (r *round) strike(m moment, nth int, runner string) {
	for _, b := range r.plan {
		if b.moment == m && b.nth == nth {
			r.hit(b.harm, runner)
		}
	}
}

// hit does harm. A kill or a stop hits the runner that brought the moment about,
// where it is known: it is then in the middle of what it does.
func (r *round) hit(h harm, runner string) {
	switch h {
	case killing:
		if p := r.victim(runner); p != nil && r.kill(p) {
			r.kills.Add(1)
			if !p.cleaner { // after a cleaner there always comes another
				r.later.run(func() { r.replace(p) })
			}
		}
	case stopping:
		if p := r.victim(runner); p != nil && r.pause(p, r.stopLasts()) {
			r.stops.Add(1)
		}
	case restarting:
		r.later.run(r.restart)
	case bursting:
		r.bursts.Add(1)
		r.weather.bursting.Store(true)
		r.later.run(func() {
			<-time.After(burstLasts)
			r.weather.bursting.Store(false)
		})
	}
}

// stopLasts is for how long a runner is paused: so long that others take it for dead.
func (r *round) stopLasts() time.Duration { return cmp.Or(r.shape.pause, 3*r.lab.ttl) }

// victim returns the named runner, or any that builds.
func (r *round) victim(name string) *process {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, p := range r.cleaners {
		if p.name == name && !p.over() {
			return p
		}
	}
	var running []*process
	for _, p := range r.processes {
		if p.over() {
			continue
		}
		if p.name == name {
			return p
		}
		running = append(running, p)
	}
	if len(running) == 0 {
		return nil
	}
	return running[r.dice.below(len(running))]
}

// replace starts a new runner on the host of one that was killed.
func (r *round) replace(p *process) {
	<-p.done
	r.mu.Lock()
	r.serial++
	n := r.serial
	r.mu.Unlock()
	j := p.job
	j.name, j.skew = fmt.Sprintf("%s-%d", p.host.name(), n), r.skew(n)
	r.launch(j)
}

// restart kills the API server and starts it again, one at a time.
func (r *round) restart() {
	r.crash.Lock()
	defer r.crash.Unlock()
	r.restarts.Add(1)
	if err := r.lab.cluster.Kill(); err != nil {
		r.fail(err)
	}
	if err := r.lab.cluster.Restart(r.ctx); err != nil {
		r.fail(err)
	}
}

// names returns the runners that have not ended.
func (r *round) names() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []string
	for _, p := range r.processes {
		if !p.over() {
			all = append(all, p.name)
		}
	}
	slices.Sort(all)
	return all
}
