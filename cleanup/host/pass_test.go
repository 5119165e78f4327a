package host

import (
	"context"
	"errors"
	"slices"
	"testing"
)

// memory is a store of items that take room on a volume.
type memory struct {
	name  string
	items []Item
	fail  error
	// keep are items that came into use after they were listed.
	keep []string
	// hidden is what an item frees less than it says.
	hidden int64
	volume *Volume
}

func (m *memory) Name() string                          { return m.name }
func (m *memory) Items(context.Context) ([]Item, error) { return m.items, m.fail }

func (m *memory) Evict(_ context.Context, ids []string) error {
	for _, id := range ids {
		i := slices.IndexFunc(m.items, func(it Item) bool { return it.ID == id })
		if i < 0 || slices.Contains(m.keep, id) {
			continue
		}
		for _, p := range m.items[i].Parts {
			m.volume.Used -= p.Size - m.hidden
		}
		m.items = slices.Delete(m.items, i, i+1)
	}
	return nil
}

func passer(v *Volume, stores ...*memory) Passer {
	p := Passer{Measure: func() (Volume, error) { return *v, nil }, Batch: 2}
	for _, s := range stores {
		s.volume = v
		p.Stores = append(p.Stores, s)
	}
	return p
}

func hours(names string) []Item {
	var out []Item
	for i, n := range names {
		out = append(out, item(string(n), 100-i, Part{string(n), 5}))
	}
	return out
}

func TestAPassEndsAtTheLowMark(t *testing.T) {
	v := Volume{Total: 100, Used: 95}
	a, b := &memory{name: "a", items: hours("pqrs")}, &memory{name: "b", items: hours("tuvw")}
	r, err := passer(&v, a, b).Pass(t.Context(), rules(t))
	if err != nil || !r.Met() {
		t.Fatal(err, r)
	}
	if v.Used != 75 || r.Freed() != 20 || r.Foreign != 95-40 || len(r.Evicted) != 4 {
		t.Errorf("%d used, %d freed, %d of others, %d evicted", v.Used, r.Freed(), r.Foreign, len(r.Evicted))
	}
}

// What went is measured, not believed.
func TestAPassGoesOnWhenLessIsFreedThanExpected(t *testing.T) {
	v := Volume{Total: 100, Used: 85}
	s := &memory{name: "s", items: hours("abcdefgh"), hidden: 3}
	r, err := passer(&v, s).Pass(t.Context(), rules(t))
	if err != nil || !r.Met() || r.Enough != 2 || len(r.Evicted) < 5 {
		t.Errorf("%v: %d were thought enough, %d went, %d of 100 used", err, r.Enough, len(r.Evicted), v.Used)
	}
}

func TestAPassWithoutNeedTouchesNothing(t *testing.T) {
	v := Volume{Total: 100, Used: 80}
	s := &memory{name: "s", items: hours("abc")}
	r, err := passer(&v, s).Pass(t.Context(), rules(t))
	if err != nil || len(r.Evicted) != 0 || len(s.items) != 3 || !r.Met() {
		t.Error(err, r)
	}
}

func TestADryRunTouchesNothingAndTells(t *testing.T) {
	v := Volume{Total: 100, Used: 90}
	s := &memory{name: "s", items: hours("abcd")}
	p := passer(&v, s)
	p.DryRun = true
	r, err := p.Pass(t.Context(), rules(t))
	if err != nil || len(s.items) != 4 || r.Enough != 3 || r.Met() {
		t.Error(err, r, len(s.items))
	}
}

func TestAPassSaysWhatItCannotFree(t *testing.T) {
	v := Volume{Total: 100, Used: 99}
	s := &memory{name: "s", items: append(hours("ab"), item("young", 0, Part{"y", 4})), keep: []string{"a"}}
	broken := &memory{name: "broken", fail: errors.New("no such directory")}
	r, err := passer(&v, broken, s).Pass(t.Context(), rules(t))
	if !errors.Is(err, broken.fail) {
		t.Errorf("the store that cannot be read gives %v", err)
	}
	if r.Met() || r.Freed() != 5 || r.Foreign != 99-14 {
		t.Errorf("freed %d, %d of others", r.Freed(), r.Foreign)
	}
	if len(r.Blocked) != 1 || r.Blocked[0].Bytes != 4 {
		t.Errorf("blocked are %v", r.Blocked)
	}
}

func TestMarksThatContradictAreRefused(t *testing.T) {
	v := Volume{Total: 100, Used: 99}
	r := rules(t)
	r.Marks.Low = mark(t, "90%")
	if _, err := passer(&v).Pass(t.Context(), r); err == nil {
		t.Error("a low mark above the high one is taken")
	}
}
