package plan

import (
	"context"
	"slices"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/dockerfile"
)

// dockerfile plans the stages of an image that a Dockerfile makes: the base that its
// target begins from, which other images may have in common with it, and the groups
// of instructions upon that; or the whole file as one stage.
func (c *chain) dockerfile(ctx context.Context) error {
	b, err := dockerfile.Load(ctx, c.Dockerfiles, dockerfileOptions(c.cfg, c.image.Platform))
	if err != nil {
		return err
	}
	refs := make([]stages.BaseRef, len(b.Bases))
	for i, base := range b.Bases {
		ref, err := c.base(ctx, base.Reference, base.Platform)
		if err != nil {
			return &dockerfile.Error{File: b.Source.Path, Line: base.Line, Message: err.Error(), Err: err}
		}
		refs[i] = *ref
	}
	if b.Staged != nil {
		return (&stager{chain: c, build: b, refs: refs}).plan()
	}
	b.Source.Bases = refs
	for i := range refs {
		b.Recipe.Bases[i].Digest = refs[i].Digest
	}
	s := &stages.Stage{Recipe: c.recipe(stages.KindDockerfile), Dockerfile: &b.Source}
	s.Recipe.Dockerfile = &b.Recipe
	c.draft = append(c.draft, c.root(b, refs, b.Source.Root, c.image.Platform), s)
	c.salt()
	return c.finish()
}

// root is the stage of the base that a build stage begins from, of nothing where there
// is none.
func (c *chain) root(b *dockerfile.Build, refs []stages.BaseRef, base int, p stages.Platform) *stages.Stage {
	s := &stages.Stage{Recipe: stages.Recipe{Kind: stages.KindFrom, Platform: p}}
	if base >= 0 {
		ref := refs[base]
		s.BaseRef, s.Recipe.Base, s.Recipe.Platform = &ref, ref.Digest, b.Bases[base].Platform
	}
	return s
}

// stager plans a Dockerfile group by group.
type stager struct {
	*chain
	build *dockerfile.Build
	refs  []stages.BaseRef
	// tips are the last stages of the chains so far; salted says which of them have
	// the lock's salt already.
	tips   []*stages.Stage
	salted []bool
}

func (s *stager) plan() error {
	staged := s.build.Staged
	for i := range staged.Chains {
		if err := s.add(&staged.Chains[i]); err != nil {
			return err
		}
	}
	last := len(s.tips) - 1
	config := s.stage(stages.KindConfig, s.image.Platform, &staged.Config, s.tips[last])
	final, err := s.intern(config)
	if err != nil {
		return err
	}
	s.image.Stages = chainOf(final)
	s.image.Own = len(s.image.Stages)
	for i, c := range staged.Chains[:last] {
		s.other(&c, s.tips[i])
	}
	return nil
}

// add plans the groups of a build stage upon what it begins from.
func (s *stager) add(c *dockerfile.Chain) error {
	var tip *stages.Stage
	salted := false
	if c.From >= 0 {
		tip, salted = s.tips[c.From], s.salted[c.From]
	} else {
		var err error
		if tip, err = s.intern(s.root(s.build, s.refs, c.Base, c.Platform)); err != nil {
			return err
		}
	}
	for i := range c.Groups {
		g := &c.Groups[i]
		next := s.stage(stages.KindInstructions, c.Platform, g, tip)
		if g.Source.Part.Runs && !salted {
			next.Recipe.Salt, salted = s.Lock.Salts[s.cfg.Name], true
		}
		var err error
		if tip, err = s.intern(next); err != nil {
			return err
		}
	}
	s.tips, s.salted = append(s.tips, tip), append(s.salted, salted)
	return nil
}

// stage makes the stage of a part of the file.
func (s *stager) stage(k stages.Kind, p stages.Platform, part *dockerfile.Part, parent *stages.Stage) *stages.Stage {
	out := &stages.Stage{Recipe: stages.Recipe{Kind: k, Platform: p}, Dockerfile: &part.Source, Parent: parent}
	out.Recipe.Dockerfile, out.Recipe.Parent = &part.Recipe, &parent.Digest
	part.Source.Bases = s.refs
	for i, base := range part.Bases {
		part.Recipe.Bases[i].Digest = s.refs[base].Digest
	}
	for i, chain := range part.Uses {
		if chain >= 0 {
			from := s.tips[chain]
			out.ImportFrom = append(out.ImportFrom, from)
			part.Recipe.Uses[i] = from.Digest.String()
		}
	}
	return out
}

// other has a build stage that is not the target be known as an image of its own, where
// it has groups and no other image has the same.
func (s *stager) other(c *dockerfile.Chain, tip *stages.Stage) {
	known := slices.ContainsFunc(s.order, func(img *stages.Image) bool { return slices.Contains(img.Stages, tip) })
	if len(c.Groups) == 0 || known || slices.Contains(s.image.Stages, tip) {
		return
	}
	img := &stages.Image{Name: s.cfg.Name + ":" + c.Name, Platform: c.Platform, Stages: chainOf(tip)}
	img.Own = len(img.Stages)
	s.order = append(s.order, img)
}

// chainOf returns a stage and those that it stands on, the lowest first.
func chainOf(s *stages.Stage) []*stages.Stage {
	var out []*stages.Stage
	for ; s != nil; s = s.Parent {
		out = append(out, s)
	}
	slices.Reverse(out)
	return out
}

// dockerfileOptions says what of an image's Dockerfile is built. The platform that
// is said to build is the image's first one on every machine, because a result
// must not follow from where it was made.
func dockerfileOptions(img *config.Image, p stages.Platform) dockerfile.Options {
	d := img.Dockerfile
	o := dockerfile.Options{
		Path: d.Path, Context: d.Context, Target: d.Target, Args: d.Args, AddHosts: d.AddHosts, Network: d.Network,
		Secrets: d.Secrets, SSH: d.SSH, Platform: p, BuildPlatform: img.Platforms[0], Whole: d.Whole,
	}
	if given, err := stages.ParsePlatform(d.Args["BUILDPLATFORM"]); err == nil {
		o.BuildPlatform = given
	}
	return o
}
