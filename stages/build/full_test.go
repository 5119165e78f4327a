package build_test

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/synchronization"
)

// narrow is a ledger's backend that has no room for another entry while one is
// there that was published before it began.
type narrow struct {
	synchronization.Backend
	ledger *synchronization.Ledger
	began  time.Time
}

// Swap implements lock.Cells.
func (b narrow) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	all, err := b.ledger.List(ctx)
	if err != nil {
		return lock.Snapshot{}, err
	}
	for _, c := range changes {
		for _, e := range all {
			if c.Old == nil && strings.HasPrefix(c.Key, "stage.") && e.State == synchronization.Published && e.At.Before(b.began) {
				return lock.Snapshot{}, lock.ErrFull
			}
		}
	}
	return b.Backend.Swap(ctx, shard, changes)
}

func TestAFullLedgerIsSweptBeforeABuildFails(t *testing.T) {
	for _, test := range []struct {
		name string
		age  time.Duration // of what fills it
		want error
	}{
		{"by entries that it needs no longer", synchronization.DefaultDelta + 2*time.Second, nil},
		{"by entries that it still needs", time.Minute, lock.ErrFull},
	} {
		t.Run(test.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				old := w.planOf(noSources{}, nil, app())
				_, err := w.host().run(t.Context(), old, nil)
				must(t, err)
				time.Sleep(test.age) // simulated
				p := w.planOf(noSources{}, nil, chainOfThree())
				h := w.host()
				l, err := h.openLedger(t.Context(), p.Project)
				must(t, err)
				defer l.Close()
				h.ledger = narrow{w.ledger, l, time.Now()}
				if _, err := h.run(t.Context(), p, nil); !errors.Is(err, test.want) {
					t.Errorf("the build ends with %v, want %v", err, test.want)
				}
			})
		})
	}
}

// tight is a ledger's backend that has no room for one entry when it is asked for
// it the first time.
type tight struct {
	synchronization.Backend
	key   string
	asked atomic.Int64
}

// Swap implements lock.Cells.
func (b *tight) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	for _, c := range changes {
		if c.Key == b.key && c.Old == nil && b.asked.Add(1) == 1 {
			return lock.Snapshot{}, lock.ErrFull
		}
	}
	return b.Backend.Swap(ctx, shard, changes)
}

func TestAnEntryThatDoesNotFitBesideOthersIsTriedForAlone(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		p := w.planOf(noSources{}, nil, chainOfThree())
		h := w.host()
		below := p.Images[0].Final().Parent.Digest
		l := &tight{Backend: w.ledger, key: "stage." + below.Hex()}
		h.ledger = l
		_, err := h.run(t.Context(), p, nil)
		must(t, err)
		if l.asked.Load() < 2 {
			t.Error("the entry was asked for once only")
		}
		w.sound()
		w.manifests(p)
	})
}
