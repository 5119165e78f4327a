package source

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"slices"
)

// The constants of [Split] were measured on trees of 100 MB with files of 10 KB
// to 1 MB, at most 24 layers: a changed content always changes less than 5 % of
// the tree; a size that moves by 1 % changes more in about 1 of 100 cases, and a
// file that is added or removed changes 30 % on average, since with so few layers
// there is little choice of places to cut.
const (
	// oneLayer is the size up to which a tree is one layer, and what a layer of a
	// larger one may always hold, in bytes.
	oneLayer = 4 << 20
	// sharePermille is what part of the tree a layer may hold.
	sharePermille = 48
)

// item is a file as [Split] sees it.
type item struct {
	index int
	key   [sha256.Size]byte // of the path: the order of files
	cost  int64             // bytes in a tar
	grid  int64             // cost, rounded so that small changes do not show
}

// Split distributes files over at most max layers and returns for each layer the
// indexes into placed, in the byte order of paths. Sizes are those of contents,
// in bytes, in the order of placed.
//
// The result depends on paths and sizes alone, not on an earlier result, and is
// made so that a small change of the tree changes few layers. Files stand in the
// order of a hash of their paths, since neighbours in a tree often change
// together and differ in size. A layer is cut where, of the places that fill it
// well, the hash is lowest: such a place stays when others before it move. Sizes
// are rounded on a geometric grid for the same reason.
func Split(placed []Placed, sizes []int64, max int) [][]int {
	if len(placed) == 0 {
		return nil
	}
	items, total := splitItems(placed, sizes)
	layers := [][]item{items}
	if total > oneLayer && max > 1 {
		layers = cutAll(items, total, int64(max))
	}
	out := make([][]int, len(layers))
	for i, l := range layers {
		for _, it := range l {
			out[i] = append(out[i], it.index)
		}
		slices.SortFunc(out[i], func(a, b int) int { return cmp.Compare(placed[a].Path, placed[b].Path) })
	}
	return out
}

func splitItems(placed []Placed, sizes []int64) (items []item, total int64) {
	items = make([]item, len(placed))
	for i, p := range placed {
		cost := 512 + (sizes[i]+511)/512*512 // a header and whole blocks
		items[i] = item{index: i, key: sha256.Sum256([]byte(p.Path)), cost: cost, grid: onGrid(cost)}
		total += cost
	}
	slices.SortFunc(items, func(a, b item) int { return bytes.Compare(a.key[:], b.key[:]) })
	return items, total
}

// onGrid rounds to the nearest step of a grid that grows by 35 %. Whole numbers
// give the same answer on every machine.
func onGrid(n int64) int64 {
	v := int64(512)
	for v+v*35/100 <= n {
		v += v * 35 / 100
	}
	if n > v+v*162/1000 { // √1.35
		v += v * 35 / 100
	}
	return v
}

// cutAll finds the smallest layers of which there are at most limit.
func cutAll(items []item, total, limit int64) [][]item {
	most := int64(oneLayer)
	// Steps of 5 %, so that the size of layers rarely changes with the tree's.
	for share := total * sharePermille / 1000; most+most/20 <= share || most < total/limit; {
		most += most / 20
	}
	// The fuller that layers must be, the narrower the choice of places to cut.
	low := min(1000, max(700, 2000*(total/limit)/most-830))
	for {
		for _, fill := range []int64{low, (low + 1000) / 2, 1000} {
			if layers := cut(items, most, most*fill/1000); int64(len(layers)) <= limit {
				return layers
			}
		}
		most += most / 20
	}
}

// cut makes layers of at most most bytes. Larger files are layers of their own
// and do not part their neighbours.
func cut(items []item, most, enough int64) [][]item {
	var layers [][]item
	small := make([]item, 0, len(items))
	for i, it := range items {
		if it.cost > most {
			layers = append(layers, items[i:i+1])
		} else {
			small = append(small, it)
		}
	}
	for len(small) > 0 {
		n := cutOne(small, most, enough)
		layers = append(layers, small[:n])
		small = small[n:]
	}
	return layers
}

// cutOne returns how many items make the next layer: of those that leave it with
// enough bytes, and at most most, the one after the lowest hash.
func cutOne(items []item, most, enough int64) int {
	var sum int64
	best, lowest := 0, uint64(0)
	for i, it := range items {
		if sum += it.grid; sum > most && i > 0 {
			if best == 0 {
				return i
			}
			return best
		}
		// The first bytes of the key are in order already: the last are not.
		if h := binary.BigEndian.Uint64(it.key[sha256.Size-8:]); sum >= enough && (best == 0 || h < lowest) {
			best, lowest = i+1, h
		}
	}
	return len(items)
}
