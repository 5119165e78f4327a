package cli

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// awayFor tells of a ledger that does not answer for a while and then does.
func awayFor(c *clock, p progress, lasts, budget time.Duration, step func()) {
	o := newOutages("kubernetes://ci", c.now, p)
	refused := fmt.Errorf("get configmaps: %w", &net.OpError{Op: "dial", Err: syscall.ECONNREFUSED})
	for past := time.Duration(0); past < lasts; past += time.Second {
		o.observe(lock.Outage{Err: refused, Left: budget - past})
		o.observe(lock.Outage{Err: refused}) // a renewal, which nobody waits for
		step()
		c.forward(time.Second)
	}
	o.observe(lock.Outage{})
}

func TestALogTellsOfALedgerThatIsAway(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	var out bytes.Buffer
	p := newPlain(&out, c.now)
	awayFor(c, p, time.Second, time.Minute, func() {})
	if out.Len() > 0 {
		t.Errorf("a hiccup is worth a word: %s", out.String())
	}
	awayFor(c, p, 15*time.Second, time.Minute, func() {})
	const want = `warning: the ledger kubernetes://ci does not answer (connection refused): trying for 58 s more; results are kept
warning: the ledger kubernetes://ci does not answer (connection refused): trying for 48 s more; results are kept
the ledger answers again
`
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestALogTellsAtOnceOfALedgerThatHangs(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	var out bytes.Buffer
	o := newOutages("kubernetes://ci?context=far&kubeconfig=/home/robot/config", c.now, newPlain(&out, c.now))
	o.observe(lock.Outage{Err: context.DeadlineExceeded, Silent: 10 * time.Second, Left: 50 * time.Second})
	const want = "warning: the ledger kubernetes://ci does not answer (no answer in time): trying for 50 s more; results are kept\n"
	if out.String() != want {
		t.Errorf("got\n%s\nwant\n%s", out.String(), want)
	}
}

func TestLiveRowsCountDownWhatIsLeft(t *testing.T) {
	for _, width := range []int{120, 44} {
		c := &clock{time.Unix(0, 0)}
		term := newVT(width, 24)
		l := newLive(term, func() (int, int) { return term.columns, term.rows }, styles{}, c.now)
		l.Observe(build.Event{Image: "app", Stage: stage("app", stages.KindInstall), Phase: build.PhaseRunning, Time: c.now()})
		left := map[string]bool{}
		awayFor(c, l, 10*time.Second, 30*time.Second, func() {
			l.refresh()
			for line := range strings.Lines(term.String()) {
				if _, after, ok := strings.Cut(line, "trying for "); ok {
					seconds, _, _ := strings.Cut(after, " more")
					left[seconds] = true
				}
			}
		})
		for n := 21; n <= 28; n++ {
			if !left[fmt.Sprintf("%d s", n)] {
				t.Errorf("%d columns: the display never said that %d s are left, but %v", width, n, left)
			}
		}
		l.refresh()
		if s := term.String(); strings.Contains(s, "does not answer") || !strings.Contains(s, "the ledger answers again") {
			t.Errorf("%d columns: afterwards\n%s", width, s)
		}
		l.close()
	}
}
