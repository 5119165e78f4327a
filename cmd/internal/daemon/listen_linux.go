package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"go.uber.org/zap"
	"golang.org/x/sync/semaphore"
)

const (
	// handshakeTime is how long a stranger may take to show who he is.
	handshakeTime = 10 * time.Second
	// handshakes are under way at most at once: each costs memory and a signature.
	handshakes = 64
)

// Remote is a TCP address on which a daemon serves builds of other machines. Both
// sides show certificates.
type Remote struct {
	// Address is HOST:PORT.
	Address string
	// CA, Cert and Key are PEM files: who may sign clients' certificates, and the
	// daemon's own. They are read for each connection, so that new ones need no restart.
	CA, Cert, Key string
}

// ParseRemote reads tcp://HOST:PORT?ca=FILE&cert=FILE&key=FILE; "" is nil.
func ParseRemote(text string) (*Remote, error) {
	if text == "" {
		return nil, nil
	}
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	if u.Scheme != "tcp" || u.Port() == "" || u.User != nil || u.Path != "" || u.Fragment != "" {
		return nil, fmt.Errorf("--listen %s: want tcp://HOST:PORT?ca=FILE&cert=FILE&key=FILE", text)
	}
	q, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, fmt.Errorf("--listen %s: %w", text, err)
	}
	r := &Remote{Address: u.Host}
	known := map[string]*string{"ca": &r.CA, "cert": &r.Cert, "key": &r.Key}
	for name, values := range q {
		field, ok := known[name]
		if !ok || len(values) != 1 {
			return nil, fmt.Errorf("--listen %s: want one each of ca, cert and key, not %s", text, name)
		}
		*field = values[0]
	}
	if slices.Contains([]string{r.CA, r.Cert, r.Key}, "") {
		return nil, fmt.Errorf("--listen %s: ca, cert and key are needed, on loopback too: whoever reaches the engine can run anything on it", text)
	}
	return r, nil
}

// config reads the files.
func (r *Remote) config() (*tls.Config, error) {
	pair, err := tls.LoadX509KeyPair(r.Cert, r.Key)
	if err != nil {
		return nil, err
	}
	pem, err := os.ReadFile(r.CA)
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s has no certificate", r.CA)
	}
	return &tls.Config{
		MinVersion: tls.VersionTLS12, NextProtos: []string{"h2"},
		Certificates: []tls.Certificate{pair},
		ClientAuth:   tls.RequireAndVerifyClientCert, ClientCAs: pool,
	}, nil
}

// listen opens the address; nil for a nil Remote.
func (r *Remote) listen(ctx context.Context, log *zap.Logger) (net.Listener, error) {
	if r == nil {
		return nil, nil
	}
	if _, err := r.config(); err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", r.Address)
	if err != nil {
		return nil, fmt.Errorf("--listen: %w", err)
	}
	known := &knownListener{
		Listener: l, log: log, limit: semaphore.NewWeighted(handshakes),
		config:   &tls.Config{MinVersion: tls.VersionTLS12, GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return r.config() }},
		accepted: make(chan net.Conn), failed: make(chan error, 1),
	}
	known.ctx, known.cancel = context.WithCancel(context.WithoutCancel(ctx))
	known.open.Go(known.run)
	return known, nil
}

// knownListener gives connections whose other side has shown who it is. Strangers
// keep neither a builder waiting nor an idle daemon alive.
type knownListener struct {
	net.Listener
	config   *tls.Config
	log      *zap.Logger
	limit    *semaphore.Weighted
	accepted chan net.Conn
	failed   chan error

	ctx    context.Context // until Close; the handshakes have no other
	cancel context.CancelFunc
	open   sync.WaitGroup
}

func (l *knownListener) run() {
	for {
		if l.limit.Acquire(l.ctx, 1) != nil {
			return
		}
		c, err := l.Listener.Accept()
		if err != nil {
			l.failed <- err
			return
		}
		l.open.Go(func() {
			defer l.limit.Release(1)
			l.greet(c)
		})
	}
}

// greet shakes hands with whoever has connected and hands the connection on.
func (l *knownListener) greet(c net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTime)
	defer cancel()
	t := tls.Server(c, l.config)
	if err := t.HandshakeContext(ctx); err != nil {
		l.log.Warn("a connection was refused", zap.Stringer("from", c.RemoteAddr()), zap.String("why", reason(err)))
		_ = c.Close() // the other side has been told, or is gone
		return
	}
	select {
	case l.accepted <- t:
	case <-l.ctx.Done():
		_ = t.Close()
	}
}

// reason is one line of what went wrong, whatever a stranger put into it.
func reason(err error) string {
	return strings.ToValidUTF8(strings.Join(strings.Fields(err.Error()), " "), "?")
}

// Accept implements [net.Listener].
func (l *knownListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.accepted:
		return c, nil
	case err := <-l.failed:
		return nil, err
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements [net.Listener]. When it returns, no handshake goes on.
func (l *knownListener) Close() error {
	l.cancel()
	err := l.Listener.Close()
	l.open.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}
