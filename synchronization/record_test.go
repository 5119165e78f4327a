package synchronization_test

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
)

// What a ledger consists of is read by every version of its format, and by
// people: names, keys and values stay as they are.
func TestALedgerLooksAsItsFormatSays(t *testing.T) {
	b := mem.New(time.Now)
	l, err := synchronization.Open(t.Context(), b, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	if err := l.Bind(t.Context(), "registry.example.com/shop"); err != nil {
		t.Fatal(err)
	}
	want := map[string]map[string]string{
		"cairn-shop": {
			"format":  "1",
			"ledger":  `{"format":"1","epoch":1,"open":true}`,
			"shards":  shardUIDs(t, b),
			"storage": "registry.example.com/shop",
		},
		"cairn-shop.0":  {"ledger": `{"format":"1","ledger":"uid-1","epoch":1,"open":true}`},
		"cairn-shop.63": {"ledger": `{"format":"1","ledger":"uid-1","epoch":1,"open":true}`},
	}
	for name, data := range want {
		found, err := b.Read(t.Context(), name)
		if err != nil || fmt.Sprint(found[name].Data) != fmt.Sprint(data) {
			t.Errorf("%s holds %v, want %v (%v)", name, found[name].Data, data, err)
		}
	}
}

// shardUIDs is what the record says of the shards: their UIDs, in order.
func shardUIDs(t *testing.T, b synchronization.Backend) string {
	t.Helper()
	uids := make([]string, synchronization.Shards)
	for n := range uids {
		name := fmt.Sprintf("cairn-shop.%d", n)
		found, err := b.Read(t.Context(), name)
		if err != nil || found[name].UID == "" {
			t.Fatalf("%s is not there (%v)", name, err)
		}
		uids[n] = found[name].UID
	}
	text, err := json.Marshal(uids)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func TestAStagesShardFollowsFromItsDigest(t *testing.T) {
	b := mem.New(time.Now)
	l, err := synchronization.Open(t.Context(), b, "shop", synchronization.Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	s, err := l.Join(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := s.Close(t.Context()); err != nil {
			t.Error(err)
		}
	}()
	for first, shard := range map[byte]string{0x00: "cairn-shop.0", 0x3f: "cairn-shop.63", 0xa7: "cairn-shop.39"} {
		d := stages.Digest{first, 1}
		if _, err := s.TryAcquire(t.Context(), []stages.Digest{d}); err != nil {
			t.Fatal(err)
		}
		found, err := b.Read(t.Context(), shard)
		if _, ok := found[shard].Data["stage."+d.Hex()]; err != nil || !ok {
			t.Errorf("the entry of %s is not in %s (%v)", d.Short(), shard, err)
		}
	}
}

// halfRead is a backend whose first reads leave out the record, as if another made
// it, and the shards, while they were being read.
type halfRead struct {
	*mem.Backend
	left atomic.Int64
}

func (b *halfRead) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	found, err := b.Backend.Read(ctx, shards...)
	if b.left.Add(-1) >= 0 {
		delete(found, "cairn-shop")
	}
	return found, err
}

func TestALedgerThatAnotherMakesAtTheSameTimeIsNoLoss(t *testing.T) {
	b := mem.New(time.Now)
	first, err := synchronization.Open(t.Context(), b, "shop", ledgerOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer first.Close()
	// The other has not come to the end: its record does not name the shards yet.
	found, err := b.Read(t.Context(), "cairn-shop")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := b.Swap(t.Context(), "cairn-shop", []lock.Change{lock.Remove("shards", found["cairn-shop"].Data["shards"])}); err != nil {
		t.Fatal(err)
	}
	half := &halfRead{Backend: b}
	half.left.Store(2) // of the record alone, and of all
	second, err := synchronization.Open(t.Context(), half, "shop", ledgerOptions())
	if err != nil {
		t.Fatal(err)
	}
	defer second.Close()
	if losses := second.Losses(); len(losses) != 0 {
		t.Errorf("losses %v", losses)
	}
}
