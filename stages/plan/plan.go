package plan

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/dockerfile"
)

// scratch is the base that has nothing in it.
const scratch = "scratch"

// Files tells the identity of a selection of files; implemented by source.Tree.
type Files interface {
	// Identity returns the identity of the selected files and how many there are.
	Identity(sel stages.Selection) (id stages.Digest, files int, err error)
}

// Bases says what a base reference stands for at the moment.
type Bases interface {
	// ResolveBase returns the digest of the reference's manifest for the platform.
	ResolveBase(ctx context.Context, reference string, p stages.Platform) (digest string, err error)
}

// Remotes reads other repositories.
type Remotes interface {
	// ResolveRemote returns the commit that a remote's ref names at the moment.
	ResolveRemote(ctx context.Context, r stages.Remote) (commit string, err error)
	// OpenRemote makes the files of a commit known to Files. Nothing is fetched
	// that was before.
	OpenRemote(ctx context.Context, r stages.Remote, commit string) error
}

// Input is everything that a plan follows from.
type Input struct {
	Project *config.Project
	Files   Files
	// Dockerfiles gives Dockerfiles and their contexts; it may be nil for a project
	// without such images.
	Dockerfiles dockerfile.Files
	// Lock may be nil.
	Lock *Lock
	// Bases is asked, once for each base and platform, where Lock has no entry.
	Bases Bases
	// Remotes is asked, once for each remote, where a mapping has one.
	Remotes Remotes
	// Images are the names to plan, each with what it needs; none means all.
	Images []string
}

// ErrNoSuchImage is returned for a requested image that the project does not have.
var ErrNoSuchImage = errors.New("no such image")

// Make returns the plan. Its Images are the requested ones, its Others those that
// they are built from besides.
func Make(ctx context.Context, in Input) (*stages.Plan, error) {
	if in.Lock == nil {
		in.Lock = &Lock{}
	}
	m := &maker{
		Input:  in,
		images: make(map[imageKey]*stages.Image),
		stages: make(map[stages.Digest]*stages.Stage),
		bases:  make(map[Base]*stages.BaseRef),
	}
	m.plan = &stages.Plan{Project: in.Project.Name}
	wanted, err := m.wanted()
	if err != nil {
		return nil, err
	}
	p := m.plan
	for _, img := range wanted {
		for _, platform := range img.Platforms {
			planned, err := m.image(ctx, img, platform)
			if err != nil {
				return nil, err
			}
			p.Images = append(p.Images, planned)
		}
	}
	for _, img := range m.order {
		if !slices.Contains(p.Images, img) {
			p.Others = append(p.Others, img)
		}
	}
	return p, nil
}

// BasesOf returns the bases that the project refers to, each once and in order,
// scratch apart. Those that Dockerfiles name are among them.
func BasesOf(ctx context.Context, p *config.Project, files dockerfile.Files) ([]Base, error) {
	var out []Base
	add := func(ref string, platform stages.Platform) {
		b := Base{Reference: ref, Platform: platform}
		if ref != "" && ref != scratch && !slices.Contains(out, b) {
			out = append(out, b)
		}
	}
	for i := range p.Images {
		img := &p.Images[i]
		for _, platform := range img.Platforms {
			add(img.From, platform)
			if img.Dockerfile == nil {
				continue
			}
			named, err := dockerfile.Bases(ctx, files, dockerfileOptions(img, platform))
			if err != nil {
				return nil, err
			}
			for _, b := range named {
				add(b.Reference, b.Platform)
			}
		}
	}
	return out, nil
}

// RemotesOf returns the other repositories that the project refers to, each once
// and in order.
func RemotesOf(p *config.Project) []stages.Remote {
	var out []stages.Remote
	for i := range p.Images {
		for _, m := range p.Images[i].Git {
			if !m.Remote.IsZero() && !slices.Contains(out, m.Remote) {
				out = append(out, m.Remote)
			}
		}
	}
	return out
}

type imageKey struct {
	name     string
	platform stages.Platform
}

