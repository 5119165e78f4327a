package history

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// Rule names a promise.
type Rule string

// What [Check] demands.
const (
	// OneManifest: nobody ever reads another manifest under a stage's tag than the
	// one decided for it, within a generation.
	OneManifest Rule = "one manifest per stage"
	// Decided: a generation is decided once, upon a manifest that was stored before.
	Decided Rule = "one decision, upon what is stored"
	// Legal: entries only move as the protocol says, and only by the session they name.
	Legal Rule = "entries move as the protocol says"
	// Asked: the ledger holds what runners asked for, and nothing is lost of it.
	Asked Rule = "the ledger holds what was asked for"
	// Guarded: a tag is put by who has just seen the entry that decides for it.
	Guarded Rule = "tags are put under a guard"
	// Agreed: all who report on the commit say the same.
	Agreed Rule = "reports agree"
	// Kept: what was decided or reported is there at the end, whole.
	Kept Rule = "nothing is lost"
	// Honest: the registry's own log tells of the same writes as the proxies.
	Honest Rule = "the registry's log agrees"
	// Once: commands run once, and again only where a runner was disturbed.
	Once Rule = "commands run once"
	// Undeleted: where no cleaner runs, nobody deletes tags or manifests.
	Undeleted Rule = "nothing is deleted"
	// Marked: a name is deleted by who has marked it, under a guard; a manifest never.
	Marked Rule = "only what was marked is deleted"
	// Drained: who may not have seen a mark is through before what it marks goes.
	Drained Rule = "builds that cannot see a mark are waited for"
	// Ordered: nothing goes that something lists or stands on which is there.
	Ordered Rule = "names go before what they name"
	// Graced: a stage stays for the grace after the last name of it has gone.
	Graced Rule = "what was named stays for the grace"
	// Spared: what a branch names stays.
	Spared Rule = "what a branch names stays"
	// Leading: at the end names lead to what has a name, and stages stand on those
	// that are there.
	Leading Rule = "nothing dangles"
	// Ends: every runner that is not killed ends well, but for a few that say that the
	// registry or the ledger was away.
	Ends Rule = "runners end"
)

// Violation is a promise that was broken.
type Violation struct {
	Rule Rule
	// Text says what is wrong.
	Text string
	// Proof are the events that show it.
	Proof []Event
}

// String returns the violation with its proof, over several lines.
func (v Violation) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s: %s", v.Rule, v.Text)
	for _, e := range v.Proof {
		fmt.Fprintf(&b, "\n    %s", e)
	}
	return b.String()
}

// String returns an event as one line for people.
func (e Event) String() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%9.3fs", e.Begin.Seconds())
	if e.Finish > 0 {
		fmt.Fprintf(&b, "–%.3fs", e.Finish.Seconds())
	}
	fmt.Fprintf(&b, " %s", e.Kind)
	for _, f := range []struct{ name, value string }{
		{"runner", e.Runner}, {"tag", e.Tag}, {"digest", e.Digest}, {"shard", e.Shard}, {"session", e.Session},
		{"command", e.Command}, {"note", e.Note},
	} {
		if f.value != "" {
			fmt.Fprintf(&b, " %s=%s", f.name, f.value)
		}
	}
	if e.Status != 0 || e.Seen {
		fmt.Fprintf(&b, " status=%d seen=%v", e.Status, e.Seen)
	}
	if e.Revision != 0 {
		fmt.Fprintf(&b, " revision=%d", e.Revision)
	}
	for _, c := range e.Changes {
		fmt.Fprintf(&b, "\n        %s: %q → %q", c.Key, c.Old, c.New)
	}
	return b.String()
}

// Check returns everything that is wrong with a history.
func Check(h *History) []Violation {
	c := &checker{History: h, shards: map[string][]*Revision{}, sessions: map[string]string{}}
	c.index()
	c.followLedger()
	c.checkReads()
	c.checkDecisions()
	c.checkPuts()
	c.checkDeletions()
	c.checkRemovals()
	c.checkReports()
	c.checkFinal()
	c.checkLeading()
	c.checkLog()
	c.checkCommands()
	c.checkEnds()
	return c.found
}

// checker holds what several rules look at.
type checker struct {
	*History
	found []Violation

	of       map[Kind][]*Event
	shards   map[string][]*Revision // by number
	sessions map[string]string      // the runner of each session
	lives    map[string]*life       // by stage
	looks    map[string][]*Event    // seen reads of the ledger, by runner and shard
}

