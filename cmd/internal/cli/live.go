package cli

import (
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

const (
	redraw  = 100 * time.Millisecond
	maxRows = 12
	// minTail is the narrowest room in which a line of output is worth showing.
	minTail = 8
	// stateCells are the columns of a row beside the name and the line of output.
	stateCells = 24
)

// Control sequences, see ECMA-48 and, for the cursor, the VT220's DECTCEM.
const (
	hideCursor = "\x1b[?25l"
	showCursor = "\x1b[?25h"
	eraseLine  = "\x1b[K" // to its end
	eraseBelow = "\x1b[J"
	cursorUp   = "\x1b[%dA\r"
)

// live keeps a row for each stage that something is going on with, and a line
// that counts, below the lines of those that are done.
type live struct {
	w      io.Writer
	size   func() (columns, rows int)
	now    func() time.Time
	styles styles
	stop   chan struct{}
	ended  sync.WaitGroup

	mu    sync.Mutex
	began time.Time
	rows  []*row
	done  int
	// drawn are the widths of the lines of the display that stand on the screen.
	drawn  []int
	hidden bool // the cursor
	// away is what is told of a ledger that does not answer and is given up at ends.
	away string
	ends time.Time
	// steady keeps the cursor visible, since the process may now end at any time.
	steady bool
}

type row struct {
	stage  stages.Digest
	name   string
	phase  build.Phase
	since  time.Time
	detail string
	line   string
}

func newLive(w io.Writer, size func() (int, int), s styles, now func() time.Time) *live {
	return &live{w: w, size: size, now: now, styles: s, began: now(), stop: make(chan struct{})}
}

// start has the display drawn anew all the time until close.
func (l *live) start() {
	l.ended.Go(func() {
		t := time.NewTicker(redraw)
		defer t.Stop()
		for {
			select {
			case <-t.C:
				l.refresh()
			case <-l.stop:
				return
			}
		}
	})
}

func (l *live) refresh() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.rows) > 0 || len(l.drawn) > 0 {
		l.draw("")
	}
}

func (l *live) close() {
	close(l.stop)
	l.ended.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = nil
	l.draw("")
	if l.hidden {
		writeString(l.w, showCursor)
		l.hidden = false
	}
}

func (l *live) outage(text string, ends time.Time) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.away, l.ends = text, ends; text == "" {
		l.draw("the ledger answers again\n")
	}
}

// note implements progress. The note of an interruption gives the cursor back:
// with the next signal there would be no time for it.
func (l *live) note(text string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.draw(text + "\n")
	if text == interruptedNote {
		l.steady, l.hidden = true, false
		writeString(l.w, showCursor)
	}
}

