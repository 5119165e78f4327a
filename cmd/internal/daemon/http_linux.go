package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
)

// readOnly answers for health and metrics: nothing that changes the daemon or
// names paths of the host.
func (d *daemon) readOnly() *http.ServeMux {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if _, ready, _ := d.engine.state(); !ready {
			say(w, http.StatusServiceUnavailable, "the engine is not ready\n")
			return
		}
		say(w, http.StatusOK, "ok\n")
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	return mux
}

// handler answers to this user's own processes: for status, too, and it takes
// accounts of builds.
func (d *daemon) handler() http.Handler {
	mux := d.readOnly()
	mux.HandleFunc("GET "+daemonctl.StatusPath, func(w http.ResponseWriter, _ *http.Request) { d.sendStatus(w) })
	mux.HandleFunc("POST "+daemonctl.HoldPath, func(w http.ResponseWriter, _ *http.Request) {
		if !d.usage.hold() {
			say(w, http.StatusServiceUnavailable, "leaving\n")
			return
		}
		d.sendStatus(w)
	})
	mux.HandleFunc("POST "+daemonctl.BuildsPath, d.countBuild)
	return mux
}

// maxSummary bounds the account of one build, in bytes.
const maxSummary = 4 << 20

func (d *daemon) countBuild(w http.ResponseWriter, r *http.Request) {
	var s daemonctl.BuildSummary
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, maxSummary)).Decode(&s); err != nil {
		say(w, http.StatusBadRequest, "no account of a build\n")
		return
	}
	if !d.metrics.builds.count(s) {
		say(w, http.StatusBadRequest, "a number or a word in it cannot be\n")
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// newServer returns a server that does not wait for slow clients for ever.
func newServer(h http.Handler) *http.Server {
	return &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second, ReadTimeout: 30 * time.Second, WriteTimeout: 30 * time.Second}
}

// serve returns nil when the server is shut down.
func serve(s *http.Server, l net.Listener) error {
	if err := s.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

// MetricsServer says where health and metrics are served besides the socket.
type MetricsServer struct {
	// Address is HOST:PORT, or empty.
	Address string
	// Open allows an address that is not loopback. The server asks nobody who he is.
	Open bool
}

// listen listens for whoever scrapes metrics; nil where no address is given.
func (m MetricsServer) listen(ctx context.Context) (net.Listener, error) {
	if m.Address == "" {
		return nil, nil
	}
	host, _, err := net.SplitHostPort(m.Address)
	if err != nil {
		return nil, fmt.Errorf("--metrics-address: %w", err)
	}
	if ip, err := netip.ParseAddr(host); !m.Open && host != "localhost" && (err != nil || !ip.Unmap().IsLoopback()) {
		return nil, fmt.Errorf("--metrics-address %s is not loopback, such as 127.0.0.1:9464: anybody could read there; --metrics-open allows it", m.Address)
	}
	var c net.ListenConfig
	l, err := c.Listen(ctx, "tcp", m.Address)
	if err != nil {
		return nil, fmt.Errorf("--metrics-address: %w", err)
	}
	return l, nil
}

// say writes an answer. That nobody listens any more is no error of ours.
func say(w http.ResponseWriter, code int, text string) {
	w.WriteHeader(code)
	_, _ = w.Write([]byte(text))
}

func (d *daemon) sendStatus(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(d.status()) // as in say
}

func (d *daemon) status() daemonctl.Status {
	pid, ready, restarts := d.engine.state()
	active, _, idle := d.usage.counts()
	volumes, evicting := d.evictor.status()
	cleanups, next := d.cleaner.status()
	return daemonctl.Status{
		Protocol: daemonctl.Protocol, Version: d.config.Version, PID: os.Getpid(),
		EnginePID: pid, Ready: ready, Restarts: restarts,
		Connections: active, Since: d.usage.since, IdleSeconds: idle.Seconds(),
		Socket: d.config.Paths.Socket, State: d.config.Paths.State,
		Volumes: volumes, Evicting: evicting, Cleanups: cleanups, NextCleanup: next,
	}
}
