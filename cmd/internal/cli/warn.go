package cli

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/synchronization"
)

// maxListed is how many things of a kind a warning names.
const maxListed = 10

func (a *app) warnf(format string, args ...any) {
	fmt.Fprintf(a.Err, "warning: %s\n", printable(fmt.Sprintf(format, args...)))
}

// warnConfig passes on what has no effect in the configuration.
func (a *app) warnConfig(p *config.Project) {
	for i, w := range p.Warnings {
		if i == maxListed {
			a.warnf("… and %d more", len(p.Warnings)-maxListed)
			return
		}
		a.warnf("%v", w)
		if w.Hint != "" {
			fmt.Fprintf(a.Err, "  hint: %s\n", printable(w.Hint))
		}
	}
}

// warnUnpinned names the bases and other repositories of which somebody else
// decides from day to day what they are.
func (a *app) warnUnpinned(p *stages.Plan) {
	for _, r := range p.Remotes {
		if !r.Pinned {
			a.warnf("%s of %s is not pinned: run \"cairn lock\" and commit cairn.lock", r.Remote.Words(), r.Remote.URL)
		}
	}
	switch bases := unpinned(p); len(bases) {
	case 0:
	case 1:
		a.warnf("base %s is not pinned: run \"cairn lock\" and commit cairn.lock", bases[0])
	default:
		a.warnf("%d bases are not pinned (%s): run \"cairn lock\" and commit cairn.lock", len(bases), list(bases))
	}
}

// warnArgs names the arguments that are given to Dockerfiles and do nothing there:
// a misspelt one builds with the default, and nobody notices.
func (a *app) warnArgs(p *stages.Plan) {
	told := map[string]bool{}
	for s := range allStages(p) {
		if s.Dockerfile == nil || len(s.Dockerfile.Undeclared) == 0 {
			continue
		}
		line := fmt.Sprintf("%s has no ARG for what \"args\" gives it: %s", s.Dockerfile.Path, list(s.Dockerfile.Undeclared))
		if !told[line] { // each platform has a stage of its own
			a.warnf("%s", line)
		}
		told[line] = true
	}
}

func unpinned(p *stages.Plan) []string {
	var out []string
	for s := range allStages(p) {
		var bases []stages.BaseRef
		if s.BaseRef != nil {
			bases = append(bases, *s.BaseRef)
		}
		if s.Dockerfile != nil {
			bases = append(bases, s.Dockerfile.Bases...)
		}
		for _, b := range bases {
			if !b.Pinned && !slices.Contains(out, b.Name) {
				out = append(out, b.Name)
			}
		}
	}
	return out
}

// list names the first few of names.
func list(names []string) string {
	if more := len(names) - maxListed; more > 0 {
		return fmt.Sprintf("%s and %d more", strings.Join(names[:maxListed], ", "), more)
	}
	return strings.Join(names, ", ")
}

// warnDirty tells, where there is something to tell, what the work tree has and
// the commit has not.
func (a *app) warnDirty(ctx context.Context, p *wire.Project, tell func(string)) {
	if a.settings.Dev {
		return
	}
	changes, err := p.Repo.Dirty(ctx)
	if err != nil || len(changes) == 0 {
		return // a build from the commit does not need the work tree
	}
	left := "1 uncommitted change is left out (--dev includes it):"
	if n := len(changes); n > 1 {
		left = fmt.Sprintf("%d uncommitted changes are left out (--dev includes them):", n)
	}
	var b strings.Builder
	b.WriteString("warning: " + left)
	for i, c := range changes {
		if i == maxListed {
			fmt.Fprintf(&b, "\n  … and %d more", len(changes)-maxListed)
			break
		}
		fmt.Fprintf(&b, "\n  %s %s", c.Kind, oneLine(c.Path))
	}
	tell(b.String())
}

// warnAlone says, after a build that published, that nobody on another host
// would have been waited for.
func (a *app) warnAlone(rep *build.Report) {
	if a.settings.LedgerAddress(a.host) == wire.Local && a.settings.Storage != wire.Local && rep.Requests.Ledger > 0 {
		a.warnf("--synchronization is %s: only runners of this host coordinate what they publish to %s", wire.Local, a.settings.Storage)
	}
}

// warnLosses says what was lost of the ledger, and what that means.
func (a *app) warnLosses(rep *build.Report) {
	for _, l := range rep.Losses {
		a.warnf("parts of the ledger were lost and made anew (%s, noticed %s): for %s from then two runners may publish a stage differently",
			list(l.Objects), l.At.UTC().Format(time.RFC3339), shortDuration(synchronization.DefaultDelta))
	}
}

// oneLine is printable for a name, which has no business with line breaks.
func oneLine(s string) string {
	return strings.NewReplacer("\n", "\uFFFD", "\t", "\uFFFD").Replace(printable(s))
}
