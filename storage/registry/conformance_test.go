package registry

import (
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"path"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

// suite runs the conformance suite, each check in a repository of its own.
func suite(t *testing.T, host string) {
	o := (&recorder{}).options()
	// A registry on a file system answers 500 to a read in the moment in which the
	// tag is written: delays have to be real ones to get past it, if short.
	o.Sleep = nil
	o.Retry = Retry{Attempts: 8, Base: 2 * time.Millisecond, Max: 100 * time.Millisecond}
	var n atomic.Int64
	storagetest.Run(t, func(t *testing.T) storage.Storage {
		return newStorage(t, fmt.Sprintf("%s/suite/check-%d", host, n.Add(1)), o)
	})
}

func TestConformanceOfARealRegistry(t *testing.T) {
	suite(t, testbed.NewRegistry(t, testbed.RegistryOptions{}).Address())
}

func TestConformanceOfAnInProcessRegistry(t *testing.T) {
	host := strings.TrimSuffix(newFaulty(t, nil).address(""), "/")
	s := newStorage(t, host+"/suite/checks", (&recorder{}).options())
	options := storagetest.Options{Run: "test", Now: func() time.Time { return time.Time{} }}
	for r := range storagetest.CheckAll(t.Context(), s, options) {
		// This registry keeps the tags of a manifest that was deleted.
		if known := r.Name == "delete-manifest"; known != (r.Outcome == storagetest.Failed) {
			t.Errorf("%s: %s: %v", r.Name, r.Outcome, r.Err)
		}
	}
}

func TestConformanceBehindAProxyThatFails(t *testing.T) {
	server := testbed.NewRegistry(t, testbed.RegistryOptions{})
	target := parseURL(t, server.URL())
	proxy := &httputil.ReverseProxy{ErrorLog: log.New(io.Discard, "", 0), Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.Out.Host = r.In.Host // uploads go on at the proxy
	}}
	f := newFaulty(t, proxy)
	var l losses
	f.fault(func(w http.ResponseWriter, r *http.Request) bool { return l.lose(proxy, w, r) })
	suite(t, strings.TrimSuffix(f.address(""), "/"))
	t.Cleanup(http.DefaultTransport.(*http.Transport).CloseIdleConnections)
}

// losses has the first request of each sort fail, and the second one lose its
// answer. Deletions are spared: after a lost answer nobody can tell what was
// never there from what has just been deleted.
type losses struct {
	mu   sync.Mutex
	seen map[string]int
}

func (l *losses) lose(next http.Handler, w http.ResponseWriter, r *http.Request) bool {
	if r.Method == http.MethodDelete {
		return false
	}
	sort := r.Method + " " + r.URL.Path
	if strings.Contains(sort, "/uploads/") {
		sort = path.Dir(sort)
	}
	l.mu.Lock()
	if l.seen == nil {
		l.seen = map[string]int{}
	}
	l.seen[sort]++
	n := l.seen[sort]
	l.mu.Unlock()
	switch n {
	case 1:
		w.WriteHeader(http.StatusServiceUnavailable)
		return true
	case 2:
		next.ServeHTTP(httptest.NewRecorder(), r)
		panic(http.ErrAbortHandler)
	}
	return false
}
