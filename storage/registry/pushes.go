package registry

import (
	"context"
	"sync"

	"github.com/opencontainers/go-digest"
)

// pushes are the blobs on their way. Stages that are published side by side often
// have the same ones, and registries that keep blobs in plain files are confused
// by two uploads of one blob at a time.
type pushes struct {
	mu sync.Mutex
	m  map[digest.Digest]*push
}

type push struct {
	done chan struct{}
	ok   bool // set before done is closed
}

// once calls send, unless d is on its way: then it waits and calls send only when
// the other one has failed, perhaps for reasons of its own.
func (p *pushes) once(ctx context.Context, d digest.Digest, send func() error) error {
	for {
		mine, other := p.begin(d)
		if mine != nil {
			err := send()
			p.end(d, mine, err == nil)
			return err
		}
		select {
		case <-other.done:
			if other.ok {
				return nil
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// begin returns the push that the caller must end, or the one under way.
func (p *pushes) begin(d digest.Digest) (mine, other *push) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if o := p.m[d]; o != nil {
		return nil, o
	}
	if p.m == nil {
		p.m = make(map[digest.Digest]*push)
	}
	mine = &push{done: make(chan struct{})}
	p.m[d] = mine
	return mine, nil
}

func (p *pushes) end(d digest.Digest, mine *push, ok bool) {
	p.mu.Lock()
	delete(p.m, d)
	p.mu.Unlock()
	mine.ok = ok
	close(mine.done)
}
