package cli

import (
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

const (
	redraw  = 100 * time.Millisecond
	maxRows = 12
)

// Styles of the live display; empty with NO_COLOR, see https://no-color.org.
type styles struct{ dim, good, bad, off string }

func newStyles() styles {
	if os.Getenv("NO_COLOR") != "" {
		return styles{}
	}
	return styles{dim: "\x1b[2m", good: "\x1b[32m", bad: "\x1b[31m", off: "\x1b[0m"}
}

// live keeps a row for each stage that something is going on with, below the
// lines of those that are done.
type live struct {
	w      io.Writer
	width  int
	now    func() time.Time
	styles styles
	stop   chan struct{}
	ended  sync.WaitGroup

	mu    sync.Mutex
	rows  []*row
	drawn int // lines of the display that stand on the screen
}

type row struct {
	stage  stages.Digest
	name   string
	phase  build.Phase
	since  time.Time
	detail string
	line   string
}

func newLive(w io.Writer, width int, now func() time.Time) *live {
	l := &live{w: w, width: width, now: now, styles: newStyles(), stop: make(chan struct{})}
	l.ended.Go(l.run)
	return l
}

func (l *live) run() {
	t := time.NewTicker(redraw)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			l.mu.Lock()
			l.draw(nil)
			l.mu.Unlock()
		case <-l.stop:
			return
		}
	}
}

func (l *live) close() {
	close(l.stop)
	l.ended.Wait()
	l.mu.Lock()
	defer l.mu.Unlock()
	l.rows = nil
	l.draw(nil)
}

// Observe implements [build.Observer].
func (l *live) Observe(e build.Event) {
	l.mu.Lock()
	defer l.mu.Unlock()
	r := l.row(e)
	switch e.Phase {
	case "":
		r.line = printable(string(e.Line))
		return
	case build.PhaseDone:
		l.remove(r)
		if e.Result != build.ResultCached {
			l.draw([]string{fmt.Sprintf("%s✓%s %s %s%s in %s%s", l.styles.good, l.styles.off, r.name, l.styles.dim, e.Result, shortDuration(e.Time.Sub(r.since)), l.styles.off)})
		}
		return
	case build.PhaseFailed:
		l.remove(r)
		l.draw([]string{fmt.Sprintf("%s✗%s %s", l.styles.bad, l.styles.off, r.name)})
		return
	case build.PhaseRunning:
		r.since = e.Time
	case build.PhaseWaiting, build.PhaseQueued, build.PhasePushing, build.PhasePublishing:
	}
	r.phase, r.detail = e.Phase, printable(e.Detail)
}

func (l *live) row(e build.Event) *row {
	for _, r := range l.rows {
		if r.stage == e.Stage.Digest {
			return r
		}
	}
	r := &row{stage: e.Stage.Digest, name: stageLabel(e), since: e.Time}
	l.rows = append(l.rows, r)
	return r
}

func (l *live) remove(gone *row) {
	for i, r := range l.rows {
		if r == gone {
			l.rows = append(l.rows[:i], l.rows[i+1:]...)
			return
		}
	}
}

// draw replaces the display on the screen, with lines above it that stay.
func (l *live) draw(above []string) {
	var b strings.Builder
	if l.drawn > 0 {
		fmt.Fprintf(&b, "\x1b[%dA\x1b[J", l.drawn)
	}
	for _, s := range above {
		b.WriteString(s + "\n")
	}
	l.drawn = 0
	for _, r := range l.rows {
		if l.drawn == maxRows {
			fmt.Fprintf(&b, "  … %d more\n", len(l.rows)-maxRows)
			l.drawn++
			break
		}
		b.WriteString(l.render(r) + "\n")
		l.drawn++
	}
	if b.Len() > 0 {
		_, _ = io.WriteString(l.w, b.String())
	}
}

// render gives a row that fits the width.
func (l *live) render(r *row) string {
	head := fmt.Sprintf("  %s  %s  %s", r.name, r.phase, shortDuration(l.now().Sub(r.since)))
	tail := r.line
	if r.detail != "" {
		tail = r.detail
	}
	head = cut(head, l.width)
	room := l.width - utf8.RuneCountInString(head) - 2
	if tail == "" || room < 8 {
		return head
	}
	return head + "  " + l.styles.dim + cut(tail, room) + l.styles.off
}

// cut shortens s to width runes.
func cut(s string, width int) string {
	if utf8.RuneCountInString(s) <= width {
		return s
	}
	r := []rune(s)
	return string(r[:width-1]) + "…"
}
