package history

import (
	"bytes"
	"encoding/json"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

// The stage of all hand-written histories, its shard, and two manifests of it.
const (
	shard = "cairn-p.0"
	one   = "sha256:1111"
	two   = "sha256:2222"
	cmd   = "p/app/install"
)

func stageName() string { return strings.Repeat("ab", 32) }

// teller tells a history: each act takes a second of its own.
type teller struct {
	h    History
	at   time.Duration
	rev  uint64
	data map[string]string
}

// act is one thing that happens, with a name by which mutants find it.
type act struct {
	name string
	do   func(t *teller)
}

func (t *teller) add(e Event) {
	e.Begin, e.Finish = t.at, t.at+time.Second/2
	t.h.Events = append(t.h.Events, e)
}

// now notes the shard as it is.
func (t *teller) now() {
	data := map[string]string{}
	for k, v := range t.data {
		data[k] = v
	}
	t.h.Revisions = append(t.h.Revisions, Revision{Shard: shard, UID: "u", Number: t.rev, Data: data})
}

func text(state, session, nonce, manifest, avoid string) string {
	b, err := json.Marshal(entry{State: state, Session: session, Nonce: nonce, Manifest: manifest, Avoid: avoid})
	if err != nil {
		panic(err) // a struct of strings
	}
	return string(b)
}

// writes changes the entry and is told so; silently the answer is lost and nobody
// looks at the shard.
func writes(runner, to string) func(*teller)   { return change(runner, to, true) }
func silently(runner, to string) func(*teller) { return change(runner, to, false) }

func change(runner, to string, told bool) func(*teller) {
	return func(t *teller) {
		key := keyPrefix + stageName()
		e := Event{Kind: LedgerWrite, Runner: runner, Shard: shard, Changes: []Change{{Key: key, Old: t.data[key], New: to}}}
		t.rev++
		t.data[key] = to
		if to == "" {
			delete(t.data, key)
		}
		if told {
			e.Status, e.Seen, e.Revision = 200, true, t.rev
			t.now()
		}
		t.add(e)
	}
}

func looks(runner string) func(*teller) {
	return func(t *teller) {
		t.now()
		t.add(Event{Kind: LedgerRead, Runner: runner, Shard: shard, Revision: t.rev, Seen: true, Status: 200})
	}
}

func happens(e Event) func(*teller) { return func(t *teller) { t.add(e) } }

func starts(runner string) func(*teller) { return happens(Event{Kind: Start, Runner: runner}) }
func joins(runner, session string) func(*teller) {
	return happens(Event{Kind: Session, Runner: runner, Session: session, Status: 201})
}
func runs() func(*teller) { return happens(Event{Kind: Command, Command: cmd}) }
func pushes(runner, m string) func(*teller) {
	return happens(Event{Kind: Push, Runner: runner, Digest: m, Status: 201, Seen: true})
}
func puts(runner, m string) func(*teller) {
	return happens(Event{Kind: TagPut, Runner: runner, Tag: stageName(), Digest: m, Status: 201, Seen: true})
}
func reads(runner, m string) func(*teller) {
	return happens(Event{Kind: TagRead, Runner: runner, Tag: stageName(), Digest: m, Status: 200, Seen: true})
}
func ends(runner, root, m string) func(*teller) {
	return happens(Event{Kind: End, Runner: runner, Report: &Report{
		Root: "sha256:" + root, Images: map[string]string{"app": "r@" + m}, Stages: []Stage{{Command: cmd, Digest: stageName(), Manifest: m}},
	}})
}
func shows(tag, m string) func(*teller) {
	return happens(Event{Kind: Final, Tag: tag, Digest: m})
}
func logs(tag, m string, n int) func(*teller) {
	return happens(Event{Kind: Logged, Tag: tag, Digest: m, Count: n})
}

// together is how two runners ought to build: a makes the stage, b adopts it.
func together() []act {
	mine := func(state, m string) string { return text(state, "5a", "1", m, "") }
	return []act{
		{"a starts", starts("a")},
		{"b starts", starts("b")},
		{"a joins", joins("a", "5a")},
		{"b joins", joins("b", "5b")},
		{"a acquires", writes("a", mine(building, ""))},
		{"a runs", runs()},
		{"a pushes", pushes("a", one)},
		{"a decides", writes("a", mine(publishing, one))},
		{"a looks", looks("a")},
		{"a puts", puts("a", one)},
		{"b reads", reads("b", one)},
		{"a publishes", writes("a", mine(published, one))},
		{"a ends", ends("a", "00", one)},
		{"b ends", ends("b", "00", one)},
		{"the tag", shows(stageName(), one)},
		{"the index", shows("build-00", "sha256:0")},
		{"the log of the push", logs("", one, 1)},
		{"the log of the tag", logs(stageName(), "", 1)},
	}
}

// takenOver is how b finishes what a killed a has begun: a runs the command and
// dies, b runs it again.
func takenOver() []act {
	his := func(state, m string) string { return text(state, "5b", "2", m, "") }
	return edit(together(),
		instead("a pushes", "a dies", happens(Event{Kind: Kill, Runner: "a"})),
		instead("a decides", "b acquires", writes("b", his(building, ""))),
		instead("a looks", "b runs", runs()),
		instead("a puts", "b pushes", pushes("b", one)),
		instead("b reads", "b decides", writes("b", his(publishing, one))),
		instead("a publishes", "b looks", looks("b")),
		instead("a ends", "b puts", puts("b", one)),
		before("b ends", "b publishes", writes("b", his(published, one))),
	)
}

// anew is how a stage whose manifest is lost has a second generation.
func anew() []act {
	first := func(state string) string { return text(state, "5a", "1", one, "") }
	return edit(together(),
		instead("a looks", "a abandons", writes("a", first(deleting))),
		instead("a puts", "a deletes", writes("a", first(deleted))),
		instead("b reads", "b acquires", writes("b", text(building, "5b", "2", "", one))),
		before("a publishes", "b pushes", pushes("b", two)),
		before("a publishes", "b decides", writes("b", text(publishing, "5b", "2", two, ""))),
		before("a publishes", "b looks", looks("b")),
		before("a publishes", "b puts", puts("b", two)),
		instead("a publishes", "b publishes", writes("b", text(published, "5b", "2", two, ""))),
		instead("a ends", "a ends", ends("a", "00", two)),
		instead("b ends", "b ends", ends("b", "00", two)),
		instead("the tag", "the tag", shows(stageName(), two)),
		before("the log of the tag", "the other log", logs("", two, 1)),
	)
}

// unheard is a run in which the answer of the decision is lost.
func unheard() []act {
	return edit(together(), instead("a decides", "a decides", silently("a", text(publishing, "5a", "1", one, ""))))
}

// rewriting changes a story.
type rewriting func([]act) []act

func edit(story []act, changes ...rewriting) []act {
	for _, c := range changes {
		story = c(story)
	}
	return story
}

func find(story []act, name string) int {
	i := slices.IndexFunc(story, func(a act) bool { return a.name == name })
	if i < 0 {
		panic("no act " + name) // a mistake in the table
	}
	return i
}

func instead(of, name string, do func(*teller)) rewriting {
	return func(s []act) []act { s[find(s, of)] = act{name, do}; return s }
}

func before(what, name string, do func(*teller)) rewriting {
	return func(s []act) []act { return slices.Insert(s, find(s, what), act{name, do}) }
}

func without(name string) rewriting {
	return func(s []act) []act { i := find(s, name); return slices.Delete(s, i, i+1) }
}

// moved has an act happen before another one.
func moved(name, to string) rewriting {
	return func(s []act) []act {
		i := find(s, name)
		a := s[i]
		s = slices.Delete(s, i, i+1)
		return slices.Insert(s, find(s, to), a)
	}
}

func tell(faults bool, story []act) *History {
	t := &teller{h: History{Faults: faults, Guard: 30 * time.Second, Delta: 15 * time.Minute}, rev: 10, data: map[string]string{}}
	t.now()
	for _, a := range story {
		t.at += time.Second
		a.do(t)
	}
	return &t.h
}

func TestRightHistoriesPass(t *testing.T) {
	stories := map[string][]act{
		"one builds and one adopts":             together(),
		"a killed runner's stage is taken over": takenOver(),
		"a lost manifest ends its generation":   anew(),
		"the answer of a decision is lost":      unheard(),
		"a stage is released and taken again":   edit(together(), before("a acquires", "b acquires", writes("b", text(building, "5b", "9", "", ""))), before("a acquires", "b releases", writes("b", ""))),
		"a published entry is swept":            edit(together(), before("a ends", "sweep", writes("b", ""))),
		"one of few gives up, and says why":     edit(together(), instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 6, Note: "storage unavailable: 503"}))),
		"a runner joins twice":                  edit(together(), before("a acquires", "a joins again", joins("a", "5c"))),
	}
	for name, story := range stories {
		t.Run(name, func(t *testing.T) {
			for _, v := range Check(tell(true, story)) {
				t.Error(v)
			}
		})
	}
}

