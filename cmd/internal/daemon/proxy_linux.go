package daemon

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"time"

	"go.uber.org/zap"
)

// engineWait is how long a connection waits for an engine.
const engineWait = 30 * time.Second

// proxy hands connections on to the engine until l is closed and the last
// connection has ended.
func (d *daemon) proxy(ctx context.Context, l net.Listener) error {
	var open sync.WaitGroup
	defer open.Wait()
	for {
		c, err := l.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return err
		}
		if !d.usage.begin() {
			_ = c.Close() // the caller starts another daemon
			continue
		}
		open.Go(func() {
			defer d.usage.end()
			d.connect(ctx, c)
		})
	}
}

// connect joins c to the engine, for which it waits when that has just started.
func (d *daemon) connect(ctx context.Context, c net.Conn) {
	defer c.Close()
	e, err := d.dialEngine(ctx)
	if err != nil {
		d.config.Log.Error("a connection finds no engine", zap.Error(err))
		return
	}
	defer e.Close()
	stop := context.AfterFunc(ctx, func() { _, _ = c.Close(), e.Close() })
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pass(e, c) })
	both.Go(func() { pass(c, e) })
	both.Wait()
}

// dialEngine connects to the engine. One that does not take the connection is
// about to end, which its parent learns a moment later; the next one will take it.
func (d *daemon) dialEngine(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, engineWait)
	defer cancel()
	for {
		ended, err := d.engine.awaitReady(ctx)
		if err != nil {
			return nil, err
		}
		var dialer net.Dialer
		e, err := dialer.DialContext(ctx, "unix", d.config.Paths.Engine())
		if err == nil {
			return e, nil
		}
		select {
		case <-ended:
		case <-ctx.Done():
			return nil, err
		}
	}
}

// pass copies until from ends, and says so to the other side. Errors are how
// connections usually end; neither side would do anything else about them.
func pass(to, from net.Conn) {
	_, err := io.Copy(to, from)
	if err != nil {
		_, _ = to.Close(), from.Close()
		return
	}
	if u, ok := to.(interface{ CloseWrite() error }); ok {
		_ = u.CloseWrite()
	}
}
