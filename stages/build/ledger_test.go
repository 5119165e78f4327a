package build

import (
	"context"
	"crypto/rand"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// hanging opens a ledger; its first attempts wait for the end of their context.
type hanging struct {
	t    *testing.T
	hang int
}

func (o *hanging) open(ctx context.Context) (*synchronization.Ledger, error) {
	if o.hang--; o.hang >= 0 {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	l, err := synchronization.Open(ctx, mem.New(time.Now), "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	if err == nil {
		o.t.Cleanup(l.Close)
	}
	return l, err
}

// anyStorage admits a ledger whatever the storage is.
func anyStorage(context.Context, *synchronization.Ledger) error { return nil }

func TestWhoGivesUpJoiningDoesNotFailThoseWhoWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &ledger{turn: newTurn(), open: (&hanging{t: t, hang: 1}).open, admit: anyStorage}
		hasty, giveUp := context.WithCancel(t.Context())
		first, second := make(chan error, 1), make(chan error, 1)
		go func() { _, err := h.session(hasty); first <- err }()
		synctest.Wait()
		go func() { _, err := h.session(t.Context()); second <- err }()
		synctest.Wait()
		giveUp()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("who gave up got %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("who waited got %v", err)
		}
		h.close(t.Context())
	})
}

func TestWhoWaitsForAnAttemptToJoinSharesItsFailure(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		away, attempts, answer := errors.New("nobody is there"), 0, make(chan struct{})
		h := &ledger{turn: newTurn(), open: func(context.Context) (*synchronization.Ledger, error) {
			attempts++
			<-answer
			return nil, away
		}}
		done := make(chan error, 2)
		for range 2 {
			go func() { _, err := h.session(t.Context()); done <- err }()
		}
		synctest.Wait()
		close(answer)
		for range 2 {
			if err := <-done; !errors.Is(err, away) {
				t.Errorf("got %v", err)
			}
		}
		if attempts != 1 {
			t.Errorf("it was tried %d times", attempts)
		}
	})
}

func TestWaitsForAStageAreCountedTogetherAndOnce(t *testing.T) {
	at := func(minutes int) time.Time { return time.Unix(int64(60*minutes), 0) }
	w := new(waits)
	w.begin(at(0))
	w.begin(at(1)) // at once with the first
	w.end(at(3))
	if got := w.total(at(4)); got != 4*time.Minute {
		t.Errorf("%s while it is waited", got)
	}
	w.end(at(5))
	w.begin(at(10)) // woken, and another holder was faster
	if got := w.total(at(12)); got != 7*time.Minute {
		t.Errorf("%s in the second wait", got)
	}
}