// Each rule is broken by a history that differs in one place from a right one.
func TestWrongHistoriesAreRefused(t *testing.T) {
	mine := func(state, m string) string { return text(state, "5a", "1", m, "") }
	tests := []struct {
		name  string
		rule  Rule
		story []act
	}{
		{"a tag shows another manifest", OneManifest, edit(together(), instead("b reads", "b reads", reads("b", two)))},
		{"a tag shows before it was decided", OneManifest, edit(together(), moved("b reads", "a acquires"))},
		{"a build index moves", OneManifest, edit(together(),
			before("b ends", "b reads the index", happens(Event{Kind: TagRead, Runner: "b", Tag: "build-00", Digest: "sha256:9", Status: 200})))},
		{"the first generation shows long after its end", OneManifest, edit(anew(),
			before("a ends", "time passes", func(t *teller) { t.at += 16 * time.Minute }), before("a ends", "b reads", reads("b", one)))},
		{"a stage is decided twice", Decided, edit(together(),
			before("a ends", "sweep", writes("b", "")),
			before("a ends", "b acquires", writes("b", text(building, "5b", "2", "", ""))),
			before("a ends", "b pushes", pushes("b", two)),
			before("a ends", "b decides", writes("b", text(publishing, "5b", "2", two, ""))))},
		{"a manifest is decided before it was pushed", Decided, edit(together(), moved("a decides", "a pushes"))},
		{"publishing goes back to building", Legal, edit(together(), before("a publishes", "a goes back", writes("a", mine(building, ""))))},
		{"a decided manifest changes", Legal, edit(together(), instead("a publishes", "a publishes", writes("a", mine(published, two))))},
		{"a decision without a claim", Legal, edit(together(), without("a acquires"))},
		{"a stale owner decides", Legal, edit(together(), before("a decides", "b takes over", writes("b", text(building, "5b", "2", "", ""))))},
		{"a new generation has the old manifest", Legal, edit(anew(),
			instead("b decides", "b decides", writes("b", text(publishing, "5b", "2", one, ""))))},
		{"an entry in another's name", Legal, edit(together(), instead("a acquires", "b acquires", writes("b", mine(building, ""))))},
		{"an entry that nobody wrote", Asked, edit(together(), before("a runs", "magic", func(t *teller) {
			t.rev++
			t.data[keyPrefix+stageName()] = text(building, "5b", "3", "", "")
			t.now()
		}))},
		{"a shard is lost", Asked, edit(together(), before("a ends", "loss", func(t *teller) {
			t.rev++
			t.now()
			t.h.Revisions[len(t.h.Revisions)-1].UID = "v"
		}))},
		{"a revision is told in two ways", Asked, edit(together(), before("a ends", "lie", func(t *teller) {
			t.now()
			t.h.Revisions[len(t.h.Revisions)-1].Data = map[string]string{}
		}))},
		{"a tag is put without a look", Guarded, edit(together(), without("a looks"))},
		{"a tag is put long after the look", Guarded, edit(together(), before("a puts", "sleep", func(t *teller) { t.at += time.Minute }))},
		{"a tag is put by another than the owner", Guarded, edit(together(), instead("a puts", "b puts", puts("b", one)))},
		{"a tag is put before the decision", Guarded, edit(together(), moved("a puts", "a decides"))},
		{"another manifest than the decided one is put", Guarded, edit(together(), instead("a puts", "a puts", puts("a", two)))},
		{"two roots", Agreed, edit(together(), instead("b ends", "b ends", ends("b", "01", one)), before("the tag", "index", shows("build-01", "sha256:1")))},
		{"two manifests in reports", Agreed, edit(together(), instead("b ends", "b ends", ends("b", "00", two)))},
		{"a stage is lost", Kept, edit(together(), without("the tag"))},
		{"a stage is another at the end", Kept, edit(together(), instead("the tag", "the tag", shows(stageName(), two)))},
		{"a stage is damaged", Kept, edit(together(), instead("the tag", "the tag", happens(Event{Kind: Final, Tag: stageName(), Digest: one, Note: "a blob is missing"})))},
		{"the build's index is lost", Kept, edit(together(), without("the index"))},
		{"the registry stored a tag once more", Honest, edit(together(), instead("the log of the tag", "log", logs(stageName(), "", 2)))},
		{"the registry does not know of a write", Honest, edit(together(), without("the log of the push"))},
		{"a command runs again without a reason", Once, edit(together(), before("a decides", "a runs again", runs()))},
		{"a command never runs", Once, edit(together(), without("a runs"))},
		{"a command of nothing runs", Once, edit(together(), before("a decides", "x", happens(Event{Kind: Command, Command: "p/x/setup"})))},
		{"a taken over command runs a third time", Once, edit(takenOver(), before("b decides", "b runs again", runs()))},
		{"a runner hangs", Ends, edit(together(), without("b ends"))},
		{"a runner fails", Ends, edit(together(), instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 1})))},
		{"too many give up", Ends, edit(together(),
			instead("a ends", "a ends", happens(Event{Kind: End, Runner: "a", Exit: 6, Note: "storage unavailable: 503"})),
			instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 7, Note: "the store is unavailable"})))},
		{"a runner gives up the registry without a cause", Ends, edit(together(), instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 6})))},
		{"a runner gives up the ledger without a cause", Ends, edit(together(), instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 7})))},
		{"a runner keeps what it should publish without a cause", Ends, edit(together(), instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 9})))},
		{"a tag is deleted", Undeleted, edit(together(), before("b ends", "b deletes", happens(Event{Kind: Delete, Runner: "b", Tag: stageName(), Status: 202})))},
		{"a manifest is deleted, and nobody knows whether it is gone", Undeleted, edit(together(), before("b ends", "b deletes", happens(Event{Kind: Delete, Runner: "b", Digest: one})))},
	}
	seen := map[Rule]bool{}
	for _, tt := range tests {
		seen[tt.rule] = true
		t.Run(tt.name, func(t *testing.T) {
			found := Check(tell(true, tt.story))
			if !slices.ContainsFunc(found, func(v Violation) bool { return v.Rule == tt.rule }) {
				t.Errorf("not refused by %q; found are %v", tt.rule, found)
			}
		})
	}
	for _, r := range []Rule{OneManifest, Decided, Legal, Asked, Guarded, Agreed, Kept, Honest, Once, Undeleted, Ends} {
		if !seen[r] {
			t.Errorf("no history breaks %q", r)
		}
	}
}

