package telemetry

import (
	"sync"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// Unfinished is the result of stages that a failed build did not come to the end of.
const Unfinished = "unfinished"

// distinct yields each stage of a report once, however many images share it.
func distinct(rep *build.Report) []build.StageReport {
	var out []build.StageReport
	seen := map[stages.Digest]bool{}
	for _, img := range rep.All() {
		for _, s := range img.Stages {
			if !seen[s.Digest] {
				seen[s.Digest] = true
				out = append(out, s)
			}
		}
	}
	return out
}

// stageResults counts the stages of a report by how they came to be there.
func stageResults(rep *build.Report) map[string]int {
	out := map[string]int{}
	for _, s := range distinct(rep) {
		out[resultName(s.Result)]++
	}
	return out
}

func resultName(r build.Result) string {
	if r == "" {
		return Unfinished
	}
	return string(r)
}

// Summarize returns what a daemon's metrics need of a build. rep may be nil.
func Summarize(rep *build.Report, outcome daemonctl.Outcome, took, waited time.Duration) daemonctl.BuildSummary {
	s := daemonctl.BuildSummary{Outcome: outcome, Seconds: took.Seconds(), WaitSeconds: waited.Seconds()}
	if rep == nil {
		return s
	}
	s.Stages = stageResults(rep)
	s.BytesPulled, s.BytesPushed = rep.BytesPulled, rep.BytesPushed
	s.RegistryRequests, s.LedgerRequests = rep.Requests.Registry, rep.Requests.Ledger
	for _, st := range distinct(rep) {
		if st.Result == build.ResultBuilt || st.Result == build.ResultAssembled {
			s.Made = append(s.Made, daemonctl.StageSummary{Stage: st.Name, Seconds: st.Seconds})
		}
	}
	return s
}

// Waits is an observer that adds up how long stages waited for other runners.
// The zero value is ready; it is safe for concurrent use.
type Waits struct {
	mu    sync.Mutex
	since map[stages.Digest]time.Time
	sum   time.Duration
}

// Observe implements [build.Observer].
func (w *Waits) Observe(e build.Event) {
	if e.Phase == "" {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	began, waits := w.since[e.Stage.Digest]
	switch {
	case e.Phase == build.PhaseWaiting && !waits:
		if w.since == nil {
			w.since = map[stages.Digest]time.Time{}
		}
		w.since[e.Stage.Digest] = e.Time
	case e.Phase != build.PhaseWaiting && waits:
		w.sum += e.Time.Sub(began)
		delete(w.since, e.Stage.Digest)
	}
}

// Sum returns the time of all waits that have ended.
func (w *Waits) Sum() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sum
}

// Observers is an observer that tells each of several.
type Observers []build.Observer

// Observe implements [build.Observer].
func (o Observers) Observe(e build.Event) {
	for _, one := range o {
		one.Observe(e)
	}
}
