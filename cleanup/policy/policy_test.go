package policy

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/stages/config"
)

// now is when all tests run.
func now() time.Time { return time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC) }

func ago(hours int) time.Time { return now().Add(-time.Duration(hours) * time.Hour) }

func branch(name string, hours int) Reference {
	return Reference{Kind: config.RefBranch, Name: name, Commit: "tip-" + name, At: ago(hours)}
}

func tag(name string, hours int) Reference {
	return Reference{Kind: config.RefTag, Name: name, Commit: "tip-" + name, At: ago(hours)}
}

func names(all []Selected) string {
	var out []string
	for _, s := range all {
		out = append(out, s.Name)
	}
	return strings.Join(out, " ")
}

func TestReferencesAreSelected(t *testing.T) {
	refs := []Reference{branch("main", 1000), branch("a", 1), branch("b", 2), branch("c", 3), branch("d", 400), tag("v1", 500), tag("v2", 20), tag("a", 30)}
	hours := func(n int) time.Duration { return time.Duration(n) * time.Hour }
	all := regexp.MustCompile(".*")
	for name, c := range map[string]struct {
		policies []config.KeepPolicy
		want     string
	}{
		"no policy":                {nil, ""},
		"one by its name":          {[]config.KeepPolicy{{Kind: "branch", Name: "main", References: config.Limit{Last: -1}}}, "main"},
		"a name means its kind":    {[]config.KeepPolicy{{Kind: "tag", Name: "a", References: config.Limit{Last: -1}}}, "a"},
		"the latest":               {[]config.KeepPolicy{{Kind: "branch", Pattern: all, References: config.Limit{Last: 2}}}, "a b"},
		"those of a period":        {[]config.KeepPolicy{{Kind: "branch", Pattern: all, References: config.Limit{Last: -1, In: hours(3)}}}, "a b"},
		"both conditions":          {[]config.KeepPolicy{{Kind: "branch", Pattern: all, References: config.Limit{Last: 1, In: hours(3), Operator: "And"}}}, "a"},
		"one of the conditions":    {[]config.KeepPolicy{{Kind: "branch", Pattern: all, References: config.Limit{Last: 1, In: hours(4), Operator: "Or"}}}, "a b c"},
		"one condition with an Or": {[]config.KeepPolicy{{Kind: "tag", Pattern: all, References: config.Limit{Last: 1, Operator: "Or"}}}, "v2"},
		"the defaults":             {config.DefaultCleanup().KeepPolicies, "a b c main a v1 v2"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := names(Select(c.policies, refs, now())); got != c.want {
				t.Errorf("selected %q, want %q", got, c.want)
			}
		})
	}
}

func TestTheLastPolicyThatFitsCounts(t *testing.T) {
	s := Select(config.DefaultCleanup().KeepPolicies, []Reference{branch("main", 1), branch("x", 1)}, now())
	if len(s) != 2 || s[0].Policy.Images.Last != 10 || s[1].Policy.Images.Last != 2 {
		t.Errorf("%+v", s)
	}
}

// past is a history in words: "c1@5=b1,b2" was committed five hours ago and
// explains two builds, "c2@6=?" cannot be planned, "c3@7=b1,?" only in part.
func past(t *testing.T, words string) (History, func(context.Context, string) (Found, error)) {
	t.Helper()
	var h History
	found := make(map[string]Found)
	for w := range strings.FieldsSeq(words) {
		var id, builds string
		var hours int
		id, rest, _ := strings.Cut(w, "@")
		hour, builds, _ := strings.Cut(rest, "=")
		if _, err := fmt.Sscan(hour, &hours); err != nil {
			t.Fatal(err)
		}
		h.Commits = append(h.Commits, Commit{id, ago(hours)})
		var f Found
		for b := range strings.SplitSeq(builds, ",") {
			switch b {
			case "":
			case "?":
				f.Unknown = true
			default:
				f.Builds = append(f.Builds, b)
			}
		}
		found[id] = f
	}
	return h, func(_ context.Context, id string) (Found, error) { return found[id], nil }
}

