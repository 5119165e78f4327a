package main

import (
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// meter collects what a load does while it does it.
type meter struct {
	steps, cycles                       times
	patches, refused, changes, requests atomic.Int64
}

func (m *meter) reset() {
	m.steps.reset()
	m.cycles.reset()
	for _, n := range []*atomic.Int64{&m.patches, &m.refused, &m.changes, &m.requests} {
		n.Store(0)
	}
}

// load is what a load was.
type load struct {
	took, server  time.Duration // wall time, and CPU time of the server
	steps, cycles *times

	patches, refused, changes, requests int64
}

func (m *meter) load(took, server time.Duration) load {
	return load{
		took: took, server: server, steps: &m.steps, cycles: &m.cycles,
		patches: m.patches.Load(), refused: m.refused.Load(), changes: m.changes.Load(), requests: m.requests.Load(),
	}
}

func (l load) done() int     { return len(l.cycles.all) }
func (l load) rate() float64 { return float64(l.done()) / l.took.Seconds() }

func (l load) String() string {
	return fmt.Sprintf("%.0f cycles/s, p99 %d ms, %.1f requests a cycle, %.1f ms of server CPU a cycle",
		l.rate(), l.cycles.quantile(0.99).Milliseconds(), float64(l.requests)/float64(l.done()),
		l.server.Seconds()*1e3/float64(l.done()))
}

// middle returns the load with the median rate.
func middle(all []load) load {
	sorted := slices.SortedFunc(slices.Values(all), func(a, b load) int { return int(1e3 * (a.rate() - b.rate())) })
	return sorted[len(sorted)/2]
}

// times collects how long something took.
type times struct {
	mu  sync.Mutex
	all []time.Duration
}

func (t *times) reset() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = nil
}

func (t *times) add(d time.Duration) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.all = append(t.all, d)
}

// quantile returns 0 where there is nothing.
func (t *times) quantile(q float64) time.Duration {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.all) == 0 {
		return 0
	}
	slices.Sort(t.all)
	return t.all[int(q*float64(len(t.all)-1))]
}
