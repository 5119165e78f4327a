package daemon

import (
	"context"
	"errors"
	"sync"
	"time"
)

// errIdle ends a daemon that nobody needs.
var errIdle = errors.New("idle")

// usage counts connections and knows since when there has been none.
type usage struct {
	mu      sync.Mutex
	active  int
	total   int
	last    time.Time
	leaving bool
	// changed is closed and replaced whenever a connection ends or begins.
	changed chan struct{}
	since   time.Time
}

func newUsage(now time.Time) *usage {
	return &usage{last: now, since: now, changed: make(chan struct{})}
}

// begin counts a connection in; false when the daemon is about to leave.
func (u *usage) begin() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.leaving {
		return false
	}
	u.active++
	u.total++
	u.wake()
	return true
}

func (u *usage) end() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.active--
	u.last = time.Now()
	u.wake()
}

// hold has the idle time begin anew; false when the daemon is about to leave.
func (u *usage) hold() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.leaving {
		return false
	}
	u.last = time.Now()
	return true
}

// leave has begin and hold refuse from now on.
func (u *usage) leave() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.leaving = true
}

func (u *usage) wake() {
	close(u.changed)
	u.changed = make(chan struct{})
}

// counts returns the open connections, all that ever were, and how long there has been none.
func (u *usage) counts() (active, total int, idle time.Duration) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.active == 0 {
		idle = time.Since(u.last)
	}
	return u.active, u.total, idle
}

// awaitIdle returns errIdle when there was no connection for timeout, and has
// new ones refused from then on. It returns nil when ctx ends. Before it decides it
// calls last, in whose time the daemon still serves: who comes then has it stay.
func (u *usage) awaitIdle(ctx context.Context, timeout time.Duration, last func(context.Context)) error {
	if timeout <= 0 {
		return nil
	}
	for {
		left, changed := u.remaining(timeout)
		if left <= 0 {
			last(ctx)
			if u.leaveIfIdle(timeout) {
				return errIdle
			}
			continue
		}
		t := time.NewTimer(left)
		select {
		case <-t.C:
		case <-changed:
		case <-ctx.Done():
		}
		t.Stop()
		if ctx.Err() != nil {
			return nil
		}
	}
}

// remaining returns how long the daemon is to stay at least.
func (u *usage) remaining(timeout time.Duration) (time.Duration, <-chan struct{}) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.active > 0 {
		return timeout, u.changed
	}
	return timeout - time.Since(u.last), u.changed
}

// leaveIfIdle decides to leave, which then holds, unless somebody has come.
func (u *usage) leaveIfIdle(timeout time.Duration) bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.leaving = u.leaving || u.active == 0 && time.Since(u.last) >= timeout
	return u.leaving
}

// drained waits until there is no connection, for at most limit.
func (u *usage) drained(ctx context.Context, limit time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	for {
		u.mu.Lock()
		active, changed := u.active, u.changed
		u.mu.Unlock()
		if active == 0 {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil // they had their time
		}
	}
}
