package registry

import (
	"context"
	"sync"
)

// budget bounds the requests in flight to a host. It becomes smaller when the host
// says that there are too many, by half, and larger again by one after as many
// answers as it has places: so all who use a host find out together what it takes.
type budget struct {
	most int

	mu sync.Mutex
	// places there are now, at least 1, and used of them.
	places, used int
	// good counts answers since places has changed.
	good int
	// held counts those who wait for as long as the host has asked to be left alone.
	held  int
	queue []chan struct{} // of those who wait for a place; closed when one is given
}

func newBudget(most int) *budget { return &budget{most: most, places: most} }

// take waits for a place and returns how to give it back, once.
func (b *budget) take(ctx context.Context) (func(), error) {
	b.mu.Lock()
	mine := make(chan struct{})
	b.queue = append(b.queue, mine)
	b.hand()
	b.mu.Unlock()
	select {
	case <-mine:
		return sync.OnceFunc(b.give), nil
	case <-ctx.Done():
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	for i, other := range b.queue {
		if other == mine {
			b.queue = append(b.queue[:i], b.queue[i+1:]...)
			return nil, context.Cause(ctx)
		}
	}
	b.used-- // it was given a moment ago
	b.hand()
	return nil, context.Cause(ctx)
}

// hand gives free places to those who wait. The caller holds mu.
func (b *budget) hand() {
	for len(b.queue) > 0 && b.used < b.places && b.held == 0 {
		close(b.queue[0])
		b.queue = b.queue[1:]
		b.used++
	}
}

func (b *budget) give() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.used--
	b.hand()
}

// answered is told of each answer: tooMany where the host refused because of the
// number of requests.
func (b *budget) answered(tooMany bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if tooMany {
		// Those in flight were sent before this was known: they count once.
		if b.good > 0 || b.places == b.most {
			b.places = max(1, b.places/2)
		}
		b.good = 0
		return
	}
	if b.good++; b.good >= 4*b.places && b.places < b.most {
		b.places, b.good = b.places+1, 0
	}
	b.hand()
}

// hold keeps new requests back until the returned function is called.
func (b *budget) hold() func() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.held++
	return sync.OnceFunc(func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		b.held--
		b.hand()
	})
}

// inFlight returns how many places are taken.
func (b *budget) inFlight() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.used
}