func kept(d Decision) string {
	var out []string
	for _, k := range d.Kept {
		out = append(out, fmt.Sprintf("%s:%d", k.ID, k.Number))
	}
	if d.Open {
		out = append(out, "open")
	}
	return strings.Join(out, " ")
}

func TestCommitsAreKept(t *testing.T) {
	for name, c := range map[string]struct {
		images  config.Limit
		history string
		cut     bool
		want    string
	}{
		"the last builds":                      {config.Limit{Last: 2}, "t@1=b1 c@2=b2 d@3=b3", false, "t:1 c:2"},
		"a tip that was not built":             {config.Limit{Last: 1}, "t@1 c@2=b2 d@3=b3", false, "t:0 c:1"},
		"equal builds once":                    {config.Limit{Last: 2}, "t@1=b1 c@2=b1 d@3=b3 e@4=b4", false, "t:1 d:2"},
		"a commit with a build of its own":     {config.Limit{Last: 2}, "t@1=b1,b2 c@2=b2,b3 e@4=b4", false, "t:1 c:2"},
		"those of a period":                    {config.Limit{Last: -1, In: 3 * time.Hour}, "t@1=b1 c@2=b2 d@3=b3", false, "t:1 c:2"},
		"the tip whatever its age":             {config.Limit{Last: 5, In: time.Hour, Operator: "And"}, "t@9=b1 c@10=b2", false, "t:1"},
		"either condition":                     {config.Limit{Last: 3, In: 2 * time.Hour, Operator: "Or"}, "t@0=b1 c@1=b2 d@3=b3 e@4=b4", false, "t:1 c:2 d:3"},
		"those that cannot be planned beside":  {config.Limit{Last: 2}, "t@1=? c@2=? d@3=b3 e@4=b4 f@5=? g@6=b5", false, "t:0 c:0 d:1 e:2"},
		"a tip that cannot be planned":         {config.Limit{Last: 1}, "t@1=? c@2=b2 d@3=b3", false, "t:0 c:1"},
		"one in part, with a build":            {config.Limit{Last: 2}, "t@1=b1,? c@2=b1,? d@3=b3 e@4=b4", false, "t:1 c:0 d:2"},
		"none that is too old":                 {config.Limit{Last: 2, In: 3 * time.Hour, Operator: "And"}, "t@1=b1 c@2=? d@4=?", false, "t:1 c:0"},
		"a history that is cut":                {config.Limit{Last: 3}, "t@1=b1 c@2=b2", true, "t:1 c:2 open"},
		"a cut history with enough":            {config.Limit{Last: 2}, "t@1=b1 c@2=b2", true, "t:1 c:2"},
		"a cut history past the period":        {config.Limit{Last: -1, In: 2 * time.Hour}, "t@1=b1 c@3=b2", true, "t:1"},
		"a tip that is older than its parents": {config.Limit{Last: 1}, "c@1=b2 t@5=b1", false, "t:1"},
	} {
		t.Run(name, func(t *testing.T) {
			h, look := past(t, c.history)
			h.Cut = c.cut
			d, err := Keep(t.Context(), Selected{Reference{Kind: "branch", Commit: "t"}, config.KeepPolicy{Images: c.images}}, h, now(), look)
			if got := kept(d); err != nil || got != c.want {
				t.Errorf("kept %q, want %q (%v)", got, c.want, err)
			}
		})
	}
}

func TestOfATagOnlyItsCommitIsKept(t *testing.T) {
	h, look := past(t, "c@1=b2 t@5=b1 d@6=b3")
	d, err := Keep(t.Context(), Selected{tag("t", 5), config.KeepPolicy{Images: config.Limit{Last: -1}}}, History{h.Commits, true}, now(), look)
	if err != nil || len(d.Kept) != 1 && d.Open {
		t.Errorf("%v, %v", d, err)
	}
}

