package host

import (
	"cmp"
	"fmt"
	"math/rand/v2"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC)

func mark(t testing.TB, s string) Mark {
	t.Helper()
	m, err := ParseMark(s)
	if err != nil {
		t.Fatal(err)
	}
	return m
}

func rules(t testing.TB) Rules {
	t.Helper()
	return Rules{Marks: Marks{High: mark(t, "80%"), Low: mark(t, "75%")}, MinAge: time.Hour, Now: noon}
}

// item is last used so many hours ago.
func item(id string, hours int, parts ...Part) Item {
	return Item{ID: id, Used: noon.Add(-time.Duration(hours) * time.Hour), Parts: parts}
}

func ids(vs []Verdict) string {
	var out []string
	for _, v := range vs {
		out = append(out, fmt.Sprintf("%s:%d", v.ID, v.Frees))
	}
	return strings.Join(out, " ")
}

func TestPlan(t *testing.T) {
	base, own := Part{"base", 50}, Part{"own", 5}
	held := func(it Item, why string) Item { it.Held = why; return it }
	on := func(it Item, below ...string) Item { it.On = below; return it }
	for _, tt := range []struct {
		name   string
		used   int64
		items  []Item
		evict  string
		enough int
		blocks string
	}{
		{"a volume below the high mark keeps everything", 80, []Item{item("a", 9, own)}, "a:5", 0, ""},
		{"least recently used goes first, and no more than needed", 82,
			[]Item{item("new", 2, Part{"n", 10}), item("old", 9, Part{"o", 10}), item("older", 10, Part{"p", 2})},
			"older:2 old:10 new:10", 2, ""},
		{"a shared part goes with its last user", 90,
			[]Item{item("a", 9, base, Part{"a", 1}), item("b", 8, base, Part{"b", 2})}, "a:1 b:52", 2, ""},
		{"a part that an item has twice counts once", 90, []Item{item("a", 9, base, base)}, "a:50", 1, ""},
		{"what is held and what is young stays and is told", 90,
			[]Item{held(item("a", 9, Part{"a", 7}), "not yet published"), item("b", 0, Part{"b", 3}), item("c", 5, Part{"c", 1})},
			"c:1", 1, "not yet published 1 7; used in the last 1h0m0s 1 3"},
		{"what others stand on goes after them", 90,
			[]Item{item("parent", 9, Part{"p", 4}), on(item("child", 3, Part{"c", 2}), "parent"), item("other", 5, Part{"o", 1})},
			"other:1 child:2 parent:4", 3, ""},
		{"what a held item stands on stays", 90,
			[]Item{item("grand", 9, Part{"g", 4}), on(item("parent", 9, Part{"p", 4}), "grand"), held(on(item("child", 9, Part{"c", 2}), "parent"), "in use")},
			"", 0, "what stands on it stays 2 8; in use 1 2"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			d := Plan(Volume{Total: 100, Used: tt.used}, []Inventory{{"s", tt.items}}, rules(t))
			if got := ids(d.Evict); got != tt.evict || d.Enough != tt.enough {
				t.Errorf("evicts %q, %d of them; want %q, %d", got, d.Enough, tt.evict, tt.enough)
			}
			var blocks []string
			for _, b := range d.Blocked {
				blocks = append(blocks, fmt.Sprintf("%s %d %d", b.Reason, b.Items, b.Bytes))
			}
			if got := strings.Join(blocks, "; "); got != tt.blocks {
				t.Errorf("blocked are %q, want %q", got, tt.blocks)
			}
		})
	}
}

// The same ids in two stores are two things.
func TestStoresDoNotShareParts(t *testing.T) {
	p := Part{"layer", 10}
	d := Plan(Volume{100, 95}, []Inventory{{"a", []Item{item("x", 3, p)}}, {"b", []Item{item("x", 4, p)}}}, rules(t))
	if got := ids(d.Evict); got != "x:10 x:10" || d.Ours != 20 {
		t.Errorf("evicts %s of %d bytes", got, d.Ours)
	}
}

// slowly is the obvious way: of what may go and has nothing on it, or was passed
// over because something was, the first in the order of use goes.
func slowly(items []Item, r Rules) string {
	stays := map[string]bool{}
	for _, it := range items {
		if r.stays(&it) != "" {
			stays[it.ID] = true
		}
	}
	for range items {
		for _, it := range items {
			for _, below := range it.On {
				stays[below] = stays[below] || stays[it.ID]
			}
		}
	}
	there := map[string]Item{}
	for _, it := range items {
		there[it.ID] = it
	}
	var out []Verdict
	evict := func(it Item) {
		delete(there, it.ID)
		v := Verdict{Ref: Ref{ID: it.ID}}
		for _, p := range it.Parts {
			if !slices.ContainsFunc(slices.Collect(values(there)), func(o Item) bool { return slices.Contains(o.Parts, p) }) {
				v.Frees += p.Size
			}
		}
		out = append(out, v)
	}
	order := slices.Clone(items)
	slices.SortFunc(order, func(a, b Item) int { return cmp.Or(a.Used.Compare(b.Used), cmp.Compare(a.ID, b.ID)) })
	var passed []Item
	free := func(it Item) bool {
		return !slices.ContainsFunc(slices.Collect(values(there)), func(o Item) bool { return slices.Contains(o.On, it.ID) })
	}
	for _, it := range order {
		if stays[it.ID] {
			continue
		}
		if !free(it) {
			passed = append(passed, it)
			continue
		}
		evict(it)
		for again := true; again; {
			again = false
			for i, p := range passed {
				if free(p) {
					passed = slices.Delete(passed, i, i+1)
					evict(p)
					again = true
					break
				}
			}
		}
	}
	return ids(sorted(out))
}

