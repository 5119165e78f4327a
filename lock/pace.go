package lock

import (
	"context"
	"sync"
	"time"
)

// Bounds of how many writes of a client are under way at once, whatever the
// number of shards.
const (
	minWindow = 1
	maxWindow = 16
)

// slack is how much longer than its fastest write a store may take before it is
// taken for one that has more to do than it can: slackTimes as long, and slackTime
// for what has nothing to do with the store.
const (
	slackTimes = 4
	slackTime  = 10 * time.Millisecond
)

// restPart is which part of the time that a slow write took too long its client
// rests at most. Longer rests cost the server as much for each write and only make
// everybody wait.
const restPart = 4

// pacer bounds the writes that are under way. A store compares and swaps by
// beginning again whenever another writer was faster, so that many writers of one
// shard cost it the square of their number, and past some number it only gives up
// requests that have become too old. No writer knows of the others, but all see
// how long a write takes. The pacer lets one more write begin for each window of
// quick ones, fewer at once after slow ones, and has a client whose writes are
// slow one at a time pause in between, for as long as the store is behind. What
// waits meanwhile shares the next request.
type pacer struct {
	mu      sync.Mutex
	window  float64
	busy    int
	best    time.Duration // of the fastest write
	behind  time.Duration // the most to rest after the last one
	waiting []chan struct{}
}

func newPacer() *pacer { return &pacer{window: minWindow} }

// enter waits for its turn. It fails only with ctx.
func (p *pacer) enter(ctx context.Context) error {
	p.mu.Lock()
	if p.busy < int(p.window) {
		p.busy++
		p.mu.Unlock()
		return nil
	}
	turn := make(chan struct{}, 1)
	p.waiting = append(p.waiting, turn)
	p.mu.Unlock()
	select {
	case <-turn:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// note takes in how long a write took, and whether it was made.
func (p *pacer) note(took time.Duration, made bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if made && (p.best == 0 || took < p.best) {
		p.best = took
	}
	p.behind = 0
	switch {
	case took <= slackTimes*p.best+slackTime:
		p.window = min(p.window+1/p.window, maxWindow)
	case p.window > minWindow:
		p.window = max(p.window/2, minWindow)
	default:
		p.behind = min((took-p.best)/restPart, maxPause)
	}
}

// rest is the most that the client pauses before the next write.
func (p *pacer) rest() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.behind
}

// leave ends a turn, and gives as many as there may be now.
func (p *pacer) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.busy--
	for p.busy < int(p.window) && len(p.waiting) > 0 {
		p.busy++
		p.waiting[0] <- struct{}{}
		p.waiting = p.waiting[1:]
	}
}
