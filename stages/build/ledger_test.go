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

func TestWhoGivesUpJoiningDoesNotFailThoseWhoWaitForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &ledger{turn: newTurn(), open: (&hanging{t: t, hang: 1}).open, storage: "registry.test/shop"}
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

func TestAWaitIsCountedFromItsBeginningWhateverWakesIt(t *testing.T) {
	n, began := &node{}, time.Unix(100, 0)
	for i, want := range []time.Time{began, began, began.Add(2 * time.Hour)} {
		if i == 2 {
			n.inOurHands()
		}
		if got := n.awaitedSince(began.Add(time.Duration(i) * time.Hour)); !got.Equal(want) {
			t.Errorf("wait %d is counted from %s, want %s", i, got, want)
		}
	}
}
