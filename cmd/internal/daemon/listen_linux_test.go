package daemon

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/moby/buildkit/client"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/hack/testbed"
)

func TestARemoteAddressNamesCertificates(t *testing.T) {
	for text, want := range map[string]string{
		"":                                     "",
		"tcp://0.0.0.0:1234?ca=a&cert=b&key=c": "",
		"tcp://[::]:1234?ca=a&cert=b&key=c":    "",
		"tcp://0.0.0.0:1234":                   "are needed",
		"tcp://127.0.0.1:1234":                 "on loopback too",
		"tcp://0.0.0.0:1?cert=b&key=c":         "are needed",
		"tcp://0.0.0.0?ca=a&cert=b&key=c":      "want tcp://HOST:PORT",
		"unix:///run/x":                        "want tcp://HOST:PORT",
		"tcp://me@h:1?ca=a&cert=b&key=c":       "want tcp://HOST:PORT",
		"tcp://h:1/p?ca=a&cert=b&key=c":        "want tcp://HOST:PORT",
		"tcp://h:1?ca=a&cert=b&key=c&tls=off":  "not tls",
		"tcp://h:1?ca=a&ca=d&cert=b&key=c":     "not ca",
		"tcp://h:1?ca=a;cert=b":                "--listen",
		"tcp://h:1?ca=%zz":                     "--listen",
		"tcp://h:1?ca=a&cert=b&key=c#fragment": "want tcp://HOST:PORT",
		"tcp://h:port?ca=a&cert=b&key=c":       "--listen",
	} {
		_, err := ParseRemote(text)
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

// remote listens with certificates of a directory of its own.
func remote(t *testing.T) (net.Listener, string, *observer.ObservedLogs) {
	t.Helper()
	dir := t.TempDir()
	check(t, testbed.Certify(dir))
	core, logs := observer.New(zap.WarnLevel)
	r := &Remote{Address: "127.0.0.1:0", CA: filepath.Join(dir, "ca.crt"), Cert: filepath.Join(dir, "server.crt"), Key: filepath.Join(dir, "server.key")}
	l, err := r.listen(t.Context(), zap.New(core))
	check(t, err)
	t.Cleanup(func() { check(t, l.Close()) })
	return l, dir, logs
}

// clientOf shows the client's certificate in a directory.
func clientOf(t *testing.T, dir string) *tls.Config {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(filepath.Join(dir, "client.crt"), filepath.Join(dir, "client.key"))
	check(t, err)
	pem, err := os.ReadFile(filepath.Join(dir, "ca.crt"))
	check(t, err)
	pool := x509.NewCertPool()
	pool.AppendCertsFromPEM(pem)
	return &tls.Config{MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{pair}, RootCAs: pool}
}

// greeted connects and returns what the other side's handshake came to. The
// server's verdict on a client comes with the first read.
func greeted(t *testing.T, l net.Listener, c *tls.Config) error {
	t.Helper()
	conn, err := tls.Dial("tcp", l.Addr().String(), c)
	if err != nil {
		return err
	}
	defer conn.Close()
	_, err = conn.Read(make([]byte, 1))
	return err
}

func TestStrangersAreRefusedAndKnownOnesServed(t *testing.T) {
	l, dir, logs := remote(t)
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				return
			}
			_, _ = c.Write([]byte{1}) // what is lost is missed by the test
			_ = c.Close()
		}
	}()
	known := clientOf(t, dir)
	if err := greeted(t, l, known); err != nil {
		t.Fatal(err)
	}
	nobody := known.Clone()
	nobody.Certificates = nil
	other := t.TempDir()
	check(t, testbed.Certify(other))
	foreign := known.Clone()
	foreign.Certificates = clientOf(t, other).Certificates
	old := known.Clone()
	old.MinVersion, old.MaxVersion = tls.VersionTLS10, tls.VersionTLS11
	for name, c := range map[string]*tls.Config{"no certificate": nobody, "another authority's": foreign, "an old version": old} {
		if err := greeted(t, l, c); err == nil || errors.Is(err, io.EOF) {
			t.Errorf("%s: got %v", name, err)
		}
	}
	eventually(t, "each stranger is in the log", func() bool { return logs.FilterMessage("a connection was refused").Len() == 3 })

	// Who renews certificates replaces the files.
	for _, name := range []string{"ca.crt", "server.crt", "server.key"} {
		content, err := os.ReadFile(filepath.Join(other, name))
		check(t, err)
		check(t, os.WriteFile(filepath.Join(dir, name), content, 0o600))
	}
	if err := greeted(t, l, clientOf(t, other)); err != nil {
		t.Errorf("after the certificates were renewed: %v", err)
	}
	if err := greeted(t, l, known); err == nil {
		t.Error("the old authority is still taken")
	}
}

