package main

import "sync"

// tasks counts what is under way. Unlike a [sync.WaitGroup] it may be waited for
// while more comes.
type tasks struct {
	mu   sync.Mutex
	n    int
	idle chan struct{} // closed when n is 0; nil then
}

// begin counts one more, until the result is called.
func (t *tasks) begin() (end func()) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n++
	if t.idle == nil {
		t.idle = make(chan struct{})
	}
	return t.end
}

func (t *tasks) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.n--
	if t.n == 0 {
		close(t.idle)
		t.idle = nil
	}
}

// run runs f beside its caller.
func (t *tasks) run(f func()) {
	end := t.begin()
	go func() {
		defer end()
		f()
	}()
}

// wait returns when nothing is under way.
func (t *tasks) wait() {
	for {
		t.mu.Lock()
		idle := t.idle
		t.mu.Unlock()
		if idle == nil {
			return
		}
		<-idle
	}
}
