package daemon

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"
)

func TestIdleTimeCountsFromTheLastConnectionOrHold(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		start := time.Now()
		u := newUsage(start)
		left := make(chan time.Duration)
		go func() {
			if err := u.awaitIdle(t.Context(), time.Minute, func(context.Context) {}); !errors.Is(err, errIdle) {
				t.Errorf("error is %v", err)
			}
			left <- time.Since(start)
		}()
		time.Sleep(30 * time.Second)
		if !u.begin() {
			t.Error("a connection was refused")
		}
		time.Sleep(5 * time.Minute) // much longer than the timeout, but not idle
		u.end()
		time.Sleep(40 * time.Second)
		if !u.hold() {
			t.Error("a hold was refused")
		}
		if got, want := <-left, 30*time.Second+5*time.Minute+40*time.Second+time.Minute; got != want {
			t.Errorf("left after %v, want %v", got, want)
		}
		if u.hold() || u.begin() {
			t.Error("somebody was let in after the decision to leave")
		}
	})
}

func TestZeroIdleTimeoutIsForEver(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := newUsage(time.Time{}).awaitIdle(ctx, 0, func(context.Context) {}); err != nil {
		t.Error(err)
	}
}

func TestDrainEndsWithTheLastConnectionOrTheLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		u := newUsage(time.Now())
		u.begin()
		start := time.Now()
		if err := u.drained(t.Context(), 10*time.Second); err != nil || time.Since(start) != 10*time.Second {
			t.Errorf("with a connection that stays: %v after %v", err, time.Since(start))
		}
		time.AfterFunc(time.Second, u.end)
		start = time.Now()
		if err := u.drained(t.Context(), 10*time.Second); err != nil || time.Since(start) != time.Second {
			t.Errorf("with a connection that ends: %v after %v", err, time.Since(start))
		}
	})
}

func TestTheLogIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	r, err := openRotating(path, 10)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range []string{"12345", "67890", "abc"} {
		if _, err := r.Write([]byte(s)); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.Close(); err != nil {
		t.Fatal(err)
	}
	for name, want := range map[string]string{path: "abc", path + ".1": "1234567890"} {
		if got, err := os.ReadFile(name); err != nil || string(got) != want {
			t.Errorf("%s holds %q (%v), want %q", name, got, err, want)
		}
	}
}