func TestNoCommitIsPlannedWithoutNeed(t *testing.T) {
	h, look := past(t, "t@1=b1 c@2=b2 d@3=b3 e@4=b4")
	asked := 0
	_, err := Keep(t.Context(), Selected{Reference{Kind: "branch", Commit: "t"}, config.KeepPolicy{Images: config.Limit{Last: 2}}}, h, now(),
		func(ctx context.Context, id string) (Found, error) { asked++; return look(ctx, id) })
	if err != nil || asked != 2 {
		t.Errorf("%d were asked for (%v)", asked, err)
	}
	broken := errors.New("git is gone")
	_, err = Keep(t.Context(), Selected{Reference: Reference{Commit: "t"}}, h, now(), func(context.Context, string) (Found, error) { return Found{}, broken })
	if !errors.Is(err, broken) {
		t.Errorf("a failure of looking gives %v", err)
	}
}

// The engine equals a slow reference that says what the policies mean.
func TestTheEngineEqualsAnObviousReference(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	for i := range 100_000 {
		policies, refs := randomPolicies(rnd), randomReferences(rnd)
		selected := Select(policies, refs, now())
		if want := slowSelect(policies, refs); !reflect.DeepEqual(selected, want) {
			t.Fatalf("round %d: of %v\npolicies %v select\n%v\nwant\n%v", i, refs, policies, selected, want)
		}
		for _, s := range selected {
			h, found := randomHistory(rnd, s.Commit)
			got, err := Keep(t.Context(), s, h, now(), func(_ context.Context, id string) (Found, error) { return found[id], nil })
			if err != nil {
				t.Fatal(err)
			}
			if want := slowKeep(s, h, found); !reflect.DeepEqual(got, want) {
				t.Fatalf("round %d: %v\nof %v, %v\nkeeps\n%v\nwant\n%v", i, s, h, found, got, want)
			}
		}
	}
}

func randomLimit(rnd *rand.Rand) config.Limit {
	l := config.Limit{Last: []int{-1, 1, 1, 2, 3, 5}[rnd.IntN(6)], Operator: config.OperatorAnd}
	if rnd.IntN(2) == 0 {
		l.In = time.Duration(1+rnd.IntN(12)) * time.Hour
	}
	if l.In != 0 && l.Last != -1 && rnd.IntN(2) == 0 {
		l.Operator = config.OperatorOr
	}
	return l
}

func randomPolicies(rnd *rand.Rand) []config.KeepPolicy {
	patterns := []*regexp.Regexp{nil, regexp.MustCompile(`.*`), regexp.MustCompile(`^[ab]`), regexp.MustCompile(`c$`)}
	var out []config.KeepPolicy
	for range rnd.IntN(4) {
		p := config.KeepPolicy{Kind: randomKind(rnd), Pattern: patterns[rnd.IntN(len(patterns))], References: randomLimit(rnd), Images: randomLimit(rnd)}
		if p.Pattern == nil {
			p.Name = string(rune('a' + rnd.IntN(5)))
		}
		out = append(out, p)
	}
	return out
}

func randomKind(rnd *rand.Rand) config.RefKind {
	return []config.RefKind{config.RefBranch, config.RefTag}[rnd.IntN(2)]
}

func randomReferences(rnd *rand.Rand) []Reference {
	var out []Reference
	for _, kind := range []config.RefKind{config.RefBranch, config.RefTag} {
		for i := range 5 {
			if rnd.IntN(2) == 0 {
				out = append(out, Reference{kind, string(rune('a' + i)), "c0", ago(rnd.IntN(14) - 1)})
			}
		}
	}
	return out
}

