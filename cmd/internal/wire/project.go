package wire

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
)

// Project is a configuration with the sources that it was read from.
type Project struct {
	Config *config.Project
	Tree   *source.Tree
	Repo   *source.Repository
	Lock   *plan.Lock
	// Remotes reads the other repositories that the configuration names.
	Remotes Remotes
	// File is the configuration's name: cairn.yaml, werf.yaml or werf.yml.
	File string
}

// NoConfigError says that a tree has no configuration.
type NoConfigError struct {
	// Dir is the project's directory, Tree the commit or "work tree".
	Dir, Tree string
	// OnDisk is set when the work tree has one that the commit lacks.
	OnDisk bool
}

// Error implements error.
func (e *NoConfigError) Error() string {
	return fmt.Sprintf("no cairn.yaml, werf.yaml or werf.yml in %s of %s", e.Tree, e.Dir)
}

// Hint says what to do.
func (e *NoConfigError) Hint() string {
	if e.OnDisk {
		return "it is in the work tree but not in the commit: commit it, or build the work tree with --dev"
	}
	return "name the project's directory with --dir, or a Dockerfile with --dockerfile; docs/reference/configuration.md describes the file"
}

// Open reads the project at its commit, or the work tree with Dev.
func (s Settings) Open(ctx context.Context, h Host) (*Project, error) {
	return s.OpenAt(ctx, h, "HEAD")
}

// OpenAt reads the project at a commit; with Dev, HEAD means the work tree.
func (s Settings) OpenAt(ctx context.Context, h Host, rev string) (*Project, error) {
	return s.openAt(ctx, h, rev, lookupEnv(h))
}

// openAt is OpenAt with the variables that templates may read.
func (s Settings) openAt(ctx context.Context, h Host, rev string, env func(string) (string, bool)) (*Project, error) {
	repo, err := source.Open(ctx, s.Dir)
	if err != nil {
		return nil, err
	}
	p := &Project{Repo: repo}
	if s.Dev && rev == "HEAD" {
		p.Tree, err = repo.WorkTree(ctx)
	} else {
		p.Tree, err = repo.Commit(ctx, rev)
	}
	if err != nil {
		return nil, err
	}
	p.Remotes = newRemotes(s, h, p.Tree)
	if err := p.configure(ctx, s, env); err != nil {
		return nil, err
	}
	if err := p.readLock(ctx); err != nil {
		return nil, err
	}
	return p, nil
}

// configNames are the names of a configuration, the one that is preferred first.
func configNames() []string { return []string{"cairn.yaml", "werf.yaml", "werf.yml"} }

func (p *Project) configure(ctx context.Context, s Settings, env func(string) (string, bool)) error {
	for _, name := range configNames() {
		data, err := p.Tree.Read(ctx, name)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		if s.Quick.Dockerfile != "" {
			return &ConfiguredError{File: name}
		}
		p.File = name
		p.Config, err = config.Load(ctx, config.Input{Path: name, Data: data, Files: p.Tree, Env: env})
		return err
	}
	if s.Quick.Dockerfile != "" {
		return p.quick(ctx, s)
	}
	return &NoConfigError{Dir: s.Dir, Tree: p.Tree.ID(), OnDisk: onDisk(s.Dir)}
}

func onDisk(dir string) bool {
	for _, name := range configNames() {
		if _, err := os.Stat(dir + "/" + name); err == nil {
			return true
		}
	}
	return false
}

func lookupEnv(h Host) func(string) (string, bool) {
	return func(name string) (string, bool) {
		v := h.Getenv(name)
		return v, v != ""
	}
}

func (p *Project) readLock(ctx context.Context) error {
	b, err := p.Tree.Read(ctx, plan.LockFile)
	if errors.Is(err, fs.ErrNotExist) {
		p.Lock = &plan.Lock{}
		return nil
	}
	if err != nil {
		return err
	}
	p.Lock, err = plan.ParseLock(b)
	return err
}

// Plan plans the named images, or all. An error about a mapping begins with its place.
func (p *Project) Plan(ctx context.Context, st *Storages, images []string) (*stages.Plan, error) {
	planned, err := plan.Make(ctx, plan.Input{Project: p.Config, Files: p.Tree, Dockerfiles: p.Tree, Lock: p.Lock, Bases: st, Remotes: p.Remotes, Images: images})
	var mapping *plan.MappingError
	if errors.As(err, &mapping) {
		err = fmt.Errorf("%s:%d: %w", p.File, mapping.Line, err)
	}
	return planned, err
}
