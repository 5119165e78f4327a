package history

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"
)

// moveTeller tells a history of two places: each act takes a second of its own.
type moveTeller struct {
	h    History
	at   time.Duration
	revs map[string]uint64
	data map[string]map[string]string // of ledgers' records and of their one shard, by place and name
}

func newMoveTeller() *moveTeller {
	return &moveTeller{h: History{Name: "switch"}, revs: map[string]uint64{}, data: map[string]map[string]string{}}
}

func (t *moveTeller) add(e Event) {
	t.at += time.Second
	e.Begin, e.Finish = t.at, t.at+time.Second/2
	t.h.Events = append(t.h.Events, e)
}

// set changes a key of a ledger's object; "" removes it. Whoever records sees each state.
func (t *moveTeller) set(place, object, key, value string) {
	name := place + " " + object
	data := maps.Clone(t.data[name])
	if data == nil {
		data = map[string]string{}
	}
	if data[key] = value; value == "" {
		delete(data, key)
	}
	t.data[name] = data
	t.revs[name]++
	t.h.Revisions = append(t.h.Revisions, Revision{Place: place, Shard: object, Number: t.revs[name], Data: data})
	t.look(place, object)
}

// look has whoever records see an object as it is.
func (t *moveTeller) look(place, object string) {
	t.add(Event{Kind: LedgerRead, Place: place, Shard: object, Revision: t.revs[place+" "+object], Status: 200, Seen: true})
}

// turn gives a ledger's objects a seal.
func (t *moveTeller) turn(place string, epoch int, open bool) {
	for _, object := range []string{"cairn-p", "cairn-p.0"} {
		t.set(place, object, keySeal, fmt.Sprintf(`{"epoch":%d,"open":%t}`, epoch, open))
	}
	t.look(place, "cairn-p")
}

func (t *moveTeller) entry(place, state, session, m string) {
	b, err := json.Marshal(entry{State: state, Session: session, Nonce: session, Manifest: m})
	if err != nil {
		panic(err) // a struct of strings
	}
	t.set(place, "cairn-p.0", keyPrefix+stageName(), string(b))
}

func (t *moveTeller) shows(place string, kind Kind, tag, m string) {
	t.add(Event{Kind: kind, Place: place, Tag: tag, Digest: m, Status: 200})
}

func (t *moveTeller) build(runner, m string) {
	t.add(Event{Kind: Start, Runner: runner})
	t.add(Event{Kind: End, Runner: runner, Report: &Report{Stages: []Stage{{Digest: stageName(), Manifest: m}}}})
}

// moveAct is one thing that happens, with a name by which mutants find it.
type moveAct struct {
	name string
	do   func(t *moveTeller)
}

// switched is how a switch ought to go: old is left, and new is where builds go on.
func switched() []moveAct {
	return []moveAct{
		{"old opens", func(t *moveTeller) { t.turn("old", 1, true) }},
		{"old is bound", func(t *moveTeller) { t.set("old", "cairn-p", keyStorage, ":local") }},
		{"a builds", func(t *moveTeller) { t.entry("old", published, "5a", one); t.build("a", one) }},
		{"old shows it", func(t *moveTeller) { t.shows("old", TagRead, stageName(), one) }},
		{"new opens", func(t *moveTeller) { t.turn("new", 1, true) }},
		{"it is to arrive", func(t *moveTeller) { t.set("new", "cairn-p", keyArrival, "{}") }},
		{"new is bound", func(t *moveTeller) { t.set("new", "cairn-p", keyStorage, "r") }},
		{"new closes", func(t *moveTeller) { t.turn("new", 2, false) }},
		{"old closes", func(t *moveTeller) { t.turn("old", 1, false) }},
		{"it is named", func(t *moveTeller) { t.entry("new", published, "50", one) }},
		{"new shows it", func(t *moveTeller) { t.shows("new", TagRead, stageName(), one) }},
		{"new opens again", func(t *moveTeller) { t.turn("new", 3, true) }},
		{"new is tidied", func(t *moveTeller) { t.set("new", "cairn-p", keyArrival, "") }},
		{"b builds", func(t *moveTeller) { t.build("b", one) }},
		{"the end", func(t *moveTeller) { t.look("new", "cairn-p"); t.look("old", "cairn-p") }},
		{"old keeps it", func(t *moveTeller) { t.shows("old", Final, stageName(), one) }},
		{"new keeps it", func(t *moveTeller) { t.shows("new", Final, stageName(), one) }},
		{"it ran once", func(t *moveTeller) { t.add(Event{Kind: Command, Command: cmd, Count: 1}) }},
	}
}

