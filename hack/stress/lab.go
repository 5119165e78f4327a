package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// namespace holds the ledgers of all rounds.
const namespace = "cairn-stress"

// lab is what the rounds share: the servers, and hosts with engines that stay warm.
type lab struct {
	dir        string
	bin        string
	base       string
	kubeconfig string
	cert       tls.Certificate
	ttl        time.Duration
	registry   *testbed.Registry
	cluster    *testbed.Cluster
	counter    *testbed.Counter
	toRegistry upstream
	toAPI      upstream
	hosts      []*host

	mu sync.Mutex
	// counted is told of commands, by project.
	counted map[string]func(command string)
}

// host is a machine: a home and an engine that nobody else has.
type host struct {
	dir    string
	engine *testbed.Cairnd
}

// newLab starts the servers. It returns what was begun on errors too.
func newLab(ctx context.Context, ttl time.Duration) (*lab, error) {
	// Not the system's own directory for temporary files: the path of a unix socket
	// has 107 bytes at most.
	dir, err := os.MkdirTemp("/tmp", "cs")
	if err != nil {
		return nil, err
	}
	l := &lab{dir: dir, bin: filepath.Join(dir, "bin"), ttl: ttl, counted: map[string]func(string){}}
	if err := testbed.Compile(ctx, l.bin, "./cmd/cairn", "./cmd/cairnd", "./cmd/internal/skewed"); err != nil {
		return l, err
	}
	if l.counter, err = testbed.StartCounter(ctx, l.count); err != nil {
		return l, err
	}
	if l.registry, err = testbed.StartRegistry(ctx, testbed.RegistryOptions{}); err != nil {
		return l, err
	}
	if l.base, err = l.registry.PushBase(ctx, "busybox"); err != nil {
		return l, err
	}
	if l.cluster, err = testbed.StartCluster(ctx, testbed.ClusterOptions{}); err != nil {
		return l, err
	}
	err = l.connect()
	return l, err
}

// connect prepares what the proxies need: the ways to the servers, and the
// certificate and kubeconfig by which runners take a proxy for the API server.
func (l *lab) connect() error {
	config := l.cluster.Config()
	api, err := rest.TransportFor(config)
	if err != nil {
		return err
	}
	target, err := url.Parse(config.Host)
	if err != nil {
		return err
	}
	l.toAPI = upstream{url: target, transport: api}
	l.toRegistry = upstream{
		url:       &url.URL{Scheme: "http", Host: l.registry.Address()},
		transport: &http.Transport{MaxIdleConnsPerHost: 64, IdleConnTimeout: time.Minute},
	}
	var authority []byte
	if l.cert, authority, err = testbed.ServerCertificate(); err != nil {
		return err
	}
	l.kubeconfig = filepath.Join(l.dir, "kubeconfig")
	return l.cluster.WriteKubeconfig(l.kubeconfig, "runner", &rest.Config{
		Host: config.Host, BearerToken: "none", TLSClientConfig: rest.TLSClientConfig{CAData: authority},
	})
}

// engines makes sure of n hosts with engines.
func (l *lab) engines(ctx context.Context, n int) ([]*host, error) {
	for len(l.hosts) < n {
		h, err := l.newHost(ctx, fmt.Sprint("d", len(l.hosts)))
		if err != nil {
			return nil, err
		}
		l.hosts = append(l.hosts, h)
	}
	return l.hosts[:n], nil
}

// newHost makes a host that has never seen anything.
func (l *lab) newHost(ctx context.Context, name string) (*host, error) {
	h := &host{dir: filepath.Join(l.dir, name)}
	if err := os.MkdirAll(filepath.Join(h.dir, "h"), 0o700); err != nil {
		return nil, err
	}
	var err error
	h.engine, err = testbed.StartCairnd(ctx, l.bin, filepath.Join(h.dir, "d"))
	return h, err
}

// count passes on what a command says to the round that it belongs to.
func (l *lab) count(command string) {
	project, _, _ := strings.Cut(command, "/")
	l.mu.Lock()
	f := l.counted[project]
	l.mu.Unlock()
	if f != nil {
		f(command)
	}
}

// listen has commands of a project told to f until the result is called.
func (l *lab) listen(project string, f func(command string)) (stop func()) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.counted[project] = f
	return func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		delete(l.counted, project)
	}
}

func (l *lab) close() error {
	var errs []error
	for _, h := range l.hosts {
		errs = append(errs, h.engine.Stop())
	}
	if l.cluster != nil {
		errs = append(errs, l.cluster.Stop())
	}
	if l.registry != nil {
		errs = append(errs, l.registry.Stop())
	}
	if l.counter != nil {
		errs = append(errs, l.counter.Stop())
	}
	return errors.Join(append(errs, testbed.RemoveAll(l.dir))...)
}
