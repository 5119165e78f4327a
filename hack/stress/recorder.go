package main

import (
	"encoding/json"
	"strings"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// moment is something that happens for each stage, at which a fault can strike.
type moment string

const (
	commandRuns   moment = "a command runs"
	entryAcquired moment = "an entry is acquired"
	manifestSaved moment = "a manifest is pushed"
	stageDecided  moment = "a stage is decided"
	tagPut        moment = "a tag is put"
	stageOver     moment = "a stage is published"

	// Those of cleaners.
	stageMarked  moment = "a stage is marked"
	stageDoomed  moment = "a stage is to be deleted"
	tagDeleted   moment = "a tag is deleted"
	stageDeleted moment = "a stage is deleted"
	graceNoted   moment = "what has no name is noted"
)

// recorder collects the history of a round. It is safe for concurrent use.
type recorder struct {
	began time.Time
	// strike is called, before the runner gets its answer, each time that a moment
	// comes, with how often it has come; the runner is "" where that is not known.
	strike func(m moment, nth int, runner string)

	mu    sync.Mutex
	h     history.History
	known map[string]map[uint64]int // revisions, by shard and number
	came  map[moment]int
}

func newRecorder(h history.History) *recorder {
	return &recorder{
		began: time.Now(), strike: func(moment, int, string) {}, h: h,
		known: map[string]map[uint64]int{}, came: map[moment]int{},
	}
}

func (r *recorder) now() time.Duration { return time.Since(r.began) }

// add notes an event. One without a time has the present one.
func (r *recorder) add(e history.Event) {
	if e.Begin == 0 {
		e.Begin = r.now()
	}
	m := momentOf(e)
	r.mu.Lock()
	r.h.Events = append(r.h.Events, e)
	nth := 0
	if m != "" {
		r.came[m]++
		nth = r.came[m]
	}
	strike := r.strike
	r.mu.Unlock()
	if m != "" {
		strike(m, nth, e.Runner)
	}
}

// onStrike sets what happens at moments.
func (r *recorder) onStrike(f func(m moment, nth int, runner string)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.strike = f
}

// momentOf returns which moment an event is, "" for none.
func momentOf(e history.Event) moment {
	switch {
	case e.Kind == history.Command:
		return commandRuns
	case e.Kind == history.Push && e.Status == 201:
		return manifestSaved
	case e.Kind == history.TagPut && e.Status == 201 && e.Digest == tomb():
		return tagDeleted
	case e.Kind == history.TagPut && e.Status == 201 && len(e.Tag) == 64:
		return tagPut
	case e.Kind == history.LedgerWrite && e.Status/100 == 2:
		return momentOfWrite(e.Changes)
	}
	return ""
}

// momentOfWrite is that of a change of the ledger: the first that it tells of.
func momentOfWrite(changes []history.Change) moment {
	moments := map[string]moment{
		"building": entryAcquired, "publishing": stageDecided, "published": stageOver,
		"doomed": stageMarked, "deleting": stageDoomed, "deleted": stageDeleted,
	}
	for _, c := range changes {
		if c.Key == "unnamed" {
			return graceNoted
		}
		var entry struct{ State string }
		if !strings.HasPrefix(c.Key, "stage.") || c.New == "" || json.Unmarshal([]byte(c.New), &entry) != nil {
			continue
		}
		if m := moments[entry.State]; m != "" {
			return m
		}
	}
	return ""
}

// revision notes a state of a shard, once. What is told differently by two answers
// is kept twice, for the checker to find.
func (r *recorder) revision(rev history.Revision) {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := r.known[rev.Shard]
	if all == nil {
		all = map[uint64]int{}
		r.known[rev.Shard] = all
	}
	if i, ok := all[rev.Number]; ok && sameData(r.h.Revisions[i].Data, rev.Data) {
		return
	}
	all[rev.Number] = len(r.h.Revisions)
	r.h.Revisions = append(r.h.Revisions, rev)
}

func sameData(a, b map[string]string) bool {
	if len(a) != len(b) {
		return false
	}
	for k, v := range a {
		if w, ok := b[k]; !ok || v != w {
			return false
		}
	}
	return true
}

// history returns what was recorded so far.
func (r *recorder) history() *history.History {
	r.mu.Lock()
	defer r.mu.Unlock()
	h := r.h
	return &h
}
