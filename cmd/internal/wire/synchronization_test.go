package wire

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestTheLedgerIsWhereOthersAre(t *testing.T) {
	home := t.TempDir()
	kubeconfig := filepath.Join(home, ".kube", "config")
	if err := os.MkdirAll(filepath.Dir(kubeconfig), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(kubeconfig, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const cluster, registry = "kubernetes://cairn-synchronization", "registry.example.com/shop"
	for _, test := range []struct {
		name, given, storage string
		env                  map[string]string
		want                 string
	}{
		{"a registry and a kubeconfig at home", "", registry, map[string]string{"HOME": home}, cluster},
		{"a registry and a kubeconfig that is named", "", registry, map[string]string{"KUBECONFIG": "/nowhere:" + kubeconfig}, cluster},
		{"a registry and a kubeconfig that is not there", "", registry, map[string]string{"KUBECONFIG": "/nowhere", "HOME": home}, Local},
		{"a registry in a pod", "", registry, map[string]string{"KUBERNETES_SERVICE_HOST": "10.0.0.1", "KUBERNETES_SERVICE_PORT": "443"}, cluster},
		{"a registry and no cluster", "", registry, nil, Local},
		{"a local storage", "", Local, map[string]string{"HOME": home}, Local},
		{"what was asked for", Local, registry, map[string]string{"HOME": home}, Local},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := Settings{Synchronization: test.given, Storage: test.storage}
			h := Host{Getenv: func(name string) string { return test.env[name] }}
			if got := s.LedgerAddress(h); got != test.want {
				t.Errorf("the ledger is %s, want %s", got, test.want)
			}
		})
	}
}

func TestAddressesOfLedgersAreChecked(t *testing.T) {
	for address, ok := range map[string]bool{
		"": true, Local: true, "kubernetes://ci": true, "kubernetes://ci?context=a": true,
		"kubernetes://ci?ttl=3s": true, "kubernetes://ci?ttl=1ms": false,
		"ci": false, "http://ci": false, "kubernetes://a.b": false, "kubernetes:/x": false,
	} {
		if err := (Settings{Storage: Local, Synchronization: address}).Check(); (err == nil) != ok {
			t.Errorf("%q: got error %v", address, err)
		}
	}
}

func TestAnAddressSaysHowLongItsSessionsLive(t *testing.T) {
	kubeconfig := filepath.Join(t.TempDir(), "config")
	const config = "apiVersion: v1\nkind: Config\ncurrent-context: a\nclusters: [{name: a, cluster: {server: \"https://127.0.0.1:1\"}}]\ncontexts: [{name: a, context: {cluster: a}}]\n"
	if err := os.WriteFile(kubeconfig, []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	for address, want := range map[string]time.Duration{
		"kubernetes://ci?ttl=3s": 3 * time.Second, "kubernetes://ci": 0, Local: 0,
	} {
		s := Settings{Storage: Local, Synchronization: address, StateDir: t.TempDir()}
		env := map[string]string{"KUBECONFIG": kubeconfig, "HOME": t.TempDir()}
		h := Host{Getenv: func(name string) string { return env[name] }, Now: time.Now, Rand: rand.Reader}
		b, o, err := s.openBackend(t.Context(), h, "shop")
		if err != nil {
			t.Fatal(err)
		}
		if o.TTL != want {
			t.Errorf("%s: sessions live for %s, want %s", address, o.TTL, want)
		}
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}
}
