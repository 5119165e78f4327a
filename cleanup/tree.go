package cleanup

import (
	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage/inventory"
)

// tree finds what stands on what by layers: a stage's begin with those of the stage
// below it. Manifests say no more about their parents than this.
type tree struct {
	next map[edge]int
	// at are the names whose layers end at a node; node 0 has none.
	at [][]int
}

// edge leads from a node over a layer.
type edge struct {
	from  int
	layer digest.Digest
}

func newTree() *tree { return &tree{next: make(map[edge]int), at: make([][]int, 1)} }

// put adds a name. One without layers has nobody stand on it.
func (t *tree) put(layers []inventory.Blob, name int) {
	node := 0
	for _, l := range layers {
		e := edge{node, l.Digest}
		to, ok := t.next[e]
		if !ok {
			to = len(t.at)
			t.next[e], t.at = to, append(t.at, nil)
		}
		node = to
	}
	if node != 0 {
		t.at[node] = append(t.at[node], name)
	}
}

// under returns the names whose layers these begin with, those with just these
// layers among them.
func (t *tree) under(layers []inventory.Blob) []int {
	var out []int
	node := 0
	for _, l := range layers {
		node = t.next[edge{node, l.Digest}]
		if node == 0 {
			break
		}
		out = append(out, t.at[node]...)
	}
	return out
}

// strictlyUnder leaves out those with just these layers.
func (t *tree) strictlyUnder(layers []inventory.Blob) []int {
	if len(layers) == 0 {
		return nil
	}
	return t.under(layers[:len(layers)-1])
}
