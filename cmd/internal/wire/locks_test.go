package wire

import (
	"crypto/rand"
	"errors"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// clusterAt returns a host whose kubeconfig leads to a server.
func clusterAt(t *testing.T, url string) Host {
	t.Helper()
	kubeconfig := filepath.Join(t.TempDir(), "config")
	config := "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: \"" + url + "\"}}]\ncontexts: [{name: a, context: {cluster: a}}]\n"
	if err := os.WriteFile(kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	env := map[string]string{"KUBECONFIG": kubeconfig, "HOME": t.TempDir()}
	return Host{Getenv: func(name string) string { return env[name] }, Now: time.Now, Rand: rand.Reader}
}

func TestAServerThatNeverAnswersIsNotWaitedForWithoutEnd(t *testing.T) {
	over := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-over }))
	defer server.Close()
	defer close(over)
	s := Settings{Storage: Local, Synchronization: "kubernetes://ci", SynchronizationTimeout: 200 * time.Millisecond}
	_, err := s.Locks(t.Context(), clusterAt(t, server.URL), "shop")
	var away *AwayError
	if !errors.As(err, &away) || !errors.Is(err, synchronization.ErrUnavailable) || away.Address != s.Synchronization {
		t.Errorf("got error %v", err)
	}
}

func TestWhoLooksAtLocksMakesNoLedger(t *testing.T) {
	s := Settings{Storage: "localhost:1/shop", Synchronization: Local, StateDir: t.TempDir(), SynchronizationTimeout: time.Minute}
	h := Host{Getenv: func(string) string { return "" }, Now: time.Now, Rand: rand.Reader}
	for range 2 {
		k, err := s.Locks(t.Context(), h, "shop")
		if err != nil {
			t.Fatal(err)
		}
		all, err := k.List(t.Context())
		if !k.None() || len(all) != 0 || err != nil {
			t.Errorf("there is a ledger, with %v (error %v)", all, err)
		}
		if noted, err := k.Break(t.Context(), stages.DigestOf(nil), "a test"); noted != "" || err != nil {
			t.Errorf("broke what nobody holds: noted in %q, error %v", noted, err)
		}
		if err := k.Close(); err != nil {
			t.Error(err)
		}
	}
}