// Observe implements [build.Observer].
func (l *live) Observe(e build.Event) {
	if e.Phase == build.PhaseLooking {
		return // most stages are there, which is no news
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.row(e)
	switch e.Phase {
	case "":
		r.line = strings.ReplaceAll(outputLine(e.Line), "\t", "  ")
	case build.PhaseDone:
		l.finish(r)
		if e.Result != build.ResultCached {
			l.draw(fmt.Sprintf("%s✓%s %s %s%s in %s%s\n", l.styles.good, l.styles.off, r.name,
				l.styles.dim, resultWords(e.Result), shortDuration(e.Time.Sub(r.since)), l.styles.off))
		}
	case build.PhaseFailed:
		shown := active(r.phase)
		l.finish(r)
		if shown { // others fail only because this one did
			l.draw(fmt.Sprintf("%s✗%s %s\n", l.styles.bad, l.styles.off, r.name))
		}
	case build.PhaseRunning:
		r.since = e.Time
		r.phase, r.detail = e.Phase, ""
	case build.PhaseWaiting:
		r.since = e.Time.Add(-e.Waited)
		r.phase, r.detail = e.Phase, oneLine(e.Detail)
	case build.PhaseQueued, build.PhasePushing, build.PhasePublishing:
		r.phase, r.detail = e.Phase, oneLine(e.Detail)
	}
}

func (l *live) row(e build.Event) *row {
	for _, r := range l.rows {
		if r.stage == e.Stage.Digest {
			return r
		}
	}
	r := &row{stage: e.Stage.Digest, name: stageLabel(e), phase: build.PhaseQueued, since: e.Time}
	l.rows = append(l.rows, r)
	return r
}

func (l *live) finish(gone *row) {
	l.done++
	l.rows = slices.DeleteFunc(l.rows, func(r *row) bool { return r == gone })
}

// active reports whether a stage in that phase has a row of its own.
func active(p build.Phase) bool { return p != build.PhaseQueued }

// draw replaces the display on the screen; above goes before it and stays.
func (l *live) draw(above string) {
	columns, height := l.size()
	var b strings.Builder
	if !l.hidden && !l.steady && len(l.rows) > 0 {
		b.WriteString(hideCursor)
		l.hidden = true
	}
	if up := l.height(columns); up > 0 {
		fmt.Fprintf(&b, cursorUp, up)
	}
	if above != "" {
		// What stood there may be longer than what comes.
		b.WriteString(eraseBelow + above)
	}
	l.drawn = l.drawn[:0]
	for _, line := range l.lines(columns-1, height-1) {
		b.WriteString(line.text + eraseLine + "\n")
		l.drawn = append(l.drawn, line.cells)
	}
	b.WriteString(eraseBelow)
	writeString(l.w, b.String())
}

// height returns how many rows of the screen the display takes: a terminal that
// has become narrower has wrapped its lines.
func (l *live) height(columns int) int {
	n := 0
	for _, w := range l.drawn {
		n += max(1, (w+columns-1)/columns)
	}
	return n
}

// line is a line of the display and how many columns it takes.
type line struct {
	text  string
	cells int
}

// lines returns the display for a width and a height.
func (l *live) lines(columns, height int) []line {
	if len(l.rows) == 0 {
		return nil
	}
	shown := slices.DeleteFunc(slices.Clone(l.rows), func(r *row) bool { return !active(r.phase) })
	if most := max(1, min(maxRows, height-1)); len(shown) > most {
		shown = shown[:most]
	}
	names := 0
	for _, r := range shown {
		names = max(names, cells(r.name))
	}
	var out []line
	for _, r := range shown {
		out = append(out, l.render(r, names, columns))
	}
	if l.away != "" {
		until := untilGivenUp(l.ends.Sub(l.now()))
		told := "  " + l.away + ": " + until
		if cells(told) > columns {
			told = cut("  "+until+": "+l.away, columns) // the countdown is seen in any case
		}
		out = append(out, line{l.styles.bad + told + l.styles.off, cells(told)})
	}
	count := cut("  "+l.count(), columns)
	return append(out, line{l.styles.dim + count + l.styles.off, cells(count)})
}

// render gives a row that fits the width.
func (l *live) render(r *row, names, columns int) line {
	names = min(names, max(minTail, columns-stateCells))
	head := fmt.Sprintf("  %s  %-10s  %8s", pad(cut(r.name, names), names), r.phase, shortDuration(l.now().Sub(r.since)))
	tail := r.line
	if r.detail != "" {
		tail = r.detail
	}
	head = cut(head, columns)
	room := columns - cells(head) - 2
	if tail == "" || room < minTail {
		return line{head, cells(head)}
	}
	tail = cut(tail, room)
	return line{head + "  " + l.styles.dim + tail + l.styles.off, cells(head) + 2 + cells(tail)}
}

// count says how many stages are in which phase.
func (l *live) count() string {
	n := map[build.Phase]int{}
	for _, r := range l.rows {
		n[r.phase]++
	}
	var parts []string
	for _, p := range []build.Phase{build.PhaseRunning, build.PhasePushing, build.PhasePublishing, build.PhaseWaiting, build.PhaseQueued} {
		if n[p] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[p], p))
		}
	}
	parts = append(parts, fmt.Sprintf("%d done", l.done))
	return strings.Join(parts, ", ") + "  " + shortDuration(l.now().Sub(l.began))
}
