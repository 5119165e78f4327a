package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
)

// dialStdio copies from in to the daemon's socket and from there to out, until the
// daemon ends the connection. An end of in is passed on.
func dialStdio(ctx context.Context, socket string, in io.Reader, out io.Writer) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("no cairnd serves %s: %w", socket, err)
	}
	defer c.Close()
	stop := context.AfterFunc(ctx, func() { _ = c.Close() })
	defer stop()
	sent := make(chan error, 1)
	go func() {
		_, err := io.Copy(c, in)
		if u, ok := c.(*net.UnixConn); ok {
			err = errors.Join(err, u.CloseWrite())
		}
		sent <- err
	}()
	if _, err := io.Copy(out, c); err != nil {
		return fmt.Errorf("from cairnd: %w", err)
	}
	select {
	case err := <-sent:
		return err
	default:
		return nil // the daemon has ended it; in may never end
	}
}
