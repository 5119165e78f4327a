package synchronization_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// A runner reads a tag under its entry, to adopt what it shows, and is stopped for
// longer than Δ. Meanwhile the generation is deleted, and forgotten.
func TestASleeperDoesNotAdoptAGenerationThatWasDeletedMeanwhile(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := mem.New(time.Now)
		sleeper, _ := newRunner(t, b)
		d := inShard(1)[0]
		c := claim(t, sleeper, d) // it reads the tag now
		l, cleaner := newCleaner(t, b)
		if _, err := l.Break(t.Context(), d); err != nil { // as others do with what the dead leave
			t.Fatal(err)
		}
		doomed, err := cleaner.Doom(t.Context(), d)
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(doomed.Delete(t.Context(), someManifest), doomed.Deleted(t.Context())); err != nil {
			t.Fatal(err)
		}
		time.Sleep(20 * time.Minute) // simulated
		confirm := func(context.Context, stages.Digest, digest.Digest) (bool, error) { return true, nil }
		if err := l.Sweep(t.Context(), confirm); err != nil {
			t.Fatal(err)
		}
		if err := c.Release(t.Context()); !errors.Is(err, synchronization.ErrTaken) {
			t.Errorf("the release, by which it adopts what is gone, ends with %v", err)
		}
	})
}

// newCleaner is a session of a process of its own, with its ledger.
func newCleaner(t *testing.T, b *mem.Backend) (*synchronization.Ledger, *synchronization.Session) {
	t.Helper()
	l, err := synchronization.Open(t.Context(), b, "shop", ledgerOptions())
	if err != nil {
		t.Fatal(err)
	}
	s, err := l.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(context.WithoutCancel(t.Context())); err != nil {
			t.Error(err)
		}
		l.Close()
	})
	return l, s
}
