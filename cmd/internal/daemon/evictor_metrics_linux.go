package daemon

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
)

// Outcomes of passes.
const (
	passMet    = "met"    // the volume is at the low mark
	passShort  = "short"  // what may be evicted was not enough
	passFailed = "failed" // something could not be read or removed
	passBusy   = "busy"   // another process was at it
)

// evictionMetrics are about the host's volumes and what was evicted from them.
// Volumes are named by what of Cairn's is on them, not by their paths.
type evictionMetrics struct {
	passes                       *prometheus.CounterVec // by outcome
	items                        *prometheus.CounterVec // by volume
	freed                        *prometheus.CounterVec // by volume
	seconds                      prometheus.Histogram
	size, used, ours, foreign    *prometheus.GaugeVec // by volume
	blockedItems, blockedContent *prometheus.GaugeVec // by volume and reason
	last                         *prometheus.GaugeVec // by volume
}

func newEvictionMetrics() *evictionMetrics {
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		return prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: name, Help: help}, append([]string{"volume"}, labels...))
	}
	counter := func(name, help, label string) *prometheus.CounterVec {
		return prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	}
	m := &evictionMetrics{
		passes: counter("cairnd_eviction_passes_total", "Passes over volumes that were too full, by outcome.", "outcome"),
		items:  counter("cairnd_evicted_items_total", "Stages, layers, commits and engine records that were evicted.", "volume"),
		freed:  counter("cairnd_evicted_bytes_total", "What volumes gained by evictions, as measured.", "volume"),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cairnd_eviction_duration_seconds", Help: "How long passes took.", Buckets: []float64{0.1, 0.5, 1, 5, 10, 30, 60, 300},
		}),
		size:           gauge("cairnd_volume_size_bytes", "Capacity of the volume."),
		used:           gauge("cairnd_volume_used_bytes", "What all data on the volume takes."),
		ours:           gauge("cairnd_cache_bytes", "What the local cache and the engine's records took when the last pass began."),
		foreign:        gauge("cairnd_foreign_bytes", "What other data took on the volume when the last pass began."),
		blockedItems:   gauge("cairnd_eviction_blocked_items", "What could not be evicted in the last pass, by reason.", "reason"),
		blockedContent: gauge("cairnd_eviction_blocked_bytes", "What that takes.", "reason"),
		last:           gauge("cairnd_last_eviction_timestamp_seconds", "When the last pass ended, in seconds since 1970."),
	}
	for _, o := range []string{passMet, passShort, passFailed, passBusy} {
		m.passes.WithLabelValues(o)
	}
	return m
}

func (m *evictionMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{
		m.passes, m.items, m.freed, m.seconds, m.size, m.used, m.ours, m.foreign, m.blockedItems, m.blockedContent, m.last,
	}
}

// failed counts a pass that did not come to begin.
func (m *evictionMetrics) failed() { m.passes.WithLabelValues(passFailed).Inc() }

func (m *evictionMetrics) measured(f hostcache.Fill) {
	m.size.WithLabelValues(f.Name).Set(float64(f.Total))
	m.used.WithLabelValues(f.Name).Set(float64(f.Used))
}

func (m *evictionMetrics) passed(p passed) {
	outcome := passShort
	switch {
	case p.err != nil:
		outcome = passFailed
	case p.Met():
		outcome = passMet
	}
	m.passes.WithLabelValues(outcome).Inc()
	m.items.WithLabelValues(p.Name).Add(float64(len(p.Evicted)))
	m.freed.WithLabelValues(p.Name).Add(float64(max(p.Freed(), 0))) // others may have written more
	m.seconds.Observe(p.took.Seconds())
	m.ours.WithLabelValues(p.Name).Set(float64(p.Ours))
	m.foreign.WithLabelValues(p.Name).Set(float64(p.Foreign))
	m.last.WithLabelValues(p.Name).SetToCurrentTime()
	// A reason that holds nothing any more shall not be shown.
	m.blockedItems.DeletePartialMatch(prometheus.Labels{"volume": p.Name})
	m.blockedContent.DeletePartialMatch(prometheus.Labels{"volume": p.Name})
	for _, b := range p.Blocked {
		m.blockedItems.WithLabelValues(p.Name, b.Reason).Set(float64(b.Items))
		m.blockedContent.WithLabelValues(p.Name, b.Reason).Set(float64(b.Bytes))
	}
}
