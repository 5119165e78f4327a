package registry

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"go.uber.org/zap"
)

// Options say how a [Client] talks. The zero value is usable.
type Options struct {
	// Keychain finds credentials; nil uses Docker's configuration with its
	// credential helpers.
	Keychain authn.Keychain
	// Transport sends single requests; nil makes one from CAFile and the proxy
	// variables of the environment. It must not retry, redirect or authenticate.
	Transport http.RoundTripper
	// CAFile holds PEM certificates that are trusted besides the system's.
	CAFile string
	// UserAgent is sent with every request; "cairn" where empty.
	UserAgent string
	// Concurrency bounds the requests in flight for each registry host; 8 where 0.
	// A blob that is being read counts until its first byte only, so that a
	// reader who sends while reading cannot lock itself out.
	Concurrency int
	Retry       Retry
	Timeouts    Timeouts
	// Now tells the time for the expiry of tokens; nil uses a token until the
	// registry refuses it.
	Now func() time.Time
	// Sleep waits; nil waits on a timer.
	Sleep func(context.Context, time.Duration) error
	// Jitter returns a number in [0,1) that the second half of a computed delay is
	// multiplied with; nil waits the whole delay.
	Jitter func() float64
	// Getenv reads the environment for what a registry's API wants beside Docker's
	// login; nil finds nothing.
	Getenv func(name string) string
	// Logger hears of retries; nil is silent.
	Logger *zap.Logger
	// Observe is called once for each request that was sent, when its answer has
	// been read; from several goroutines.
	Observe func(Exchange)
	// RequestID makes the id of a request, which it carries as [HeaderRequestID], so
	// that it can be found in the log of a server or a proxy; nil sends none.
	RequestID func() string
}

// Retry bounds what is tried again. Zero fields have the defaults.
type Retry struct {
	// Attempts in all; 5.
	Attempts int
	// Base is the longest delay before the second attempt, doubled for each
	// further one up to Max; 250 ms and 10 s.
	Base, Max time.Duration
	// Budget bounds the sum of all delays of one operation, those that a
	// registry asks for with Retry-After included; 2 minutes.
	Budget time.Duration
}

// Timeouts bound silence, not totals: a large blob takes as long as it moves.
// Zero fields have the defaults.
type Timeouts struct {
	// Connect bounds making a connection; 15 s.
	Connect time.Duration
	// Answer bounds the time from the end of a request to the head of its answer; 2 minutes.
	Answer time.Duration
	// Idle bounds the time in which no byte of a body moves; 1 minute.
	Idle time.Duration
}

// Kind says what a request was for.
type Kind string

// The kinds of requests. A registry's access log has those of [KindRegistry] and
// those of [KindAuth] that have status 401.
const (
	// KindRegistry requests are the work itself.
	KindRegistry Kind = "registry"
	// KindAuth requests are those for tokens, and those answered with 401.
	KindAuth Kind = "auth"
	// KindRedirected requests went to another host that the registry named, such
	// as an object storage.
	KindRedirected Kind = "redirected"
)

// HeaderRequestID is the header with the id of a request.
const HeaderRequestID = "X-Request-Id"

// Exchange is one request that was sent, and its answer.
type Exchange struct {
	// Host is the host and port that was asked.
	Host, Method string
	Kind         Kind
	// Status is 0 where no answer came.
	Status int
	// Sent and Received are bytes of bodies.
	Sent, Received int64
	// ID is what [Options].RequestID made.
	ID string
	// Path is what was asked for, without what may be secret: it has no query, ends
	// before the name of an upload, and is empty for another host than the registry.
	Path string
	// Took is the time from sending to the end of the answer's body; 0 without
	// [Options].Now.
	Took time.Duration
}

func (o Options) withDefaults() (Options, error) {
	setDefault(&o.Concurrency, 8)
	setDefault(&o.UserAgent, "cairn")
	setDefault(&o.Retry.Attempts, 5)
	setDefault(&o.Retry.Base, 250*time.Millisecond)
	setDefault(&o.Retry.Max, 10*time.Second)
	setDefault(&o.Retry.Budget, 2*time.Minute)
	setDefault(&o.Timeouts.Connect, 15*time.Second)
	setDefault(&o.Timeouts.Answer, 2*time.Minute)
	setDefault(&o.Timeouts.Idle, time.Minute)
	if o.Keychain == nil {
		o.Keychain = authn.DefaultKeychain
	}
	if o.Sleep == nil {
		o.Sleep = sleep
	}
	if o.Jitter == nil {
		o.Jitter = func() float64 { return 1 }
	}
	if o.Logger == nil {
		o.Logger = zap.NewNop()
	}
	if o.Observe == nil {
		o.Observe = func(Exchange) {}
	}
	if o.RequestID == nil {
		o.RequestID = func() string { return "" }
	}
	if o.Transport != nil {
		return o, nil
	}
	var err error
	o.Transport, err = newTransport(o)
	return o, err
}

func setDefault[T comparable](field *T, value T) {
	var zero T
	if *field == zero {
		*field = value
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-t.C:
		return nil
	}
}

func newTransport(o Options) (*http.Transport, error) {
	roots, err := rootCAs(o.CAFile)
	if err != nil {
		return nil, err
	}
	return &http.Transport{
		Proxy:               http.ProxyFromEnvironment,
		DialContext:         (&net.Dialer{Timeout: o.Timeouts.Connect, KeepAlive: 30 * time.Second}).DialContext,
		TLSClientConfig:     &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12},
		TLSHandshakeTimeout: o.Timeouts.Connect,
		ForceAttemptHTTP2:   true,
		MaxIdleConnsPerHost: o.Concurrency,
		IdleConnTimeout:     90 * time.Second,
		// Content is verified byte by byte: nothing may unpack it on the way.
		DisableCompression: true,
	}, nil
}

// rootCAs returns nil, which means the system's, for no file.
func rootCAs(file string) (*x509.CertPool, error) {
	if file == "" {
		return nil, nil
	}
	pem, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read CA certificates: %w", err)
	}
	pool, err := x509.SystemCertPool()
	if err != nil {
		return nil, fmt.Errorf("load the system's CA certificates: %w", err)
	}
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("read CA certificates %s: %w", file, errNoCertificate)
	}
	return pool, nil
}

var errNoCertificate = errors.New("no PEM certificate in it")
