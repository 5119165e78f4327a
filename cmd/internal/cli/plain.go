package cli

import (
	"fmt"
	"io"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// plain writes a line for what happens, for logs and CI. Stages that exist
// already make no lines: the closing table has them.
type plain struct {
	w io.Writer

	mu      sync.Mutex
	started map[stages.Digest]time.Time
	waits   map[stages.Digest]string
	// warned is when the last line about an outage was written.
	warned time.Time
	now    func() time.Time
}

// outageEvery is how often an outage is told of.
const outageEvery = 10 * time.Second

func newPlain(w io.Writer, now func() time.Time) *plain {
	return &plain{w: w, now: now, started: map[stages.Digest]time.Time{}, waits: map[stages.Digest]string{}}
}

func (p *plain) close() {}

func (p *plain) note(text string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	writeString(p.w, text+"\n")
}

func (p *plain) outage(text string, ends time.Time) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch now := p.now(); {
	case text == "":
		p.warned = time.Time{}
		writeString(p.w, "the ledger answers again\n")
	case now.Sub(p.warned) >= outageEvery:
		p.warned = now
		writeString(p.w, "warning: "+text+": "+untilGivenUp(ends.Sub(now))+"\n")
	}
}

// Observe implements [build.Observer].
func (p *plain) Observe(e build.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	d := e.Stage.Digest
	switch e.Phase {
	case "":
		p.line(e, outputLine(e.Line))
	case build.PhaseWaiting:
		switch {
		case p.waits[d] != e.Detail:
			p.waits[d] = e.Detail
			p.line(e, "waiting: "+oneLine(e.Detail))
		case e.Waited >= time.Second:
			p.line(e, "waiting for "+shortDuration(e.Waited)+": "+oneLine(e.Detail))
		}
	case build.PhaseRunning:
		_, again := p.started[d]
		if p.started[d] = e.Time; e.Stage.NeedsEngine() && !again {
			p.line(e, "started")
		}
	case build.PhaseDone:
		if e.Result != build.ResultCached {
			p.line(e, resultWords(e.Result)+p.since(e))
		}
	case build.PhaseFailed:
		if !p.started[d].IsZero() {
			p.line(e, "failed"+p.since(e))
		}
	case build.PhaseLooking, build.PhaseQueued, build.PhasePushing, build.PhasePublishing:
		// Of interest on a live row only.
	}
}

// since says how long ago the stage was started, if it was.
func (p *plain) since(e build.Event) string {
	first := p.started[e.Stage.Digest]
	if first.IsZero() {
		return ""
	}
	return " after " + shortDuration(e.Time.Sub(first))
}

func (p *plain) line(e build.Event, text string) {
	fmt.Fprintf(p.w, "%s | %s\n", stageLabel(e), text)
}
