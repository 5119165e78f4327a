package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"
)

// entry is a stage's entry in the ledger, read from its text alone: the checker
// shares no code with what it checks.
type entry struct {
	State    string `json:"state"`
	Session  string `json:"session"`
	Nonce    string `json:"nonce"`
	Manifest string `json:"manifest"`
	Avoid    string `json:"avoid"`
}

const (
	absent     = ""
	building   = "building"
	publishing = "publishing"
	published  = "published"
	doomed     = "doomed"
	deleting   = "deleting"
	deleted    = "deleted"
)

func decode(text string) (entry, error) {
	var e entry
	if text == "" {
		return e, nil
	}
	err := json.Unmarshal([]byte(text), &e)
	return e, err
}

// keyPrefix begins the keys of entries.
const keyPrefix = "stage."

// step is one change of an entry.
type step struct {
	from, to entry
	write    *Event
}

// generation is what a stage was decided to be, until it ended.
type generation struct {
	manifest string
	decision *Event
	end      *Event // nil for one that goes on
}

// life is all that became of a stage's entry.
type life struct {
	stage, key, shard string
	steps             []step
	generations       []generation
}

// had reports whether a reader could see e's digest under the tag: it was decided
// before the answer, and its generation did not end longer than Δ before.
func (l *life) had(e *Event, delta time.Duration) bool {
	until := max(e.Finish, e.Begin)
	return slices.ContainsFunc(l.generations, func(g generation) bool {
		return g.manifest == e.Digest && g.decision.Begin <= until && (g.end == nil || e.Begin-g.end.Finish <= delta)
	})
}

// ended reports whether a generation has ended that had the manifest, and none that
// has it goes on; "" is any manifest.
func (l *life) ended(manifest string) bool {
	if l == nil {
		return false
	}
	over := false
	for _, g := range l.generations {
		if manifest == "" || g.manifest == manifest {
			over = g.end != nil
		}
	}
	return over
}

// generation returns how many there were.
func (l *life) generation() int {
	if l == nil {
		return 0
	}
	return len(l.generations)
}

// proof returns the writes that decided.
func (l *life) proof() []*Event {
	var all []*Event
	for _, g := range l.generations {
		all = append(all, g.decision, g.end)
	}
	return all
}

func (c *checker) stages() []string { return slices.Sorted(maps.Keys(c.lives)) }

// request is a change that a runner asked for.
type request struct {
	old, new string
	write    *Event
}

// followLedger finds out what became of each entry, and by whose write.
func (c *checker) followLedger() {
	c.lives = map[string]*life{}
	asked := map[string][]request{} // by shard and key
	for _, e := range c.of[LedgerWrite] {
		for _, ch := range e.Changes {
			k := e.Shard + " " + ch.Key
			asked[k] = append(asked[k], request{ch.Old, ch.New, e})
		}
	}
	for _, shard := range slices.Sorted(maps.Keys(c.shards)) {
		for _, key := range c.keysOf(shard) {
			l := &life{stage: strings.TrimPrefix(key, keyPrefix), key: key, shard: shard}
			c.lives[l.stage] = l
			c.followEntry(l, asked[shard+" "+key])
			c.judge(l)
		}
	}
}

func (c *checker) keysOf(shard string) []string {
	keys := map[string]bool{}
	for _, r := range c.shards[shard] {
		for k := range r.Data {
			if strings.HasPrefix(k, keyPrefix) {
				keys[k] = true
			}
		}
	}
	return slices.Sorted(maps.Keys(keys))
}

// followEntry turns the values that an entry had into steps, each with the write
// that asked for it. A state that no read showed is found from the writes whose
// answer nobody got.
func (c *checker) followEntry(l *life, asked []request) {
	was := ""
	for _, r := range c.shards[l.shard] {
		is := r.Data[l.key]
		if is == was {
			continue
		}
		way := path(asked, was, is, r.Number)
		if way == nil {
			c.violate(Asked, nil, "entry of %s became %q from %q in revision %d of %s, which nobody asked for", short(l.stage), is, was, r.Number, l.shard)
			way = []request{{old: was, new: is, write: &Event{Kind: LedgerWrite, Shard: l.shard, Revision: r.Number}}}
		}
		for _, w := range way {
			from, err1 := decode(w.old)
			to, err2 := decode(w.new)
			if err1 != nil || err2 != nil {
				c.violate(Legal, []*Event{w.write}, "entry of %s holds nonsense", short(l.stage))
			}
			l.steps = append(l.steps, step{from: from, to: to, write: w.write})
		}
		was = is
	}
}

// longest is how many writes without an answer may stand between two states that
// were seen.
const longest = 6

