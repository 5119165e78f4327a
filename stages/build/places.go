package build

import (
	"context"
	"hash/fnv"
	"slices"
	"sync"

	"github.com/cairnbuild/cairn/stages"
)

// places bound how many images a run has in hand at once: a run that took the
// entries of everything that is missing would keep other runners from helping.
// Who waits is served by rank.
type places struct {
	mu      sync.Mutex
	free    int
	waiting []*visitor
}

// visitor waits for a place.
type visitor struct {
	rank  uint64
	ready chan struct{} // closed when it has one
}

// take waits for a place, the end of ctx, or until none is needed any more, and
// returns what gives the place back. Queued is called where there is none at once.
func (p *places) take(ctx context.Context, rank uint64, needless <-chan struct{}, queued func()) (give func(), err error) {
	select {
	case <-needless:
		return func() {}, nil
	default:
	}
	v := p.enter(rank)
	select {
	case <-v.ready:
		return sync.OnceFunc(p.give), nil
	default:
	}
	queued()
	select {
	case <-v.ready:
		return sync.OnceFunc(p.give), nil
	case <-needless:
	case <-ctx.Done():
		err = context.Cause(ctx)
	}
	p.abandon(v)
	return func() {}, err
}

func (p *places) enter(rank uint64) *visitor {
	v := &visitor{rank: rank, ready: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.free > 0 {
		p.free--
		close(v.ready)
	} else {
		p.waiting = append(p.waiting, v)
	}
	return v
}

// give passes a place on to who comes first among those that wait.
func (p *places) give() {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.waiting) == 0 {
		p.free++
		return
	}
	first := 0
	for i, v := range p.waiting {
		if v.rank < p.waiting[first].rank {
			first = i
		}
	}
	close(p.waiting[first].ready)
	p.waiting = slices.Delete(p.waiting, first, first+1)
}

// abandon takes a visitor out, who may have been given a place just now.
func (p *places) abandon(v *visitor) {
	p.mu.Lock()
	i := slices.Index(p.waiting, v)
	if i >= 0 {
		p.waiting = slices.Delete(p.waiting, i, i+1)
	}
	p.mu.Unlock()
	if i < 0 {
		p.give()
	}
}

// rank orders the images of a plan in another way for each session, so that
// runners that begin together do not all try for the same image.
func rank(session string, d stages.Digest) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(session)) // a hash takes everything
	_, _ = h.Write(d[:])
	return h.Sum64()
}
