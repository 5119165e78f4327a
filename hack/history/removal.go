package history

import (
	"slices"
	"strings"
	"time"
)

// probePrefix begins the tags by which a cleaner finds out how a registry deletes.
const probePrefix = "cairn-probe-"

// buried reports whether a tag shows, or is put on, the manifest of deleted tags.
func (c *checker) buried(e *Event) bool { return c.Tomb != "" && e.Digest == c.Tomb }

// cleans reports whether a runner is a cleaner.
func (c *checker) cleans(runner string) bool { return c.cleanerBegan(runner) != nil }

func (c *checker) cleanerBegan(runner string) *Event {
	i := slices.IndexFunc(c.of[Clean], func(e *Event) bool { return e.Runner == runner })
	if i < 0 {
		return nil
	}
	return c.of[Clean][i]
}

// checkDeletions: Undeleted and Marked. What was asked for counts, whatever the
// registry said.
func (c *checker) checkDeletions() {
	asked := slices.Clone(c.of[Delete])
	for _, e := range c.of[TagPut] {
		if c.buried(e) {
			asked = append(asked, e)
		}
	}
	for _, e := range asked {
		stage, named := stageOf(e.Tag)
		switch {
		case len(c.of[Clean]) == 0:
			c.violate(Undeleted, []*Event{e}, "runner %s deletes %s", e.Runner, e.Tag+e.alone())
		case e.Tag == "" && !c.nobodys(e.Digest):
			c.violate(Marked, []*Event{e}, "runner %s deletes a manifest by its digest, which others may have", e.Runner)
		case e.Tag != "" && !named && !strings.HasPrefix(e.Tag, probePrefix):
			c.violate(Marked, []*Event{e}, "runner %s deletes the tag %s, which is not one of a stage or an index", e.Runner, e.Tag)
		case named && (c.lives[stage] == nil || !c.guarded(c.lives[stage], e, deleting, "")):
			c.violate(Marked, []*Event{e}, "no look of runner %s at the entry of %s allows it to delete it", e.Runner, short(stage))
		}
	}
}

// nobodys reports whether a manifest is none that a stage or an index can have: the
// tomb, or what a cleaner tries the registry with, or nothing.
func (c *checker) nobodys(digest string) bool {
	if digest == c.Tomb {
		return true
	}
	for _, e := range slices.Concat(c.of[TagPut], c.of[Push]) {
		if e.Digest == digest && !strings.HasPrefix(e.Tag, probePrefix) {
			return false
		}
	}
	return true
}

// removal is a generation that a cleaner has ended.
type removal struct {
	*life
	manifest string
	mark     *Event // the write that marked it last
	end      *Event // the write that ended it
}

// removals returns all of them.
func (c *checker) removals() []removal {
	var all []removal
	for _, stage := range c.stages() {
		l := c.lives[stage]
		var mark *Event
		for _, s := range l.steps {
			switch {
			case s.to.State == doomed:
				mark = s.write
			case s.from.State == doomed && s.to.State == deleting:
				all = append(all, removal{l, s.to.Manifest, mark, s.write})
			}
		}
	}
	return all
}

// checkRemovals: Drained, Ordered, Graced and Spared, of each generation that was
// ended by a cleaner.
func (c *checker) checkRemovals() {
	if len(c.of[Clean]) == 0 {
		return
	}
	lists, above := c.listing(), c.standing()
	for _, r := range c.removals() {
		began := c.cleanerBegan(r.end.Runner)
		if began == nil {
			c.violate(Marked, []*Event{r.end}, "runner %s, which is no cleaner, deletes %s", r.end.Runner, short(r.stage))
			continue
		}
		c.checkDrained(r)
		c.checkOrdered(r, lists, above)
		c.checkGrace(r, lists)
		c.checkSpared(r, began.Begin)
	}
}

// listing returns, by manifest, the manifests of the indexes that list it.
func (c *checker) listing() map[string][]string {
	all := map[string][]string{}
	for _, e := range slices.Concat(c.of[TagPut], c.of[Push]) {
		if _, named := stageOf(e.Tag); !named && e.Tag != "" {
			continue
		}
		for _, m := range e.Lists {
			if !slices.Contains(all[m], e.Digest) {
				all[m] = append(all[m], e.Digest)
			}
		}
	}
	return all
}

// standing returns, by stage, the stages that stand directly on it.
func (c *checker) standing() map[string][]string {
	all := map[string][]string{}
	for _, e := range c.of[Plan] {
		for i, s := range e.Report.Stages {
			if i == 0 || e.Report.Stages[i-1].Image != s.Image {
				continue
			}
			if below := e.Report.Stages[i-1].Digest; !slices.Contains(all[below], s.Digest) {
				all[below] = append(all[below], s.Digest)
			}
		}
	}
	return all
}

// checkDrained: whoever was building when the mark was asked for has ended, or was
// ended, before what it marks goes.
func (c *checker) checkDrained(r removal) {
	if r.mark == nil {
		return // which is not legal, and was told
	}
	for _, stage := range c.stages() {
		l := c.lives[stage]
		for i, s := range l.steps {
			if s.to.State != building || s.write.Finish > r.mark.Begin || s.write.Finish == 0 {
				continue
			}
			if i+1 == len(l.steps) || l.steps[i+1].write.Begin > r.end.Finish {
				c.violate(Drained, []*Event{s.write, r.mark, r.end}, "%s goes while %s is being built since before the mark", short(r.stage), short(stage))
			}
		}
	}
}

