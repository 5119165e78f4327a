package daemon

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/robfig/cron/v3"
	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
)

// Cleaning is when a daemon cleans up storages, and of which projects.
type Cleaning struct {
	// Schedule is an expression of cron with five fields; "" for never.
	Schedule string
	// Projects are directories of projects, each alone or as DIRECTORY=REPOSITORY.
	Projects []string
}

// cleaner runs "cairn cleanup" on a schedule, for one project after the other.
type cleaner struct {
	schedule cron.Schedule // nil for never
	projects []cleanedProject
	log      *zap.Logger
	metrics  *cleanupMetrics
	// clean cleans up one project.
	clean func(context.Context, cleanedProject) cleanedRun

	mu   sync.Mutex // of what follows, which status tells
	next time.Time
	last []daemonctl.CleanupStatus
}

// cleanedProject is a project that is cleaned up.
type cleanedProject struct {
	dir string
	// storage is the repository of its stages, "" where the environment names it.
	storage string
}

// cleanedRun is how a cleanup ended.
type cleanedRun struct {
	outcome string
	line    string
	removed int
}

// Outcomes of cleanups.
const (
	cleanupDone   = "done"
	cleanupUnread = "unread" // a cluster could not be read, so all was kept
	cleanupFailed = "failed"
)

// exitUnread is cairn's exit code for a cleanup that kept everything because a cluster
// could not be read.
const exitUnread = 11

// maxJitter bounds by how much a run is late, so that several hosts do not clean up in
// step; it is a tenth of the time between two runs otherwise.
const maxJitter = 10 * time.Minute

func newCleaner(c Cleaning, log *zap.Logger) (*cleaner, error) {
	r := &cleaner{log: log, metrics: newCleanupMetrics(), clean: runCairn}
	if c.Schedule == "" {
		if len(c.Projects) > 0 {
			return nil, errors.New("--cleanup-project: say when with --cleanup-schedule")
		}
		return r, nil
	}
	var err error
	if r.schedule, err = cron.ParseStandard(c.Schedule); err != nil {
		return nil, fmt.Errorf("--cleanup-schedule %q: want the five fields of cron, for instance \"30 3 * * *\": %w", c.Schedule, err)
	}
	for _, p := range c.Projects {
		dir, storage, _ := strings.Cut(p, "=")
		if dir, err = filepath.Abs(dir); err != nil {
			return nil, err
		}
		if st, err := os.Stat(dir); err != nil || !st.IsDir() {
			return nil, fmt.Errorf("--cleanup-project %s: there is no such directory", dir)
		}
		r.projects = append(r.projects, cleanedProject{dir, storage})
	}
	if len(r.projects) == 0 {
		return nil, errors.New("--cleanup-schedule: name the directories of projects with --cleanup-project")
	}
	return r, nil
}

// run cleans up whenever it is time, until ctx ends. A run that takes longer than to
// the next time has that one left out.
func (c *cleaner) run(ctx context.Context) error {
	if c.schedule == nil {
		return nil
	}
	for {
		now := time.Now()
		next := c.schedule.Next(now)
		if next.IsZero() {
			return nil // no such day will come
		}
		jitter := min(c.schedule.Next(next).Sub(next)/10, maxJitter)
		next = next.Add(rand.N(max(jitter, 1))) //nolint:gosec // nobody gains by guessing it
		c.setNext(next)
		t := time.NewTimer(next.Sub(now))
		select {
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return nil
		}
		for _, p := range c.projects {
			if ctx.Err() == nil {
				c.cleanOne(ctx, p)
			}
		}
	}
}

func (c *cleaner) setNext(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.next = t
}

// cleanOne cleans up a project and tells in log, status and metrics what came of it.
func (c *cleaner) cleanOne(ctx context.Context, p cleanedProject) {
	began := time.Now()
	r := c.clean(ctx, p)
	ended := time.Now()
	c.metrics.ended(r, ended.Sub(began))
	level := zap.InfoLevel
	if r.outcome != cleanupDone {
		level = zap.WarnLevel
	}
	c.log.Log(level, "cleaned up a project", zap.String("directory", p.dir), zap.String("outcome", r.outcome), zap.String("said", r.line), zap.Duration("took", ended.Sub(began)))
	c.mu.Lock()
	defer c.mu.Unlock()
	c.last = slices.DeleteFunc(c.last, func(s daemonctl.CleanupStatus) bool { return s.Directory == p.dir && s.Storage == p.storage })
	c.last = append(c.last, daemonctl.CleanupStatus{
		Directory: p.dir, Storage: p.storage, EndedAt: ended, Seconds: ended.Sub(began).Seconds(), Outcome: r.outcome, Line: r.line,
	})
}

