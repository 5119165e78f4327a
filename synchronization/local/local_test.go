package local_test

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/local"
	ledgertest "github.com/cairnbuild/cairn/synchronization/synctest"
)

// open returns one process's access to a directory.
func open(t *testing.T, dir string) *local.Backend {
	t.Helper()
	b, err := local.Open(t.Context(), dir, local.Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.Close(); err != nil {
			t.Error(err)
		}
	})
	return b
}

// lose removes a shard's file.
func lose(t *testing.T, dir string) func(string) {
	return func(shard string) {
		if err := os.Remove(filepath.Join(dir, shard+".json")); err != nil {
			t.Error(err)
		}
	}
}

func TestStore(t *testing.T) {
	locktest.Run(t, func(t *testing.T) locktest.Harness {
		dir := t.TempDir()
		return locktest.Harness{Open: func() lock.Store { return open(t, dir) }, Lose: lose(t, dir), Now: time.Now}
	})
}

func TestLedger(t *testing.T) {
	ledgertest.Run(t, func(t *testing.T) ledgertest.Harness {
		dir := t.TempDir()
		return ledgertest.Harness{
			Open: func() synchronization.Backend { return open(t, dir) },
			Lose: lose(t, dir),
			Now:  time.Now,
		}
	})
}
