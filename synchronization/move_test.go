package synchronization_test

import (
	"encoding/json"
	"errors"
	"reflect"
	"testing"

	"github.com/cairnbuild/cairn/synchronization"
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
