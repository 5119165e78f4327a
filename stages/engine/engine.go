package engine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/session"
	sessioncontent "github.com/moby/buildkit/session/content"
	"github.com/moby/buildkit/util/grpcerrors"
	"google.golang.org/grpc/codes"
)

// Proxy holds the values of the proxy variables that reach commands. They are
// no part of any key.
type Proxy struct{ HTTP, HTTPS, FTP, No, All string }

// Options of an engine.
type Options struct {
	// Now is the clock that gives files that are put in place their time.
	Now   func() time.Time
	Proxy Proxy
	// Secrets may be nil: none is given then. The same holds for Agents.
	Secrets Secrets
	Agents  *Agents
	// Connect opens a stream to an engine that is in a pod ([SchemePod]). It may be
	// called again when a connection was lost.
	Connect func(ctx context.Context) (net.Conn, error)
}

// Engine is a connection to a BuildKit. Its methods may be called concurrently.
type Engine struct {
	address string
	proxy   llb.ProxyEnv
	client  *client.Client
	session *session.Session
	images  *imageStore
	trees   *treeSource
	secrets *secretStore
	agents  *Agents
	// gone is closed when the session has ended, by Close or because the engine died.
	gone  chan struct{}
	known known
	// cancel ends what reads on behalf of the session.
	cancel context.CancelFunc
	once   sync.Once
}

// Dial connects to the BuildKit at address, which [ParseAddress] reads, and
// waits until it answers, which the context limits.
//
// Images and trees that jobs name stay referenced until [Engine.Close].
func Dial(ctx context.Context, address string, o Options) (*Engine, error) {
	a, err := ParseAddress(address)
	if err != nil {
		return nil, fmt.Errorf("engine address: %w", err)
	}
	c, err := connect(ctx, a, o)
	if err != nil {
		return nil, fmt.Errorf("engine %s: %w", address, err)
	}
	if _, err := c.Info(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("engine %s does not answer: %w", address, classify(err)), c.Close())
	}
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return nil, errors.Join(fmt.Errorf("engine %s: %w", address, err), c.Close())
	}
	life, cancel := context.WithCancel(context.WithoutCancel(ctx))
	e := &Engine{
		address: address, client: c, session: s, cancel: cancel,
		images:  newImageStore(life),
		trees:   newTreeSource(life, o.Now),
		gone:    make(chan struct{}),
		secrets: newSecretStore(o.Secrets, o.Proxy), agents: o.Agents,
		proxy: llb.ProxyEnv{
			HTTPProxy: o.Proxy.HTTP, HTTPSProxy: o.Proxy.HTTPS, FTPProxy: o.Proxy.FTP, NoProxy: o.Proxy.No, AllProxy: o.Proxy.All,
		},
	}
	s.Allow(fileSync{e.trees})
	s.Allow(sessioncontent.NewAttachable(map[string]content.Store{"oci:" + storeID: e.images}))
	go e.serve(life)
	return e, nil
}

// serve answers the engine's requests until the session ends.
func (e *Engine) serve(ctx context.Context) {
	defer close(e.gone)
	// How a session ended does not matter: whoever still needs it finds it gone.
	_ = e.session.Run(ctx, e.client.Dialer())
}

// Close ends the session and the connection. Jobs that run are cancelled.
func (e *Engine) Close() error {
	var err error
	e.once.Do(func() {
		e.cancel()
		err = errors.Join(e.session.Close(), e.client.Close())
		<-e.gone
		err = errors.Join(err, e.images.Close())
	})
	return err
}

// classify marks an error that means that the engine cannot be reached.
func classify(err error) error {
	if grpcerrors.Code(err) == codes.Unavailable {
		return fmt.Errorf("%w: %w", ErrEngineGone, err)
	}
	return err
}
