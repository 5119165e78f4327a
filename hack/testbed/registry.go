package testbed

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"
)

// Time limits of servers. They are far above what was measured (a registry is
// ready after about 50 ms) because machines that run tests are busy.
const (
	startLimit = 30 * time.Second
	stopGrace  = 5 * time.Second
)

// RegistryOptions say how a registry is set up; the zero value is an open one
// over plain HTTP.
type RegistryOptions struct {
	// Users maps names to passwords; any entry makes the registry ask for one.
	Users map[string]string
	// TLS serves HTTPS with a certificate for 127.0.0.1 and localhost by an own
	// authority, see [Registry.CAFile].
	TLS bool
	// Dir is where everything is kept; empty for a new temporary directory, which
	// Stop removes.
	Dir string
}

// Registry is a running docker-registry with file system storage, deletion
// enabled, on loopback.
type Registry struct {
	address string
	dir     string
	ownDir  bool
	opts    RegistryOptions
	client  *http.Client
	log     accessLog
	proc    *process
	// logDone is closed when all output of the current process has been read.
	logDone chan struct{}
}

// StartRegistry starts a registry and returns when it answers.
func StartRegistry(ctx context.Context, opts RegistryOptions) (_ *Registry, err error) {
	if _, err := program("docker-registry"); err != nil {
		return nil, err
	}
	r := &Registry{opts: opts, dir: opts.Dir}
	if r.dir == "" {
		if r.dir, err = os.MkdirTemp("", "cairn-registry-"); err != nil {
			return nil, err
		}
		r.ownDir = true
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.Stop())
		}
	}()
	if r.address, err = freeAddress(ctx); err != nil {
		return nil, err
	}
	if err = r.configure(); err != nil {
		return nil, err
	}
	if err = r.serve(ctx); err != nil {
		return nil, err
	}
	return r, nil
}

// NewRegistry is [StartRegistry] for a test, which ends it.
func NewRegistry(t T, opts RegistryOptions) *Registry {
	t.Helper()
	r, err := StartRegistry(t.Context(), opts)
	if err != nil {
		t.Fatalf("start a registry: %v", err)
	}
	t.Cleanup(func() {
		if err := r.Stop(); err != nil {
			t.Errorf("stop the registry: %v", err)
		}
	})
	return r
}

// Address returns host:port, the first part of image references.
func (r *Registry) Address() string { return r.address }

// URL returns the address with its scheme.
func (r *Registry) URL() string {
	if r.opts.TLS {
		return "https://" + r.address
	}
	return "http://" + r.address
}

// CAFile returns the PEM file of the authority that signed the certificate of a
// registry with TLS.
func (r *Registry) CAFile() string { return filepath.Join(r.dir, "ca.pem") }

// Client returns an HTTP client that trusts the registry's authority.
func (r *Registry) Client() *http.Client { return r.client }

// AccessLog returns all requests that were answered before this call.
//
// The server writes its log a moment after the answer, so this sends one more
// request, which does not appear in the log, and waits for its line.
func (r *Registry) AccessLog(ctx context.Context) ([]Request, error) {
	if err := r.settle(ctx); err != nil {
		return nil, fmt.Errorf("read the registry's access log: %w", err)
	}
	return r.log.snapshot(), nil
}

// Answered returns how many requests the log has at this moment. Unlike
// [Registry.AccessLog] it asks the server for nothing, so that it can be called often.
func (r *Registry) Answered() int { return r.log.len() }

// ResetLog forgets all requests so far.
func (r *Registry) ResetLog(ctx context.Context) error {
	if err := r.settle(ctx); err != nil {
		return err
	}
	r.log.reset()
	return nil
}

