package cli

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// outageShown is how long a ledger must be away to be worth a word.
const outageShown = 2 * time.Second

// maxCause is the most columns that the cause of an outage takes.
const maxCause = 120

// outages turns what the ledger's client tells into what people are shown. Several
// requests may be tried at once; the one that is given up first is counted down.
type outages struct {
	address string
	now     func() time.Time
	show    progress

	mu    sync.Mutex
	began time.Time // zero while the ledger answers
	ends  time.Time
	shown bool
}

func newOutages(address string, now func() time.Time, show progress) *outages {
	place, _, _ := strings.Cut(address, "?") // a line has room for where, not for how
	return &outages{address: place, now: now, show: show}
}

// observe is told by the ledger's client.
func (o *outages) observe(e lock.Outage) {
	o.mu.Lock()
	defer o.mu.Unlock()
	now := o.now()
	if e.Err == nil {
		if o.shown {
			o.show.outage("", time.Time{})
		}
		o.began, o.ends, o.shown = time.Time{}, time.Time{}, false
		return
	}
	if began := now.Add(-e.Silent); o.began.IsZero() || began.Before(o.began) {
		o.began = began
	}
	if end := now.Add(e.Left); e.Left > 0 && (o.ends.Before(now) || end.Before(o.ends)) {
		o.ends = end
	}
	if now.Sub(o.began) >= outageShown {
		o.shown = true
		o.show.outage(fmt.Sprintf("the ledger %s does not answer (%s)", oneLine(o.address), shortCause(e.Err)), o.ends)
	}
}

// shortCause says in a few words why a server did not answer.
func shortCause(err error) string {
	var network *net.OpError
	switch {
	case errors.As(err, &network):
		return oneLine(network.Err.Error())
	case errors.Is(err, context.DeadlineExceeded):
		return "no answer in time"
	default:
		return cut(oneLine(err.Error()), maxCause)
	}
}

// untilGivenUp says how an outage goes on.
func untilGivenUp(left time.Duration) string {
	if left <= 0 {
		return "results are kept"
	}
	return fmt.Sprintf("trying for %d s more; results are kept", max(1, int(left.Round(time.Second).Seconds())))
}
