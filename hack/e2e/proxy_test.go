package e2e

import (
	"encoding/pem"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
)

// recordingProxy is an HTTP proxy that notes what it is asked for.
type recordingProxy struct {
	*httptest.Server
	// tunnel is where all CONNECTs lead; other requests are answered here.
	tunnel string

	mu    sync.Mutex
	asked map[string]int
}

func newProxy(t *testing.T, tunnel string) *recordingProxy {
	t.Helper()
	p := &recordingProxy{tunnel: tunnel, asked: map[string]int{}}
	p.Server = httptest.NewServer(p)
	t.Cleanup(p.Close)
	return p
}

// ServeHTTP implements [http.Handler].
func (p *recordingProxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	p.mu.Lock()
	p.asked[r.Method+" "+r.Host]++
	p.mu.Unlock()
	if r.Method != http.MethodConnect {
		_, _ = io.WriteString(w, "a word from afar\n") // the client misses what is lost
		return
	}
	there, err := net.Dial("tcp", p.tunnel)
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadGateway)
		return
	}
	defer there.Close()
	w.WriteHeader(http.StatusOK)
	here, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return
	}
	defer here.Close()
	go func() {
		_, _ = io.Copy(there, here) // ends with the connections
		_ = there.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(here, there)
}

// count returns how often something was asked for: "METHOD HOST".
func (p *recordingProxy) count(what string) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.asked[what]
}

// away is the name of a registry that is known to the proxy alone; the certificate
// of a test server is for it.
const away = "example.com"

// newPrivateRegistry serves the shared registry as that one, with a certificate
// that no system trusts, and returns its address and the file of its authority.
func newPrivateRegistry(t *testing.T) (address, ca string) {
	t.Helper()
	target, err := url.Parse(shared.registry.URL())
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewTLSServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(target)
		r.SetXForwarded()
	}})
	t.Cleanup(s.Close)
	ca = filepath.Join(t.TempDir(), "ca.pem")
	if err := os.WriteFile(ca, pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return s.Listener.Addr().String(), ca
}

// withHosts runs a command with a hosts file of its own.
const withHosts = `mount --bind "$1" /etc/hosts && shift && exec "$@"`

func TestPrivateRegistriesAreReachedThroughProxiesAndByTheirAuthorities(t *testing.T) {
	t.Parallel()
	address, ca := newPrivateRegistry(t)
	hosts := filepath.Join(t.TempDir(), "hosts")
	if err := os.WriteFile(hosts, []byte("127.0.0.1 localhost "+away+"\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	_, port, err := net.SplitHostPort(address)
	if err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		env, flags []string
		direct     bool
		code       int
	}{
		"--registry-ca and HTTPS_PROXY":      {[]string{"HTTPS_PROXY=@"}, []string{"--registry-ca", ca}, false, 0},
		"SSL_CERT_FILE and https_proxy":      {[]string{"https_proxy=@", "SSL_CERT_FILE=" + ca}, nil, false, 0},
		"CAIRN_REGISTRY_CA":                  {[]string{"HTTPS_PROXY=@", "CAIRN_REGISTRY_CA=" + ca}, nil, false, 0},
		"NO_PROXY names the registry":        {[]string{"HTTPS_PROXY=@", "NO_PROXY=" + away, "SSL_CERT_FILE=" + ca}, nil, true, 0},
		"no_proxy names another":             {[]string{"HTTPS_PROXY=@", "no_proxy=other.example.com"}, []string{"--registry-ca", ca}, false, 0},
		"HTTP_PROXY is not for HTTPS":        {[]string{"HTTP_PROXY=@"}, []string{"--registry-ca", ca}, true, 0},
		"nobody vouches for the registry":    {[]string{"HTTPS_PROXY=@"}, nil, false, 6},
		"SSL_CERT_FILE is another authority": {[]string{"HTTPS_PROXY=@", "SSL_CERT_FILE=/dev/null"}, nil, false, 6},
	} {
		t.Run(name, func(t *testing.T) {
			proxy, registry := newProxy(t, address), away
			h := newHost(t, 0)
			if c.direct {
				registry += ":" + port
				h.through = []string{"unshare", "--mount", "--propagation", "private", "sh", "-c", withHosts, "sh", hosts}
			}
			for _, e := range c.env {
				h.env = append(h.env, strings.Replace(e, "@", proxy.URL, 1))
			}
			h.flags = c.flags
			p := newProject(t, strings.ReplaceAll(oneCommandOf, "@REGISTRY@", registry), shared.registry)
			res := h.startBuild(t, p, registry+"/"+repository(t)).wait(t)
			if message, hint := res.errorLines(); res.code != c.code || c.code != 0 && (!strings.Contains(message, "certificate") || !strings.Contains(hint, "--registry-ca")) {
				t.Errorf("it ends with %d:\n%s", res.code, res.stderr)
			}
			if asked := proxy.count("CONNECT " + away + ":443"); asked > 0 == c.direct {
				t.Errorf("the proxy was asked %d times", asked)
			}
		})
	}
}

// A proxy is how a machine reaches the world, and nothing that an image follows from.
func TestProxiesReachCommandsAndNoRecipe(t *testing.T) {
	t.Parallel()
	p := newProject(t, `
-- cairn.yaml --
project: proxies
---
image: shell
from: @REGISTRY@/base/busybox
shell: {install: ['echo @NAME@; wget -q -O /word http://afar.example.com/word']}
---
image: dockerfile
dockerfile: Dockerfile
-- Dockerfile --
FROM @REGISTRY@/base/busybox
RUN echo @NAME@; wget -q -O /word http://afar.example.com/word && echo "proxy: $http_proxy" >&2
`, shared.registry)
	var first report
	for i, login := range []string{"", "robot:pass-Kq7-word@"} {
		proxy := newProxy(t, "")
		address := strings.Replace(proxy.URL, "://", "://"+login, 1)
		h := newHost(t, i).with([]string{"HTTP_PROXY=" + address})
		res := h.startBuild(t, p, storageOf(t, shared.registry, login[:min(len(login), 1)])).wait(t)
		r := succeeded(t, res)
		if n := proxy.count("GET afar.example.com"); n != 2 {
			t.Errorf("the commands asked the proxy %d times", n)
		}
		if got := file(t, pull(t, r.ref(t, "shell")), "/word"); got != "a word from afar\n" {
			t.Errorf("the commands got %q", got)
		}
		if strings.Contains(res.stdout+res.stderr, "pass-Kq7-word") {
			t.Errorf("the proxy's password is shown:\n%s", res.stderr)
		}
		if i == 0 {
			first = r
			continue
		}
		for _, image := range []string{"shell", "dockerfile"} {
			if got, want := after(r.ref(t, image), "@"), after(first.ref(t, image), "@"); got != want || r.Root != first.Root {
				t.Errorf("through another proxy %s is %s, was %s; the root is %s, was %s", image, got, want, r.Root, first.Root)
			}
		}
	}
	again := newHost(t, 0).with([]string{"HTTP_PROXY=http://127.0.0.1:9"}).build(t, p, storageOf(t, shared.registry, ""))
	if again.EngineStarted || again.count("built", "assembled") > 0 {
		t.Errorf("another proxy builds again: %v", again.results())
	}
}
