package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"strings"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/client/llb/sourceresolver"
	"github.com/moby/buildkit/frontend/dockerfile/dockerfile2llb"
	"github.com/moby/buildkit/frontend/dockerui"
	"github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// Dockerfile is a whole Dockerfile to build.
type Dockerfile struct {
	Recipe *stages.Dockerfile
	Source *stages.DockerfileSource
	// Bases stand for the recipe's.
	Bases []DockerfileBase
	// Context are the files that instructions can take, by their paths in the
	// context. The engine gets them with the time of the run: make, cargo and the
	// like must not take them for older than what a cache mount holds.
	Context Tree
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

func (d *Dockerfile) check() error {
	if len(d.Bases) != len(d.Recipe.Bases) {
		return fmt.Errorf("the Dockerfile has %d bases, %d are given", len(d.Recipe.Bases), len(d.Bases))
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

// below returns the uncompressed layers of the base that the target begins from.
func (d *Dockerfile) below() ([]digest.Digest, error) {
	if d.Source.Root < 0 {
		return nil, nil
	}
	var c ocispec.Image
	err := json.Unmarshal(d.Bases[d.Source.Root].Image.Config, &c)
	return c.RootFS.DiffIDs, err
}

// dockerfile has BuildKit's frontend turn a Dockerfile into a graph. The frontend
// runs in this process, so that the same version of it reads a Dockerfile whatever
// engine runs the graph, and needs nothing from anywhere: bases are given to it.
func (b *builder) dockerfile(j *Job) (llb.State, error) {
	d := j.Dockerfile
	for _, base := range d.Bases {
		if _, err := b.images.add(base.Image); err != nil {
			return llb.State{}, fmt.Errorf("%s: %w", j.Name, err)
		}
	}
	context, err := b.context(j)
	if err != nil {
		return llb.State{}, fmt.Errorf("%s: %w", j.Name, err)
	}
	opts, err := b.frontendOptions(j)
	if err != nil {
		return llb.State{}, fmt.Errorf("%s: %w", j.Name, err)
	}
	opts.MainContext = &context
	res, err := dockerfile2llb.Dockerfile2LLB(b.ctx, d.Source.Text, opts)
	if err != nil {
		return llb.State{}, fmt.Errorf("%s: %s: %w", j.Name, d.Source.Path, err)
	}
	res.Image.RootFS.DiffIDs = nil
	if b.configs[j], err = json.Marshal(res.Image); err != nil {
		return llb.State{}, err
	}
	if res.State.Output() == nil {
		return llb.Scratch(), nil
	}
	def, err := res.State.Marshal(b.ctx, platform(j.Platform))
	if err != nil {
		return llb.State{}, fmt.Errorf("%s: %w", j.Name, err)
	}
	// The base itself, and that it is the result.
	b.unchanged[j] = len(def.Def) == 2 && d.Source.Root >= 0
	st, err := b.fromSession(j, def.ToPB())
	if err != nil {
		return llb.State{}, fmt.Errorf("%s: %w", j.Name, err)
	}
	return st, nil
}

func (b *builder) frontendOptions(j *Job) (dockerfile2llb.ConvertOpt, error) {
	d := j.Dockerfile
	target, caps := specOf(j.Platform), pb.Caps.CapSet(pb.Caps.All())
	hosts, err := hostsOf(d.Recipe.AddHosts)
	if err != nil {
		return dockerfile2llb.ConvertOpt{}, err
	}
	o := dockerfile2llb.ConvertOpt{
		Config: dockerui.Config{
			BuildArgs:        b.arguments(d),
			CacheIDNamespace: cacheID(j, stages.Mount{}),
			ExtraHosts:       hosts,
			NetworkMode:      network(d.Recipe.Network),
			Target:           d.Source.Target,
		},
		SourceMap:      llb.NewSourceMap(nil, d.Source.Path, "Dockerfile", d.Source.Text),
		TargetPlatform: &target,
		MetaResolver:   resolver{d},
		LLBCaps:        &caps,
	}
	o.BuildPlatforms = []ocispec.Platform{specOf(d.Source.BuildPlatform)}
	return o, nil
}

// arguments are those of the recipe, and the proxies that commands go through
// where the Dockerfile does not speak of them itself.
func (b *builder) arguments(d *Dockerfile) map[string]string {
	out := map[string]string{}
	if !d.Source.OwnProxy {
		for name, v := range map[string]string{
			"HTTP_PROXY": b.proxy.HTTPProxy, "HTTPS_PROXY": b.proxy.HTTPSProxy, "FTP_PROXY": b.proxy.FTPProxy,
			"NO_PROXY": b.proxy.NoProxy, "ALL_PROXY": b.proxy.AllProxy,
		} {
			if v != "" {
				out[name] = v
			}
		}
	}
	maps.Copy(out, d.Recipe.Args)
	return out
}

func hostsOf(lines []string) ([]llb.HostIP, error) {
	var out []llb.HostIP
	for _, l := range lines {
		name, address, _ := strings.Cut(l, ":")
		ip := net.ParseIP(address)
		if ip == nil {
			return nil, fmt.Errorf("host %s: %q is no address", name, address)
		}
		out = append(out, llb.HostIP{Host: name, IP: ip})
	}
	return out, nil
}

func specOf(p stages.Platform) ocispec.Platform {
	return platforms.Normalize(ocispec.Platform{OS: p.OS(), Architecture: p.Architecture(), Variant: p.Variant()})
}

// resolver tells the frontend about the bases.
type resolver struct{ d *Dockerfile }

// ResolveImageConfig implements [sourceresolver.ImageMetaResolver].
func (r resolver) ResolveImageConfig(_ context.Context, ref string, opt sourceresolver.Opt) (string, digest.Digest, []byte, error) {
	want := specOf(r.d.Source.BuildPlatform)
	if opt.ImageOpt != nil && opt.ImageOpt.Platform != nil {
		want = platforms.Normalize(*opt.ImageOpt.Platform)
	}
	for _, base := range r.d.Bases {
		name, err := reference.ParseNormalizedNamed(base.Reference)
		if err != nil {
			return "", "", nil, err
		}
		if reference.TagNameOnly(name).String() == ref && platforms.Format(specOf(base.Platform)) == platforms.Format(want) {
			return ref, base.Image.Manifest.Digest, base.Image.Config, nil
		}
	}
	return "", "", nil, fmt.Errorf("the image %s for %s is not among those that the Dockerfile names", ref, platforms.Format(want))
}

// fromSession rewrites a graph so that images are read from this process's
// session, and notes the names of its steps.
func (b *builder) fromSession(j *Job, def *pb.Definition) (llb.State, error) {
	g := &graph{builder: b, job: j, renamed: map[string]string{}, out: &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}}
	for _, bytes := range def.Def {
		if err := g.add(bytes, def.Metadata[string(digest.FromBytes(bytes))]); err != nil {
			return llb.State{}, err
		}
	}
	if def.Source != nil {
		g.out.Source = &pb.Source{Infos: def.Source.Infos, Locations: map[string]*pb.Locations{}}
		for at, l := range def.Source.Locations {
			g.out.Source.Locations[g.name(at)] = l
		}
	}
	op, err := llb.NewDefinitionOp(g.out)
	if err != nil {
		return llb.State{}, err
	}
	// A state without the variables, the user and the directory of the Dockerfile:
	// they are not those of the next job.
	return llb.NewState(op.Output()), nil
}

// graph is a graph that is being rewritten.
type graph struct {
	*builder
	job *Job
	// renamed are the new digests of operations that had to change.
	renamed map[string]string
	out     *pb.Definition
}

func (g *graph) name(d string) string {
	if to, ok := g.renamed[d]; ok {
		return to
	}
	return d
}

// errForeignSource: the frontend wants something that was not given to it.
var errForeignSource = errors.New("the Dockerfile needs something that is not given to it")

// add takes the next operation, whose inputs are there already.
func (g *graph) add(bytes []byte, meta *pb.OpMetadata) error {
	old := string(digest.FromBytes(bytes))
	var op pb.Op
	if err := op.Unmarshal(bytes); err != nil {
		return fmt.Errorf("graph of the Dockerfile: %w", err)
	}
	changed := false
	for _, in := range op.Inputs {
		if to := g.name(in.Digest); to != in.Digest {
			in.Digest, changed = to, true
		}
	}
	if src := op.GetSource(); src != nil && strings.HasPrefix(src.Identifier, "docker-image://") {
		_, d, ok := strings.Cut(src.Identifier, "@")
		if !ok {
			return fmt.Errorf("%w: %s", errForeignSource, src.Identifier)
		}
		src.Identifier = "oci-layout://" + imageName + "@" + d
		src.Attrs = map[string]string{pb.AttrOCILayoutSessionID: g.session, pb.AttrOCILayoutStoreID: storeID}
		changed = true
	}
	if changed {
		var err error
		if bytes, err = op.Marshal(); err != nil {
			return fmt.Errorf("graph of the Dockerfile: %w", err)
		}
		g.renamed[old] = string(digest.FromBytes(bytes))
	}
	g.out.Def = append(g.out.Def, bytes)
	if meta != nil {
		g.note(g.name(old), meta)
	}
	return nil
}

// note keeps what belongs to an operation beside it.
func (g *graph) note(at string, meta *pb.OpMetadata) {
	meta = meta.CloneVT()
	meta.IgnoreCache = meta.IgnoreCache || g.job.Dockerfile.Fresh
	g.out.Metadata[at] = meta
	if name := meta.Description["llb.customname"]; isStep(name) {
		g.steps[name] = g.job
	}
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
	for _, s := range j.Dockerfile.Recipe.Stages {
		for _, text := range s.Instructions {
			line, _, _ := strings.Cut(text, "\n")
			if strings.HasPrefix(line, "RUN ") && strings.Contains(line, "--network=host") {
				return true
			}
		}
	}
	return false
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
