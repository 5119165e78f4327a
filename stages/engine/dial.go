package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"syscall"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/connhelper/dockercontainer"
)

// ErrNoConnect is returned for an address that only the caller can reach, where
// [Options.Connect] is not set.
var ErrNoConnect = errors.New("nobody has said how to reach it")

// ErrNotLoopback is returned where "localhost" is another machine.
var ErrNotLoopback = errors.New("plain TCP is for loopback addresses")

// anywhere is what gRPC is told to connect to where a dialer of ours does that.
const anywhere = "passthrough:///engine"

// connect returns a client of the BuildKit at a. Nothing is sent yet.
func connect(ctx context.Context, a Address, o Options) (*client.Client, error) {
	target, opts, err := clientOptions(a, o)
	if err != nil {
		return nil, err
	}
	return client.New(ctx, target, opts...)
}

func clientOptions(a Address, o Options) (target string, opts []client.ClientOpt, err error) {
	if a.TLS != nil {
		// Left to gRPC, which honours HTTPS_PROXY and NO_PROXY.
		return SchemeTCP + "://" + a.Target, a.TLS.options(a.Target), nil
	}
	dial, err := dialer(a, o)
	if err != nil {
		return "", nil, err
	}
	return anywhere, []client.ClientOpt{client.WithContextDialer(dial)}, nil
}

// options have both ends show a certificate. Go's TLS refuses versions below 1.2.
func (t *TLS) options(target string) []client.ClientOpt {
	name := t.ServerName
	if name == "" {
		name = (&url.URL{Host: target}).Hostname()
	}
	server := client.WithServerConfig(name, t.CA)
	if t.CA == "" {
		server = client.WithServerConfigSystem(name)
	}
	return []client.ClientOpt{server, client.WithCredentials(t.Cert, t.Key)}
}

// dialer returns what opens an unencrypted stream to a.
func dialer(a Address, o Options) (func(ctx context.Context, _ string) (net.Conn, error), error) {
	switch a.Scheme {
	case SchemeUnix:
		return func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", a.Target)
		}, nil
	case SchemeTCP:
		d := &net.Dialer{ControlContext: onlyLoopback}
		return func(ctx context.Context, _ string) (net.Conn, error) { return d.DialContext(ctx, "tcp", a.Target) }, nil
	case SchemeDocker:
		h, err := dockercontainer.Helper(&url.URL{Scheme: a.Scheme, Host: a.Target})
		if err != nil {
			return nil, err
		}
		return h.ContextDialer, nil
	}
	if o.Connect == nil {
		return nil, ErrNoConnect
	}
	return func(ctx context.Context, _ string) (net.Conn, error) { return o.Connect(ctx) }, nil
}

// onlyLoopback refuses to connect to an address, looked up by now, of another
// machine: whoever answers for a name could have builds come to theirs.
func onlyLoopback(_ context.Context, _, address string, _ syscall.RawConn) error {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return err
	}
	if !isLoopback(host) {
		return fmt.Errorf("%s: %w", address, ErrNotLoopback)
	}
	return nil
}