// alive reports whether the generation was there all the time that a write took.
func (g generation) alive(w *Event) bool {
	return g.decision.Finish != 0 && g.decision.Finish < w.Begin && (g.end == nil || g.end.Begin > w.Finish)
}

// checkOrdered: nothing lists what goes, and nothing stands on it.
func (c *checker) checkOrdered(r removal, lists, above map[string][]string) {
	for _, index := range lists[r.manifest] {
		for _, x := range c.generationsOf(index) {
			if x.alive(r.end) {
				c.violate(Ordered, []*Event{x.decision, r.end}, "stage %s goes before the index %s that lists it", short(r.stage), x.manifest)
			}
		}
	}
	for _, child := range above[r.stage] {
		l := c.lives[child]
		if l == nil {
			continue
		}
		for _, g := range l.generations {
			if g.alive(r.end) {
				c.violate(Ordered, []*Event{g.decision, r.end}, "stage %s goes before %s, which stands on it", short(r.stage), short(child))
			}
		}
	}
}

// generationsOf returns the generations with a manifest.
func (c *checker) generationsOf(manifest string) []generation {
	var all []generation
	for _, stage := range c.stages() {
		for _, g := range c.lives[stage].generations {
			if g.manifest == manifest {
				all = append(all, g)
			}
		}
	}
	return all
}

// checkGrace: what an index listed stays for the grace after that began to go, and
// after each time that a build was told of it.
func (c *checker) checkGrace(r removal, lists map[string][]string) {
	for _, index := range lists[r.manifest] {
		for _, x := range c.generationsOf(index) {
			if x.end != nil && x.end.Begin < r.end.Begin && r.end.Finish-x.end.Begin < c.Grace {
				c.violate(Graced, []*Event{x.end, r.end}, "stage %s goes %s after the index %s began to", short(r.stage), since(r.end.Finish, x.end.Begin), index)
			}
		}
		for _, e := range c.of[TagRead] {
			if e.Digest == index && e.Status == 200 && !c.cleans(e.Runner) && e.Begin < r.end.Begin && r.end.Finish-e.Begin < c.Grace {
				c.violate(Graced, []*Event{e, r.end}, "stage %s goes %s after runner %s was told of it", short(r.stage), since(r.end.Finish, e.Begin), e.Runner)
			}
		}
	}
}

func since(a, b time.Duration) time.Duration { return (a - b).Round(time.Millisecond) }

// checkSpared: a branch that has named a commit since before the cleaner began, and
// does so still, keeps what planning the commit gives.
func (c *checker) checkSpared(r removal, began time.Duration) {
	for _, e := range c.of[Refer] {
		if e.Digest == "" || e.Begin > began || c.until(e) < r.end.Finish {
			continue
		}
		for _, p := range c.of[Plan] {
			if p.Report.Root == e.Digest && p.Report.has(r.stage) {
				c.violate(Spared, []*Event{e, r.end}, "%s goes, which branch %s keeps", short(r.stage), e.Tag)
				break
			}
		}
	}
}

// forever is later than all that is in a history.
const forever = time.Duration(1<<63 - 1)

// until returns when a branch begins to name something else.
func (c *checker) until(e *Event) time.Duration {
	end := forever
	for _, next := range c.of[Refer] {
		if next.Tag == e.Tag && next.Begin > e.Begin {
			end = min(end, next.Begin)
		}
	}
	return end
}

// has reports whether a stage, or an index, is one of a build.
func (r *Report) has(stage string) bool {
	return strings.TrimPrefix(r.Root, "sha256:") == stage ||
		slices.ContainsFunc(r.Stages, func(s Stage) bool { return s.Digest == stage })
}

// checkLeading: Leading.
func (c *checker) checkLeading() {
	if len(c.of[Clean]) == 0 {
		return // nothing can have gone
	}
	at, tagged := map[string]*Event{}, map[string]bool{}
	for _, e := range c.of[Final] {
		if stage, ok := stageOf(e.Tag); ok && !c.buried(e) {
			at[stage], tagged[e.Digest] = e, true
		}
	}
	for _, e := range c.of[Final] {
		if !strings.HasPrefix(e.Tag, buildPrefix) || c.buried(e) {
			continue
		}
		for _, m := range e.Lists {
			if !tagged[m] {
				c.violate(Leading, []*Event{e}, "index %s lists %s, which has no name any more", e.Tag, m)
			}
		}
	}
	for below, all := range c.standing() {
		for _, stage := range all {
			if p, s := at[below], at[stage]; p != nil && s != nil && !startsWith(s.Lists, p.Lists) {
				c.violate(Leading, []*Event{p, s}, "stage %s does not stand on the %s that is there", short(stage), short(below))
			}
		}
	}
}

func startsWith(layers, below []string) bool {
	return len(layers) >= len(below) && slices.Equal(layers[:len(below)], below)
}