func TestSilentStrangersKeepNobodyWaiting(t *testing.T) {
	l, dir, _ := remote(t)
	for range handshakes / 2 {
		c, err := net.Dial("tcp", l.Addr().String())
		check(t, err)
		t.Cleanup(func() { _ = c.Close() })
	}
	accepted := make(chan error, 1)
	go func() {
		c, err := l.Accept()
		if err == nil {
			err = c.Close()
		}
		accepted <- err
	}()
	if err := greeted(t, l, clientOf(t, dir)); !errors.Is(err, io.EOF) {
		t.Errorf("a known one among strangers gets %v", err)
	}
	check(t, <-accepted)
}

func TestARealDaemonServesOtherMachinesAndPods(t *testing.T) {
	p, dir, address := paths(t), t.TempDir(), freeAddress(t)
	check(t, testbed.Certify(dir))
	check(t, os.MkdirAll(p.State, 0o700))
	file := func(name string) string { return filepath.Join(dir, name) }
	log, err := os.Create(file("log"))
	check(t, err)
	defer log.Close()
	cmd := exec.Command(cairnd, "serve", "--state", p.State, "--socket", p.Socket, "--idle-timeout", "0",
		"--listen", "tcp://"+address+"?ca="+file("ca.crt")+"&cert="+file("server.crt")+"&key="+file("server.key"))
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		check(t, cmd.Process.Signal(syscall.SIGTERM))
		check(t, <-ended)
	})
	eventually(t, "the daemon is ready", func() bool {
		s, err := daemonctl.Ask(context.Background(), p)
		return err == nil && s.Ready
	})

	far, err := client.New(t.Context(), "tcp://"+address, client.WithCredentials(file("client.crt"), file("client.key")), client.WithServerConfig("", file("ca.crt")))
	check(t, err)
	defer far.Close()
	workers, err := far.ListWorkers(t.Context())
	if err != nil || len(workers) != 1 {
		t.Errorf("over TLS: %d workers, %v", len(workers), err)
	}

	pod, err := client.New(t.Context(), "", client.WithContextDialer(func(context.Context, string) (net.Conn, error) {
		return stdio(exec.CommandContext(t.Context(), cairnd, "--state", p.State, "--socket", p.Socket, "dial-stdio"))
	}))
	check(t, err)
	defer pod.Close()
	workers, err = pod.ListWorkers(t.Context())
	if err != nil || len(workers) != 1 {
		t.Errorf("through dial-stdio: %d workers, %v", len(workers), err)
	}

	out, err := exec.Command(cairnd, "--socket", file("nowhere"), "dial-stdio").CombinedOutput()
	if err == nil || !strings.Contains(string(out), "no cairnd serves "+file("nowhere")) {
		t.Errorf("without a daemon: %v: %s", err, out)
	}
}

// stdio is the connection that a command's standard streams are.
func stdio(cmd *exec.Cmd) (net.Conn, error) {
	near, far := net.Pipe()
	cmd.Stdin, cmd.Stdout, cmd.Stderr = far, far, os.Stderr
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	go func() {
		_ = cmd.Wait() // its end is the end of the pipe
		_ = far.Close()
	}()
	return near, nil
}
