package cleanup

import (
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage/inventory"
)

// several stands for more than one holder of content.
const several = -1

// measure counts what tags hold alone, each and by their reasons. A manifest that
// is only a member of an index counts with that.
func (p *planner) measure(d *Decision) {
	sizes := make(map[digest.Digest]int64)
	alone, together := make(map[digest.Digest]int), make(map[digest.Digest]int)
	totals, order := p.totals(d)
	for i, n := range p.names {
		m := p.Inventory.Manifests[d.Verdicts[i].Manifest]
		if n.Kind != inventory.KindForeign {
			m = n.Manifest
		}
		p.hold(m, 0, func(content digest.Digest, size int64) {
			sizes[content] = size
			claim(alone, content, i+1)
			claim(together, content, order[totalOf(d.Verdicts[i])]+1)
		})
	}
	for content, holder := range alone {
		if holder != several {
			d.Verdicts[holder-1].Bytes += sizes[content]
		}
	}
	for content, holder := range together {
		if holder != several {
			totals[holder-1].Bytes += sizes[content]
		}
	}
	d.Totals = totals
	d.Freed = freed(d, p, sizes)
}

// hold calls visit for all content that a manifest needs.
func (p *planner) hold(m *inventory.Manifest, depth int, visit func(digest.Digest, int64)) {
	const deepest = 8
	if m == nil || depth > deepest {
		return
	}
	visit(m.Digest, m.Size)
	for _, d := range m.Descriptors() {
		visit(d.Digest, d.Size)
	}
	for _, member := range m.Members {
		p.hold(p.Inventory.Manifests[member.Digest], depth+1, visit)
	}
}

// claim notes that holder has content.
func claim(holders map[digest.Digest]int, content digest.Digest, holder int) {
	if was, ok := holders[content]; ok && was != holder {
		holder = several
	}
	holders[content] = holder
}

// group is what a total counts.
type group struct {
	code Code
	keep bool
}

func totalOf(v Verdict) group { return group{v.Reasons[0].Code, v.Keep} }

// totals counts tags by their strongest reasons; order is where each total stands.
func (p *planner) totals(d *Decision) (all []Total, order map[group]int) {
	count := make(map[group]int)
	for _, v := range d.Verdicts {
		count[totalOf(v)]++
	}
	order = make(map[group]int)
	for _, c := range slices.Concat(Keeping(), Removing()) {
		for _, keep := range []bool{true, false} {
			if n := count[group{c, keep}]; n > 0 {
				order[group{c, keep}] = len(all)
				all = append(all, Total{Code: c, Keep: keep, Tags: n})
			}
		}
	}
	return all, order
}

// freed is what nothing holds any more when all that goes is gone.
func freed(d *Decision, p *planner, sizes map[digest.Digest]int64) int64 {
	stays, goes := make(map[digest.Digest]bool), make(map[digest.Digest]bool)
	for i, v := range d.Verdicts {
		into := goes
		if v.Keep {
			into = stays
		}
		m := p.names[i].Manifest
		if p.names[i].Kind == inventory.KindForeign {
			m = p.Inventory.Manifests[v.Manifest]
		}
		p.hold(m, 0, func(content digest.Digest, _ int64) { into[content] = true })
	}
	var sum int64
	for content := range goes {
		if !stays[content] {
			sum += sizes[content]
		}
	}
	return sum
}

// hours writes a whole number of hours, or what a duration is.
func hours(d time.Duration) string {
	return strings.TrimSuffix(d.String(), "0m0s")
}
