package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// maxConfigMap is the most that the API server lets the data of a ConfigMap take, in bytes.
const maxConfigMap = 1 << 20

// Where a ledger has no room a build says so in its own words, not in the server's,
// and where it has again nothing was lost.
func TestAFullLedgerIsToldAndCostsNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		free int // bytes in each shard
	}{
		{"by who knows how full it is", 32 << 10},
		{"by the server", 32},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newSpaced(t)
			p, commit := versioned(t, "full")
			storage, h := storageOf(t, shared.registry, ""), newHost(t, 0)
			build := func() result {
				t.Helper()
				return h.startBuild(t, p, storage, "--synchronization", c.ledger("")).wait(t)
			}
			commit("one")
			before := succeeded(t, build())
			c.fillShards(t, tt.free)
			commit("two")
			res := build()
			message, hint := res.errorLines()
			if res.code != 7 || !strings.Contains(message, "is full") || !strings.Contains(hint, "cairn locks ls") {
				t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
			}
			for _, theirs := range []string{"413", "422", "Too long", "too large", "TooLarge", "Invalid"} {
				if strings.Contains(res.stdout+res.stderr, theirs) {
					t.Errorf("cairn says %q:\n%s", theirs, res.stderr)
				}
			}
			c.fillShards(t, maxConfigMap)
			if after := succeeded(t, build()); after.Root == before.Root {
				t.Error("the second version has the root of the first")
			}
			checkRepository(t, storage)
		})
	}
}

// fillShards has all shards of the ledger take so much that only free bytes are left.
func (c *spaced) fillShards(t *testing.T, free int) {
	t.Helper()
	var list struct {
		Items []struct {
			Metadata struct{ Name string }
			Data     map[string]string
		}
	}
	decode(t, []byte(c.kubectl(t, "get", "configmaps", "-o", "json")), &list)
	shards := 0
	for _, o := range list.Items {
		if !strings.Contains(o.Metadata.Name, ".") || strings.HasPrefix(o.Metadata.Name, "kube-") {
			continue
		}
		shards++
		size := len("filler")
		for key, value := range o.Data {
			if key != "filler" {
				size += len(key) + len(value)
			}
		}
		patch, err := json.Marshal(map[string]any{"data": map[string]string{"filler": strings.Repeat("x", max(0, maxConfigMap-size-free))}})
		if err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(t.TempDir(), "patch.json")
		if err := os.WriteFile(file, patch, 0o600); err != nil {
			t.Fatal(err)
		}
		c.kubectl(t, "patch", "configmap", o.Metadata.Name, "--type=merge", "--patch-file", file)
	}
	if shards == 0 {
		t.Fatalf("the ledger has no shards among %d objects", len(list.Items))
	}
}