func TestWithoutFaultsEveryRunSucceedsAndNothingRunsTwice(t *testing.T) {
	if found := Check(tell(false, together())); len(found) > 0 {
		t.Errorf("a right history is refused: %v", found)
	}
	for name, story := range map[string][]act{
		"run again": takenOver(),
		"an error":  edit(together(), instead("b ends", "b ends", happens(Event{Kind: End, Runner: "b", Exit: 6}))),
	} {
		if len(Check(tell(false, story))) == 0 {
			t.Errorf("%s: not refused", name)
		}
	}
}

func TestAHistoryIsReadAsItWasWritten(t *testing.T) {
	h := tell(true, takenOver())
	h.Name = "a name"
	var b bytes.Buffer
	if err := Write(&b, h); err != nil {
		t.Fatal(err)
	}
	got, err := Read(&b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, h) {
		t.Errorf("got %+v, want %+v", got, h)
	}
	for _, bad := range []string{"", "{}", `{"event":{}}`, "{\"history\":{}}\n{}", "x"} {
		if _, err := Read(strings.NewReader(bad)); err == nil {
			t.Errorf("%q is read", bad)
		}
	}
}

func FuzzRead(f *testing.F) {
	var b bytes.Buffer
	if err := Write(&b, tell(true, together())); err != nil {
		f.Fatal(err)
	}
	f.Add(b.Bytes())
	f.Fuzz(func(_ *testing.T, in []byte) {
		if h, err := Read(bytes.NewReader(in)); err == nil {
			Check(h) // whatever it holds, it ends
		}
	})
}