// violate notes a violation with its proof; nil events are left out.
func (c *checker) violate(r Rule, proof []*Event, format string, args ...any) {
	v := Violation{Rule: r, Text: fmt.Sprintf(format, args...)}
	for _, e := range proof {
		if e != nil {
			v.Proof = append(v.Proof, *e)
		}
	}
	c.found = append(c.found, v)
}

func (c *checker) index() {
	c.of = map[Kind][]*Event{}
	for i := range c.Events {
		e := &c.Events[i]
		c.of[e.Kind] = append(c.of[e.Kind], e)
	}
	for _, e := range c.of[Session] {
		c.sessions[e.Session] = e.Runner
	}
	for i := range c.Revisions {
		r := &c.Revisions[i]
		c.shards[r.Shard] = append(c.shards[r.Shard], r)
	}
	c.looks = map[string][]*Event{}
	for _, e := range c.of[LedgerRead] {
		if e.Seen {
			k := e.Runner + " " + e.Shard
			c.looks[k] = append(c.looks[k], e)
		}
	}
	for name, all := range c.shards {
		slices.SortFunc(all, func(a, b *Revision) int { return cmp.Compare(a.Number, b.Number) })
		c.checkShard(name, all)
	}
}

// checkShard: a shard stays itself, and all who see a revision of it see the same.
func (c *checker) checkShard(name string, all []*Revision) {
	for i, r := range all[1:] {
		switch before := all[i]; {
		case r.UID != before.UID:
			c.violate(Asked, nil, "shard %s was lost and made anew", name)
		case r.Number == before.Number && !maps.Equal(r.Data, before.Data):
			c.violate(Asked, nil, "revision %d of shard %s is told in two ways", r.Number, name)
		}
	}
}

// buildPrefix begins the tags of indexes, which have entries as stages have.
const buildPrefix = "build-"

// stageOf returns the stage, or the root of the index, that a tag names, false for
// other tags.
func stageOf(tag string) (string, bool) {
	hex := strings.TrimPrefix(tag, buildPrefix)
	return hex, len(hex) == 64 && strings.Trim(hex, "0123456789abcdef") == ""
}

// indexes returns the roots of all indexes that were asked for.
func (c *checker) indexes() map[string]bool {
	all := map[string]bool{}
	for _, e := range slices.Concat(c.of[TagRead], c.of[TagPut], c.of[Final]) {
		if root, ok := strings.CutPrefix(e.Tag, buildPrefix); ok {
			all[root] = true
		}
	}
	return all
}

// checkReads: OneManifest, and for other tags that they never move.
func (c *checker) checkReads() {
	others := map[string]*Event{}
	for _, e := range append(slices.Clone(c.of[TagRead]), c.of[Final]...) {
		if e.Kind == TagRead && e.Status != 200 || c.buried(e) {
			continue
		}
		stage, ok := stageOf(e.Tag)
		if !ok {
			c.checkFixed(others, e)
			continue
		}
		l := c.lives[stage]
		switch {
		case l == nil || len(l.generations) == 0:
			c.violate(OneManifest, []*Event{e}, "a tag shows what was never decided")
		case !l.had(e, c.Delta):
			c.violate(OneManifest, append(l.proof(), e), "a tag shows %s, which the stage is not then", e.Digest)
		}
	}
}

// checkFixed: what is the same whoever writes it never changes.
func (c *checker) checkFixed(others map[string]*Event, e *Event) {
	first := others[e.Tag]
	if first == nil {
		others[e.Tag] = e
		return
	}
	if first.Digest != e.Digest {
		c.violate(OneManifest, []*Event{first, e}, "tag %s shows two manifests", e.Tag)
	}
}

// checkDecisions: what is decided was stored before, and acknowledged. An index need
// not be: it follows from what it lists, so that whoever finishes it has its bytes.
func (c *checker) checkDecisions() {
	indexes := c.indexes()
	stored := map[string]time.Duration{}
	for _, e := range c.of[Push] {
		if at, ok := stored[e.Digest]; e.Status == 201 && (!ok || e.Finish < at) {
			stored[e.Digest] = e.Finish
		}
	}
	for _, stage := range c.stages() {
		if indexes[stage] {
			continue
		}
		for _, g := range c.lives[stage].generations {
			at, ok := stored[g.manifest]
			if !ok || at > g.decision.Begin {
				c.violate(Decided, []*Event{g.decision}, "%s was decided to be %s, which was not stored before", short(stage), g.manifest)
			}
		}
	}
}

