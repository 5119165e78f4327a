package registry

import (
	"sync"
	"sync/atomic"

	"github.com/google/go-containerregistry/pkg/name"
)

// Client makes storages, and owns what those of one registry host share:
// connections, tokens, the limit of concurrent requests. It is safe for
// concurrent use.
type Client struct {
	o Options

	mu    sync.Mutex
	hosts map[string]*host
}

// NewClient returns a client. It fails where [Options].CAFile cannot be used, and
// sends nothing.
func NewClient(o Options) (*Client, error) {
	o, err := o.withDefaults()
	if err != nil {
		return nil, err
	}
	return &Client{o: o, hosts: map[string]*host{}}, nil
}

// Open returns the storage at address, "host[:port]/path". A name without a host
// is Docker Hub's. It sends nothing and fails with [ErrAddress] only.
func (c *Client) Open(address string) (*Storage, error) {
	repo, err := parseAddress(address)
	if err != nil {
		return nil, err
	}
	return c.storage(repo), nil
}

// Close closes connections that are kept for further requests.
func (c *Client) Close() {
	if t, ok := c.o.Transport.(interface{ CloseIdleConnections() }); ok {
		t.CloseIdleConnections()
	}
}

func (c *Client) storage(repo name.Repository) *Storage {
	return &Storage{repo: repo, host: c.host(repo.Registry), hints: hints{m: map[string]hint{}}, unmountable: &sync.Map{}, deletions: newDeletions()}
}

func (c *Client) host(reg name.Registry) *host {
	c.mu.Lock()
	defer c.mu.Unlock()
	h, ok := c.hosts[reg.RegistryStr()]
	if !ok {
		h = &host{
			o:      c.o,
			name:   reg.RegistryStr(),
			budget: newBudget(c.o.Concurrency),
			chunk:  chunkSize,
		}
		h.auth = newAuthorizer(h, reg)
		c.hosts[reg.RegistryStr()] = h
	}
	return h
}

// host is one registry server.
type host struct {
	o Options
	// name is the host with its port, where it has one.
	name   string
	budget *budget
	auth   *authorizer
	// plain: the server of this loopback address was found to speak plain HTTP.
	plain atomic.Bool
	// chunked: the server takes blobs in pieces only; of chunk bytes.
	chunked atomic.Bool
	chunk   int64
}

func (h *host) scheme() string {
	if h.plain.Load() {
		return "http"
	}
	return "https"
}
