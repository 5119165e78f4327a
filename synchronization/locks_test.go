package synchronization_test

import (
	"crypto/rand"
	"errors"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

func TestLocksTellWhoHoldsWhat(t *testing.T) {
	backend := mem.New(time.Now)
	open := func(holder string) *synchronization.Ledger {
		l, err := synchronization.Open(t.Context(), backend, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader, Holder: holder})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(l.Close)
		return l
	}
	s, err := open("ci-7").Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	d := stages.DigestOf([]byte("a"))
	got, err := s.TryAcquire(t.Context(), []stages.Digest{d})
	if err != nil {
		t.Fatal(err)
	}
	watcher := open("a person")
	held := oneLock(t, watcher)
	if held.Digest != d || held.Name != "ci-7" || held.Dead || held.Shard != watcher.ShardOf(d) || held.Fence < got.Claims[d].Fence() {
		t.Errorf("got %+v", held)
	}
	if err := got.Claims[d].Decide(t.Context(), "sha256:4e3c6b2d3f0a1b5c7d9e8f6a5b4c3d2e1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c"); err != nil {
		t.Fatal(err)
	}
	if err := s.Close(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := oneLock(t, watcher); !left.Dead || left.Entry.State != synchronization.Publishing {
		t.Errorf("got %+v", left)
	}
	shard := watcher.ShardOf(d)
	if _, err := backend.Swap(t.Context(), shard, []lock.Change{lock.Add("stage.nonsense", "x")}); err != nil {
		t.Fatal(err)
	}
	if all, err := watcher.Locks(t.Context()); len(all) != 1 || !errors.Is(err, synchronization.ErrBadEntry) {
		t.Errorf("beside nonsense: got %+v, error %v", all, err)
	}
}

func oneLock(t *testing.T, l *synchronization.Ledger) synchronization.Lock {
	t.Helper()
	all, err := l.Locks(t.Context())
	if err != nil || len(all) != 1 {
		t.Fatalf("got %+v, error %v", all, err)
	}
	return all[0]
}
