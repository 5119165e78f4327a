package synchronization

import (
	"slices"
	"testing"
	"time"
)

// FuzzDecodeUnnamed: notes are whatever somebody wrote there. What is read of them
// is stubs of digests, and stays the same when it is written and read again.
func FuzzDecodeUnnamed(f *testing.F) {
	f.Add(`{"2026-01-02T03:04:05Z":"0123456789abcdef"}`)
	f.Add(`{"2026-01-02T03:04:05Z":"0123456789abcdef0011223344556677","2026-01-02T03:04:05+01:00":"fedcba9876543210"}`)
	f.Add(`{"2026-01-02T03:04:05Z":"0123"}`)
	f.Add(`{"2026-01-02T03:04:05.5Z":"\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4\u00e4"}`)
	f.Add(`{"yesterday":"0123456789abcdef"}`)
	f.Add(`{"2026-01-02T03:04:05Z":7}`)
	f.Add(`{"freeing.0123456789abcdef0123456789abcdef":"0123456789abcdef0011223344556677","freeing.":"0123456789abcdef"}`)
	f.Fuzz(func(t *testing.T, text string) {
		notes := decodeUnnamed(text)
		for s := range notes.since {
			if len(s) != stub {
				t.Errorf("%q is taken for a part of a digest", s)
			}
		}
		written, err := notes.encode()
		if err != nil {
			t.Fatal(err)
		}
		again := decodeUnnamed(written)
		if len(again.since) != len(notes.since) || len(again.freeing) != len(notes.freeing) {
			t.Fatalf("%v are %v when they are read again", notes, again)
		}
		for session, stubs := range notes.freeing {
			slices.Sort(stubs)
			if got := again.freeing[session]; !slices.Equal(got, slices.Compact(stubs)) {
				t.Errorf("%s is about to free %v, and %v when it is read again", session, stubs, got)
			}
		}
		for s, at := range notes.since {
			if got, ok := again.since[s]; !ok || !got.Equal(at.Truncate(time.Second)) {
				t.Errorf("%s of %s is %s when it is read again", s, at, got)
			}
		}
	})
}
