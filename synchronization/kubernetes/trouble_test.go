package kubernetes

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"k8s.io/client-go/rest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// flaw is what becomes of an exchange.
type flaw int

const (
	fine     flaw = iota
	lostCall      // the request does not arrive
	lostAnswer
	lateAnswer // the answer comes when nobody waits for it any more
	overload   // 429 without having looked at the request
	proxyError // 502, after it was applied
)

// proxy stands before the API server and spoils exchanges.
type proxy struct {
	url    string
	count  atomic.Int64
	spoilt atomic.Int64
}

// proxy returns a proxy in which every nth request has a flaw, each kind in turn.
func (y *yard) proxy(t *testing.T, nth int64, late time.Duration) (*proxy, *rest.Config) {
	t.Helper()
	target, err := url.Parse(y.runner.Host)
	if err != nil {
		t.Fatal(err)
	}
	transport, err := rest.TransportFor(y.runner)
	if err != nil {
		t.Fatal(err)
	}
	forward := &httputil.ReverseProxy{
		Rewrite:   func(r *httputil.ProxyRequest) { r.SetURL(target) },
		Transport: transport, FlushInterval: -1, ErrorLog: log.New(io.Discard, "", 0),
	}
	p := &proxy{}
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		n := p.count.Add(1)
		kind := fine
		if n%nth == 0 {
			kind = flaw(1 + p.spoilt.Add(1)%int64(proxyError))
		}
		spoil(w, r, forward, kind, late, over)
	}))
	t.Cleanup(func() { close(over); server.Close() })
	p.url = server.URL
	return p, &rest.Config{Host: server.URL}
}

func spoil(w http.ResponseWriter, r *http.Request, forward http.Handler, kind flaw, late time.Duration, over chan struct{}) {
	watching := r.URL.Query().Get("watch") != ""
	switch {
	case kind == fine, watching && kind != lostCall:
		forward.ServeHTTP(w, r)
		return
	case kind == lostCall:
		panic(http.ErrAbortHandler)
	case kind == overload:
		w.Header().Set("Retry-After", "1")
		w.WriteHeader(http.StatusTooManyRequests)
		return
	}
	forward.ServeHTTP(httptest.NewRecorder(), r.WithContext(context.WithoutCancel(r.Context())))
	switch kind {
	case proxyError:
		w.WriteHeader(http.StatusBadGateway)
	case lateAnswer:
		select {
		case <-time.After(late):
		case <-over:
		}
	}
	panic(http.ErrAbortHandler)
}

func stage(n int) stages.Digest    { return stages.DigestOf(fmt.Appendf(nil, "stage %d", n)) }
func manifest(n int) digest.Digest { return digest.FromString(fmt.Sprintf("manifest %d", n)) }

// runner is a process that brings stages to their end.
type runner struct {
	session *synchronization.Session
	ledger  *synchronization.Ledger
}

// options have deadlines that a test can wait for.
func options(i int) synchronization.Options {
	return synchronization.Options{
		Now: time.Now, Rand: rand.Reader, Holder: fmt.Sprintf("runner %d", i),
		TTL: 20 * time.Second, LookEvery: time.Second, Request: time.Second, Budget: patience,
	}
}

func join(ctx context.Context, b synchronization.Backend, i int) (*runner, error) {
	return joinWith(ctx, b, options(i))
}

func joinWith(ctx context.Context, b synchronization.Backend, o synchronization.Options) (*runner, error) {
	l, err := synchronization.Open(ctx, b, "suite", o)
	if err != nil {
		return nil, err
	}
	s, err := l.Join(ctx)
	if err != nil {
		l.Close()
		return nil, err
	}
	return &runner{session: s, ledger: l}, nil
}

func (r *runner) leave(ctx context.Context) error {
	err := r.session.Close(context.WithoutCancel(ctx))
	r.ledger.Close()
	return err
}

// finish brings a stage to its end, with its own manifest where it decides, and
// reports whether it did.
func (r *runner) finish(ctx context.Context, d stages.Digest, m digest.Digest) (decided bool, err error) {
	for {
		got, err := r.session.TryAcquire(ctx, []stages.Digest{d})
		if err != nil {
			return decided, err
		}
		c := got.Claims[d]
		switch {
		case c == nil && got.Held[d].Entry.State == synchronization.Published:
			return decided, nil
		case c == nil:
			err = r.session.Wait(ctx, []stages.Digest{d}, nil)
		case c.Entry().State == synchronization.Building:
			if err = c.Decide(ctx, m); err == nil {
				decided = true
			}
		default:
			err = c.Published(ctx)
		}
		if err != nil && !errors.Is(err, synchronization.ErrTaken) {
			return decided, err
		}
	}
}

// race has runners finish the same stages and returns how often each was decided.
func race(t *testing.T, open func() *Backend, runners, count int, progress func()) map[int]int {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 3*patience)
	defer cancel()
	var mu sync.Mutex
	decisions := map[int]int{}
	var wg sync.WaitGroup
	for i := range runners {
		b := open()
		wg.Go(func() {
			r, err := join(ctx, b, i)
			if err != nil {
				t.Error(err)
				return
			}
			for n := range count {
				decided, err := r.finish(ctx, stage(n), manifest(i))
				if err != nil {
					t.Errorf("runner %d, stage %d: %v", i, n, err)
					break
				}
				mu.Lock()
				if decided {
					decisions[n]++
				}
				mu.Unlock()
				progress()
			}
			if err := r.leave(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	return decisions
}

func wantOneEach(t *testing.T, decisions map[int]int, count int) {
	t.Helper()
	for n := range count {
		if decisions[n] != 1 {
			t.Errorf("stage %d was decided %d times", n, decisions[n])
		}
	}
}

func (y *yard) testFaults(t *testing.T) {
	t.Parallel()
	const runners, count, nth = 6, 30, 50
	space := y.space(t, Rules())
	p, config := y.proxy(t, nth, 2*time.Second)
	decisions := race(t, func() *Backend { return y.open(t, config, space) }, runners, count, func() {})
	wantOneEach(t, decisions, count)
	if p.spoilt.Load() < 10 {
		t.Errorf("only %d of %d exchanges were spoilt", p.spoilt.Load(), p.count.Load())
	}
}

// testRestart is the last test, for it disturbs all others.
func (y *yard) testRestart(t *testing.T) {
	const runners, count, kills = 4, 40, 2
	space := y.space(t, Rules())
	var steps atomic.Int64
	var crash sync.Mutex
	decisions := race(t, func() *Backend { return y.open(t, y.runner, space) }, runners, count, func() {
		if n := steps.Add(1); n%(runners*count/(kills+1)) != 0 || n > runners*count*kills/(kills+1)+1 {
			return
		}
		crash.Lock()
		defer crash.Unlock()
		if err := errors.Join(y.Kill(), y.Restart(t.Context())); err != nil {
			t.Error(err)
		}
	})
	wantOneEach(t, decisions, count)
}
