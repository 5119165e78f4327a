package dockerfile

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/cairnbuild/cairn/stages"
	gitsource "github.com/cairnbuild/cairn/stages/source"
)

// Files are the sources of the project; implemented by source.Tree.
type Files interface {
	// Read returns the content of a file; an error that wraps [fs.ErrNotExist]
	// when there is none.
	Read(ctx context.Context, name string) ([]byte, error)
	// Files lists the files of a selection, sorted by path.
	Files(sel stages.Selection) ([]gitsource.File, error)
}

// Options say what of a Dockerfile to build, and how.
type Options struct {
	// Path is the Dockerfile's, Context the directory that COPY takes from, both
	// relative to the project's directory and clean.
	Path, Context string
	// Target is the name of the stage to build, empty for the last one.
	Target string
	// Args are the given arguments.
	Args map[string]string
	// AddHosts are "NAME:ADDRESS".
	AddHosts []string
	// Network is "none", "host" or empty.
	Network string
	// Secrets and SSH are the ids that RUN may mount.
	Secrets, SSH []string
	// Platform is the one to build for, BuildPlatform the one that is said to build.
	Platform, BuildPlatform stages.Platform
}

// Base is an image that the target needs.
type Base struct {
	// Reference is the name as the Dockerfile has it, its arguments replaced.
	Reference string
	Platform  stages.Platform
	// Line is where it is named first.
	Line int
}

// Build is what it takes to build a target.
type Build struct {
	// Recipe has no digests of its bases yet.
	Recipe stages.Dockerfile
	// Source has no references of its bases yet.
	Source stages.DockerfileSource
	// Bases stand for the recipe's Bases and the source's.
	Bases []Base
}

// Load reads a Dockerfile and says what its target follows from. What is wrong
// with the file is an [*Error]; errors of [Files] are passed on.
func Load(ctx context.Context, files Files, o Options) (*Build, error) {
	data, err := files.Read(ctx, o.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, &Error{File: o.Path, Message: "there is no such Dockerfile in the commit", Hint: "correct \"dockerfile\" of the image (it is relative to the configuration file), or commit the file", Err: err}
	}
	if err != nil {
		return nil, err
	}
	f, err := parse(o.Path, data)
	if err != nil {
		return nil, err
	}
	g, err := f.link(o)
	if err != nil {
		return nil, err
	}
	n, err := g.follow()
	if err != nil {
		return nil, err
	}
	taken, err := g.contextFiles(ctx, files, n.takes)
	if err != nil {
		return nil, err
	}
	return g.build(data, n, taken)
}

// Bases returns the images that a Dockerfile's target needs, without a look at
// the context.
func Bases(ctx context.Context, files Files, o Options) ([]Base, error) {
	data, err := files.Read(ctx, o.Path)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", o.Path, err)
	}
	f, err := parse(o.Path, data)
	if err != nil {
		return nil, err
	}
	g, err := f.link(o)
	if err != nil {
		return nil, err
	}
	return g.bases, nil
}

// build puts everything together.
func (g *graph) build(data []byte, n *needs, taken []gitsource.File) (*Build, error) {
	perStage, globals, args := g.liveness()
	b := &Build{
		Bases: g.bases,
		Recipe: stages.Dockerfile{
			AddHosts: g.opts.AddHosts, Network: g.opts.Network, Target: g.target.name,
			Secrets: slices.Sorted(maps.Keys(n.secrets)), SSH: slices.Sorted(maps.Keys(n.ssh)),
		},
		Source: stages.DockerfileSource{
			Path: g.name, Text: data, Context: g.opts.Context, Target: g.opts.Target,
			BuildPlatform: g.opts.BuildPlatform, Root: g.root(g.target), Undeclared: g.undeclared(),
		},
	}
	if g.escape != '\\' {
		b.Recipe.Escape = string(g.escape)
	}
	g.tellArgs(b, args)
	b.Recipe.Globals, b.Source.GlobalLines = split(globals)
	for i, s := range g.used {
		told := stages.DockerfileStage{From: g.write(g.froms[s])}
		var lines []int
		told.Instructions, lines = split(perStage[i])
		for _, o := range g.uses[s] {
			told.Uses = append(told.Uses, g.write(o))
		}
		b.Recipe.Stages = append(b.Recipe.Stages, told)
		b.Source.Lines = append(b.Source.Lines, lines)
	}
	for _, base := range g.bases {
		b.Recipe.Bases = append(b.Recipe.Bases, stages.DockerfileBase{Platform: base.Platform})
	}
	if len(taken) == 0 {
		return b, nil
	}
	id, err := identity(taken)
	if err != nil {
		return nil, err
	}
	b.Recipe.Files = &id
	for _, f := range taken {
		b.Source.Files = append(b.Source.Files, f.Path)
	}
	return b, nil
}

// tellArgs notes the given arguments that something can see.
func (g *graph) tellArgs(b *Build, seen names) {
	for name := range seen {
		if v, ok := g.opts.Args[name]; ok {
			if b.Recipe.Args == nil {
				b.Recipe.Args = map[string]string{}
			}
			b.Recipe.Args[name] = v
		}
		if strings.HasPrefix(name, "BUILD") && predefined(g.opts, "")[name] != "" {
			b.Recipe.BuildPlatform = g.opts.BuildPlatform
		}
		b.Source.OwnProxy = b.Source.OwnProxy || isProxy(name)
	}
}

// undeclared returns the given arguments that have no ARG, in a stage that is not
// used either. Those that BuildKit knows by itself need none.
func (g *graph) undeclared() []string {
	declared := names{}
	declare := func(steps []*step) {
		for _, st := range steps {
			if arg, ok := st.cmd.(*instructions.ArgCommand); ok {
				for _, kv := range arg.Args {
					declared[kv.Key] = true
				}
			}
		}
	}
	declare(g.globals)
	for _, s := range g.stages {
		declare(s.steps)
	}
	known := predefined(g.opts, "")
	var out []string
	for _, name := range slices.Sorted(maps.Keys(g.opts.Args)) {
		if _, ok := known[name]; !ok && !declared[name] && !isProxy(name) {
			out = append(out, name)
		}
	}
	return out
}

func split(list []told) (texts []string, lines []int) {
	for _, t := range list {
		texts, lines = append(texts, t.text), append(lines, t.line)
	}
	return texts, lines
}
