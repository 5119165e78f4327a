package history

import (
	"cmp"
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// What [CheckSwitch] demands besides.
const (
	// OneOpen: of the ledgers between which a project moves at most one is open.
	OneOpen Rule = "one ledger is open"
	// Fenced: what a closed ledger says stays, but for what is moved to it.
	Fenced Rule = "a closed ledger does not change"
)

// seal is a ledger's epoch and whether it is open, as its record and shards say.
type seal struct {
	Epoch int  `json:"epoch"`
	Open  bool `json:"open"`
}

// Keys of a ledger's record.
const (
	keySeal    = "ledger"
	keyStorage = "storage"
	keyArrival = "arrival"
)

func (r *Revision) seal() (seal, bool) {
	var s seal
	err := json.Unmarshal([]byte(r.Data[keySeal]), &s)
	return s, err == nil
}

// isRecord reports whether the revision is of a ledger's record and not of a shard.
func (r *Revision) isRecord() bool { return !strings.Contains(r.Shard, ".") }

// CheckSwitch returns everything that is wrong with a history in which builds went on
// while their project was moved between places, perhaps there and back. Events and
// revisions name the place; reads of a ledger are noted when they show a new revision
// or confirm the last one. No stage is deleted in such a history, and no command
// gives the same result twice, so that a stage has one manifest for all time and
// at all places.
func CheckSwitch(h *History) []Violation {
	c := &switchChecker{checker: checker{History: h, of: map[Kind][]*Event{}}, at: map[string]map[string][]*Revision{}}
	c.index()
	c.checkManifests()
	c.checkOpen()
	c.checkFences()
	c.checkHome()
	c.checkCounts()
	c.checkEnds()
	c.checkDeletions()
	return c.found
}

// switchChecker holds what the rules of a switch look at.
type switchChecker struct {
	checker
	at map[string]map[string][]*Revision // by place and shard, in their order
}

func (c *switchChecker) index() {
	for i := range c.Events {
		e := &c.Events[i]
		c.of[e.Kind] = append(c.of[e.Kind], e)
	}
	for i := range c.Revisions {
		r := &c.Revisions[i]
		if c.at[r.Place] == nil {
			c.at[r.Place] = map[string][]*Revision{}
		}
		c.at[r.Place][r.Shard] = append(c.at[r.Place][r.Shard], r)
	}
	for _, shards := range c.at {
		for _, all := range shards {
			slices.SortFunc(all, func(a, b *Revision) int { return cmp.Compare(a.Number, b.Number) })
		}
	}
}

// checkManifests: OneManifest, of tags, entries and reports at all places.
func (c *switchChecker) checkManifests() {
	first := map[string]*Event{}
	see := func(name, manifest string, e *Event) {
		if manifest == "" {
			return
		}
		b := brief(e)
		b.Tag, b.Digest = name, manifest
		if other := first[name]; other == nil {
			first[name] = b
		} else if other.Digest != manifest {
			c.violate(OneManifest, []*Event{other, b}, "%s is %s and %s", name, other.Digest, manifest)
		}
	}
	for _, e := range slices.Concat(c.of[TagRead], c.of[TagPut], c.of[Final]) {
		if name, ok := stageOf(e.Tag); ok {
			see(name, e.Digest, e)
		}
	}
	for i := range c.Revisions {
		r := &c.Revisions[i]
		for key, text := range r.Data {
			if name, ok := strings.CutPrefix(key, keyPrefix); ok {
				e, err := decode(text)
				if err != nil {
					c.violate(Legal, nil, "entry of %s in %s holds nonsense", short(name), r.Place)
				}
				see(name, e.Manifest, &Event{Kind: LedgerRead, Place: r.Place, Shard: r.Shard, Revision: r.Number})
			}
		}
	}
	for _, e := range c.of[End] {
		if e.Report != nil {
			for _, s := range e.Report.Stages {
				see(s.Digest, s.Manifest, e)
			}
		}
	}
}

// span is a time during which a ledger was open for certain.
type span struct {
	from, to   time.Duration
	first, end *Event
}

// checkOpen: OneOpen.
func (c *switchChecker) checkOpen() {
	spans := map[string][]span{}
	last := map[string]*Event{}
	for _, e := range c.of[LedgerRead] {
		r := c.revision(e)
		if r == nil || !r.isRecord() {
			continue
		}
		before := last[e.Place]
		last[e.Place] = e
		if before == nil || !c.opensBuilds(before) || !c.opensBuilds(e) || before.Finish >= e.Begin {
			continue
		}
		was, _ := c.revision(before).seal()
		if is, _ := r.seal(); is == was {
			spans[e.Place] = append(spans[e.Place], span{before.Finish, e.Begin, before, e})
		}
	}
	for a, all := range spans {
		for b, others := range spans {
			if a < b {
				c.checkOverlap(a, b, all, others)
			}
		}
	}
}

// checkOverlap tells of the first moment at which two ledgers were open.
func (c *switchChecker) checkOverlap(a, b string, all, others []span) {
	for _, s := range all {
		for _, o := range others {
			if s.from < o.to && o.from < s.to {
				c.violate(OneOpen, []*Event{s.first, s.end, o.first, o.end}, "the ledgers of %s and %s are both open", a, b)
				return
			}
		}
	}
}

// opensBuilds reports whether builds go on in a ledger that was read so. One that has
// just been made is open until it is closed for what is moved to it, and is used by nobody.
func (c *switchChecker) opensBuilds(e *Event) bool {
	r := c.revision(e)
	s, ok := r.seal()
	return ok && s.Open && r.Data[keyStorage] != "" && r.Data[keyArrival] == ""
}

// revision returns what a read showed.
func (c *switchChecker) revision(e *Event) *Revision {
	all := c.at[e.Place][e.Shard]
	i, ok := slices.BinarySearchFunc(all, e.Revision, func(r *Revision, n uint64) int { return cmp.Compare(r.Number, n) })
	if !ok {
		return nil
	}
	return all[i]
}

// checkFences: Fenced.
func (c *switchChecker) checkFences() {
	for place, shards := range c.at {
		arriving := arrivals(shards)
		for _, all := range shards {
			for i := 1; i < len(all); i++ {
				was, ok1 := all[i-1].seal()
				is, ok2 := all[i].seal()
				if !ok1 || !ok2 || was != is || is.Open || arriving[is.Epoch] {
					continue
				}
				c.checkSame(place, all[i-1], all[i])
			}
		}
	}
}

// arrivals returns the closed epochs of a ledger in which stages were moved to it.
func arrivals(shards map[string][]*Revision) map[int]bool {
	epochs := map[int]bool{}
	for _, all := range shards {
		for _, r := range all {
			if s, ok := r.seal(); ok && !s.Open && r.isRecord() && r.Data[keyArrival] != "" {
				epochs[s.Epoch] = true
			}
		}
	}
	return epochs
}

// checkSame demands that two states of a shard have the same entries.
func (c *switchChecker) checkSame(place string, was, is *Revision) {
	for key := range was.Data {
		if strings.HasPrefix(key, keyPrefix) && is.Data[key] != was.Data[key] {
			c.violate(Fenced, nil, "%s in the closed ledger of %s was %q and is %q", key, place, was.Data[key], is.Data[key])
		}
	}
	for key := range is.Data {
		if _, ok := was.Data[key]; !ok && strings.HasPrefix(key, keyPrefix) {
			c.violate(Fenced, nil, "%s appeared in the closed ledger of %s as %q", key, place, is.Data[key])
		}
	}
}

// checkHome: Kept. Where builds go on in the end, there is all that was reported.
func (c *switchChecker) checkHome() {
	home, last := "", map[string]*Event{}
	for _, e := range c.of[LedgerRead] {
		if r := c.revision(e); r != nil && r.isRecord() {
			last[e.Place] = e
		}
	}
	for place, e := range last {
		if c.opensBuilds(e) {
			home = place
		}
	}
	at := map[string]*Event{}
	for _, e := range c.of[Final] {
		if e.Place != home {
			continue
		}
		if name, ok := stageOf(e.Tag); ok {
			at[name] = e
		}
		if e.Note != "" {
			c.violate(Kept, []*Event{e}, "tag %s is damaged: %s", e.Tag, e.Note)
		}
	}
	for _, e := range c.of[End] {
		if e.Report == nil || e.Exit != 0 {
			continue
		}
		for _, s := range e.Report.Stages {
			if s.Manifest != "" {
				c.kept(at, s.Digest, s.Manifest, brief(e))
			}
		}
	}
}

// checkCounts: Once.
func (c *switchChecker) checkCounts() {
	for _, e := range c.of[Command] {
		if e.Count != 1 {
			c.violate(Once, []*Event{e}, "the command of %s ran %d times", e.Command, e.Count)
		}
	}
}