// maker remembers what is planned already, so that what images share is one value.
type maker struct {
	Input
	images map[imageKey]*stages.Image
	order  []*stages.Image // images as they were finished
	stages map[stages.Digest]*stages.Stage
	bases  map[Base]*stages.BaseRef
	plan   *stages.Plan
}

func (m *maker) wanted() ([]*config.Image, error) {
	var out []*config.Image
	for i := range m.Project.Images {
		img := &m.Project.Images[i]
		if len(m.Images) == 0 || slices.Contains(m.Images, img.Name) {
			out = append(out, img)
		}
	}
	for _, name := range m.Images {
		if _, ok := m.Project.Image(name); !ok {
			return nil, fmt.Errorf("%w: %q; the project has %s", ErrNoSuchImage, name, m.names())
		}
	}
	return out, nil
}

func (m *maker) names() string {
	var names []string
	for _, img := range m.Project.Images {
		names = append(names, fmt.Sprintf("%q", img.Name))
	}
	return strings.Join(names, ", ")
}

func (m *maker) image(ctx context.Context, img *config.Image, p stages.Platform) (*stages.Image, error) {
	key := imageKey{img.Name, p}
	if done, ok := m.images[key]; ok {
		return done, nil
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	c := &chain{maker: m, cfg: img, image: &stages.Image{Name: img.Name, Platform: p}}
	if err := c.build(ctx); err != nil {
		return nil, err
	}
	m.images[key] = c.image
	m.order = append(m.order, c.image)
	return c.image, nil
}

// other returns the plan of an image that another one is built from.
func (m *maker) other(ctx context.Context, name string, p stages.Platform) (*stages.Image, error) {
	img, ok := m.Project.Image(name)
	if !ok {
		return nil, fmt.Errorf("%w: %q", ErrNoSuchImage, name)
	}
	if !slices.Contains(img.Platforms, p) {
		return nil, fmt.Errorf("image %q is needed for %s, which is not among its platforms", name, p)
	}
	return m.image(ctx, img, p)
}

// base returns what a base reference stands for: the lock's word, or else one
// answer for the whole run.
func (m *maker) base(ctx context.Context, ref string, p stages.Platform) (*stages.BaseRef, error) {
	key := Base{ref, p}
	if b, ok := m.bases[key]; ok {
		return b, nil
	}
	b := &stages.BaseRef{Name: ref, Digest: m.Lock.Base(ref, p), Pinned: true}
	if b.Digest == "" {
		_, d, byDigest := strings.Cut(ref, "@")
		digest, err := m.Bases.ResolveBase(ctx, ref, p)
		if err != nil {
			return nil, fmt.Errorf("base %s for %s: %w", ref, p, err)
		}
		b.Digest, b.Pinned = digest, byDigest && d == digest
	}
	m.bases[key] = b
	return b, nil
}

// remote has the files of another repository be known: those of the commit that
// is pinned, or else of one answer for the whole run.
func (m *maker) remote(ctx context.Context, r stages.Remote) error {
	if r.IsZero() || slices.ContainsFunc(m.plan.Remotes, func(c stages.RemoteCommit) bool { return c.Remote == r }) {
		return nil
	}
	c := stages.RemoteCommit{Remote: r, Commit: m.Lock.Commit(r), Pinned: true}
	if c.Commit == "" {
		commit, err := m.Remotes.ResolveRemote(ctx, r)
		if err != nil {
			return err
		}
		c.Commit, c.Pinned = commit, false
	}
	if err := m.Remotes.OpenRemote(ctx, r, c.Commit); err != nil {
		return err
	}
	m.plan.Remotes = append(m.plan.Remotes, c)
	return nil
}

// intern returns the stage of s's recipe: the one that is there, or s.
func (m *maker) intern(s *stages.Stage) (*stages.Stage, error) {
	s.Recipe.Format = stages.RecipeFormat
	d, err := s.Recipe.Digest()
	if err != nil {
		return nil, err
	}
	if same, ok := m.stages[d]; ok {
		return same, nil
	}
	s.Digest = d
	m.stages[d] = s
	return s, nil
}
