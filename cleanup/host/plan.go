package host

import (
	"cmp"
	"slices"
	"time"
)

// Part is content that several items of one store may share: a layer, say.
type Part struct {
	ID string
	// Size is what it takes on disk, in bytes.
	Size int64
}

// Item is what a store can evict as one: a stage, a record of the engine.
type Item struct {
	// ID names it in its store.
	ID string
	// Used is when it was last used.
	Used time.Time
	// Parts is what it is made of. A part goes with the last item that has it.
	Parts []Part
	// On are the items of the same store that it stands on: they cannot go before it.
	On []string
	// Held says why it must stay: a running build has it, it is not yet published.
	// Empty when it may go.
	Held string
}

// Ref names an item of one of several stores.
type Ref struct{ Store, ID string }

// Verdict is what is to become of an item.
type Verdict struct {
	Ref
	Used time.Time
	// Frees is what its going frees after all that goes before it, in bytes.
	Frees int64
	// Reason says for people why it stays or goes.
	Reason string
}

// Block is a reason that keeps items from going, and what those hold.
type Block struct {
	Reason string
	Items  int
	// Bytes would be freed if all items with this reason could go as well.
	Bytes int64
}

// Decision is what a plan comes to.
type Decision struct {
	// Volume is what was measured, Goal the number of used bytes to come down to; 0
	// where the volume is not above the high mark.
	Volume Volume
	Goal   int64
	// Evict goes, in this order, least recently used first. It is all that may go:
	// Enough says how many of them should do.
	Evict  []Verdict
	Enough int
	// Blocked is what may not go, by reason, the largest first.
	Blocked []Block
	// Ours is what all items take.
	Ours int64
}

// Inventory is what a store holds.
type Inventory struct {
	Store string
	Items []Item
}

// Rules say what may go.
type Rules struct {
	Marks Marks
	// MinAge protects what was used more recently: a run may be about to use it again.
	MinAge time.Duration
	Now    time.Time
}

// Plan decides what goes from a volume. It is pure. An item that others stand on
// goes right after the last of them, wherever its own use would have put it.
func Plan(v Volume, stores []Inventory, r Rules) Decision {
	d := Decision{Volume: v}
	if v.Used > r.Marks.High.Of(v) {
		d.Goal = r.Marks.Low.Of(v)
	}
	g := newGraph(stores, r)
	d.Ours = g.total
	g.evictAll(&d)
	d.Enough = enough(d)
	d.Blocked = g.blocked()
	return d
}

// enough counts the evictions that bring the volume to its goal.
func enough(d Decision) int {
	if d.Goal == 0 {
		return 0
	}
	used := d.Volume.Used
	for i, v := range d.Evict {
		if used <= d.Goal {
			return i
		}
		used -= v.Frees
	}
	return len(d.Evict)
}

// node is an item on its way out.
type node struct {
	ref   Ref
	item  *Item
	parts []int32 // of graph.sizes
	on    []int32 // of graph.nodes
	above int32   // items that stand on it and are not evicted
	why   string  // it stays
}

// graph is all items with what they share. Parts are numbered: 50,000 items of
// ten layers each are looked at in a few milliseconds that way.
type graph struct {
	nodes []node
	sizes []int64 // of the parts
	users []int32 // how many items have the part
	total int64
}

func newGraph(stores []Inventory, r Rules) *graph {
	n := 0
	for _, s := range stores {
		n += len(s.Items)
	}
	g := &graph{nodes: make([]node, 0, n)}
	for _, s := range stores {
		g.add(s, r)
	}
	g.holdWhatHeldStandsOn()
	return g
}

