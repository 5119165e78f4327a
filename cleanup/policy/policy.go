package policy

import (
	"cmp"
	"context"
	"slices"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/stages/config"
)

// Reference is a branch or a tag.
type Reference struct {
	Kind config.RefKind
	// Name is without its folders: "main", "v1.2".
	Name string
	// Commit is the id of the commit that it names.
	Commit string
	// At is the time of that commit, or of an annotated tag itself.
	At time.Time
}

// String is "branch main".
func (r Reference) String() string { return string(r.Kind) + " " + r.Name }

// Selected is a reference that is kept, with the policy that counts for it.
type Selected struct {
	Reference
	Policy config.KeepPolicy
}

// Select returns the references that policies keep, in the order of their kinds
// and names. A reference that several policies keep is under the last of them.
func Select(policies []config.KeepPolicy, refs []Reference, now time.Time) []Selected {
	under := make(map[Reference]int)
	for i, p := range policies {
		for _, r := range latest(p, refs, now) {
			under[r] = i
		}
	}
	out := make([]Selected, 0, len(under))
	for r, i := range under {
		out = append(out, Selected{r, policies[i]})
	}
	slices.SortFunc(out, func(a, b Selected) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), strings.Compare(a.Name, b.Name))
	})
	return out
}

// latest returns the references that a policy is about, cut by its limit.
func latest(p config.KeepPolicy, refs []Reference, now time.Time) []Reference {
	var fit []Reference
	for _, r := range refs {
		if p.Matches(r.Kind, r.Name) {
			fit = append(fit, r)
		}
	}
	slices.SortFunc(fit, func(a, b Reference) int { return cmp.Or(b.At.Compare(a.At), strings.Compare(a.Name, b.Name)) })
	i := 0
	for i < len(fit) && within(p.References, i, fit[i].At, now) {
		i++
	}
	return fit[:i]
}

// within reports whether a limit lets the thing in that i others of it are newer
// than. Of things sorted by time, those that are let in come first.
func within(l config.Limit, i int, at, now time.Time) bool {
	few := l.Last == config.Unlimited || i < l.Last
	young := l.In == 0 || at.After(now.Add(-l.In))
	if l.Operator == config.OperatorOr && l.In != 0 && l.Last != config.Unlimited {
		return few || young
	}
	return few && young
}

// Commit is one of a reference's history.
type Commit struct {
	ID string
	// At is the committer's time.
	At time.Time
}

// Found is what the storage holds of a commit.
type Found struct {
	// Builds name the builds that planning the commit explains.
	Builds []string
	// Unknown is set where not all of the commit can be planned: it may have been
	// built all the same.
	Unknown bool
}

// Kept is a commit that is kept.
type Kept struct {
	Commit
	// Tip is set for the commit that the reference names.
	Tip bool
	// Number counts the kept builds, the newest is 1; 0 for a commit of which no build
	// is known.
	Number int
}

// History is what is known of a reference's past.
type History struct {
	// Commits are the tip and those before it; their order does not matter.
	Commits []Commit
	// Cut is set where there are older ones that are not here.
	Cut bool
}

// Decision says which commits of a reference are kept.
type Decision struct {
	// Kept are in the order of their times, the newest first but for the tip, which
	// leads.
	Kept []Kept
	// Open is set where the policy would have kept builds of older commits that are
	// not here.
	Open bool
}

// Keep decides which commits of a selected reference are kept: the tip always, and
// the latest builds as far as the policy's Images says. A commit counts when it
// has a build that no newer one has. One that cannot be planned is kept when the
// policy has not enough before it, and does not count: it may never have been built,
// or equal a newer one, and would then take the place of a build that is known.
// look is asked for one commit after the other, the newest first, until the policy
// has all that it keeps.
func Keep(ctx context.Context, s Selected, h History, now time.Time, look func(ctx context.Context, id string) (Found, error)) (Decision, error) {
	w := walk{limit: s.Policy.Images, tip: s.Commit, now: now, builds: make(map[string]bool)}
	if s.Kind == config.RefTag {
		w.limit = config.Limit{Last: 1} // what was before a tag is not the tag's
	}
	for _, c := range inOrder(h.Commits, s.Commit) {
		if c.ID != s.Commit && !within(w.limit, w.counted, c.At, now) {
			return w.decision, nil // nor is any older one
		}
		found, err := look(ctx, c.ID)
		if err != nil {
			return Decision{}, err
		}
		w.add(c, found)
	}
	w.decision.Open = h.Cut && s.Kind == config.RefBranch && w.wantsOlder(h.Commits)
	return w.decision, nil
}

// inOrder returns commits by their times, the newest first but for the tip, which
// leads: clocks of people's machines go wrong.
func inOrder(all []Commit, tip string) []Commit {
	out := slices.Clone(all)
	slices.SortStableFunc(out, func(a, b Commit) int {
		if (a.ID == tip) != (b.ID == tip) {
			return map[bool]int{true: -1, false: 1}[a.ID == tip]
		}
		return cmp.Or(b.At.Compare(a.At), strings.Compare(a.ID, b.ID))
	})
	return out
}

// walk goes down a history.
type walk struct {
	limit    config.Limit
	tip      string
	now      time.Time
	builds   map[string]bool // those of newer commits
	counted  int
	decision Decision
}

func (w *walk) add(c Commit, found Found) {
	counts := false
	for _, b := range found.Builds {
		counts = counts || !w.builds[b]
		w.builds[b] = true
	}
	k := Kept{Commit: c, Tip: c.ID == w.tip}
	if counts {
		w.counted++
		k.Number = w.counted
	}
	if counts || k.Tip || found.Unknown {
		w.decision.Kept = append(w.decision.Kept, k)
	}
}

// wantsOlder reports whether the limit would let in a commit that is as old as the
// oldest of a history.
func (w *walk) wantsOlder(all []Commit) bool {
	oldest := w.now
	for _, c := range all {
		if c.At.Before(oldest) {
			oldest = c.At
		}
	}
	return within(w.limit, w.counted, oldest, w.now)
}
