package dockerfile

import (
	"cmp"
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
	// Whole has the file be one stage.
	Whole bool
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
	// Staged is the same in groups of instructions, nil where the file is one stage:
	// the source says why.
	Staged *Staged
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
	if err := g.follow(); err != nil {
		return nil, err
	}
	n := g.all()
	c, err := g.readContext(ctx, files, n.takes)
	if err != nil {
		return nil, err
	}
	b, err := g.build(data, n, c)
	if err != nil {
		return nil, err
	}
	if b.Source.Whole = g.whole(); b.Source.Whole == "" {
		b.Staged, err = g.staged(b, c)
	}
	return b, err
}

// whole says why a file is built as one stage, "" where it is built group by group.
func (g *graph) whole() string {
	if g.opts.Whole {
		return "staged: false"
	}
	why := func(steps []*step) string {
		for _, st := range steps {
			arg, ok := st.cmd.(*instructions.ArgCommand)
			if !ok {
				continue
			}
			for _, kv := range arg.Args {
				switch {
				case kv.Key == targetStage && kv.Value != nil:
					return fmt.Sprintf("line %d gives %s a default", st.line, targetStage)
				case kv.Key == sourceEpoch:
					return fmt.Sprintf("line %d asks for %s, which sets the times of files", st.line, sourceEpoch)
				}
			}
		}
		return ""
	}
	out := why(g.globals)
	for _, s := range g.used {
		out = cmp.Or(out, why(s.steps))
	}
	return out
}

// targetStage is the argument that tells the name of the target. In the text up to
// the end of another stage that is the other one, unless it is given as an argument,
// which goes before a default.
const targetStage = "TARGETSTAGE"

// sourceEpoch is the argument that BuildKit takes the times of new files from, whatever
// stage declares it.
const sourceEpoch = "SOURCE_DATE_EPOCH"

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
func (g *graph) build(data []byte, n *needs, c *contextOf) (*Build, error) {
	perStage, globals, args := g.liveness()
	b := &Build{
		Bases: g.bases,
		Recipe: stages.Dockerfile{
			AddHosts: g.opts.AddHosts, Network: g.opts.Network, Target: g.targetName(),
			Secrets: sortedSet(n.secrets), SSH: sortedSet(n.ssh),
		},
		Source: stages.DockerfileSource{
			Path: g.name, Text: data, Context: g.opts.Context, Target: g.opts.Target,
			Args: g.declaredArgs(), Platform: g.opts.Platform, BuildPlatform: g.opts.BuildPlatform, Root: g.root(g.target), Undeclared: g.undeclared(),
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
	for i, base := range g.bases {
		b.Source.Begins = append(b.Source.Begins, b.Recipe.Begins(i))
		b.Recipe.Bases = append(b.Recipe.Bases, stages.DockerfileBase{Platform: base.Platform})
		b.Source.Platforms = append(b.Source.Platforms, base.Platform)
	}
	return b, c.note(n.takes, &b.Recipe, &b.Source)
}

func sortedSet(list []string) []string {
	return slices.Compact(slices.Sorted(slices.Values(list)))
}

// declaredArgs are the given arguments that an ARG of the file declares, in a stage
// that is used, and those that BuildKit knows by itself. What else is given means
// something to BuildKit alone, and is not passed on.
func (g *graph) declaredArgs() map[string]string {
	known := g.declared(g.used)
	for name := range predefined(g.opts, "") {
		known[name] = true
	}
	out := map[string]string{}
	for name, v := range g.opts.Args {
		if known[name] {
			out[name] = v
		}
	}
	return out
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
	declared := g.declared(g.stages)
	known := predefined(g.opts, "")
	var out []string
	for _, name := range slices.Sorted(maps.Keys(g.opts.Args)) {
		if _, ok := known[name]; !ok && !declared[name] && !isProxy(name) {
			out = append(out, name)
		}
	}
	return out
}

// declared are the names that ARGs declare, before the first FROM or in one of the stages.
func (g *graph) declared(in []*stage) names {
	out := names{}
	declare := func(steps []*step) {
		for _, st := range steps {
			if arg, ok := st.cmd.(*instructions.ArgCommand); ok {
				for _, kv := range arg.Args {
					out[kv.Key] = true
				}
			}
		}
	}
	declare(g.globals)
	for _, s := range in {
		declare(s.steps)
	}
	return out
}

func split(list []told) (texts []string, lines []int) {
	for _, t := range list {
		texts, lines = append(texts, t.text), append(lines, t.line)
	}
	return texts, lines
}
