package observed

import (
	"maps"
	"sync"
)

// Count is the sum of the events of one operation.
type Count struct {
	Requests, Errors int64
	// Pulled and Pushed are bytes.
	Pulled, Pushed int64
}

func (c Count) plus(o Count) Count {
	return Count{c.Requests + o.Requests, c.Errors + o.Errors, c.Pulled + o.Pulled, c.Pushed + o.Pushed}
}

// Totals is a [Recorder] that adds up. The zero value is ready; it is safe for
// concurrent use.
type Totals struct {
	mu sync.Mutex
	by map[Operation]Count
}

// Record implements [Recorder].
func (t *Totals) Record(e Event) {
	c := Count{Requests: 1, Pulled: e.Pulled, Pushed: e.Pushed}
	if e.Err != nil {
		c.Errors = 1
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.by == nil {
		t.by = map[Operation]Count{}
	}
	t.by[e.Operation] = t.by[e.Operation].plus(c)
}

// By returns the counts of each operation that was used.
func (t *Totals) By() map[Operation]Count {
	t.mu.Lock()
	defer t.mu.Unlock()
	return maps.Clone(t.by)
}

// Sum returns the counts of all operations together.
func (t *Totals) Sum() Count {
	var sum Count
	for _, c := range t.By() {
		sum = sum.plus(c)
	}
	return sum
}
