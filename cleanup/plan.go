package cleanup

import (
	"cmp"
	"encoding/hex"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

// Plan decides what goes. It fails with [ErrKeepsNothing] where something is there,
// nothing of it is kept for more than its age, and the input does not allow that;
// the decision is returned all the same, to be looked at.
func Plan(in Input) (Decision, error) {
	p := newPlanner(in)
	p.keepNames()
	p.keepPlanned()
	p.keepMentioned()
	p.keepFlying()
	p.keepYoung()
	p.keepUnplannable()
	p.keepUnread()
	p.keepBelow()
	d := p.decide()
	if !in.AllowEmptyKeep && len(d.Remove) > 0 && !p.keepsAnything() {
		return d, ErrKeepsNothing
	}
	return d, nil
}

// planner gathers what keeps each tag.
type planner struct {
	Input
	names   []inventory.Name
	reasons [][]Reason // of names
	// byTag, byStage, byRoot and byManifest find names.
	byTag      map[string]int
	byStage    map[stages.Digest]int
	byRoot     map[stages.Digest]int
	byManifest map[digest.Digest][]int
	// roots are the names of indexes, in their order.
	roots  []int
	layers *tree
	// planned are the stages that a kept commit plans: what they stand on is known.
	planned map[int]bool
	missing []Mention
}

func newPlanner(in Input) *planner {
	n := len(in.Inventory.Names)
	p := &planner{
		Input: in, names: in.Inventory.Names, reasons: make([][]Reason, n), layers: newTree(), planned: make(map[int]bool),
		byTag: make(map[string]int, n), byStage: make(map[stages.Digest]int, n), byRoot: make(map[stages.Digest]int),
		byManifest: make(map[digest.Digest][]int, n),
	}
	for i, name := range p.names {
		p.byTag[name.Tag] = i
		if d, ok := name.Stage(); ok {
			p.byStage[d] = i
			if name.Manifest != nil {
				p.layers.put(name.Manifest.Layers, i)
			}
		} else if d, ok := rootOf(name); ok {
			p.byRoot[d] = i
			p.roots = append(p.roots, i)
		}
		if name.Manifest != nil {
			p.byManifest[name.Manifest.Digest] = append(p.byManifest[name.Manifest.Digest], i)
		}
	}
	return p
}

// rootOf returns the root that the name of an index has.
func rootOf(n inventory.Name) (stages.Digest, bool) {
	if !isIndex(n) {
		return stages.Digest{}, false
	}
	d, err := stages.ParseDigest(n.Tag[len(n.Tag)-2*len(stages.Digest{}):])
	return d, err == nil
}

func isIndex(n inventory.Name) bool {
	return n.Kind == inventory.KindBuild || n.Kind == inventory.KindPlatforms
}

func (p *planner) keep(i int, code Code, text string, args ...any) {
	if len(args) > 0 {
		text = fmt.Sprintf(text, args...)
	}
	p.reasons[i] = add(p.reasons[i], Reason{code, text})
}

// keepNames keeps what is not to be decided about.
func (p *planner) keepNames() {
	for i, n := range p.names {
		switch {
		case n.Kind == inventory.KindMarker:
			p.keep(i, Marker, "names the project of the storage")
		case n.Kind == inventory.KindForeign:
			p.keep(i, Foreign, "is no tag of Cairn's")
			for _, other := range p.byManifest[p.Named[n.Tag]] {
				p.keep(other, Tagged, "the tag %s names the same manifest", n.Tag)
			}
			p.keepMembers(p.Inventory.Manifests[p.Named[n.Tag]], Tagged, "the tag "+n.Tag+" names its index")
		case n.Manifest == nil:
			p.keep(i, Broken, "cannot be read: %v", n.Broken)
		}
	}
}

// keepPlanned keeps what kept commits plan, and the indexes of their builds.
func (p *planner) keepPlanned() {
	for c := range p.Commits {
		commit := &p.Commits[c]
		for _, img := range commit.Images {
			for _, d := range img.Stages {
				if i, ok := p.byStage[d]; ok {
					p.planned[i] = true
					p.keep(i, Planned, "%s, a stage of %s", commit.label(), imageLabel(img.Name))
				}
			}
		}
		for _, i := range p.roots {
			if m := p.names[i].Manifest; m != nil && commit.Explain(m) == Explains {
				p.keep(i, Planned, "%s, an index of its images", commit.label())
				p.keepMembers(m, Member, "listed by "+short(p.names[i].Tag))
			}
		}
	}
}

func (c *Commit) label() string {
	if c.ID == "" {
		return c.Why
	}
	return fmt.Sprintf("%s (%s)", c.Why, c.ID[:min(len(c.ID), 12)])
}

func imageLabel(name string) string {
	if name == "" {
		return "the nameless image"
	}
	return "image " + name
}

// short is a tag for people.
func short(tag string) string {
	const digits = 12
	if hash, ok := strings.CutPrefix(tag, "build-"); ok && len(hash) > digits {
		return "build-" + hash[:digits]
	}
	if len(tag) == 2*len(stages.Digest{}) {
		return tag[:digits]
	}
	return tag
}

// keepMembers keeps the stages that an index lists.
func (p *planner) keepMembers(index *inventory.Manifest, code Code, text string) {
	if index == nil {
		return
	}
	for _, m := range index.Members {
		if i, ok := p.byStage[m.Stage]; ok {
			p.keep(i, code, text)
		}
		for _, i := range p.byManifest[m.Digest] {
			p.keep(i, code, text)
		}
	}
}

// keepMentioned keeps what clusters use and what the keep list names.
func (p *planner) keepMentioned() {
	for _, m := range p.InUse {
		p.keepMention(m, InUse, "in use: "+m.Where)
	}
	for _, m := range p.Listed {
		p.keepMention(m, KeepList, "named by "+m.Where)
	}
}

func (p *planner) keepMention(m Mention, code Code, text string) {
	var found []int
	if i, ok := p.byTag[m.Tag]; ok && m.Tag != "" {
		found = append(found, i)
	}
	if !m.Digest.IsZero() {
		if i, ok := p.byStage[m.Digest]; ok {
			found = append(found, i)
		}
		if i, ok := p.byRoot[m.Digest]; ok {
			found = append(found, i)
		}
		d := digest.NewDigestFromEncoded(digest.SHA256, hex.EncodeToString(m.Digest[:]))
		found = append(found, p.byManifest[d]...)
	}
	if len(found) == 0 {
		p.missing = append(p.missing, m)
	}
	for _, i := range found {
		p.keep(i, code, text)
		if isIndex(p.names[i]) {
			p.keepMembers(p.names[i].Manifest, Member, "listed by "+short(p.names[i].Tag))
		}
	}
}

// keepFlying keeps what builds are at work on or have just published, and what such
// an index lists: whoever has just read it takes its stages for there. What a
// cleaner has marked is not in flight: it is to be finished.
func (p *planner) keepFlying() {
	for d, e := range p.Entries {
		i, ok := p.byStage[d]
		if !ok {
			i, ok = p.byRoot[d]
		}
		if ok && (e.State == synchronization.Building || e.State == synchronization.Publishing || e.State == synchronization.Published) {
			p.keep(i, InFlight, "the ledger has it as %s", e.State)
			p.keepMembersOf(p.names[i])
		}
	}
}

func (p *planner) keepYoung() {
	if p.KeepBuiltWithin <= 0 {
		return
	}
	for i, n := range p.names {
		if n.Kind != inventory.KindStage && !isIndex(n) {
			continue
		}
		if since := n.Since(); since.IsZero() || p.Now.Sub(since) < p.KeepBuiltWithin {
			p.keep(i, Young, "not known to be older than %s", hours(p.KeepBuiltWithin))
			p.keepMembersOf(n)
		}
	}
}

// keepMembersOf keeps what a name lists, if it is one of an index.
func (p *planner) keepMembersOf(n inventory.Name) {
	if isIndex(n) {
		p.keepMembers(n.Manifest, Member, "listed by "+short(n.Tag))
	}
}

// keepUnplannable keeps what may be of commits that cannot be planned: indexes that
// nothing contradicts, what they list, and stages of which no index tells.
func (p *planner) keepUnplannable() {
	why := p.unplannable()
	if len(why) == 0 {
		return
	}
	led := p.ledTo()
	for _, i := range p.roots {
		n := p.names[i]
		for _, u := range why {
			if n.Manifest == nil || len(p.reasons[i]) > 0 && p.reasons[i][0].Code == Planned {
				break
			}
			if u.commit == nil || u.commit.Explain(n.Manifest) == MayExplain {
				p.keep(i, Unplannable, "%s", u.text)
				p.keepMembers(n.Manifest, Member, "listed by "+short(n.Tag))
			}
		}
	}
	for i, n := range p.names {
		if n.Kind == inventory.KindStage && n.Manifest != nil && !led[i] && len(p.reasons[i]) == 0 {
			p.keep(i, Unplannable, "no build tells of it, and %s", why[0].text)
		}
	}
}

// unknown is something of which it is not known what it has built; commit is nil
// where that can be anything.
type unknown struct {
	commit *Commit
	text   string
}

func (p *planner) unplannable() []unknown {
	var out []unknown
	for _, text := range p.Open {
		out = append(out, unknown{text: text})
	}
	for c := range p.Commits {
		if commit := &p.Commits[c]; len(commit.Unplanned) > 0 {
			out = append(out, unknown{commit, fmt.Sprintf("%s cannot be planned: %s", commit.label(), commit.Unplanned[0].Why)})
		}
	}
	return out
}

// ledTo returns the stages that an index lists, or that these stand on.
func (p *planner) ledTo() map[int]bool {
	out := make(map[int]bool)
	for _, root := range p.roots {
		m := p.names[root].Manifest
		if m == nil {
			continue
		}
		for _, member := range m.Members {
			i, ok := p.byStage[member.Stage]
			if !ok {
				continue
			}
			out[i] = true
			if s := p.names[i].Manifest; s != nil {
				for _, below := range p.layers.under(s.Layers) {
					out[below] = true
				}
			}
		}
	}
	return out
}

// keepUnread keeps everything where it is not known what is in use.
func (p *planner) keepUnread() {
	for _, why := range p.Unread {
		for i, n := range p.names {
			if n.Kind == inventory.KindStage || isIndex(n) {
				p.keep(i, Unread, why)
			}
		}
	}
}

// keepBelow keeps what kept stages stand on. Planned ones bring that with them; of
// others the layers tell.
func (p *planner) keepBelow() {
	for i, n := range p.names {
		if n.Kind != inventory.KindStage || n.Manifest == nil || len(p.reasons[i]) == 0 || p.planned[i] || p.reasons[i][0].Code == Parent {
			continue
		}
		for _, below := range p.layers.under(n.Manifest.Layers) {
			if below != i {
				p.keep(below, Parent, "%s stands on its layers", short(n.Tag))
			}
		}
	}
}

// keepsAnything reports whether something is kept for more than that it is new or
// cannot be read.
func (p *planner) keepsAnything() bool {
	for i, n := range p.names {
		if n.Kind != inventory.KindStage && !isIndex(n) {
			continue
		}
		for _, r := range p.reasons[i] {
			if !slices.Contains([]Code{Young, InFlight, Broken, Parent, Member}, r.Code) {
				return true
			}
		}
	}
	return false
}

// decide turns the reasons into verdicts.
func (p *planner) decide() Decision {
	led := p.ledTo()
	d := Decision{Verdicts: make([]Verdict, len(p.names)), Missing: p.missing}
	for i, n := range p.names {
		v := Verdict{Tag: n.Tag, Kind: n.Kind, Keep: len(p.reasons[i]) > 0, Reasons: p.reasons[i]}
		if n.Manifest != nil {
			v.Manifest = n.Manifest.Digest
		}
		if n.Kind == inventory.KindForeign {
			d.Foreign = append(d.Foreign, n.Tag)
			v.Manifest = p.Named[n.Tag]
		}
		if !v.Keep {
			v.Reasons = []Reason{p.removed(i, led)}
			d.Remove = append(d.Remove, p.removal(i))
		}
		d.Verdicts[i] = v
	}
	p.measure(&d)
	slices.SortFunc(d.Missing, func(a, b Mention) int {
		return cmp.Or(strings.Compare(a.Where, b.Where), strings.Compare(a.Tag, b.Tag))
	})
	return d
}

func (p *planner) removed(i int, led map[int]bool) Reason {
	switch {
	case isIndex(p.names[i]):
		return Reason{Unreferenced, "no kept commit has built it, and nothing uses it"}
	case led[i]:
		return Reason{DeadBuilds, "only builds that go have used it"}
	}
	return Reason{NoBuild, "no build tells of it, and no kept commit plans it"}
}

func (p *planner) removal(i int) Removal {
	n := p.names[i]
	r := Removal{Kind: n.Kind, Manifest: n.Manifest.Digest}
	if d, ok := n.Stage(); ok {
		r.Digest = d
		for _, l := range n.Manifest.Layers {
			r.Layers = append(r.Layers, l.Digest)
		}
		for _, below := range p.layers.strictlyUnder(n.Manifest.Layers) {
			r.On = p.goesUnder(r.On, below)
		}
		return r
	}
	r.Digest, _ = rootOf(n)
	for _, m := range n.Manifest.Members {
		if at, ok := p.byStage[m.Stage]; ok {
			r.On = p.goesUnder(r.On, at)
		}
	}
	return r
}

func (p *planner) goesUnder(on []stages.Digest, i int) []stages.Digest {
	if d, ok := p.names[i].Stage(); ok && len(p.reasons[i]) == 0 {
		return append(on, d)
	}
	return on
}

// Tag returns the tag of the storage that goes.
func (r Removal) Tag() string {
	if r.Kind == inventory.KindStage {
		return storage.StageTag(r.Digest)
	}
	return storage.BuildTag(r.Digest)
}