func randomHistory(rnd *rand.Rand, tip string) (History, map[string]Found) {
	h := History{Cut: rnd.IntN(3) == 0}
	found := make(map[string]Found)
	for i := range 1 + rnd.IntN(8) {
		c := Commit{fmt.Sprintf("c%d", i), ago(rnd.IntN(14) - 1)}
		if i == 0 {
			c.ID = tip
		}
		f := Found{Unknown: rnd.IntN(8) == 0}
		for range rnd.IntN(3) {
			f.Builds = append(f.Builds, fmt.Sprintf("b%d", rnd.IntN(6)))
		}
		h.Commits, found[c.ID] = append(h.Commits, c), f
	}
	rnd.Shuffle(len(h.Commits), func(i, j int) { h.Commits[i], h.Commits[j] = h.Commits[j], h.Commits[i] })
	return h, found
}

// slowAllows says what a limit means: rank counts the newer ones.
func slowAllows(l config.Limit, rank int, at time.Time) bool {
	amongLast := l.Last == -1 || rank < l.Last
	inPeriod := l.In == 0 || now().Sub(at) < l.In
	if l.Operator == config.OperatorOr && l.Last != -1 && l.In != 0 {
		return amongLast || inPeriod
	}
	return amongLast && inPeriod
}

func slowSelect(policies []config.KeepPolicy, refs []Reference) []Selected {
	out := []Selected{}
	for _, r := range refs {
		for i := len(policies) - 1; i >= 0; i-- {
			p, newer := policies[i], 0
			for _, other := range refs {
				if p.Matches(other.Kind, other.Name) && (other.At.After(r.At) || other.At.Equal(r.At) && other.Name < r.Name) {
					newer++
				}
			}
			if p.Matches(r.Kind, r.Name) && slowAllows(p.References, newer, r.At) {
				out = append(out, Selected{r, p})
				break
			}
		}
	}
	slices.SortFunc(out, func(a, b Selected) int { return strings.Compare(a.String(), b.String()) })
	return out
}

// slowKeep says what the documentation does: "The commit that a kept reference names
// is kept always. Of older commits those count of which there is a build: one that
// planning the commit explains. Equal builds count once." What cannot be planned is
// kept as long as a build would be, and counts for nothing but what it explains.
func slowKeep(s Selected, h History, found map[string]Found) Decision {
	newerThan := func(a, b Commit) bool {
		switch {
		case a.ID == b.ID:
			return false
		case a.ID == s.Commit || b.ID == s.Commit:
			return a.ID == s.Commit
		}
		return a.At.After(b.At) || a.At.Equal(b.At) && a.ID < b.ID
	}
	counts := func(c Commit) bool {
		return slices.ContainsFunc(found[c.ID].Builds, func(b string) bool {
			return !slices.ContainsFunc(h.Commits, func(o Commit) bool { return newerThan(o, c) && slices.Contains(found[o.ID].Builds, b) })
		})
	}
	limit := s.Policy.Images
	if s.Kind == config.RefTag {
		limit = config.Limit{Last: 1}
	}
	var d Decision
	total, oldest := 0, now()
	allOf := slices.SortedFunc(slices.Values(h.Commits), func(a, b Commit) int {
		if newerThan(a, b) {
			return -1
		}
		return 1
	})
	stopped := false
	for _, c := range allOf {
		rank := 0
		for _, o := range allOf {
			if newerThan(o, c) && counts(o) {
				rank++
			}
		}
		allowed := c.ID == s.Commit || slowAllows(limit, rank, c.At)
		stopped = stopped || !allowed
		switch {
		case allowed && counts(c):
			d.Kept = append(d.Kept, Kept{c, c.ID == s.Commit, rank + 1})
		case c.ID == s.Commit, allowed && found[c.ID].Unknown:
			d.Kept = append(d.Kept, Kept{c, c.ID == s.Commit, 0})
		}
		if counts(c) {
			total++
		}
		if c.At.Before(oldest) {
			oldest = c.At
		}
	}
	d.Open = h.Cut && s.Kind == config.RefBranch && !stopped && slowAllows(limit, total, oldest)
	return d
}
