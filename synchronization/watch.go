package synchronization

import (
	"context"
	"errors"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/lock"
)

// Pauses of those who watch.
const (
	// spread is the most that a process waits after a change before it wakes those
	// who wait, so that many processes that wait for the same stage do not read at
	// the same moment. Those of one process read together.
	spread = 25 * time.Millisecond
	// rewatch is the most that it waits before it watches again after a watch ended.
	rewatch = 2 * time.Second
)

// watches are the process's, one for each shard that somebody waits for.
type watches struct {
	cells  lock.Cells
	jitter func(most time.Duration) time.Duration
	log    *zap.Logger
	warned sync.Once

	mu   sync.Mutex
	open map[string]*watch
}

// watch is one shard's, from its first waiter to its last.
type watch struct {
	wakes map[chan<- struct{}]bool // guarded by watches.mu
	began bool                     // guarded by watches.mu; changes since then wake
	stop  context.CancelFunc
	done  chan struct{}
}

// join has wake told once the shard is watched, and of changes from then on, until
// leave is called: who then reads at each wake misses nothing, and need not read
// before the first. wake has room for one.
func (w *watches) join(ctx context.Context, shard string, wake chan<- struct{}) (leave func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one := w.open[shard]
	if one == nil {
		// It serves others too, so it does not end with its first waiter's context.
		life, stop := context.WithCancel(context.WithoutCancel(ctx))
		one = &watch{wakes: map[chan<- struct{}]bool{}, stop: stop, done: make(chan struct{})}
		w.open[shard] = one
		go func() {
			defer close(one.done)
			w.run(life, shard, one)
		}()
	}
	one.wakes[wake] = true
	if one.began {
		tell(wake)
	}
	return func() { w.leave(shard, one, wake) }
}

// leave ends a watch that nobody waits for any more, and waits for its end.
func (w *watches) leave(shard string, one *watch, wake chan<- struct{}) {
	w.mu.Lock()
	delete(one.wakes, wake)
	last := len(one.wakes) == 0
	if last {
		delete(w.open, shard)
	}
	w.mu.Unlock()
	if last {
		one.stop()
		<-one.done
	}
}

// run watches until ctx ends. A watch that ends may have missed something, so
// its end wakes too.
func (w *watches) run(ctx context.Context, shard string, one *watch) {
	for ctx.Err() == nil {
		changes, err := w.cells.Watch(ctx, shard)
		if err == nil {
			w.begin(one, true)
			w.follow(ctx, changes, one)
			w.begin(one, false)
		} else {
			w.refused(ctx, shard, err)
		}
		w.wakeAll(one)
		if sleep(ctx, w.jitter(rewatch)) != nil {
			return
		}
	}
}

// refused tells, once for all shards, of a store that does not let this process
// watch: those who wait then find changes only by looking now and then. One that is
// away is told of by those who ask it something.
func (w *watches) refused(ctx context.Context, shard string, err error) {
	if ctx.Err() != nil || errors.Is(err, lock.ErrUnavailable) {
		return
	}
	w.warned.Do(func() {
		w.log.Warn("the ledger cannot be watched: what others finish is noticed late",
			zap.String("shard", shard), zap.Error(err))
	})
}

func (w *watches) begin(one *watch, began bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	one.began = began
}

// follow wakes for what happened before the watch began, and then for each
// change. What comes within the spread is one wake; so is the state that some
// stores tell when a watch begins.
func (w *watches) follow(ctx context.Context, changes <-chan struct{}, one *watch) {
	for more := true; more; _, more = <-changes {
		if sleep(ctx, w.jitter(spread)) != nil {
			return
		}
		select {
		case _, more = <-changes:
		default:
		}
		w.wakeAll(one)
		if !more {
			return
		}
	}
}

func (w *watches) wakeAll(one *watch) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for wake := range one.wakes {
		tell(wake)
	}
}

func tell(wake chan<- struct{}) {
	select {
	case wake <- struct{}{}:
	default: // it is told already
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	if d <= 0 {
		return context.Cause(ctx)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
