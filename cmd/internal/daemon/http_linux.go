package daemon

import (
	"encoding/json"
	"net/http"
	"os"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
)

// handler answers for health, metrics and status.
func (d *daemon) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { say(w, http.StatusOK, "ok\n") })
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, _ *http.Request) {
		if _, ready, _ := d.engine.state(); !ready {
			say(w, http.StatusServiceUnavailable, "the engine is not ready\n")
			return
		}
		say(w, http.StatusOK, "ok\n")
	})
	mux.HandleFunc("GET "+daemonctl.StatusPath, func(w http.ResponseWriter, _ *http.Request) { d.sendStatus(w) })
	mux.HandleFunc("POST "+daemonctl.HoldPath, func(w http.ResponseWriter, _ *http.Request) {
		if !d.usage.hold() {
			say(w, http.StatusServiceUnavailable, "leaving\n")
			return
		}
		d.sendStatus(w)
	})
	mux.Handle("GET /metrics", promhttp.HandlerFor(d.metrics.registry, promhttp.HandlerOpts{}))
	return mux
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
	return daemonctl.Status{
		Protocol: daemonctl.Protocol, Version: d.config.Version, PID: os.Getpid(),
		EnginePID: pid, Ready: ready, Restarts: restarts,
		Connections: active, Since: d.usage.since, IdleSeconds: idle.Seconds(),
		Socket: d.config.Paths.Socket, State: d.config.Paths.State,
	}
}

// metrics reads the daemon's counters when they are asked for.
type metrics struct{ registry *prometheus.Registry }

func newMetrics(d *daemon) *metrics {
	r := prometheus.NewRegistry()
	r.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cairnd_start_time_seconds", Help: "When the daemon started, in seconds since 1970.",
		}, func() float64 { return float64(d.usage.since.Unix()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cairnd_connections", Help: "Connections to the BuildKit API that are open.",
		}, func() float64 { active, _, _ := d.usage.counts(); return float64(active) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "cairnd_connections_total", Help: "Connections to the BuildKit API since the start.",
		}, func() float64 { _, total, _ := d.usage.counts(); return float64(total) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cairnd_idle_seconds", Help: "How long there has been no connection.",
		}, func() float64 { _, _, idle := d.usage.counts(); return idle.Seconds() }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cairnd_engine_ready", Help: "1 when the engine takes work, else 0.",
		}, func() float64 {
			if _, ready, _ := d.engine.state(); ready {
				return 1
			}
			return 0
		}),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "cairnd_engine_restarts_total", Help: "How often the engine was started again after it had ended.",
		}, func() float64 { _, _, restarts := d.engine.state(); return float64(restarts) }),
	)
	return &metrics{registry: r}
}
