package kubernetes

import (
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// The times of sessions are the server's, also where a runner's clock is wrong.
func (y *yard) testTimes(t *testing.T) {
	t.Parallel()
	b, err := Open(t.Context(), Options{
		Config: y.runner, Namespace: y.space(t, Rules()),
		Now: func() time.Time { return time.Now().Add(-time.Hour) },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	}()
	renew := func(seq uint64) Times {
		t.Helper()
		if err := b.Renew(t.Context(), "g", lock.Record{Session: "ab", Seq: seq, TTL: time.Minute}); err != nil {
			t.Fatal(err)
		}
		all, err := b.Times(t.Context(), "g")
		if err != nil || len(all) != 1 {
			t.Fatalf("got %v, error %v", all, err)
		}
		return all["ab"]
	}
	now := func() time.Time {
		t.Helper()
		at, err := b.Now(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return at
	}
	first := renew(1)
	for now().Sub(first.Renewed) < 2*time.Second {
		select {
		case <-time.After(200 * time.Millisecond):
		case <-t.Context().Done():
			t.Fatal(t.Context().Err())
		}
	}
	next := renew(2)
	if !next.Began.Equal(first.Began) || next.Renewed.Sub(first.Renewed) < time.Second {
		t.Errorf("after another renewal the times are %+v, before it %+v", next, first)
	}
	if silent := now().Sub(next.Renewed); silent < 0 || silent > patience {
		t.Errorf("what was just renewed is silent for %s", silent)
	}
}
