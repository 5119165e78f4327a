package cli

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/synchronization"
)

func TestWhatWasObservedOfASessionIsSaidOfItsLock(t *testing.T) {
	silent := 4*time.Second + time.Millisecond
	for _, test := range []struct {
		name   string
		state  synchronization.State
		dead   bool
		alive  bool
		silent *time.Duration
		want   string
	}{
		{"a runner at work in a cluster", synchronization.Building, false, false, &silent, "renewed 4s ago"},
		{"a runner at work on this host", synchronization.Building, false, true, nil, "alive"},
		{"a cluster that tells no times", synchronization.Building, false, false, nil, "not observed"},
		{"a runner that left its stage", synchronization.Publishing, true, false, nil, "gone"},
		{"a cleaner that left its mark", synchronization.Doomed, true, false, nil, "gone"},
		{"a runner that has published and ended", synchronization.Published, true, false, nil, "ended"},
		{"a cleaner that has deleted and ended", synchronization.Deleted, true, false, nil, "ended"},
		{"a runner that has published and goes on", synchronization.Published, false, false, &silent, "renewed 4s ago"},
	} {
		t.Run(test.name, func(t *testing.T) {
			l := wire.Lock{Alive: test.alive, Silent: test.silent}
			l.Dead, l.Entry.State = test.dead, test.state
			r := reportLock(l)
			if r.Observed != test.want || r.Gone != (test.want == gone) || (r.Silent != nil) != (test.silent != nil) {
				t.Errorf("got %+v, want %s", r, test.want)
			}
		})
	}
}

func TestAHintSaysWhatMendsALedger(t *testing.T) {
	const mend = `remove the key "ledger" from cairn-shop.3`
	for _, test := range []struct {
		name string
		err  error
		says []string
		not  string
	}{
		{"a key whose loss counts", &synchronization.BadKeyError{Object: "cairn-shop.3", Key: "ledger", Loses: true, Delta: 15 * time.Minute, Err: errors.New("x")}, []string{mend, "for 15 minutes"}, "nothing is lost"},
		{"a key that is only an index", &synchronization.BadKeyError{Object: "cairn-shop.3", Key: "ledger", Err: errors.New("x")}, []string{mend, "nothing is lost"}, "minutes"},
		{"a ledger that does not answer who looks at it", &wire.AwayError{Err: synchronization.ErrUnavailable}, []string{"--synchronization-timeout"}, "--unsynchronized"},
	} {
		t.Run(test.name, func(t *testing.T) {
			code, hint := classify(test.err)
			for _, part := range test.says {
				if code != exitLedger || !strings.Contains(hint, part) || strings.Contains(hint, test.not) {
					t.Errorf("exit %d, hint %q", code, hint)
				}
			}
		})
	}
}
