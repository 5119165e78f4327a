package source

import "sync"

// memo computes the value of each key once, also when many ask at a time, and
// remembers failures too: the trees it serves do not change.
type memo[K comparable, V any] struct {
	mu sync.Mutex
	m  map[K]func() (V, error)
}

func (m *memo[K, V]) get(key K, compute func() (V, error)) (V, error) {
	m.mu.Lock()
	f := m.m[key]
	if f == nil {
		if m.m == nil {
			m.m = make(map[K]func() (V, error))
		}
		f = sync.OnceValues(compute)
		m.m[key] = f
	}
	m.mu.Unlock()
	return f()
}