// StoredBytes returns the size of all blobs, which grows by what is uploaded.
func (r *Registry) StoredBytes() (int64, error) {
	var total int64
	err := filepath.WalkDir(filepath.Join(r.storage(), "docker", "registry", "v2", "blobs"), func(_ string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		if err == nil {
			total += info.Size()
		}
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	return total, err
}

// Kill ends the server as a crash would; Restart brings it back.
func (r *Registry) Kill() error { return r.end((*process).kill) }

// Restart ends the server where it runs and starts it with its data at the same address.
func (r *Registry) Restart(ctx context.Context) error {
	if err := r.end(func(p *process) error { return p.stop(stopGrace) }); err != nil {
		return err
	}
	return r.serve(ctx)
}

// Stop ends the server and removes the directory that it made.
func (r *Registry) Stop() error {
	err := r.end(func(p *process) error { return p.stop(stopGrace) })
	if r.ownDir {
		err = errors.Join(err, os.RemoveAll(r.dir))
	}
	return err
}

// GarbageCollect runs the registry's own collector, which removes blobs that no
// manifest refers to. Nothing may write meanwhile.
func (r *Registry) GarbageCollect(ctx context.Context, flags ...string) error {
	args := append(append([]string{"garbage-collect"}, flags...), r.config())
	out, err := exec.CommandContext(ctx, "docker-registry", args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("collect garbage: %w: %s", err, out)
	}
	return nil
}

// BlobFile returns the file in which the registry keeps the content with a sha256
// digest, for tests that damage it.
func (r *Registry) BlobFile(digest string) string {
	hex := strings.TrimPrefix(digest, "sha256:")
	return filepath.Join(r.storage(), "docker", "registry", "v2", "blobs", "sha256", hex[:2], hex, "data")
}

func (r *Registry) storage() string { return filepath.Join(r.dir, "data") }
func (r *Registry) config() string  { return filepath.Join(r.dir, "config.yml") }

// configure writes the files that the server reads.
func (r *Registry) configure() error {
	var c strings.Builder
	fmt.Fprintf(&c, "version: 0.1\nlog: {level: error, accesslog: {disabled: false}}\n")
	fmt.Fprintf(&c, "storage: {filesystem: {rootdirectory: %q}, delete: {enabled: true}, maintenance: {uploadpurging: {enabled: false}}}\n", r.storage())
	r.client = &http.Client{}
	section := ""
	if r.opts.TLS {
		pool, err := writeCertificates(r.dir)
		if err != nil {
			return err
		}
		r.client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: pool, MinVersion: tls.VersionTLS12}}
		section = fmt.Sprintf(", tls: {certificate: %q, key: %q}", filepath.Join(r.dir, "cert.pem"), filepath.Join(r.dir, "key.pem"))
	}
	fmt.Fprintf(&c, "http: {addr: %q, secret: testbed%s}\n", r.address, section)
	if len(r.opts.Users) > 0 {
		path := filepath.Join(r.dir, "htpasswd")
		if err := writeHtpasswd(path, r.opts.Users); err != nil {
			return err
		}
		fmt.Fprintf(&c, "auth: {htpasswd: {realm: testbed, path: %q}}\n", path)
	}
	return os.WriteFile(r.config(), []byte(c.String()), 0o600)
}

// serve starts the server and waits until it accepts connections.
func (r *Registry) serve(ctx context.Context) error {
	out, in := io.Pipe()
	// The server outlives ctx, which may be that of one step of a test: it ends by Stop.
	cmd := exec.CommandContext(context.WithoutCancel(ctx), "docker-registry", "serve", r.config())
	cmd.Env = append(os.Environ(), "OTEL_TRACES_EXPORTER=none")
	proc, err := startProcess(cmd, in)
	if err != nil {
		return err
	}
	r.proc, r.logDone = proc, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		r.log.read(out)
	}(r.logDone)
	go func() {
		<-proc.done
		_ = in.Close() // never fails
	}()
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	return proc.await(ctx, r.connect)
}

func (r *Registry) connect(ctx context.Context) error {
	var d net.Dialer
	c, err := d.DialContext(ctx, "tcp", r.address)
	if err != nil {
		return err
	}
	return c.Close()
}

func (r *Registry) end(how func(*process) error) error {
	if r.proc == nil {
		return nil
	}
	err := how(r.proc)
	<-r.logDone
	r.client.CloseIdleConnections()
	r.proc = nil
	return err
}

// settle returns when the log holds every request answered before.
func (r *Registry) settle(ctx context.Context) error {
	if r.proc == nil {
		return nil // all output was read when it ended
	}
	ctx, cancel := context.WithTimeout(ctx, startLimit)
	defer cancel()
	mark, seen := r.log.mark()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, r.URL()+"/v2/?"+markQuery+mark, nil)
	if err != nil {
		return err
	}
	resp, err := r.client.Do(req)
	if err != nil {
		return err
	}
	if err := resp.Body.Close(); err != nil {
		return err
	}
	select {
	case <-seen:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Pool reads the authority of a registry with TLS.
func (r *Registry) Pool() (*x509.CertPool, error) {
	pem, err := os.ReadFile(r.CAFile())
	if err != nil {
		return nil, err
	}
	pool := x509.NewCertPool()
	if !pool.AppendCertsFromPEM(pem) {
		return nil, fmt.Errorf("%s holds no certificate", r.CAFile())
	}
	return pool, nil
}
