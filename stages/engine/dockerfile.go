package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// Dockerfile is a Dockerfile to build, as a whole or a group of its instructions.
type Dockerfile struct {
	Recipe *stages.Dockerfile
	Source *stages.DockerfileSource
	// Bases stand for the source's.
	Bases []DockerfileBase
	// Context are the files that instructions can take, by their paths in the
	// context. The engine gets them with the time of the run: make, cargo and the
	// like must not take them for older than what a cache mount holds.
	Context Tree
	// Uses are, for a group, the results of the stages that it takes files of, in
	// the order of the source.
	Uses []DockerfileResult
	// Below are the engine's layers of what a group stands on; nil for those of the
	// base that the source begins from.
	Below []digest.Digest
	// Caches sets cache mounts apart from those of other groups; empty to share them.
	Caches string
	// Fresh has the engine use no result of an earlier run.
	Fresh bool
}

// DockerfileBase is an image that a Dockerfile names.
type DockerfileBase struct {
	// Reference is the name in the Dockerfile.
	Reference string
	Platform  stages.Platform
	Image     *Image
}

// DockerfileResult is the result of another group: a published image, or the job
// that made it on this engine. With neither it is empty.
type DockerfileResult struct {
	Image *Image
	Job   *Job
}

func (d *Dockerfile) check(j *Job) error {
	part := d.Source.Part
	switch {
	case len(d.Bases) != len(d.Source.Bases):
		return fmt.Errorf("the Dockerfile has %d bases, %d are given", len(d.Source.Bases), len(d.Bases))
	case part == nil && (j.Parent != nil || j.After != nil):
		return errors.New("a whole Dockerfile has no parent")
	case part != nil && len(d.Uses) != len(part.Uses):
		return fmt.Errorf("the group takes files of %d stages, %d are given", len(part.Uses), len(d.Uses))
	case part != nil && part.Begins && (j.Parent != nil || j.After != nil):
		return errors.New("the group begins from a base, not from another one")
	}
	return nil
}

// Built is what a Dockerfile gave.
type Built struct {
	// Layers are those above the base that the target begins from, lowest first.
	Layers []Layer
	// Below are the digests of the uncompressed layers of that base.
	Below []digest.Digest
	// Config is the image's, with the layers of no image in it.
	Config []byte
}

// Build builds a job's Dockerfile and hands the layers that it makes to layer, the
// n-th one above the base as n, each as an uncompressed archive and while it comes
// from the engine. They come in any order and several at once; layers with
// the same content come once, as the first of them. Times in them are those at
// which things happened. Errors are those of [Engine.Run].
func (e *Engine) Build(ctx context.Context, job *Job, layer func(ctx context.Context, n int, raw io.Reader) error, p Progress) (Built, error) {
	b, ctx, done, err := e.begin(ctx, job)
	if err != nil {
		return Built{}, err
	}
	defer done()
	st, err := b.job(job)
	if err != nil {
		return Built{}, err
	}
	out := Built{Config: b.configs[job]}
	if st.Output() == nil {
		return out, nil // nothing but config upon nothing
	}
	below, err := job.Dockerfile.below()
	if err != nil {
		return Built{}, fmt.Errorf("%s: %w", job.Name, err)
	}
	if b.unchanged[job] {
		out.Below = below
		return out, nil // nor upon a base, of which the engine would read all to say so
	}
	store := newExportStore(len(below), func(n int, raw io.Reader) error { return layer(ctx, n-len(below), raw) })
	if err := e.make(ctx, st, job, store, newMonitor(job, b.steps, p, &e.secrets.masks)); err != nil {
		return Built{}, err
	}
	if out.Layers, out.Below, err = store.result(); err != nil {
		return Built{}, fmt.Errorf("%s: %w", job.Name, err)
	}
	return out, nil
}

// below returns the uncompressed layers that the result stands on.
func (d *Dockerfile) below() ([]digest.Digest, error) {
	if d.Below != nil || d.Source.Root < 0 {
		return d.Below, nil
	}
	var c ocispec.Image
	err := json.Unmarshal(d.Bases[d.Source.Root].Image.Config, &c)
	return c.RootFS.DiffIDs, err
}

// dockerfile has BuildKit's frontend turn a Dockerfile into a graph. The frontend
// runs in this process, so that the same version of it reads a Dockerfile whatever
// engine runs the graph, and needs nothing from anywhere: bases are given to it.
func (b *builder) dockerfile(j *Job) (llb.State, error) {
	st, err := b.graphOf(j)
	if err != nil {
		return llb.State{}, fmt.Errorf("%s: %w", j.Name, err)
	}
	return st, nil
}

func (b *builder) graphOf(j *Job) (llb.State, error) {
	d := j.Dockerfile
	for _, base := range d.Bases {
		if _, err := b.images.add(base.Image); err != nil {
			return llb.State{}, err
		}
	}
	files, err := b.context(j)
	if err != nil {
		return llb.State{}, err
	}
	conv := &conversion{Dockerfile: d, context: files, arguments: b.arguments(d), caches: cachesOf(j)}
	text := d.Source.Text
	if d.Source.Part != nil {
		text = upTo(text, d.Source.Part.End)
	}
	res, err := conv.run(b.ctx, text)
	if err != nil {
		return llb.State{}, err
	}
	b.configs[j] = res.config
	if res.def == nil {
		return llb.Scratch(), nil
	}
	// The base itself, and that it is the result.
	b.unchanged[j] = len(res.def.Def) == 2 && d.Source.Root >= 0
	cuts, err := b.cuts(j, conv)
	if err != nil {
		return llb.State{}, err
	}
	return b.fromSession(j, res.def, cuts)
}

// isStep reports whether a name is that of an instruction: "[2/5] RUN …".
func isStep(name string) bool {
	return strings.HasPrefix(name, "[") && !strings.HasPrefix(name, "[internal]")
}

// stepLine is the line that tells that an instruction has begun.
func stepLine(name string, cached bool) string {
	name, _, _ = strings.Cut(name, "\n")
	if cached {
		return "CACHED " + name
	}
	return name
}

// hostNetwork reports whether commands of the job use the network of the host.
func (j *Job) hostNetwork() bool {
	if j.Commands != nil {
		return j.Commands.Network == "host"
	}
	if j.Dockerfile == nil {
		return false
	}
	if j.Dockerfile.Recipe.Network == "host" {
		return true
	}
	if wantsHost(j.Dockerfile.Recipe.Instructions) {
		return true
	}
	return slices.ContainsFunc(j.Dockerfile.Recipe.Stages, func(s stages.DockerfileStage) bool { return wantsHost(s.Instructions) })
}

// wantsHost reports whether one of some instructions may run with the host's network.
func wantsHost(instructions []string) bool {
	return slices.ContainsFunc(instructions, func(text string) bool {
		line, _, _ := strings.Cut(text, "\n")
		return strings.HasPrefix(line, "RUN ") && strings.Contains(line, "--network=host")
	})
}

// dockerfilePlace returns where in a Dockerfile an error of the engine arose and
// what stands there; file is empty for other errors.
func dockerfilePlace(err error) (file string, line int, text string) {
	for _, s := range errdefs.Sources(err) {
		if s.Info == nil || len(s.Ranges) == 0 {
			continue
		}
		first, last := int(s.Ranges[0].Start.Line), int(s.Ranges[len(s.Ranges)-1].End.Line)
		lines := strings.Split(string(s.Info.Data), "\n")
		if first < 1 || last < first || last > len(lines) {
			continue
		}
		return s.Info.Filename, first, strings.Join(lines[first-1:last], "\n")
	}
	return "", 0, ""
}
