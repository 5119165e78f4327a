package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/util/net"
	"k8s.io/client-go/rest"
)

// Options are what a backend needs.
type Options struct {
	// Config says where the API server is and who asks. It is copied. Its limits of
	// rate are not used: the locks bound what is under way themselves. Required.
	Config *rest.Config
	// Namespace holds the ledgers. It is made when missing, where that is allowed.
	// Required.
	Namespace string
	// UserAgent is what the API server's audit log shows.
	UserAgent string
	// Now is this process's clock. People see it in Leases and events; nothing is
	// decided by it. Required.
	Now func() time.Time
}

// Backend is one process's access to a namespace. It is safe for concurrent use.
type Backend struct {
	client    *http.Client
	base      *url.URL
	namespace string
	now       func() time.Time

	life     context.Context
	end      context.CancelFunc
	watchers sync.WaitGroup

	mu      sync.Mutex
	seen    map[string]sight // of shards, by name
	granted map[right]bool   // what was allowed before
	probe   *call            // a read that was allowed before
}

// right is a verb and what it is for.
type right struct{ verb, resource string }

// sight is what the last answer showed of a shard.
type sight struct {
	size int  // bytes of keys and values
	bare bool // the object is there, its data is not
	// managed: the server notes who wrote which key. It does so from an object's
	// creation until it is told to forget; the notes are as large as the keys, and
	// keeping them makes every patch take twice as long.
	managed bool
}

// Open returns the backend. It sends no request. The values of ctx, not its end,
// are used by what runs until Close.
func Open(ctx context.Context, o Options) (*Backend, error) {
	if !plainNamespace.MatchString(o.Namespace) {
		return nil, fmt.Errorf("open the ledger: %q cannot be the name of a namespace", o.Namespace)
	}
	config := rest.CopyConfig(o.Config)
	config.UserAgent = o.UserAgent
	config.NextProtos = []string{"http/1.1"}
	base, _, err := rest.DefaultServerUrlFor(config)
	if err != nil {
		return nil, fmt.Errorf("open the ledger in namespace %s: %w", o.Namespace, err)
	}
	client, err := rest.HTTPClientFor(config)
	if err != nil {
		return nil, fmt.Errorf("open the ledger in namespace %s: %w", o.Namespace, err)
	}
	life, end := context.WithCancel(context.WithoutCancel(ctx))
	return &Backend{
		client: client, base: base, namespace: o.Namespace, now: o.Now,
		life: life, end: end, seen: map[string]sight{}, granted: map[right]bool{},
	}, nil
}

// Address names the backend for people.
func (b *Backend) Address() string { return Address{Namespace: b.namespace}.String() }

// Close ends the watches and the idle connections.
func (b *Backend) Close() error {
	b.end()
	b.watchers.Wait()
	net.CloseIdleConnectionsFor(b.client.Transport)
	return nil
}

// ensureNamespace makes the namespace.
func (b *Backend) ensureNamespace(ctx context.Context) error {
	body, err := encode(object{Kind: "Namespace", APIVersion: "v1", Metadata: metadata{
		Name: b.namespace, Labels: map[string]string{labelManager: manager},
	}})
	if err != nil {
		return err
	}
	c := call{verb: "create", group: groupCore, resource: "namespaces", name: b.namespace, global: true}
	c.typ, c.body = typeJSON, body
	err = b.do(ctx, c, nil)
	if errors.Is(err, errExists) {
		return nil
	}
	return err
}

// create makes an object, and before it the namespace where that is missing.
func (b *Backend) create(ctx context.Context, c call, into any) error {
	err := b.do(ctx, c, into)
	if !errors.Is(err, errNotFound) {
		return err
	}
	if err := b.ensureNamespace(ctx); err != nil {
		return err
	}
	return b.do(ctx, c, into)
}
