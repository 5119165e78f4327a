package plan

import (
	"context"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/dockerfile"
)

// dockerfile drafts the two stages of an image that a Dockerfile makes: the base
// that its target begins from, which other images may have in common with it, and
// the Dockerfile upon that.
func (c *chain) dockerfile(ctx context.Context) error {
	b, err := dockerfile.Load(ctx, c.Dockerfiles, dockerfileOptions(c.cfg, c.image.Platform))
	if err != nil {
		return err
	}
	root := &stages.Stage{Recipe: c.recipe(stages.KindFrom)}
	for i, base := range b.Bases {
		ref, err := c.base(ctx, base.Reference, base.Platform)
		if err != nil {
			return &dockerfile.Error{File: b.Source.Path, Line: base.Line, Message: err.Error(), Err: err}
		}
		b.Recipe.Bases[i].Digest = ref.Digest
		b.Source.Bases = append(b.Source.Bases, *ref)
		if i == b.Source.Root {
			root.BaseRef, root.Recipe.Base, root.Recipe.Platform = ref, ref.Digest, base.Platform
		}
	}
	s := &stages.Stage{Recipe: c.recipe(stages.KindDockerfile), Dockerfile: &b.Source}
	s.Recipe.Dockerfile = &b.Recipe
	c.draft = append(c.draft, root, s)
	return nil
}

// dockerfileOptions says what of an image's Dockerfile is built. The platform that
// is said to build is the image's first one on every machine, because a result
// must not follow from where it was made.
func dockerfileOptions(img *config.Image, p stages.Platform) dockerfile.Options {
	d := img.Dockerfile
	o := dockerfile.Options{
		Path: d.Path, Context: d.Context, Target: d.Target, Args: d.Args, AddHosts: d.AddHosts, Network: d.Network,
		Secrets: d.Secrets, SSH: d.SSH, Platform: p, BuildPlatform: img.Platforms[0],
	}
	if given, err := stages.ParsePlatform(d.Args["BUILDPLATFORM"]); err == nil {
		o.BuildPlatform = given
	}
	return o
}
