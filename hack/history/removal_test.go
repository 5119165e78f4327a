package history

import (
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// What a cleaner does is told of two stages, of which one stands on the other, and of
// the index that lists the upper one.
const (
	grave     = "sha256:dead"
	belowM    = "sha256:b0"
	indexM    = "sha256:1d"
	layerOne  = "sha256:11"
	layerTwo  = "sha256:22"
	wait      = time.Hour
	cleanerID = "5c"
)

func belowName() string { return strings.Repeat("cd", 32) }
func rootName() string  { return strings.Repeat("ef", 32) }

// on has a writer's change happen to another entry than that of the stage.
func on(stage, runner, to string) func(*teller) {
	return func(t *teller) {
		key := keyPrefix + stage
		old := t.data[key]
		t.data[key] = to
		if to == "" {
			delete(t.data, key)
		}
		t.rev++
		t.now()
		t.add(Event{
			Kind: LedgerWrite, Runner: runner, Shard: shard, Status: 200, Seen: true, Revision: t.rev,
			Changes: []Change{{Key: key, Old: old, New: to}},
		})
	}
}

// makes tells how a makes something, and how its entry is forgotten after.
func makes(stage, tag, manifest string, lists ...string) []act {
	mine := func(state string) string { return text(state, "5a", stage[:2], manifest, "") }
	return []act{
		{"a acquires " + tag, on(stage, "a", text(building, "5a", stage[:2], "", ""))},
		{"a pushes " + tag, happens(Event{Kind: Push, Runner: "a", Digest: manifest, Lists: lists, Status: 201, Seen: true})},
		{"a decides " + tag, on(stage, "a", mine(publishing))},
		{"a looks at " + tag, looks("a")},
		{"a puts " + tag, happens(Event{Kind: TagPut, Runner: "a", Tag: tag, Digest: manifest, Lists: lists, Status: 201, Seen: true})},
		{"a publishes " + tag, on(stage, "a", mine(published))},
		{"a forgets " + tag, on(stage, "a", "")},
	}
}

// removed tells how the cleaner removes something.
func removed(stage, tag, manifest string) []act {
	its := func(state, m string) string { return text(state, cleanerID, "9"+stage[:2], m, "") }
	return []act{
		{"c marks " + tag, on(stage, "c", its(doomed, ""))},
		{"c dooms " + tag, on(stage, "c", its(deleting, manifest))},
		{"c looks at " + tag, looks("c")},
		{"c deletes " + tag, happens(Event{Kind: TagPut, Runner: "c", Tag: tag, Digest: grave, Status: 201, Seen: true})},
		{"c ends " + tag, on(stage, "c", its(deleted, manifest))},
	}
}

func tagOf(name string) string {
	return map[string]string{"upper": stageName(), "lower": belowName(), "index": buildPrefix + rootName()}[name]
}

// passes has time go by.
func passes(d time.Duration) func(*teller) { return func(t *teller) { t.at += d } }

// tidied is how a build ought to be removed: the branch that names it moves, then its
// index goes, and when the grace is over its stages go, the upper one first.
func tidied() []act {
	plan := &Report{Root: rootName(), Stages: []Stage{
		{Image: "app", Digest: belowName()}, {Image: "app", Command: cmd, Digest: stageName()},
	}}
	report := &Report{Root: "sha256:" + rootName(), Images: map[string]string{"app": "r@" + one}, Stages: []Stage{
		{Image: "app", Digest: belowName(), Manifest: belowM}, {Image: "app", Digest: stageName(), Manifest: one},
	}}
	story := []act{
		{"the plan", happens(Event{Kind: Plan, Report: plan})},
		{"main names it", happens(Event{Kind: Refer, Tag: "main", Digest: rootName()})},
		{"a starts", starts("a")},
		{"a joins", joins("a", "5a")},
	}
	story = append(story, makes(belowName(), tagOf("lower"), belowM, layerOne)...)
	story = append(story, act{"a runs", runs()})
	story = append(story, makes(stageName(), tagOf("upper"), one, layerOne, layerTwo)...)
	story = append(story, makes(rootName(), tagOf("index"), indexM, one)...)
	story = append(story,
		act{"a ends", happens(Event{Kind: End, Runner: "a", Report: report})},
		act{"main moves", happens(Event{Kind: Refer, Tag: "main"})},
		act{"c begins", happens(Event{Kind: Clean, Runner: "c"})},
		act{"c joins", joins("c", cleanerID)},
	)
	story = append(story, removed(rootName(), tagOf("index"), indexM)...)
	story = append(story, act{"the grace", passes(wait)})
	story = append(story, removed(stageName(), tagOf("upper"), one)...)
	story = append(story, removed(belowName(), tagOf("lower"), belowM)...)
	return append(story, act{"c ends", happens(Event{Kind: End, Runner: "c"})}, act{"the log", tellLog})
}

// tellLog has the registry tell of all writes, as it ought to.
func tellLog(t *teller) {
	count := map[[2]string]int{}
	for _, e := range t.h.Events {
		switch e.Kind {
		case Push:
			count[[2]string{"", e.Digest}]++
		case TagPut:
			count[[2]string{e.Tag, ""}]++
		}
	}
	for ref, n := range count {
		t.add(Event{Kind: Logged, Tag: ref[0], Digest: ref[1], Count: n})
	}
}

func clean(story []act) *History {
	h := tell(true, story)
	h.Grace, h.Tomb = wait, grave
	return h
}

// kept is how a build stays that main names: the story of tidied without its end.
func kept() []act {
	all := tidied()
	all = slices.Delete(all, find(all, "c joins"), find(all, "c ends"))
	all = edit(all, without("main moves"))
	return slices.Insert(all, find(all, "the log"),
		act{"lower", happens(Event{Kind: Final, Tag: tagOf("lower"), Digest: belowM, Lists: []string{layerOne}})},
		act{"upper", happens(Event{Kind: Final, Tag: tagOf("upper"), Digest: one, Lists: []string{layerOne, layerTwo}})},
		act{"index", happens(Event{Kind: Final, Tag: tagOf("index"), Digest: indexM, Lists: []string{one}})})
}

func TestRightRemovalsPass(t *testing.T) {
	for name, story := range map[string][]act{
		"what no branch names goes":             tidied(),
		"what a branch names stays":             kept(),
		"a tag that lies in the tomb is no tag": edit(tidied(), before("the log", "listed", happens(Event{Kind: Final, Tag: tagOf("upper"), Digest: grave}))),
		"a reader is told of the tomb":          edit(tidied(), before("c ends", "read", happens(Event{Kind: TagRead, Runner: "a", Tag: tagOf("upper"), Digest: grave, Status: 200, Seen: true}))),
		"the tomb is emptied":                   edit(tidied(), before("c ends", "empty", happens(Event{Kind: Delete, Runner: "c", Digest: grave, Status: 202}))),
		"a cleaner tries the registry": edit(tidied(),
			before("c ends", "probe", happens(Event{Kind: TagPut, Runner: "c", Tag: probePrefix + "1", Digest: "sha256:9", Status: 201})),
			before("c ends", "no tags", happens(Event{Kind: Delete, Runner: "c", Tag: probePrefix + "1", Status: 400})),
			before("c ends", "delete", happens(Event{Kind: Delete, Runner: "c", Digest: "sha256:9", Status: 202}))),
		"a cleaner gives up":                edit(tidied(), instead("c ends", "c ends", happens(Event{Kind: End, Runner: "c", Exit: 6, Note: "storage unavailable"}))),
		"a cleaner was paused for too long": edit(tidied(), instead("c ends", "c ends", happens(Event{Kind: End, Runner: "c", Exit: 7, Note: "the session is lost: not renewed for 6s"}))),
		"a cleaner is killed, and what it deleted is finished": edit(tidied(),
			instead("c ends "+tagOf("lower"), "c dies", happens(Event{Kind: Kill, Runner: "c"})),
			without("c ends")),
		"a branch names it when the cleaner is at work": edit(tidied(),
			before("c marks "+tagOf("index"), "main names it again", happens(Event{Kind: Refer, Tag: "main", Digest: rootName()}))),
		"a marked stage is rescued": edit(kept(),
			before("lower", "c joins", joins("c", cleanerID)),
			before("lower", "c marks", on(belowName(), "c", text(doomed, cleanerID, "99", "", ""))),
			before("lower", "a rescues", on(belowName(), "a", text(published, "5a", "77", belowM, ""))),
			before("lower", "c ends", happens(Event{Kind: End, Runner: "c"}))),
	} {
		t.Run(name, func(t *testing.T) {
			h := clean(story)
			if name == "what a branch names stays" {
				h = clean(edit(story, before("the log", "c ends", happens(Event{Kind: End, Runner: "c"}))))
			}
			for _, v := range Check(h) {
				t.Error(v)
			}
		})
	}
}

// Each rule is broken by a history that differs in one place from a right one.
func TestWrongRemovalsAreRefused(t *testing.T) {
	upper, lower, index := tagOf("upper"), tagOf("lower"), tagOf("index")
	seen := map[Rule]bool{}
	for _, tt := range []struct {
		name  string
		rule  Rule
		story []act
	}{
		{"a tag is deleted without a mark", Legal, edit(tidied(), without("c marks "+lower))},
		{"a tag is deleted whose entry nobody looked at", Marked, edit(tidied(), without("c looks at "+lower))},
		{"a tag is deleted that is only marked", Marked, edit(tidied(), moved("c deletes "+lower, "c dooms "+lower))},
		{"a tag is deleted long after the look", Marked, edit(tidied(), before("c deletes "+lower, "sleep", passes(time.Minute)))},
		{"a manifest is deleted by its digest", Marked, edit(tidied(), before("c ends", "delete", happens(Event{Kind: Delete, Runner: "c", Digest: one, Status: 202})))},
		{"a tag of somebody else is deleted", Marked, edit(tidied(), before("c ends", "delete", happens(Event{Kind: Delete, Runner: "c", Tag: "latest", Status: 202})))},
		{"a build deletes what a cleaner should", Marked, edit(tidied(), instead("c begins", "c begins", starts("c")), before("the plan", "d begins", happens(Event{Kind: Clean, Runner: "d"})), before("c ends", "d ends", happens(Event{Kind: End, Runner: "d"})))},
		{"a builder is not waited for", Drained, edit(tidied(),
			before("c marks "+lower, "a is at it", on(strings.Repeat("12", 32), "a", text(building, "5a", "88", "", ""))))},
		{"a stage goes before the index that lists it", Ordered, edit(tidied(), swapped(removed(rootName(), index, indexM), removed(stageName(), upper, one))...)},
		{"a stage goes before the one that stands on it", Ordered, edit(tidied(), swapped(removed(stageName(), upper, one), removed(belowName(), lower, belowM))...)},
		{"a stage goes with its index", Graced, edit(tidied(), without("the grace"))},
		{"a stage goes that a build was told of lately", Graced, edit(tidied(),
			before("c marks "+upper, "a reads", happens(Event{Kind: TagRead, Runner: "a", Tag: index, Digest: indexM, Status: 200, Seen: true})))},
		{"a stage of a branch goes", Spared, edit(tidied(), without("main moves"))},
		{"a rescue changes the manifest", Decided, edit(tidied(),
			before("c marks "+lower, "c marks it before", on(belowName(), "c", text(doomed, cleanerID, "98", "", ""))),
			before("c marks "+lower, "a rescues", on(belowName(), "a", text(published, "5a", "77", two, ""))),
			before("c marks "+lower, "a forgets", on(belowName(), "a", "")))},
		{"a kept stage is lost", Kept, edit(kept(), without("lower"))},
		{"a kept index is lost", Kept, edit(kept(), without("index"))},
		{"a kept tag names nothing", Kept, edit(kept(), instead("upper", "upper", happens(Event{Kind: Final, Tag: upper, Note: "404"})))},
		{"an index lists what has no name", Leading, edit(tidied(), before("the log", "index", happens(Event{Kind: Final, Tag: index, Digest: indexM, Lists: []string{one}})))},
		{"a stage stands on what is gone", Leading, edit(kept(), instead("upper", "upper", happens(Event{Kind: Final, Tag: upper, Digest: one, Lists: []string{layerTwo}})))},
		{"a report tells of what was deleted before", Agreed, edit(tidied(),
			before("c ends", "b starts", starts("b")),
			before("c ends", "b ends", happens(Event{Kind: End, Runner: "b", Report: &Report{Root: "sha256:" + rootName(), Stages: []Stage{{Image: "app", Digest: stageName(), Manifest: one}}}})))},
		{"a removed stage's tag shows it long after", OneManifest, edit(tidied(),
			before("c ends", "Δ", passes(16*time.Minute)), before("c ends", "a reads", reads("a", one)))},
		{"a cleaner fails", Ends, edit(tidied(), instead("c ends", "c ends", happens(Event{Kind: End, Runner: "c", Exit: 1})))},
		{"a build gives up what only a cleaner may", Ends, edit(tidied(), before("c ends", "b starts", starts("b")),
			before("c ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 7, Note: "the session is lost: not renewed for 6s"})))},
		{"a cleaner hangs", Ends, edit(tidied(), without("c ends"))},
		{"the commands of a generation run twice", Once, edit(tidied(), before("a pushes "+upper, "a runs again", runs()))},
	} {
		seen[tt.rule] = true
		t.Run(tt.name, func(t *testing.T) {
			found := Check(clean(tt.story))
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == tt.rule }) {
				t.Errorf("not refused by %q; found are %v", tt.rule, found)
			}
		})
	}
	for _, r := range []Rule{Marked, Drained, Ordered, Graced, Spared, Leading} {
		if !seen[r] {
			t.Errorf("no history breaks %q, only %v do", r, slices.Collect(maps.Keys(seen)))
		}
	}
}

// swapped has what comes first happen after the second, act by act.
func swapped(first, second []act) []rewriting {
	var all []rewriting
	for _, a := range second {
		all = append(all, moved(a.name, first[0].name))
	}
	return all
}
