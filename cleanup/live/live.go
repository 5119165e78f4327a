// Package live finds what a cleanup keeps for git's sake: it selects references by
// the policies, goes down their histories, and has the commits on them planned. What
// planning gives is what the pure plan of package cleanup goes by.
package live

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/policy"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/storage/inventory"
)

// Planner plans commits.
type Planner interface {
	// Plan returns the images of a commit and those that cannot be planned. A commit
	// that does not hold the project has neither. An error ends everything.
	Plan(ctx context.Context, commit string) (cleanup.Commit, error)
}

// Histories reads the pasts of commits.
type Histories interface {
	// History returns a commit and those before it. An error is one of that history.
	History(ctx context.Context, commit string) (policy.History, error)
}

// Input is what is asked for.
type Input struct {
	Policies   []config.KeepPolicy
	References []policy.Reference
	Histories  Histories
	Planner    Planner
	Inventory  *inventory.Inventory
	Now        time.Time
	// Progress, if not nil, is told of each reference before its turn.
	Progress func(done, total int)
}

// Result is what is kept for git's sake.
type Result struct {
	// Commits are in the order of the references that keep them.
	Commits []cleanup.Commit
	// Open are the reasons for which builds of other commits may be kept as well.
	Open []string
	// References counts those that are kept.
	References int
	// Bare are the kept references whose commit has no configuration: they keep no
	// build, which may surprise.
	Bare []string
}

// Find finds the kept commits. It plans each commit once, and none without need.
func Find(ctx context.Context, in Input) (Result, error) {
	f := &finder{Input: in, planned: make(map[string]cleanup.Commit), kept: make(map[string]int)}
	selected := policy.Select(in.Policies, in.References, in.Now)
	f.result.References = len(selected)
	for i, s := range selected {
		if f.Progress != nil {
			f.Progress(i, len(selected))
		}
		if err := f.reference(ctx, s); err != nil {
			return Result{}, err
		}
	}
	if f.Progress != nil {
		f.Progress(len(selected), len(selected))
	}
	return f.result, nil
}

type finder struct {
	Input
	planned map[string]cleanup.Commit
	kept    map[string]int // where a commit stands in the result
	result  Result
}

func (f *finder) reference(ctx context.Context, s policy.Selected) error {
	history := policy.History{Commits: []policy.Commit{{ID: s.Commit, At: s.At}}}
	if s.Kind == config.RefBranch {
		var err error
		if history, err = f.Histories.History(ctx, s.Commit); err != nil {
			if ctx.Err() != nil {
				return err
			}
			f.open("the history of %s: %v", s.Reference, err)
			history = policy.History{Commits: []policy.Commit{{ID: s.Commit, At: s.At}}}
		}
	}
	d, err := policy.Keep(ctx, s, history, f.Now, f.look)
	if err != nil {
		return err
	}
	if f.planned[s.Commit].Bare {
		f.result.Bare = append(f.result.Bare, s.Reference.String())
	}
	for _, k := range d.Kept {
		f.keep(s.Reference, k)
	}
	if d.Open {
		f.open("the history of %s is cut: the clone is shallow", s.Reference)
	}
	return nil
}

func (f *finder) open(format string, args ...any) {
	f.result.Open = append(f.result.Open, fmt.Sprintf(format, args...))
}

// look says which indexes planning a commit explains.
func (f *finder) look(ctx context.Context, id string) (policy.Found, error) {
	c, ok := f.planned[id]
	if !ok {
		var err error
		if c, err = f.Planner.Plan(ctx, id); err != nil {
			return policy.Found{}, err
		}
		f.planned[id] = c
	}
	found := policy.Found{Unknown: len(c.Unplanned) > 0}
	for _, n := range f.Inventory.Names {
		isIndex := n.Kind == inventory.KindBuild || n.Kind == inventory.KindPlatforms
		if isIndex && n.Manifest != nil && c.Explain(n.Manifest) == cleanup.Explains {
			found.Builds = append(found.Builds, n.Tag)
		}
	}
	return found, nil
}

// manyReasons is after how many references a commit's reasons are only counted.
const manyReasons = 3

func (f *finder) keep(ref policy.Reference, k policy.Kept) {
	why := fmt.Sprintf("build %d of %s", k.Number, ref)
	switch {
	case ref.Kind == config.RefTag:
		why = ref.String()
	case k.Tip:
		why = "tip of " + ref.String()
	case k.Number == 0:
		why = "a commit of " + ref.String()
	}
	at, known := f.kept[k.ID]
	if !known {
		c := f.planned[k.ID]
		c.ID, c.Why = k.ID, why
		f.kept[k.ID] = len(f.result.Commits)
		f.result.Commits = append(f.result.Commits, c)
		return
	}
	c := &f.result.Commits[at]
	switch n := strings.Count(c.Why, ", ") + 1; {
	case n < manyReasons:
		c.Why += ", " + why
	case n == manyReasons:
		c.Why += ", and more"
	}
}