func values(m map[string]Item) func(func(Item) bool) {
	return func(yield func(Item) bool) {
		for _, v := range m {
			if !yield(v) {
				return
			}
		}
	}
}

// sorted makes results comparable whose order among released ones is free: what
// goes in all is what counts, and the bytes.
func sorted(vs []Verdict) []Verdict {
	slices.SortFunc(vs, func(a, b Verdict) int { return cmp.Compare(a.ID, b.ID) })
	return vs
}

func TestPlanAgreesWithTheObviousWay(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(0, 12).Draw(t, "items")
		items := make([]Item, n)
		for i := range items {
			it := item(fmt.Sprint(i), rapid.IntRange(0, 9).Draw(t, "hours"))
			if i > 0 && rapid.Bool().Draw(t, "stands") {
				it.On = []string{fmt.Sprint(rapid.IntRange(0, i-1).Draw(t, "on"))}
			}
			if rapid.IntRange(0, 5).Draw(t, "held") == 0 {
				it.Held = "held"
			}
			items[i] = it
		}
		d := Plan(Volume{100, 99}, []Inventory{{"", items}}, Rules{
			Marks: Marks{High: Mark{share: .8}, Low: Mark{share: .75}}, MinAge: time.Hour, Now: noon,
		})
		seen := map[string]bool{}
		for _, v := range d.Evict {
			for _, it := range items {
				if slices.Contains(it.On, v.ID) && !seen[it.ID] {
					t.Fatalf("%s goes before %s, which stands on it", v.ID, it.ID)
				}
			}
			seen[v.ID] = true
		}
		if got, want := ids(sorted(d.Evict)), slowly(items, Rules{MinAge: time.Hour, Now: noon}); got != want {
			t.Fatalf("evicts %q, want %q", got, want)
		}
	})
}

// manyItems is a host that knows 50,000 stages: chains of five, which share
// their layers with what stands on them.
func manyItems() []Item {
	r := rand.New(rand.NewPCG(1, 2))
	items := make([]Item, 0, 50_000)
	for i := range 10_000 {
		var parts []Part
		for j := range 5 {
			parts = append(parts, Part{fmt.Sprintf("sha256:%032x%032x", i, j), r.Int64N(1 << 24)})
			items = append(items, Item{
				ID: fmt.Sprintf("%d-%d", i, j), Used: noon.Add(-time.Duration(r.IntN(1e6)) * time.Second), Parts: slices.Clone(parts),
			})
		}
	}
	return items
}

func BenchmarkPlanOf50000Stages(b *testing.B) {
	items := manyItems()
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	for b.Loop() {
		if d := Plan(Volume{1 << 40, 1<<40 - 1}, []Inventory{{"s", items}}, rules(b)); d.Enough == 0 {
			b.Fatal("nothing to evict")
		}
	}
	runtime.ReadMemStats(&after)
	b.ReportMetric(float64(after.TotalAlloc-before.TotalAlloc)/float64(b.N)/1e6, "MB/op")
}

func TestParseMark(t *testing.T) {
	v := Volume{Total: 1000}
	for s, want := range map[string]int64{
		"80%": 800, "0.5%": 5, "100%": 1000, "1": 1, "5KiB": 5 << 10, "5K": 5 << 10, "5kb": 5000, "1.5GiB": 3 << 29, "2TB": 2e12, "7B": 7,
	} {
		if m := mark(t, s); m.Of(v) != want {
			t.Errorf("%s of a volume of 1000 is %d, want %d", s, m.Of(v), want)
		}
	}
	for _, s := range []string{"", "%", "0%", "101%", "-1%", "NaN%", "0", "-5G", "GiB", "1e30", "5PB", "80 percent", "Inf"} {
		if _, err := ParseMark(s); err == nil {
			t.Errorf("%q is taken for a mark", s)
		}
	}
}

func FuzzParseMark(f *testing.F) {
	f.Add("80%")
	f.Add("1.5GiB")
	f.Fuzz(func(t *testing.T, s string) {
		m, err := ParseMark(s)
		if err != nil {
			return
		}
		again, err := ParseMark(m.String())
		if err != nil {
			t.Fatalf("%q is written %q, which cannot be read: %v", s, m, err)
		}
		// The percent sign moves a decimal point, which may cost the last bit.
		if a, b := m.Of(Volume{Total: 1 << 40}), again.Of(Volume{Total: 1 << 40}); a-b > 1 || b-a > 1 {
			t.Fatalf("%q is %d, and %d when it is read again", s, a, b)
		}
	})
}
