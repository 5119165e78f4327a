package history

import (
	"maps"
	"slices"
	"strings"
	"time"
)

// checkReports: Agreed. A runner says nothing about a stage that it did not look up.
func (c *checker) checkReports() {
	var first *Event
	manifests := map[string]*Event{}
	for _, e := range c.of[End] {
		if e.Report == nil {
			continue
		}
		for _, s := range e.Report.Stages {
			c.checkReported(manifests, e, s)
		}
		if e.Exit != 0 {
			continue
		}
		if len(c.of[Clean]) > 0 {
			continue // there are several commits, and generations: see checkThere
		}
		if first == nil {
			first = e
		}
		if e.Report.Root != first.Report.Root || !maps.Equal(e.Report.Images, first.Report.Images) {
			c.violate(Agreed, []*Event{brief(first), brief(e)}, "runners %s and %s report different images", first.Runner, e.Runner)
		}
	}
}

func (c *checker) checkReported(manifests map[string]*Event, e *Event, s Stage) {
	if s.Manifest == "" {
		return
	}
	b := brief(e)
	b.Tag, b.Digest = s.Digest, s.Manifest
	if len(c.of[Clean]) > 0 {
		c.checkThere(b)
		return
	}
	if other := manifests[s.Digest]; other != nil && other.Digest != s.Manifest {
		c.violate(Agreed, []*Event{other, b}, "stage %s has two manifests in reports", short(s.Digest))
	}
	manifests[s.Digest] = b
}

// checkThere: what a runner reports was there while it ran.
func (c *checker) checkThere(b *Event) {
	var began time.Duration
	for _, e := range c.of[Start] {
		if e.Runner == b.Runner {
			began = e.Begin
		}
	}
	l := c.lives[b.Tag]
	if l == nil || !slices.ContainsFunc(l.generations, func(g generation) bool {
		return g.manifest == b.Digest && g.decision.Begin <= b.Begin && (g.end == nil || g.end.Finish >= began)
	}) {
		c.violate(Agreed, []*Event{b}, "runner %s reports for stage %s what it was not then", b.Runner, short(b.Tag))
	}
}

// brief returns an event without its report, which is long.
func brief(e *Event) *Event {
	b := *e
	b.Report = nil
	return &b
}

// checkFinal: Kept.
func (c *checker) checkFinal() {
	at := map[string]*Event{}
	for _, e := range c.of[Final] {
		if c.buried(e) {
			continue
		}
		at[e.Tag] = e
		if digest, ok := stageOf(e.Tag); ok {
			at[digest] = e
		}
		if e.Note != "" {
			c.violate(Kept, []*Event{e}, "tag %s is damaged: %s", e.Tag, e.Note)
		}
	}
	for _, stage := range c.stages() {
		l := c.lives[stage]
		if n := len(l.generations); n > 0 && l.generations[n-1].end == nil {
			c.kept(at, stage, l.generations[n-1].manifest, l.generations[n-1].decision)
		}
	}
	for _, e := range c.of[End] {
		if e.Report != nil && e.Exit == 0 {
			c.checkReportKept(at, e)
		}
	}
}

// checkReportKept: what a build reported is there, or a cleaner has ended it.
func (c *checker) checkReportKept(at map[string]*Event, e *Event) {
	for _, s := range e.Report.Stages {
		if s.Manifest != "" && !c.lives[s.Digest].ended(s.Manifest) {
			c.kept(at, s.Digest, s.Manifest, brief(e))
		}
	}
	if root := strings.TrimPrefix(e.Report.Root, "sha256:"); at["build-"+root] == nil && !c.lives[root].ended("") {
		c.violate(Kept, []*Event{brief(e)}, "the index of build %s is lost", root)
	}
}

func (c *checker) kept(at map[string]*Event, stage, manifest string, why *Event) {
	switch e := at[stage]; {
	case e == nil:
		c.violate(Kept, []*Event{why}, "stage %s is lost: it has no tag", short(stage))
	case e.Digest != manifest:
		c.violate(Kept, []*Event{why, e}, "stage %s was %s", short(stage), manifest)
	}
}

// checkCommands: Once.
func (c *checker) checkCommands() {
	runs := map[string][]*Event{}
	for _, e := range c.of[Command] {
		runs[e.Command] = append(runs[e.Command], e)
	}
	stage := map[string]string{}
	for _, e := range slices.Concat(c.of[Plan], c.of[End]) {
		if e.Report != nil {
			for _, s := range e.Report.Stages {
				if s.Command != "" {
					stage[s.Command] = s.Digest
				}
			}
		}
	}
	for _, name := range slices.Sorted(maps.Keys(stage)) {
		all := runs[name]
		delete(runs, name)
		if len(all) == 0 && c.lives[stage[name]].generation() > 0 {
			c.violate(Once, nil, "the commands of %s never ran", name)
			continue
		}
		// Each generation is made once.
		right := max(1, c.lives[stage[name]].generation()) + c.excuses(stage[name])
		if len(all) > right {
			c.violate(Once, append(all, c.owners(stage[name])...), "the commands of %s ran %d times, and %d are explained", name, len(all), right)
		}
	}
	for name, all := range runs {
		c.violate(Once, all, "commands of no stage ran: %s", name)
	}
}

// owners returns the acquisitions of a stage to build it.
func (c *checker) owners(stage string) []*Event {
	var all []*Event
	if l := c.lives[stage]; l != nil {
		for _, s := range l.steps {
			if s.to.State == building {
				all = append(all, s.write)
			}
		}
	}
	return all
}

// excuses counts the acquisitions of a stage whose commands may have run in vain:
// those that did not decide and whose runner was killed, paused, replaced, or
// ended with an error.
func (c *checker) excuses(stage string) int {
	l := c.lives[stage]
	if l == nil || !c.Faults {
		return 0
	}
	n := 0
	for i, s := range l.steps {
		if s.to.State != building {
			continue
		}
		decides := i+1 < len(l.steps) && l.steps[i+1].to.State == publishing
		if !decides && c.disturbed(c.sessions[s.to.Session], s.to.Session) {
			n++
		}
	}
	return n
}

// disturbed reports whether something happened to a runner that lets its work be lost.
func (c *checker) disturbed(runner, session string) bool {
	for _, k := range []Kind{Kill, Stop} {
		if slices.ContainsFunc(c.of[k], func(e *Event) bool { return e.Runner == runner }) {
			return true
		}
	}
	if slices.ContainsFunc(c.of[End], func(e *Event) bool { return e.Runner == runner && e.Exit != 0 }) {
		return true
	}
	for other, r := range c.sessions {
		if r == runner && other != session {
			return true // its session was lost, and it made another
		}
	}
	for _, l := range c.lives {
		for _, s := range l.steps {
			if s.from.Session == session && s.to.Session != "" && s.to.Session != session && s.from.State != published {
				return true // another took it for dead
			}
		}
	}
	return false
}
