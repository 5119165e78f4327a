package cli

import (
	"io"
	"time"

	"github.com/cairnbuild/cairn/stages/build"
)

// progress shows a running build.
type progress interface {
	build.Observer
	// close ends the display; nothing is observed afterwards.
	close()
}

// newProgress returns live rows for a terminal of that width, plain lines for width 0.
func newProgress(w io.Writer, width int, now func() time.Time) progress {
	if width > 0 {
		return newLive(w, width, now)
	}
	return newPlain(w, now)
}
