package sweep

import (
	"bytes"
	"slices"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// item is a name on its way out.
type item struct {
	Name
	below []*item // what it stands on or lists, of what is to go
	above int     // how many stand on it or list it, and are not gone
	claim *synchronization.Claim
	// fate is what became of it; "" as long as it is to go.
	fate Fate
}

// graph is all names of a plan, with what stands on what.
type graph struct {
	indexes, stages []*item
	byDigest        map[stages.Digest]*item // stages only
}

func newGraph(names []Name) *graph {
	g := &graph{byDigest: make(map[stages.Digest]*item, len(names))}
	for _, n := range names {
		it := &item{Name: n}
		if n.Kind == Index {
			g.indexes = append(g.indexes, it)
			continue
		}
		if g.byDigest[n.Digest] == nil {
			g.byDigest[n.Digest] = it
			g.stages = append(g.stages, it)
		}
	}
	for _, it := range slices.Concat(g.indexes, g.stages) {
		for _, d := range it.On {
			if b := g.byDigest[d]; b != nil && b != it && !slices.Contains(it.below, b) {
				it.below = append(it.below, b)
				b.above++
			}
		}
	}
	// Neighbours share a shard of the ledger, so that their changes share requests.
	for _, items := range [][]*item{g.indexes, g.stages} {
		slices.SortFunc(items, func(a, b *item) int { return bytes.Compare(a.Digest[:], b.Digest[:]) })
	}
	return g
}

// left returns those of the items that are still to go.
func left(items []*item) []*item {
	return slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return it.fate != "" })
}

// ranks orders stages so that each comes in a later rank than all that stand on it.
// What stands on itself in the end is in none.
func ranks(items []*item) [][]*item {
	waiting := make(map[*item]int, len(items))
	for _, it := range items {
		waiting[it] += 0
		for _, b := range it.below {
			waiting[b]++
		}
	}
	free := slices.DeleteFunc(slices.Clone(items), func(it *item) bool { return waiting[it] > 0 })
	var all [][]*item
	for len(free) > 0 {
		all = append(all, free)
		var next []*item
		for _, it := range free {
			for _, b := range it.below {
				if waiting[b]--; waiting[b] == 0 && b.fate == "" {
					next = append(next, b)
				}
			}
		}
		free = next
	}
	return all
}

// batches cuts ranks into parts of at most size items each, in their order.
func batches(ranks [][]*item, size int) [][][]*item {
	var all [][][]*item
	var batch [][]*item
	room := size
	for _, rank := range ranks {
		for part := range slices.Chunk(rank, size) {
			for len(part) > 0 {
				n := min(room, len(part))
				batch, part = append(batch, part[:n]), part[n:]
				if room -= n; room == 0 {
					all, batch, room = append(all, batch), nil, size
				}
			}
		}
	}
	if len(batch) > 0 {
		all = append(all, batch)
	}
	return all
}
