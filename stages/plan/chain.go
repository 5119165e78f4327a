package plan

import (
	"context"
	"fmt"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
)

// chain plans the stages of one image for one platform, from the first to the last.
type chain struct {
	*maker
	cfg   *config.Image
	image *stages.Image
	// draft holds the image's own stages without digests: the last one is not
	// known before all are drafted, and it takes the config.
	draft []*stages.Stage
	// commands are the kinds that run something in this image.
	commands []stages.Kind
}

func (c *chain) build(ctx context.Context) error {
	if c.cfg.Dockerfile != nil {
		return c.wrap(c.dockerfile(ctx))
	}
	if err := c.start(ctx); err != nil {
		return c.wrap(err)
	}
	for i := range c.cfg.Git {
		if err := c.remote(ctx, c.cfg.Git[i].Remote); err != nil {
			return c.wrap(c.mappingError(i, err))
		}
	}
	for _, k := range stages.Kinds() {
		if _, ok := c.cfg.Shell[k]; ok {
			c.commands = append(c.commands, k)
		}
	}
	for _, k := range stages.Kinds() {
		if err := c.step(ctx, k); err != nil {
			return c.wrap(err)
		}
	}
	c.salt()
	c.config()
	return c.wrap(c.finish())
}

func (c *chain) wrap(err error) error {
	if err == nil || c.cfg.Name == "" {
		return err
	}
	return fmt.Errorf("image %q: %w", c.cfg.Name, err)
}

// start begins the image from another one or from a base.
func (c *chain) start(ctx context.Context) error {
	if c.cfg.FromImage != "" {
		parent, err := c.other(ctx, c.cfg.FromImage, c.image.Platform)
		if err != nil {
			return err
		}
		c.image.Stages = append(c.image.Stages, parent.Stages...)
		return nil
	}
	s := &stages.Stage{Recipe: c.recipe(stages.KindFrom)}
	s.Recipe.Salt = c.cfg.CacheVersion
	if c.cfg.From != scratch {
		ref, err := c.base(ctx, c.cfg.From, c.image.Platform)
		if err != nil {
			return err
		}
		s.BaseRef, s.Recipe.Base = ref, ref.Digest
	}
	c.draft = append(c.draft, s)
	return nil
}

func (c *chain) recipe(k stages.Kind) stages.Recipe {
	return stages.Recipe{Kind: k, Platform: c.image.Platform}
}

// step drafts the stage of kind k, if it has content.
func (c *chain) step(ctx context.Context, k stages.Kind) error {
	s := &stages.Stage{Recipe: c.recipe(k)}
	if section, ok := c.cfg.Shell[k]; ok {
		s.Recipe.Commands = &stages.Commands{
			CacheVersion: section.CacheVersion,
			Interpreter:  c.cfg.Interpreter,
			Mounts:       section.Mounts,
			Network:      c.cfg.Network,
			Script:       section.Commands,
		}
	}
	if err := c.place(s, k); err != nil {
		return err
	}
	if err := c.imports(ctx, s, k); err != nil {
		return err
	}
	if s.Recipe.Commands != nil || len(s.Recipe.Files) > 0 || len(s.Recipe.Imports) > 0 {
		c.draft = append(c.draft, s)
	}
	return nil
}

// place adds the file sets that a stage of kind k puts in place.
func (c *chain) place(s *stages.Stage, k stages.Kind) error {
	if k != stages.KindSource && s.Recipe.Commands == nil {
		return nil
	}
	for i := range c.cfg.Git {
		sel, ok := c.selection(i, k)
		if !ok {
			continue
		}
		id, n, err := c.Files.Identity(sel)
		if err != nil {
			return c.mappingError(i, err)
		}
		if n == 0 {
			continue
		}
		s.Recipe.Files = append(s.Recipe.Files, stages.FileSet{
			Files: id, To: sel.Mapping.To, Owner: sel.Mapping.Owner, Group: sel.Mapping.Group,
		})
		s.Selections = append(s.Selections, sel)
	}
	return nil
}

// MappingError says that the files of a mapping cannot be told.
type MappingError struct {
	// Line is where the mapping begins in the configuration file.
	Line int
	Err  error
}

// Error implements error. The line is left to whoever knows the file's name.
func (e *MappingError) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *MappingError) Unwrap() error { return e.Err }

func (c *chain) mappingError(i int, err error) error {
	if i >= len(c.cfg.GitLines) {
		return err
	}
	return &MappingError{Line: c.cfg.GitLines[i], Err: err}
}

// selection says which files of mapping i a stage of kind k places; false where
// that is none for sure.
func (c *chain) selection(i int, k stages.Kind) (stages.Selection, bool) {
	m := &c.cfg.Git[i]
	sel := stages.Selection{Mapping: m, Kind: k, Stages: c.commands}
	for j := i + 1; j < len(c.cfg.Git); j++ {
		sel.Later = append(sel.Later, &c.cfg.Git[j])
	}
	if len(m.StageDependencies) == 0 {
		sel.Whole = true
		return sel, k == c.wholeIn()
	}
	_, declared := m.StageDependencies[k]
	return sel, declared || k == stages.KindSource
}

// wholeIn is where a mapping goes that declares nothing: before install, or the
// first command stage after it, so that commands written without a thought of
// stages find their files.
func (c *chain) wholeIn() stages.Kind {
	for _, k := range c.commands {
		if k != stages.KindBeforeInstall {
			return k
		}
	}
	return stages.KindSource
}

func (c *chain) imports(ctx context.Context, s *stages.Stage, k stages.Kind) error {
	for _, im := range c.cfg.Imports {
		if im.Kind != k {
			continue
		}
		from, err := c.other(ctx, im.Image, c.image.Platform)
		if err != nil {
			return err
		}
		s.ImportFrom = append(s.ImportFrom, from.Final())
		s.Recipe.Imports = append(s.Recipe.Imports, stages.Import{
			From: from.Final().Digest, Add: im.Add, To: im.To, Owner: im.Owner, Group: im.Group,
			IncludePaths: im.IncludePaths, ExcludePaths: im.ExcludePaths,
		})
	}
	return nil
}

// salt puts the lock's salt into the first stage that runs commands; everything
// after it follows by its parent's digest.
func (c *chain) salt() {
	for _, s := range c.draft {
		if s.Recipe.Commands != nil || s.Recipe.Dockerfile != nil {
			s.Recipe.Salt = c.Lock.Salts[c.cfg.Name]
			return
		}
	}
}

// config folds the image config into the last stage, or into a stage of its own
// where the last one runs commands, imports, or belongs to another image: a changed
// label must not run commands again.
func (c *chain) config() {
	if c.cfg.Docker.IsZero() {
		return
	}
	last := len(c.draft) - 1
	if last < 0 || c.draft[last].Recipe.Commands != nil || len(c.draft[last].Recipe.Imports) > 0 {
		c.draft = append(c.draft, &stages.Stage{Recipe: c.recipe(stages.KindConfig)})
		last++
	}
	c.draft[last].Recipe.Config = &c.cfg.Docker
}

// finish gives the drafted stages their parents and digests.
func (c *chain) finish() error {
	for _, s := range c.draft {
		if n := len(c.image.Stages); n > 0 {
			s.Parent = c.image.Stages[n-1]
			s.Recipe.Parent = &s.Parent.Digest
		}
		s, err := c.intern(s)
		if err != nil {
			return err
		}
		c.image.Stages = append(c.image.Stages, s)
		c.image.Own++
	}
	return nil
}
