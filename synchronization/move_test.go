package synchronization_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// FuzzDecodeMove: what a record says of a move is whatever somebody wrote there.
func FuzzDecodeMove(f *testing.F) {
	f.Add(`{"from":{"storage":":local"},"to":{"storage":"r.test/shop"},"step":"copying","by":"ci","session":"0a","since":"2026-01-02T03:04:05Z"}`)
	f.Add(`{"step":"moved","until":"2026-01-02T03:04:05Z","epoch":-1}`)
	f.Fuzz(func(t *testing.T, text string) { decodes(t, text, synchronization.DecodeMove) })
}

func FuzzDecodeArrival(f *testing.F) {
	f.Add(`{"from":{"storage":":local"},"by":"ci"}`)
	f.Add(`{"from":null}`)
	f.Fuzz(func(t *testing.T, text string) { decodes(t, text, synchronization.DecodeArrival) })
}

// decodes checks that a text is refused, with nothing of it, or is what is written.
func decodes[T any](t *testing.T, text string, decode func(string) (T, error)) {
	t.Helper()
	note, err := decode(text)
	if err != nil {
		var none T
		if !errors.Is(err, synchronization.ErrBadEntry) || !reflect.DeepEqual(note, none) {
			t.Fatalf("error %v with %+v", err, note)
		}
		return
	}
	again, err := json.Marshal(note)
	if err != nil || string(again) != text {
		t.Fatalf("%q was accepted, but is written %q (%v)", text, again, err)
	}
}

// Who takes a move over after they have seen the ledger in one seal does not take it
// when it was turned since; and who turns it does so only while the move is theirs.
func TestAMoveAndTheSealOfItsLedgerBelongTogether(t *testing.T) {
	l, err := synchronization.Open(t.Context(), mem.New(time.Now), "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	place := func(name string) synchronization.Place {
		return synchronization.Place{Storage: name, Ledger: name, UID: name}
	}
	first := synchronization.Move{
		From: place("a"), To: place("b"), Step: synchronization.Copying, By: "one", Session: "0a", Since: time.Unix(1, 0).UTC(),
	}
	second := first
	second.Session = "0b"
	open, closed := synchronization.Seal{Epoch: 1, Open: true}, synchronization.Seal{Epoch: 1}
	for i, step := range []struct {
		do     func() error
		turned bool
	}{
		{func() error { return l.Take(t.Context(), open, nil, first) }, false},
		{func() error { return l.TurnNoted(t.Context(), open, closed, second) }, true},
		{func() error { return l.TurnNoted(t.Context(), open, closed, first) }, false},
		{func() error { return l.Take(t.Context(), open, &first, second) }, true},
		{func() error { return l.Take(t.Context(), closed, &second, second) }, true},
		{func() error { return l.Take(t.Context(), closed, &first, second) }, false},
		{func() error {
			return l.TurnNoted(t.Context(), closed, synchronization.Seal{Epoch: 2, Open: true}, first)
		}, true},
	} {
		if err := step.do(); errors.Is(err, synchronization.ErrTurned) != step.turned || err != nil && !step.turned {
			t.Errorf("step %d ends with %v", i+1, err)
		}
	}
	if s, err := l.Stance(t.Context()); err != nil || s.Seal != closed || s.Move == nil || *s.Move != second {
		t.Errorf("in the end it is %+v (%v)", s, err)
	}
}
