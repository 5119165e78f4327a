package engine

import (
	"bytes"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/client"
	"github.com/opencontainers/go-digest"
)

// EventKind says what an [Event] reports.
type EventKind string

// The kinds of events of one job, in the order in which they come.
const (
	// Started is sent when the commands start, or when an earlier result is found.
	Started EventKind = "started"
	// Log is sent for every line that the commands write.
	Log EventKind = "log"
	// Finished is sent when the commands have ended, well or not.
	Finished EventKind = "finished"
)

// Event reports the progress of a job.
type Event struct {
	Kind EventKind
	// Stream is 1 for standard output and 2 for standard error, of a line.
	Stream int
	// Line is a line without its end, for Log.
	Line []byte
	// Cached, with Finished, says that nothing ran: the engine had the result.
	Cached bool
	// Failed, with Finished, says that the commands failed.
	Failed bool
}

// Progress takes the events of one job, one after the other. It must not block for long.
type Progress func(Event)

const (
	// tailLines is how many lines of output an [ExitError] holds.
	tailLines = 40
	// maxLine is where a line without an end is cut, in bytes.
	maxLine = 64 << 10
)

// monitor turns the engine's reports about a job, and about those it stands on,
// into events and the tails of their output.
type monitor struct {
	report Progress
	masks  *masks
	own    *Job
	jobs   map[string]*Job // by name of their steps
	steps  map[digest.Digest]*step
}

type step struct {
	job               *Job
	own               bool
	started, finished bool
	cached            bool
	tail              tail
	partial           map[int][]byte // unfinished lines, by stream
}

// newMonitor watches j; steps are the names of the steps of Dockerfiles.
func newMonitor(j *Job, steps map[string]*Job, p Progress, hidden *masks) *monitor {
	if p == nil {
		p = func(Event) {}
	}
	m := &monitor{report: p, masks: hidden, own: j, jobs: map[string]*Job{}, steps: map[digest.Digest]*step{}}
	// The function given here never fails.
	_ = j.visit(map[*Job]bool{}, func(j *Job) error { m.jobs[vertexName(j)] = j; return nil })
	maps.Copy(m.jobs, steps)
	return m
}

// watch takes reports until the channel is closed.
func (m *monitor) watch(ch <-chan *client.SolveStatus) {
	for s := range ch {
		for _, v := range s.Vertexes {
			m.vertex(v)
		}
		for _, l := range s.Logs {
			if st := m.steps[l.Vertex]; st != nil {
				m.write(st, l.Stream, l.Data)
			}
		}
		// Output that came with the report of the end belongs before it.
		for _, v := range s.Vertexes {
			m.finish(v)
		}
	}
}

func (m *monitor) vertex(v *client.Vertex) {
	j := m.jobs[v.Name]
	if j == nil {
		return
	}
	st := m.steps[v.Digest]
	if st == nil {
		st = &step{job: j, own: j == m.own, partial: map[int][]byte{}}
		m.steps[v.Digest] = st
	}
	if v.Started != nil && !st.started {
		st.started = true
		m.emit(st, Event{Kind: Started})
		if j.Dockerfile != nil {
			m.emit(st, Event{Kind: Log, Stream: 1, Line: []byte(stepLine(v.Name, v.Cached))})
		}
	}
}

func (m *monitor) finish(v *client.Vertex) {
	st := m.steps[v.Digest]
	if st == nil || st.finished || v.Completed == nil {
		return
	}
	st.finished, st.cached = true, v.Cached
	for _, stream := range []int{1, 2} {
		if rest := st.partial[stream]; len(rest) > 0 {
			m.line(st, stream, rest)
		}
		delete(st.partial, stream)
	}
	m.emit(st, Event{Kind: Finished, Cached: v.Cached, Failed: v.Error != ""})
}

func (m *monitor) write(st *step, stream int, data []byte) {
	data = append(st.partial[stream], data...)
	for {
		if i := bytes.IndexByte(data, '\n'); i >= 0 {
			m.line(st, stream, data[:i])
			data = data[i+1:]
			continue
		}
		// What is cut must not go through a secret: as much as one can be long is there
		// beyond the cut, and masked before it.
		if len(data) < maxLine+m.masks.longest() {
			break
		}
		data = m.masks.apply(data)
		cut := min(maxLine, len(data))
		m.line(st, stream, data[:cut])
		data = data[cut:]
	}
	st.partial[stream] = slices.Clone(data)
}

func (m *monitor) line(st *step, stream int, line []byte) {
	line = m.masks.apply(bytes.TrimSuffix(line, []byte("\r")))
	st.tail.add(stream, strings.ToValidUTF8(string(line), "\uFFFD"))
	m.emit(st, Event{Kind: Log, Stream: stream, Line: slices.Clone(line)})
}

// emit passes on what concerns the job itself; the jobs below report in their own runs.
func (m *monitor) emit(st *step, e Event) {
	if st.own {
		m.report(e)
	}
}

// cached reports whether the job's own step was found, not run.
func (m *monitor) cached() bool {
	for _, st := range m.steps {
		if st.own {
			return st.cached
		}
	}
	return false
}
