package testbed

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
)

// Counter is a server that commands of stages ask: it counts how often they did
// and can hold an answer back, so that a test has its hand on a command that runs.
type Counter struct {
	server *http.Server
	url    string
	ended  chan struct{}
	seen   func(name string)

	mu    sync.Mutex
	hits  map[string]int
	gates map[string]chan struct{}
}

// StartCounter starts a counter on loopback. Seen is called for each question
// before it is answered; it may be nil.
func StartCounter(ctx context.Context, seen func(name string)) (*Counter, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if seen == nil {
		seen = func(string) {}
	}
	c := &Counter{
		url: "http://" + l.Addr().String(), ended: make(chan struct{}), seen: seen,
		hits: map[string]int{}, gates: map[string]chan struct{}{},
	}
	c.server = &http.Server{Handler: c}
	go func() {
		defer close(c.ended)
		_ = c.server.Serve(l) // it ends by Stop
	}()
	return c, nil
}

// URL is what commands ask, with the name of what they count as the path below it.
func (c *Counter) URL() string { return c.url }

// ServeHTTP implements [http.Handler]: the path is the name of what is counted.
func (c *Counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
	c.seen(name)
	c.mu.Lock()
	c.hits[name]++
	gate := c.gates[name]
	c.mu.Unlock()
	if gate != nil {
		select {
		case <-gate:
		case <-r.Context().Done():
			return
		}
	}
	fmt.Fprintln(w, "counted")
}

// Count returns how often name was asked for.
func (c *Counter) Count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits[name]
}

// Hold has all that ask for name wait until open is called.
func (c *Counter) Hold(name string) (open func()) {
	gate := make(chan struct{})
	c.mu.Lock()
	c.gates[name] = gate
	c.mu.Unlock()
	return sync.OnceFunc(func() {
		c.mu.Lock()
		delete(c.gates, name)
		c.mu.Unlock()
		close(gate)
	})
}

// Stop ends the server.
func (c *Counter) Stop() error {
	err := c.server.Close()
	<-c.ended
	return err
}
