package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/policy"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
)

// maxHistory is how many commits of a branch are looked at, the latest.
const maxHistory = 1000

// references returns the branches and tags that policies choose from, and the
// reasons for which there may be others.
func references(ctx context.Context, repo *source.Repository, withoutFetch bool) (refs []policy.Reference, open []string, err error) {
	remote, err := repo.Remote(ctx)
	if err != nil {
		return nil, nil, err
	}
	list := func() ([]source.Reference, error) { return repo.Tracked(ctx, remote) }
	if remote != "" && !withoutFetch {
		err := repo.FetchReferences(ctx, remote)
		switch {
		case ctx.Err() != nil:
			return nil, nil, err
		case err != nil:
			open = append(open, firstLine(fmt.Errorf("the branches and tags of today are not known: %w", err)))
		default:
			list = func() ([]source.Reference, error) { return repo.Fetched(ctx) }
		}
	}
	found, err := list()
	if err != nil {
		return nil, nil, err
	}
	for _, r := range found {
		kind := config.RefBranch
		if r.Tag {
			kind = config.RefTag
		}
		refs = append(refs, policy.Reference{Kind: kind, Name: r.Name, Commit: r.Commit, At: r.At})
	}
	return refs, open, nil
}

func firstLine(err error) string {
	line, _, _ := strings.Cut(err.Error(), "\n")
	return line
}

// histories implements live.Histories.
type histories struct{ repo *source.Repository }

// History implements live.Histories.
func (h histories) History(ctx context.Context, commit string) (policy.History, error) {
	shallow, err := h.repo.Shallow(ctx)
	if err != nil {
		return policy.History{}, err
	}
	past, err := h.repo.History(ctx, commit, maxHistory)
	out := policy.History{Cut: shallow && len(past) < maxHistory}
	for _, p := range past {
		out.Commits = append(out.Commits, policy.Commit(p))
	}
	return out, err
}

// errNotPinned says that a plan would depend on the day it is made.
var errNotPinned = errors.New("it is not pinned by cairn.lock")

// commitPlanner implements live.Planner: it plans commits by what they hold alone.
type commitPlanner struct {
	settings Settings
	host     Host
	project  string
	bases    plan.Bases
}

// Plan implements live.Planner.
func (c *commitPlanner) Plan(ctx context.Context, commit string) (cleanup.Commit, error) {
	var asked []string
	s := c.settings
	s.Dev = false
	p, err := s.openAt(ctx, c.host, commit, func(name string) (string, bool) {
		if !slices.Contains(asked, name) {
			asked = append(asked, name)
		}
		return lookupEnv(c.host)(name)
	})
	switch {
	case ctx.Err() != nil:
		return cleanup.Commit{}, context.Cause(ctx)
	case holdsNoProject(err):
		return c.elsewhere(ctx, commit)
	case err != nil:
		return unplanned(err), nil
	case p.Config.Name != c.project:
		return cleanup.Commit{}, nil // it was built into another storage
	}
	out := cleanup.Commit{}
	if len(asked) > 0 {
		out = unplanned(fmt.Errorf("its templates read the variable %s, and what that was is not known", strings.Join(asked, ", ")))
	}
	return c.images(ctx, p, out)
}

// elsewhere is about a commit without a configuration where the project is today.
// Where it has one in another directory, that may have been the project's.
func (c *commitPlanner) elsewhere(ctx context.Context, commit string) (cleanup.Commit, error) {
	repo, err := source.Open(ctx, c.settings.Dir)
	var path string
	if err == nil {
		path, err = repo.Find(ctx, commit, configNames())
	}
	switch {
	case ctx.Err() != nil:
		return cleanup.Commit{}, context.Cause(ctx)
	case err != nil:
		return unplanned(err), nil
	case path == "":
		return cleanup.Commit{Bare: true}, nil
	}
	return unplanned(fmt.Errorf("it has no configuration where the project is today, but %q", path)), nil
}

// holdsNoProject reports whether a commit has no configuration at today's path.
func holdsNoProject(err error) bool {
	var none *NoConfigError
	return errors.As(err, &none) || errors.Is(err, source.ErrNotCommitted)
}

func unplanned(err error) cleanup.Commit {
	return cleanup.Commit{Unplanned: []cleanup.Unplanned{{Any: true, Why: firstLine(err)}}}
}

// images adds what planning all images gives, or where that fails each by itself.
func (c *commitPlanner) images(ctx context.Context, p *Project, out cleanup.Commit) (cleanup.Commit, error) {
	planned, err := c.plan(ctx, p, nil)
	if err == nil {
		out.Images = append(out.Images, imagesOf(planned)...)
		return out, nil
	}
	for i := range p.Config.Images {
		name := p.Config.Images[i].Name
		planned, err := c.plan(ctx, p, []string{name})
		if ctx.Err() != nil {
			return out, context.Cause(ctx)
		}
		if err != nil {
			out.Unplanned = append(out.Unplanned, cleanup.Unplanned{Name: name, Why: firstLine(err)})
			continue
		}
		out.Images = append(out.Images, imagesOf(planned)...)
	}
	return out, nil
}

func (c *commitPlanner) plan(ctx context.Context, p *Project, images []string) (*stages.Plan, error) {
	return plan.Make(ctx, plan.Input{
		Project: p.Config, Files: p.Tree, Dockerfiles: p.Tree, Lock: p.Lock,
		Bases: pinnedBases{c.bases}, Remotes: pinnedRemotes{p.Remotes}, Images: images,
	})
}

func imagesOf(p *stages.Plan) []cleanup.Image {
	var out []cleanup.Image
	for _, img := range p.All() {
		one := cleanup.Image{Name: img.Name, Platform: img.Platform}
		for _, s := range img.Stages {
			one.Stages = append(one.Stages, s.Digest)
		}
		out = append(out, one)
	}
	return out
}

// pinnedBases resolves only what names a digest: all else may be something else
// today than it was.
type pinnedBases struct{ plan.Bases }

// ResolveBase implements plan.Bases.
func (b pinnedBases) ResolveBase(ctx context.Context, reference string, p stages.Platform) (string, error) {
	if !strings.Contains(reference, "@sha256:") {
		return "", errNotPinned
	}
	return b.Bases.ResolveBase(ctx, reference, p)
}

// pinnedRemotes resolves no branch or tag of another repository.
type pinnedRemotes struct{ plan.Remotes }

// ResolveRemote implements plan.Remotes.
func (pinnedRemotes) ResolveRemote(_ context.Context, r stages.Remote) (string, error) {
	return "", fmt.Errorf("%s of %s: %w", r.Words(), r.URL, errNotPinned)
}
