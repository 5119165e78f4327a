package memo

import (
	"context"
	"errors"
	"sync"
)

// flights has equal questions that are asked at the same time asked once. Unlike
// the usual single flight it asks under the context of the first caller, without
// a goroutine; when that caller gives up, one of the others asks anew. The zero
// value is ready.
type flights[V any] struct {
	mu    sync.Mutex
	under map[string]*flight[V]
}

type flight[V any] struct {
	done  chan struct{}
	value V
	err   error
}

// lead asks for all who have joined f, and lets them go also when ask panics.
func (g *flights[V]) lead(key string, f *flight[V], ask func() (V, error)) (V, error) {
	defer g.land(key, f)
	f.value, f.err = ask()
	return f.value, f.err
}

func (g *flights[V]) do(ctx context.Context, key string, ask func() (V, error)) (V, error) {
	for {
		f, mine := g.join(key)
		if mine {
			return g.lead(key, f, ask)
		}
		select {
		case <-ctx.Done():
			var zero V
			return zero, ctx.Err()
		case <-f.done:
		}
		if !gaveUp(f.err) || ctx.Err() != nil {
			return f.value, f.err
		}
	}
}

// gaveUp tells an asker whose context ended, which says nothing about the answer.
func gaveUp(err error) bool {
	return errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded)
}

func (g *flights[V]) join(key string) (f *flight[V], mine bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if f, ok := g.under[key]; ok {
		return f, false
	}
	if g.under == nil {
		g.under = map[string]*flight[V]{}
	}
	f = &flight[V]{done: make(chan struct{})}
	g.under[key] = f
	return f, true
}

func (g *flights[V]) land(key string, f *flight[V]) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.under[key] == f {
		delete(g.under, key)
	}
	close(f.done)
}

// leaveAll has whoever asks from now on not join those who asked before.
func (g *flights[V]) leaveAll() {
	g.mu.Lock()
	defer g.mu.Unlock()
	clear(g.under)
}
