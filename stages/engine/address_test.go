package engine_test

import (
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/stages/engine"
)

func TestAnAddressSaysHowAnEngineIsReached(t *testing.T) {
	for in, want := range map[string]engine.Address{
		"unix:///run/b k.sock":  {Scheme: engine.SchemeUnix, Target: "/run/b k.sock"},
		"tcp://127.0.0.1:1234":  {Scheme: engine.SchemeTCP, Target: "127.0.0.1:1234"},
		"tcp://[::1]:1234":      {Scheme: engine.SchemeTCP, Target: "[::1]:1234"},
		"tcp://localhost:1234":  {Scheme: engine.SchemeTCP, Target: "localhost:1234"},
		"docker-container://b1": {Scheme: engine.SchemeDocker, Target: "b1"},
		"tcp://b.example.com:1234?cert=c.pem&key=k.pem": {
			Scheme: engine.SchemeTCP, Target: "b.example.com:1234", TLS: &engine.TLS{Cert: "c.pem", Key: "k.pem"},
		},
		"tcp://10.0.0.1:1234?ca=%2Fa%2Cb.pem&cert=c.pem&key=k.pem&servername=b": {
			Scheme: engine.SchemeTCP, Target: "10.0.0.1:1234",
			TLS: &engine.TLS{CA: "/a,b.pem", Cert: "c.pem", Key: "k.pem", ServerName: "b"},
		},
		"kube-pod://ci/buildkit-0": {Scheme: engine.SchemePod, Pod: &engine.Pod{Namespace: "ci", Name: "buildkit-0", Program: "buildctl"}},
		"kube-pod://ci/b?container=buildkitd&program=cairnd&context=me@c&kubeconfig=/k": {
			Scheme: engine.SchemePod, Pod: &engine.Pod{Namespace: "ci", Name: "b", Container: "buildkitd", Program: "cairnd", Context: "me@c", Kubeconfig: "/k"},
		},
	} {
		got, err := engine.ParseAddress(in)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%s: %+v, %v", in, got, err)
		}
	}
}

func TestAnAddressThatCouldMeanSomethingElseIsRefused(t *testing.T) {
	for in, want := range map[string]string{
		"":                             "no address of a BuildKit",
		"buildkit":                     "no address of a BuildKit",
		"tcp://%zz:secret@h:1":         "no address of a BuildKit",
		"ssh://host":                   `the scheme "ssh" is not known`,
		"unix://run/b.sock":            "begins at the root",
		"tcp://me:secret@127.0.0.1:1":  "neither user nor fragment",
		"tcp://127.0.0.1":              "has to be HOST:PORT",
		"tcp://127.0.0.1:1/x":          "has to be HOST:PORT",
		"tcp://127.0.0.1:99999":        "no port",
		"tcp://127.0.0.1:0":            "no port",
		"tcp://0.0.0.0:1":              "needs TLS",
		"tcp://169.254.1.1:1":          "needs TLS",
		"tcp://localhost.evil.com:1":   "needs TLS",
		"tcp://127.0.0.1.nip.io:1":     "needs TLS",
		"tcp://h:1?ca=c":               "needs cert and key",
		"tcp://h:1?cert=c":             "needs cert and key",
		"tcp://h:1?cert=c&key=":        `"key" has to be given once`,
		"tcp://h:1?cert=c&key=k&key=l": `"key" has to be given once`,
		"tcp://h:1?insecure=1":         `"insecure" is not known`,
		"docker-container://--rm":      "no name of a container",
		"docker-container://a/b":       "no name of a container",
		"docker-container://a?x=1":     `"x" is not known`,
		"kube-pod://ci":                "no name of a pod",
		"kube-pod://ci/-it":            "no name of a pod",
		"kube-pod://--x/b":             "no name of a namespace",
		"kube-pod://ci/b/c":            "no name of a pod",
		"kube-pod://ci/b?container=-c": "no name of a container",
		"kube-pod://ci/b?program=sh":   "want buildctl or cairnd",
	} {
		_, err := engine.ParseAddress(in)
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error is %v, want %q", in, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "secret") {
			t.Errorf("%s: the error shows the password: %v", in, err)
		}
	}
}

// FuzzParseAddress: what is handed to programs and API servers as a name can be
// nothing but a name, and nothing is sent in the clear to a name of the network.
func FuzzParseAddress(f *testing.F) {
	for _, s := range []string{"unix:///a", "tcp://127.0.0.1:1", "tcp://h:1?cert=c&key=k", "kube-pod://a/b?container=c", "docker-container://a"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		a, err := engine.ParseAddress(s)
		if err != nil {
			return
		}
		names := []string{}
		switch a.Scheme {
		case engine.SchemeUnix:
			if !filepath.IsAbs(a.Target) {
				t.Errorf("%q: the path %q", s, a.Target)
			}
		case engine.SchemeTCP:
			host, _, err := net.SplitHostPort(a.Target)
			if err != nil || a.TLS == nil && host != "localhost" && !net.ParseIP(host).IsLoopback() {
				t.Errorf("%q: %q in the clear (%v)", s, a.Target, err)
			}
		case engine.SchemeDocker:
			names = append(names, a.Target)
		case engine.SchemePod:
			names = append(names, a.Pod.Namespace, a.Pod.Name)
			if a.Pod.Container != "" {
				names = append(names, a.Pod.Container)
			}
		default:
			t.Errorf("%q: the scheme %q", s, a.Scheme)
		}
		for _, n := range names {
			if n == "" || n[0] == '-' || strings.ContainsAny(n, "/ \t\n?&=%;$`'\"\\") {
				t.Errorf("%q: the name %q", s, n)
			}
		}
	})
}

// What answers for a pod only when it is told how to reach one.
func TestAPodCannotBeReachedWithoutAWay(t *testing.T) {
	_, err := engine.Dial(t.Context(), "kube-pod://ci/b", engine.Options{Now: time.Now})
	if !errors.Is(err, engine.ErrNoConnect) {
		t.Errorf("error is %v", err)
	}
}
