package daemon

import (
	"math"
	"slices"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/telemetry"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// metrics are the daemon's own counters, read when they are asked for, and the
// sums of what builds have told it.
type metrics struct {
	registry *prometheus.Registry
	builds   *buildMetrics
}

func newMetrics(d *daemon) *metrics {
	m := &metrics{registry: prometheus.NewRegistry(), builds: newBuildMetrics()}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.registry.MustRegister(daemonMetrics(d)...)
	m.registry.MustRegister(m.builds.all()...)
	m.registry.MustRegister(d.evictor.metrics.all()...)
	m.registry.MustRegister(d.cleaner.metrics.all()...)
	return m
}

// daemonMetrics are about this process and its engine.
func daemonMetrics(d *daemon) []prometheus.Collector {
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "cairnd_build_info", Help: "Always 1; the label has the daemon's version.",
		ConstLabels: prometheus.Labels{"version": d.config.Version},
	})
	info.Set(1)
	return []prometheus.Collector{
		info,
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cairnd_start_time_seconds", Help: "When the daemon started, in seconds since 1970.",
		}, func() float64 { return float64(d.usage.since.Unix()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "cairnd_connections", Help: "Connections to the engine that are open: each is a build that runs commands.",
		}, func() float64 { active, _, _ := d.usage.counts(); return float64(active) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "cairnd_connections_total", Help: "Connections to the engine since the start.",
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
	}
}

// buildMetrics add up what builds tell when they have ended.
type buildMetrics struct {
	builds                     *prometheus.CounterVec // by outcome
	seconds                    prometheus.Histogram
	stages                     *prometheus.CounterVec   // by result
	made                       *prometheus.HistogramVec // by stage
	waits, pulled, pushed      prometheus.Counter
	registryAsked, ledgerAsked prometheus.Counter
}

func newBuildMetrics() *buildMetrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
	}
	// From what a no-op takes to what a long command does.
	buckets := []float64{0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600}
	m := &buildMetrics{
		builds: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cairn_builds_total", Help: "Builds that have ended on this host, by outcome.",
		}, []string{"outcome"}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cairn_build_duration_seconds", Help: "How long builds took.", Buckets: buckets,
		}),
		stages: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cairn_stages_total", Help: "Stages of builds, by how they came to be there.",
		}, []string{"result"}),
		made: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "cairn_stage_duration_seconds", Help: "How long making and publishing a stage took, by the stage's kind.", Buckets: buckets,
		}, []string{"stage"}),
		waits:         counter("cairn_wait_seconds_total", "Time that stages waited for other runners, added up."),
		pulled:        counter("cairn_pulled_bytes_total", "Bytes of manifests and blobs that builds read from storages."),
		pushed:        counter("cairn_pushed_bytes_total", "Bytes of manifests and blobs that builds sent to storages."),
		registryAsked: counter("cairn_registry_requests_total", "Requests of builds to registries, authentication apart."),
		ledgerAsked:   counter("cairn_ledger_requests_total", "Requests of builds to their ledgers."),
	}
	// A series that is there from the start shows its first step as one.
	for _, o := range daemonctl.Outcomes() {
		m.builds.WithLabelValues(string(o))
	}
	for _, r := range results() {
		m.stages.WithLabelValues(r)
	}
	return m
}

func (m *buildMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.builds, m.seconds, m.stages, m.made, m.waits, m.pulled, m.pushed, m.registryAsked, m.ledgerAsked}
}

// results are those that a stage can have.
func results() []string {
	return []string{
		string(build.ResultCached), string(build.ResultAdopted), string(build.ResultAssembled), string(build.ResultBuilt), telemetry.Unfinished,
	}
}

// otherStage stands for kinds of stages that this daemon does not know.
const otherStage = "other"

// count adds a build, or reports that its account cannot be right. Labels are of
// known words only: each new one would be a series for as long as the daemon lives.
func (m *buildMetrics) count(s daemonctl.BuildSummary) bool {
	if !plausible(s) {
		return false
	}
	m.builds.WithLabelValues(string(s.Outcome)).Inc()
	m.seconds.Observe(s.Seconds)
	for result, n := range s.Stages {
		m.stages.WithLabelValues(result).Add(float64(n))
	}
	for _, made := range s.Made {
		kind := made.Stage
		if !slices.Contains(stages.Kinds(), stages.Kind(kind)) {
			kind = otherStage
		}
		m.made.WithLabelValues(kind).Observe(made.Seconds)
	}
	m.waits.Add(s.WaitSeconds)
	m.pulled.Add(float64(s.BytesPulled))
	m.pushed.Add(float64(s.BytesPushed))
	m.registryAsked.Add(float64(s.RegistryRequests))
	m.ledgerAsked.Add(float64(s.LedgerRequests))
	return true
}

// plausible reports whether s can be counted: counters panic at negative numbers.
func plausible(s daemonctl.BuildSummary) bool {
	numbers := []float64{
		s.Seconds, s.WaitSeconds, float64(s.BytesPulled), float64(s.BytesPushed), float64(s.RegistryRequests), float64(s.LedgerRequests),
	}
	for result, n := range s.Stages {
		if !slices.Contains(results(), result) {
			return false
		}
		numbers = append(numbers, float64(n))
	}
	for _, made := range s.Made {
		numbers = append(numbers, made.Seconds)
	}
	wrong := func(v float64) bool { return v < 0 || math.IsInf(v, 0) || math.IsNaN(v) }
	return slices.Contains(daemonctl.Outcomes(), s.Outcome) && !slices.ContainsFunc(numbers, wrong)
}