// checkPuts: Guarded.
func (c *checker) checkPuts() {
	for _, put := range c.of[TagPut] {
		stage, ok := stageOf(put.Tag)
		if !ok || c.buried(put) {
			continue
		}
		l := c.lives[stage]
		if l == nil {
			c.violate(Guarded, []*Event{put}, "a tag is put for a stage that has no entry")
			continue
		}
		if !c.guarded(l, put, publishing, put.Digest) {
			c.violate(Guarded, append(l.proof(), put), "no look of runner %s at the entry of %s allows it to put this tag", put.Runner, short(stage))
		}
	}
}

// guarded reports whether the runner saw, shortly before it sent e, the entry of
// that state and manifest in the name of its own session; any manifest does for "".
func (c *checker) guarded(l *life, e *Event, state, manifest string) bool {
	return slices.ContainsFunc(c.looks[e.Runner+" "+l.shard], func(r *Event) bool {
		if r.Finish > e.Begin || e.Begin-r.Begin > c.Guard {
			return false
		}
		at, ok := c.entryAt(l.shard, r.Revision, l.key)
		return ok && at.State == state && (manifest == "" || at.Manifest == manifest) && c.sessions[at.Session] == e.Runner
	})
}

func (c *checker) entryAt(shard string, revision uint64, key string) (entry, bool) {
	all := c.shards[shard]
	i, ok := slices.BinarySearchFunc(all, revision, func(r *Revision, n uint64) int { return cmp.Compare(r.Number, n) })
	if !ok {
		return entry{}, false
	}
	e, err := decode(all[i].Data[key])
	return e, err == nil
}

// checkLog: Honest.
func (c *checker) checkLog() {
	count := map[string]int{}
	proof := map[string][]*Event{}
	for _, e := range append(slices.Clone(c.of[TagPut]), c.of[Push]...) {
		if e.Status == 201 {
			count[e.Tag+e.alone()]++
			proof[e.Tag+e.alone()] = append(proof[e.Tag+e.alone()], e)
		}
	}
	for _, e := range c.of[Logged] {
		ref := e.Tag + e.alone()
		if count[ref] != e.Count {
			c.violate(Honest, append(proof[ref], e), "the registry stored %s %d times, runners asked for it %d times", ref, e.Count, count[ref])
		}
		delete(count, ref)
	}
	for ref, n := range count {
		c.violate(Honest, proof[ref], "the registry does not know of %d writes of %s", n, ref)
	}
}

// alone returns the digest of an event that names a manifest by it alone.
func (e *Event) alone() string {
	if e.Tag != "" {
		return ""
	}
	return e.Digest
}

// checkEnds: Ends.
func (c *checker) checkEnds() {
	over := map[string]bool{}
	var gaveUp []*Event
	for _, e := range c.of[Kill] {
		over[e.Runner] = true
	}
	for _, e := range c.of[End] {
		over[e.Runner] = true
		switch {
		case e.Exit == 0:
		case c.Faults && c.cleans(e.Runner) && (e.gaveUp() || e.lost()):
			// After a cleaner that gives up there comes another.
		case c.Faults && e.gaveUp():
			gaveUp = append(gaveUp, e)
		default:
			c.violate(Ends, []*Event{e}, "runner %s ends with %d", e.Runner, e.Exit)
		}
	}
	if most := (len(c.of[Start]) + onceIn - 1) / onceIn; len(gaveUp) > most {
		c.violate(Ends, gaveUp, "%d runners of %d gave up, at most %d may", len(gaveUp), len(c.of[Start]), most)
	}
	for _, e := range slices.Concat(c.of[Start], c.of[Clean]) {
		if !over[e.Runner] {
			c.violate(Ends, []*Event{e}, "runner %s does not end", e.Runner)
		}
	}
}

// onceIn is of how many runners one may give up the registry or the ledger in a round
// with faults. What goes wrong is short, but a request's pauses are random, and now
// and then all of its attempts fall into one burst.
const onceIn = 20

// gaveUp reports whether a run ended because its registry or ledger was away for
// longer than it tried, with or without a result that it keeps: by its exit, and by
// what it says of the cause.
func (e *Event) gaveUp() bool {
	return (e.Exit == 6 || e.Exit == 7 || e.Exit == 9) && strings.Contains(e.Note, "unavailable")
}

// lost reports whether a run ended because it was paused for so long that others may
// have taken it for dead.
func (e *Event) lost() bool {
	return (e.Exit == 6 || e.Exit == 7) && strings.Contains(e.Note, "the session is lost")
}

// short is a stage as people are shown it.
func short(stage string) string { return stage[:min(12, len(stage))] }