func tellSwitch(acts []moveAct) *History {
	t := newMoveTeller()
	for _, a := range acts {
		a.do(t)
	}
	return &t.h
}

func TestASwitchAsItOughtToGo(t *testing.T) {
	for _, v := range CheckSwitch(tellSwitch(switched())) {
		t.Error(v)
	}
}

// Every promise about a switch is found broken where it is broken, and no other one.
func TestASwitchThatGoesWrong(t *testing.T) {
	otherTag := func(place string, kind Kind) func(*moveTeller) {
		return func(t *moveTeller) { t.shows(place, kind, stageName(), two) }
	}
	for name, test := range map[string]struct {
		// instead of the act there is this one; nil leaves it out.
		act     string
		instead func(t *moveTeller)
		want    Rule
		// also is what follows from it.
		also Rule
	}{
		"the new place shows another manifest": {"new shows it", otherTag("new", TagRead), OneManifest, ""},
		"another one is put there":             {"new shows it", otherTag("new", TagPut), OneManifest, ""},
		"an entry decides another one":         {"it is named", func(t *moveTeller) { t.entry("new", publishing, "50", two) }, OneManifest, ""},
		"a build reports another one":          {"b builds", func(t *moveTeller) { t.build("b", two) }, OneManifest, Kept},
		"the old ledger stays open":            {"old closes", nil, OneOpen, ""},
		"a runner decides in the closed old ledger": {"it is named", func(t *moveTeller) {
			t.entry("new", published, "50", one)
			t.entry("old", published, "5b", one)
		}, Fenced, ""},
		"an entry of the closed old ledger goes": {"it is named", func(t *moveTeller) {
			t.entry("new", published, "50", one)
			t.set("old", "cairn-p.0", keyPrefix+stageName(), "")
		}, Fenced, ""},
		"names are given where nothing was to arrive": {"it is to arrive", nil, Fenced, ""},
		"the stage is lost":                           {"new keeps it", nil, Kept, ""},
		"the stage is damaged": {"new keeps it", func(t *moveTeller) {
			t.add(Event{Kind: Final, Place: "new", Tag: stageName(), Digest: one, Note: "a layer is missing"})
		}, Kept, ""},
		"the command ran again": {"it ran once", func(t *moveTeller) { t.add(Event{Kind: Command, Command: cmd, Count: 2}) }, Once, ""},
		"a build fails": {"b builds", func(t *moveTeller) {
			t.add(Event{Kind: Start, Runner: "b"})
			t.add(Event{Kind: End, Runner: "b", Exit: 7, Note: "the stages have moved"})
		}, Ends, ""},
		"a build does not end": {"b builds", func(t *moveTeller) { t.add(Event{Kind: Start, Runner: "b"}) }, Ends, ""},
		"a tag is deleted": {"b builds", func(t *moveTeller) {
			t.build("b", one)
			t.add(Event{Kind: Delete, Place: "new", Runner: "b", Tag: stageName(), Status: 202})
		}, Undeleted, ""},
		"the ledger holds nonsense": {"it is named", func(t *moveTeller) { t.set("new", "cairn-p.0", keyPrefix+stageName(), "nonsense") }, Legal, ""},
	} {
		t.Run(name, func(t *testing.T) {
			acts := switched()
			i := slices.IndexFunc(acts, func(a moveAct) bool { return a.name == test.act })
			if i < 0 {
				t.Fatalf("there is no act %q", test.act)
			}
			if acts[i].do = test.instead; test.instead == nil {
				acts = slices.Delete(acts, i, i+1)
			}
			var rules []string
			for _, v := range CheckSwitch(tellSwitch(acts)) {
				if !slices.Contains(rules, string(v.Rule)) {
					rules = append(rules, string(v.Rule))
				}
			}
			want := slices.DeleteFunc([]string{string(test.want), string(test.also)}, func(r string) bool { return r == "" })
			if !slices.Equal(rules, want) {
				t.Errorf("found %q", strings.Join(rules, ", "))
			}
		})
	}
}