func (g *graph) add(s Inventory, r Rules) {
	first := int32(len(g.nodes))
	ids := make(map[string]int32, len(s.Items))
	parts := make(map[string]int32, len(s.Items))
	for i := range s.Items {
		ids[s.Items[i].ID] = first + int32(i)
	}
	for i := range s.Items {
		it := &s.Items[i]
		n := node{ref: Ref{s.Store, it.ID}, item: it, why: r.stays(it), parts: make([]int32, 0, len(it.Parts))}
		for _, p := range it.Parts {
			at, ok := parts[p.ID]
			if !ok {
				at = int32(len(g.sizes))
				parts[p.ID] = at
				g.sizes, g.users = append(g.sizes, p.Size), append(g.users, 0)
				g.total += p.Size
			}
			if !slices.Contains(n.parts, at) {
				n.parts = append(n.parts, at)
				g.users[at]++
			}
		}
		for _, id := range it.On {
			if at, ok := ids[id]; ok {
				n.on = append(n.on, at)
			}
		}
		g.nodes = append(g.nodes, n)
	}
	for _, n := range g.nodes[first:] {
		for _, at := range n.on {
			g.nodes[at].above++
		}
	}
}

// stays says why an item must stay, or "".
func (r Rules) stays(it *Item) string {
	switch {
	case it.Held != "":
		return it.Held
	case r.Now.Sub(it.Used) < r.MinAge:
		return "used in the last " + r.MinAge.String()
	default:
		return ""
	}
}

// underHeld is why an item stays whose user stays.
const underHeld = "what stands on it stays"

// holdWhatHeldStandsOn marks all that must stay for another's sake.
func (g *graph) holdWhatHeldStandsOn() {
	var open []int32
	for i := range g.nodes {
		if g.nodes[i].why != "" {
			open = append(open, int32(i))
		}
	}
	for len(open) > 0 {
		n := &g.nodes[open[len(open)-1]]
		open = open[:len(open)-1]
		for _, at := range n.on {
			if g.nodes[at].why == "" {
				g.nodes[at].why = underHeld
				open = append(open, at)
			}
		}
	}
}

// evictAll lists what may go. What nothing stands on goes in the order of use,
// and frees what it stood on; that, being older than its users at best, is next.
func (g *graph) evictAll(d *Decision) {
	var order []int32
	for i := range g.nodes {
		if g.nodes[i].why == "" {
			order = append(order, int32(i))
		}
	}
	slices.SortFunc(order, func(a, b int32) int {
		x, y := &g.nodes[a], &g.nodes[b]
		return cmp.Or(x.item.Used.Compare(y.item.Used), cmp.Compare(x.ref.Store, y.ref.Store), cmp.Compare(x.ref.ID, y.ref.ID))
	})
	d.Evict = make([]Verdict, 0, len(order))
	waiting := make([]bool, len(g.nodes)) // its turn came while others stood on it
	for _, at := range order {
		next := []int32{at}
		for len(next) > 0 {
			at := next[0]
			next = next[1:]
			if g.nodes[at].above > 0 {
				waiting[at] = true
				continue
			}
			d.Evict = append(d.Evict, g.evict(at))
			for _, below := range g.nodes[at].on {
				g.nodes[below].above--
				if waiting[below] && g.nodes[below].above == 0 {
					next = append(next, below)
				}
			}
		}
	}
}

// evict takes an item out and says what that frees.
func (g *graph) evict(at int32) Verdict {
	n := &g.nodes[at]
	v := Verdict{Ref: n.ref, Used: n.item.Used, Reason: "used least recently"}
	for _, p := range n.parts {
		g.users[p]--
		if g.users[p] == 0 {
			v.Frees += g.sizes[p]
		}
	}
	return v
}

// blocked sums up, after evictAll, what stays. A part that items with different
// reasons share counts for the first of them.
func (g *graph) blocked() []Block {
	byReason := map[string]*Block{}
	counted := make([]bool, len(g.sizes))
	for i := range g.nodes {
		n := &g.nodes[i]
		if n.why == "" {
			continue
		}
		b := byReason[n.why]
		if b == nil {
			b = &Block{Reason: n.why}
			byReason[n.why] = b
		}
		b.Items++
		for _, p := range n.parts {
			if !counted[p] {
				counted[p] = true
				b.Bytes += g.sizes[p]
			}
		}
	}
	out := make([]Block, 0, len(byReason))
	for _, b := range byReason {
		out = append(out, *b)
	}
	slices.SortFunc(out, func(a, b Block) int {
		return cmp.Or(cmp.Compare(b.Bytes, a.Bytes), cmp.Compare(a.Reason, b.Reason))
	})
	return out
}
