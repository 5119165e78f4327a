package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// plain writes a line for everything that happens, for logs and CI.
type plain struct {
	w   io.Writer
	now func() time.Time

	mu      sync.Mutex
	started map[stages.Digest]time.Time
	waits   map[stages.Digest]string
}

func newPlain(w io.Writer, now func() time.Time) *plain {
	return &plain{w: w, now: now, started: map[stages.Digest]time.Time{}, waits: map[stages.Digest]string{}}
}

func (p *plain) close() {}

// Observe implements [build.Observer].
func (p *plain) Observe(e build.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	name := stageLabel(e)
	switch e.Phase {
	case "":
		p.line(name, "%s", printable(string(e.Line)))
	case build.PhaseWaiting:
		if p.waits[e.Stage.Digest] != e.Detail {
			p.waits[e.Stage.Digest] = e.Detail
			p.line(name, "waiting: %s", printable(e.Detail))
		}
	case build.PhaseRunning:
		p.started[e.Stage.Digest] = e.Time
		p.line(name, "started")
	case build.PhaseDone:
		p.done(name, e)
	case build.PhaseFailed:
		if first := p.started[e.Stage.Digest]; !first.IsZero() {
			p.line(name, "failed after %s", shortDuration(e.Time.Sub(first)))
		}
	case build.PhaseQueued, build.PhasePushing, build.PhasePublishing:
		// Of interest on a live row only.
	}
}

func (p *plain) done(name string, e build.Event) {
	first := p.started[e.Stage.Digest]
	if first.IsZero() {
		p.line(name, "%s", e.Result)
		return
	}
	p.line(name, "%s in %s", e.Result, shortDuration(e.Time.Sub(first)))
}

func (p *plain) line(name, format string, args ...any) {
	fmt.Fprintf(p.w, "%s | %s\n", name, fmt.Sprintf(format, args...))
}

// stageLabel names a stage for people: image/stage.
func stageLabel(e build.Event) string {
	if e.Image == "" {
		return e.Stage.Name()
	}
	return e.Image + "/" + e.Stage.Name()
}