// status returns the last run of each project, and when the next begins.
func (c *cleaner) status() ([]daemonctl.CleanupStatus, *time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.next.IsZero() {
		return nil, nil
	}
	next := c.next
	return slices.Clone(c.last), &next
}

// stopTime is how long a cleanup may take to end in order when the daemon leaves.
const stopTime = 20 * time.Second

// maxCleanupReport bounds the report of a cleanup, in bytes.
const maxCleanupReport = 256 << 20

// runCairn runs "cairn cleanup" as anybody would, with the daemon's environment. A
// process of its own gives back the memory that it took, and cannot end the daemon.
func runCairn(ctx context.Context, p cleanedProject) cleanedRun {
	program, err := findCairn()
	if err != nil {
		return cleanedRun{outcome: cleanupFailed, line: err.Error()}
	}
	return runProgram(ctx, program, p)
}

func runProgram(ctx context.Context, program string, p cleanedProject) cleanedRun {
	args := []string{"cleanup", "--dir", p.dir, "--output", "json"}
	if p.storage != "" {
		args = append(args, "--stages-storage", p.storage)
	}
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = stopTime
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		return cleanedRun{outcome: cleanupFailed, line: err.Error()}
	}
	var report cleanupReport
	unreadable := json.NewDecoder(io.LimitReader(out, maxCleanupReport)).Decode(&report)
	_, _ = io.Copy(io.Discard, out) // what follows is not looked at
	return report.run(cmd.Wait(), unreadable)
}

// findCairn returns the cairn beside this program, or else the one on PATH.
func findCairn() (string, error) {
	if own, err := os.Executable(); err == nil {
		beside := filepath.Join(filepath.Dir(own), "cairn")
		if st, err := os.Stat(beside); err == nil && st.Mode().IsRegular() {
			return beside, nil
		}
	}
	return exec.LookPath("cairn")
}

// cleanupReport is what is looked at of docs/cleanup.schema.json.
type cleanupReport struct {
	Freed   int64
	Removed *struct{ Removed, Waits, Failed int }
	Error   *struct{ Message string }
}

// run returns how a cleanup ended that wrote r.
func (r cleanupReport) run(ended, unreadable error) cleanedRun {
	var out cleanedRun
	var exit *exec.ExitError
	switch {
	case ended == nil && unreadable == nil:
		out.outcome, out.line = cleanupDone, "nothing to remove"
	case errors.As(ended, &exit) && exit.ExitCode() == exitUnread:
		out.outcome = cleanupUnread
	default:
		out.outcome = cleanupFailed
		out.line = errors.Join(ended, unreadable).Error()
	}
	if r.Removed != nil {
		out.removed = r.Removed.Removed
		out.line = fmt.Sprintf("removed %d tags, %d wait for their grace, %d failed", r.Removed.Removed, r.Removed.Waits, r.Removed.Failed)
	}
	if r.Error != nil {
		out.line = r.Error.Message
	}
	return out
}

// cleanupMetrics are about the cleanups of a daemon.
type cleanupMetrics struct {
	runs    *prometheus.CounterVec // by outcome
	removed prometheus.Counter
	seconds prometheus.Histogram
	last    prometheus.Gauge
}

func newCleanupMetrics() *cleanupMetrics {
	m := &cleanupMetrics{
		runs: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "cairnd_cleanup_runs_total", Help: "Scheduled cleanups of storages, by outcome.",
		}, []string{"outcome"}),
		removed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "cairnd_cleanup_removed_tags_total", Help: "Tags that they removed.",
		}),
		seconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "cairnd_cleanup_duration_seconds", Help: "How long they took.", Buckets: []float64{1, 5, 15, 60, 300, 900, 3600, 7200},
		}),
		last: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "cairnd_last_cleanup_timestamp_seconds", Help: "When the last one ended that did what it should, in seconds since 1970.",
		}),
	}
	for _, o := range []string{cleanupDone, cleanupUnread, cleanupFailed} {
		m.runs.WithLabelValues(o)
	}
	return m
}

func (m *cleanupMetrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.runs, m.removed, m.seconds, m.last}
}

func (m *cleanupMetrics) ended(r cleanedRun, took time.Duration) {
	m.runs.WithLabelValues(r.outcome).Inc()
	m.removed.Add(float64(max(r.removed, 0)))
	m.seconds.Observe(took.Seconds())
	if r.outcome == cleanupDone {
		m.last.SetToCurrentTime()
	}
}
