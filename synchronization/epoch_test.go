package synchronization

import (
	"crypto/rand"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/synchronization/mem"
)

// A turn can be slow between the record and the last shard. Others may have
// turned the ledger further meanwhile, and what they fenced must stay fenced.
func TestASlowTurnDoesNotUndoALaterOne(t *testing.T) {
	b := mem.New(time.Now)
	l, err := Open(t.Context(), b, "shop", Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	shard := allShards("shop")[3]
	seal := func() sentinel {
		views, err := l.views(t.Context(), []string{shard})
		if err != nil {
			t.Fatal(err)
		}
		return views[shard].seal
	}
	first := seal()
	for _, turn := range []func() error{
		func() error { return l.Shut(t.Context()) },
		func() error { return l.Reopen(t.Context()) },
		func() error { return l.Shut(t.Context()) },
	} {
		before := seal()
		if err := turn(); err != nil {
			t.Fatal(err)
		}
		after := seal()
		if after.turns() != before.turns()+1 {
			t.Errorf("turned from %+v to %+v", before, after)
		}
		for _, old := range []sentinel{first, before} {
			if err := l.turnShard(t.Context(), shard, old); err != nil {
				t.Fatal(err)
			}
			if now := seal(); now != after {
				t.Errorf("a turn to %+v made %+v of %+v", old, now, after)
			}
		}
	}
}
