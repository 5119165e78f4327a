package main

import (
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// rates are the chances, from 0 to 1, with which an exchange goes wrong.
type rates struct {
	// lose: the request does not arrive.
	lose float64
	// drop: it is done, and the connection cut in place of an answer.
	drop float64
	// delay: it is done, and the answer late.
	delay float64
	// fail: it is done, and answered with 502.
	fail float64
	// late: the connection is cut at once, and it is done later. Only tags that are
	// put and changes of the ledger.
	late float64
	// cut: a watch ends after a moment.
	cut float64
}

// lateness bounds what is late: an answer, and a write that is done after the runner
// was cut off. An answer may be later than a runner waits for it; a write may not be
// later than Δ, which is far above.
type lateness struct{ answer, write time.Duration }

// maxWatch bounds a watch that is cut off.
const maxWatch = 3 * time.Second

func (s shape) late() lateness {
	if s.delta != 0 {
		return lateness{answer: 4 * time.Second, write: 4 * time.Second}
	}
	return lateness{answer: 12 * time.Second, write: 8 * time.Second}
}

// troubled are the rates of a round with faults: 1 % of the answers are dropped
// or delayed after having been applied.
func troubled() rates {
	return rates{lose: 0.003, drop: 0.006, delay: 0.004, fail: 0.003, late: 0.03, cut: 0.1}
}

// fate is what becomes of an exchange.
type fate int

const (
	fine fate = iota
	lost
	dropped
	delayed
	failed
	late
	refused // 503, in a burst
	fates
)

// weather is what befalls all proxies of a round, and how often anything did.
type weather struct {
	// bursting: the registry answers 503.
	bursting atomic.Bool
	injected [fates]atomic.Int64
	// pending are the requests that are with a proxy, those too whose runner is gone.
	pending tasks
}

// total returns how many exchanges were spoilt.
func (w *weather) total() int64 {
	var n int64
	for i := range w.injected {
		n += w.injected[i].Load()
	}
	return n
}

// dice are the chances of one runner: the same for the same seed.
type dice struct {
	mu sync.Mutex
	r  *rand.Rand
}

func newDice(seed, stream uint64) *dice {
	return &dice{r: rand.New(rand.NewPCG(seed, stream))}
}

func (d *dice) float() float64 {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.Float64()
}

func (d *dice) below(n int) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.r.IntN(n)
}

// upTo returns a duration that is mostly short.
func (d *dice) upTo(most time.Duration) time.Duration {
	x := d.float()
	return time.Duration(x * x * x * float64(most))
}

// throw says what becomes of an exchange. What can be repeated later is deferrable.
func (d *dice) throw(p rates, deferrable bool) fate {
	x := d.float()
	for _, c := range []struct {
		chance float64
		fate   fate
	}{{p.lose, lost}, {p.drop, dropped}, {p.delay, delayed}, {p.fail, failed}, {p.late, late}} {
		if c.fate == late && !deferrable {
			continue
		}
		if x < c.chance {
			return c.fate
		}
		x -= c.chance
	}
	return fine
}
