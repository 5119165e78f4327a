package e2e

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
)

// counter is a server that commands of stages ask: it counts how often they did
// and can hold an answer back, so that a test has its hand on a command that runs.
type counter struct {
	server *http.Server
	url    string
	ended  chan struct{}

	mu    sync.Mutex
	hits  map[string]int
	gates map[string]chan struct{}
}

func newCounter(ctx context.Context) (*counter, error) {
	var lc net.ListenConfig
	l, err := lc.Listen(ctx, "tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	c := &counter{url: "http://" + l.Addr().String(), ended: make(chan struct{}), hits: map[string]int{}, gates: map[string]chan struct{}{}}
	c.server = &http.Server{Handler: c}
	go func() {
		defer close(c.ended)
		_ = c.server.Serve(l) // it ends by close
	}()
	return c, nil
}

// ServeHTTP implements [http.Handler]: the path is the name of what is counted.
func (c *counter) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	name := strings.TrimPrefix(r.URL.Path, "/")
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

func (c *counter) count(name string) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.hits[name]
}

// hold has commands that ask for name wait until the result is called, or the
// test ends.
func (c *counter) hold(t *testing.T, name string) (open func()) {
	t.Helper()
	gate := make(chan struct{})
	c.mu.Lock()
	c.gates[name] = gate
	c.mu.Unlock()
	open = sync.OnceFunc(func() {
		c.mu.Lock()
		delete(c.gates, name)
		c.mu.Unlock()
		close(gate)
	})
	t.Cleanup(open)
	return open
}

// await waits until name was asked for n times.
func (c *counter) await(t *testing.T, name string, n int) {
	t.Helper()
	await(t, fmt.Sprintf("command %s runs", name), func() bool { return c.count(name) >= n })
}

func (c *counter) close() error {
	err := c.server.Close()
	<-c.ended
	return err
}
