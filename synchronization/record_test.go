package synchronization_test

import (
	"crypto/rand"
	"encoding/json"
	"fmt"
	"testing"
	"time"

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