// path returns the writes that lead from one text to another: the one that was
// acknowledged with the revision, or as few as possible of those that may have
// been applied.
func path(asked []request, from, to string, revision uint64) []request {
	for _, q := range asked {
		if q.old == from && q.new == to && q.write.Revision == revision {
			return []request{q}
		}
	}
	type way struct {
		text string
		done []request
	}
	for front := []way{{text: from}}; len(front) > 0; {
		w := front[0]
		front = front[1:]
		if len(w.done) >= longest {
			continue
		}
		for _, q := range asked {
			if q.old != w.text || !q.perhaps(revision) || q.new == q.old {
				continue
			}
			done := append(slices.Clone(w.done), q)
			if q.new == to {
				return done
			}
			front = append(front, way{q.new, done})
		}
	}
	return nil
}

// perhaps reports whether the request may have been applied without a revision
// that tells, or before the one given.
func (q request) perhaps(revision uint64) bool {
	unknown := q.write.Status == 0 || q.write.Status >= 500
	return unknown || q.write.Status/100 == 2 && (q.write.Revision == 0 || q.write.Revision <= revision)
}

// judge checks the steps of an entry: Legal and Decided.
func (c *checker) judge(l *life) {
	for _, s := range l.steps {
		if !s.legal() {
			c.violate(Legal, []*Event{s.write}, "entry of %s went from %s to %s", short(l.stage), s.from, s.to)
		}
		if s.to.State != absent && s.write.Runner != "" && !s.settles() && c.sessions[s.to.Session] != s.write.Runner {
			c.violate(Legal, []*Event{s.write}, "runner %s wrote an entry in the name of session %s, which is not its own", s.write.Runner, s.to.Session)
		}
		c.generation(l, s)
	}
}

// generation follows what the stage is.
func (c *checker) generation(l *life, s step) {
	last := len(l.generations) - 1
	open := last >= 0 && l.generations[last].end == nil
	switch {
	case s.from.State == building && s.to.State == publishing:
		if open && l.generations[last].manifest != s.to.Manifest {
			c.violate(Decided, []*Event{l.generations[last].decision, s.write}, "%s was decided to be %s and then %s",
				short(l.stage), l.generations[last].manifest, s.to.Manifest)
		}
		if !open || l.generations[last].manifest != s.to.Manifest {
			l.generations = append(l.generations, generation{manifest: s.to.Manifest, decision: s.write})
		}
	case s.from.State == doomed && s.to.State == published && (!open || l.generations[last].manifest != s.to.Manifest):
		c.violate(Decided, append(l.proof(), s.write), "%s was rescued as %s, which it is not", short(l.stage), s.to.Manifest)
	case s.to.State == deleting && s.from.State != deleting && open:
		l.generations[last].end = s.write
	}
}

// String returns an entry as people are shown it.
func (e entry) String() string {
	if e.State == absent {
		return "nothing"
	}
	return fmt.Sprintf("%s{%s %s %s}", e.State, e.Manifest, e.Session, e.Nonce)
}

// legal reports whether the protocol knows the step.
func (s step) legal() bool {
	if s.own() {
		return s.from.Session == s.to.Session && s.from.Nonce == s.to.Nonce
	}
	return s.acquires() && s.from.Nonce != s.to.Nonce || s.ends()
}

// settles reports whether the step is the last word for an owner that gave the tag
// and died before it could say so: whoever sweeps says it in the owner's name.
func (s step) settles() bool {
	return s.from.State == publishing && s.to.State == published && s.kept() &&
		s.from.Session == s.to.Session && s.from.Nonce == s.to.Nonce
}

// kept reports whether a step leaves the manifest as it is.
func (s step) kept() bool { return s.from.Manifest == s.to.Manifest && s.from.Avoid == s.to.Avoid }

// own reports whether the step is one that only the entry's owner makes.
func (s step) own() bool {
	a, b := s.from, s.to
	switch a.State + ">" + b.State {
	case building + ">" + publishing:
		return b.Manifest != "" && b.Manifest != a.Avoid
	case publishing + ">" + published, publishing + ">" + deleting, deleting + ">" + deleted:
		return s.kept()
	case building + ">" + deleted:
		return a.Avoid != "" && b.Manifest == a.Avoid
	case doomed + ">" + deleting:
		return b.Manifest != ""
	}
	return false
}

// acquires reports whether the step takes an entry, which asks for a new nonce.
func (s step) acquires() bool {
	a, b := s.from, s.to
	switch a.State + ">" + b.State {
	case absent + ">" + building, absent + ">" + doomed:
		return b.Manifest == "" && b.Avoid == ""
	case building + ">" + building, publishing + ">" + publishing, deleting + ">" + deleting, published + ">" + publishing:
		return s.kept()
	case deleted + ">" + building:
		return b.Avoid == a.Manifest
	case doomed + ">" + building, doomed + ">" + published, doomed + ">" + doomed:
		return true
	}
	return false
}

// ends reports whether the step removes an entry that may go.
func (s step) ends() bool {
	switch s.from.State {
	case building:
		return s.to.State == absent && s.from.Avoid == ""
	case doomed, published, deleted:
		return s.to.State == absent
	}
	return false
}
