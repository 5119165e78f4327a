package cli

import (
	"fmt"
	"iter"
	"strconv"
	"strings"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/plan"
)

// undeclaredHint says which files of the project a failed command names in its
// output and did not declare, one line each; "" when there are none.
func undeclaredHint(p *wire.Project, planned *stages.Plan, exit *engine.ExitError) string {
	failed := stageOf(planned, exit.Job.Key)
	if failed == nil {
		return ""
	}
	found, err := plan.FindUndeclared(p.Config, planned, p.Tree, failed, outputOf(exit))
	if err != nil {
		return "" // the files were listed to plan the build; the failure itself is the news
	}
	lines := make([]string, 0, len(found))
	for _, u := range found {
		lines = append(lines, undeclaredLine(p, exit.Job.Name, u))
	}
	return strings.Join(lines, "\n")
}

func undeclaredLine(p *wire.Project, job string, u plan.Undeclared) string {
	key := fmt.Sprintf("git[%d].stageDependencies.%s (%s:%d)", u.Mapping, u.Stage, p.File, u.Line)
	where := "the commit"
	if p.Tree.ID() == "work tree" {
		where = "the work tree"
	}
	line := fmt.Sprintf("%s: %s exists in %s but the stage %s does not declare it: add %s to %s",
		job, u.Target, where, u.Stage, strconv.Quote(u.Glob), key)
	if u.Whole {
		line += fmt.Sprintf("; without any stageDependencies the mapping is placed before %s", u.Placed)
	}
	return line
}

// stageOf returns the stage whose digest is key, or nil.
func stageOf(p *stages.Plan, key string) *stages.Stage {
	for s := range allStages(p) {
		if s.Digest.String() == key {
			return s
		}
	}
	return nil
}

// allStages yields every stage of a plan and what they are made from, each once,
// after what it needs.
func allStages(p *stages.Plan) iter.Seq[*stages.Stage] {
	return func(yield func(*stages.Stage) bool) {
		seen := make(map[*stages.Stage]bool)
		var visit func(s *stages.Stage) bool
		visit = func(s *stages.Stage) bool {
			if seen[s] {
				return true
			}
			seen[s] = true
			for _, need := range s.Needs() {
				if !visit(need) {
					return false
				}
			}
			return yield(s)
		}
		for _, img := range p.Images {
			if !visit(img.Final()) {
				return
			}
		}
	}
}
