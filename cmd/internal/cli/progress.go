package cli

import (
	"context"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/term"

	"github.com/cairnbuild/cairn/stages/build"
)

// progress shows a running build.
type progress interface {
	build.Observer
	// note writes a text that stays, without a line break at its end.
	note(text string)
	// outage shows what is told of a ledger that does not answer, "" for one that
	// does again. ends is when it is given up, past where nothing waits for it.
	outage(text string, ends time.Time)
	// close ends the display; nothing is observed afterwards.
	close()
}

// interruptedNote is shown while an interrupted build comes to its end.
const interruptedNote = "interrupted: what is being published is brought to its end; once more ends cairn at once"

// newProgress returns live rows on a terminal, plain lines elsewhere. It tells
// of an interruption when ctx ends by one.
func (a *app) newProgress(ctx context.Context) progress {
	var p progress
	if size := a.terminal(); size != nil {
		l := newLive(a.Err, size, a.styles(), a.host.Now)
		l.start()
		p = l
	} else {
		p = newPlain(a.Err, a.host.Now)
	}
	context.AfterFunc(ctx, func() {
		if interrupted(ctx) {
			p.note(interruptedNote)
		}
	})
	return p
}

// terminal returns how large the terminal behind standard error is at any time,
// nil where there is none, or none for live rows.
func (a *app) terminal() func() (columns, rows int) {
	f, ok := a.Err.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || a.getenv("TERM") == "dumb" || truthy(a.getenv("CI")) {
		return nil
	}
	return func() (int, int) {
		columns, rows, err := term.GetSize(int(f.Fd()))
		if err != nil || columns <= 0 || rows <= 0 {
			return 80, 24
		}
		return columns, rows
	}
}

// truthy reads a variable that is set for yes, as CI is.
func truthy(v string) bool {
	switch strings.ToLower(v) {
	case "", "0", "false", "no":
		return false
	default:
		return true
	}
}

// styles are escape sequences; all empty where colours are not wanted.
type styles struct{ dim, good, bad, off string }

// styles honours NO_COLOR, see https://no-color.org.
func (a *app) styles() styles {
	if a.getenv("NO_COLOR") != "" {
		return styles{}
	}
	return styles{dim: "\x1b[2m", good: "\x1b[32m", bad: "\x1b[31m", off: "\x1b[0m"}
}

// stageLabel names a stage for people: image/stage.
func stageLabel(e build.Event) string {
	if e.Image == "" {
		return e.Stage.Name()
	}
	return oneLine(e.Image) + "/" + e.Stage.Name()
}

// resultWords says how a stage came to be there.
func resultWords(r build.Result) string {
	if r == build.ResultAdopted {
		return "adopted from another runner"
	}
	return string(r)
}

// writeString writes for people: where that fails there is nobody to tell.
func writeString(w io.Writer, s string) { _, _ = io.WriteString(w, s) }
