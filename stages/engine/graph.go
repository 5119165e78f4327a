package engine

import (
	"errors"
	"fmt"
	"strings"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/opencontainers/go-digest"
)

// place is an output of an operation.
type place struct {
	op    string
	index int64
}

// cuts are the places in the graph of a group where the results of other groups come
// in: what made those there is not needed any more.
//
// The place is where the text that ends with the other group has its result. An
// operation is named by its content, so that it is the same one in both graphs; and
// what gives the same content elsewhere may as well be taken from there.
func (b *builder) cuts(j *Job, conv *conversion) (map[place]llb.State, error) {
	part := j.Dockerfile.Source.Part
	if part == nil {
		return nil, nil
	}
	out := map[place]llb.State{}
	cut := func(line int, r DockerfileResult) error {
		if r.Image == nil && r.Job == nil {
			return nil // it is empty, and is made again
		}
		at, err := b.resultOf(conv, line)
		if err != nil || at == nil {
			return err
		}
		st, err := b.result(j, r)
		if err == nil {
			out[*at] = st
		}
		return err
	}
	if part.Below > 0 {
		if err := cut(part.Below, DockerfileResult{Image: j.Parent, Job: j.After}); err != nil {
			return nil, err
		}
	}
	for i, line := range part.Uses {
		if err := cut(line, j.Dockerfile.Uses[i]); err != nil {
			return nil, err
		}
	}
	return out, nil
}

// resultOf returns where the text up to a line has its result, nil where it has none.
func (b *builder) resultOf(conv *conversion, line int) (*place, error) {
	res, err := conv.run(b.ctx, upTo(conv.Source.Text, line))
	if err != nil || res.def == nil {
		return nil, err
	}
	var last pb.Op
	if err := last.Unmarshal(res.def.Def[len(res.def.Def)-1]); err != nil {
		return nil, fmt.Errorf("graph of the Dockerfile: %w", err)
	}
	return &place{last.Inputs[0].Digest, last.Inputs[0].Index}, nil
}

func (b *builder) result(j *Job, r DockerfileResult) (llb.State, error) {
	if r.Job != nil {
		return b.job(r.Job)
	}
	return b.image(r.Image, j.Platform)
}

// fromSession rewrites a graph so that images are read from this process's
// session and the results of other groups come in at the cuts, and notes the names
// of its steps.
func (b *builder) fromSession(j *Job, def *pb.Definition, cuts map[place]llb.State) (llb.State, error) {
	g := &graph{
		builder: b, job: j, cuts: cuts, ops: map[string][]byte{}, metadata: def.Metadata,
		renamed: map[string]string{}, in: map[string]bool{},
		out: &pb.Definition{Metadata: map[string]*pb.OpMetadata{}, Source: &pb.Source{Locations: map[string]*pb.Locations{}}},
	}
	g.source = def.Source
	last := ""
	for _, bytes := range def.Def {
		last = string(digest.FromBytes(bytes))
		g.ops[last] = bytes
	}
	if _, err := g.add(last); err != nil {
		return llb.State{}, err
	}
	if def.Source != nil {
		g.out.Source.Infos = append(g.out.Source.Infos, def.Source.Infos...)
	}
	op, err := llb.NewDefinitionOp(g.out)
	if err != nil {
		return llb.State{}, err
	}
	// A state without the variables, the user and the directory of the Dockerfile:
	// they are not those of the next job.
	return llb.NewState(op.Output()), nil
}

// graph is a graph that is being rewritten, from its last operation down to where
// others come in.
type graph struct {
	*builder
	job  *Job
	cuts map[place]llb.State
	// ops are the operations as they were, by their digests.
	ops      map[string][]byte
	metadata map[string]*pb.OpMetadata
	source   *pb.Source
	// renamed are the digests that they have now, in those that are there.
	renamed map[string]string
	in      map[string]bool
	out     *pb.Definition
}

// errForeignSource: the frontend wants something that was not given to it.
var errForeignSource = errors.New("the Dockerfile needs something that is not given to it")

// add takes an operation over, after those that it needs, and returns its new digest.
func (g *graph) add(old string) (string, error) {
	if to, done := g.renamed[old]; done {
		return to, nil
	}
	var op pb.Op
	if err := op.Unmarshal(g.ops[old]); err != nil {
		return "", fmt.Errorf("graph of the Dockerfile: %w", err)
	}
	changed := false
	for _, in := range op.Inputs {
		was := place{in.Digest, in.Index}
		now, err := g.input(was)
		if err != nil {
			return "", err
		}
		in.Digest, in.Index = now.op, now.index
		changed = changed || now != was
	}
	own, err := g.ownSource(&op)
	if err != nil {
		return "", err
	}
	bytes := g.ops[old]
	if changed || own {
		if bytes, err = op.Marshal(); err != nil {
			return "", fmt.Errorf("graph of the Dockerfile: %w", err)
		}
	}
	at := string(digest.FromBytes(bytes))
	g.renamed[old] = at
	if !g.in[at] {
		g.in[at] = true
		g.out.Def = append(g.out.Def, bytes)
		g.note(old, at)
	}
	return at, nil
}

// input returns where an input of an operation comes from now.
func (g *graph) input(at place) (place, error) {
	st, cut := g.cuts[at]
	if !cut {
		to, err := g.add(at.op)
		return place{to, at.index}, err
	}
	def, err := st.Marshal(g.ctx, platform(g.job.Platform))
	if err != nil {
		return place{}, err
	}
	return g.join(def.ToPB())
}

// join takes all of another graph over and returns where its result is.
func (g *graph) join(def *pb.Definition) (place, error) {
	n := len(def.Def) - 1
	if n < 0 {
		return place{}, errors.New("graph of the Dockerfile: what comes in is empty")
	}
	var last pb.Op
	if err := last.Unmarshal(def.Def[n]); err != nil {
		return place{}, fmt.Errorf("graph of the Dockerfile: %w", err)
	}
	for _, bytes := range def.Def[:n] {
		at := string(digest.FromBytes(bytes))
		if !g.in[at] {
			g.in[at] = true
			g.out.Def = append(g.out.Def, bytes)
			g.out.Metadata[at] = def.Metadata[at]
		}
	}
	return place{last.Inputs[0].Digest, last.Inputs[0].Index}, nil
}

// ownSource has an image be read from the session. It reports whether it changed
// the operation.
func (g *graph) ownSource(op *pb.Op) (bool, error) {
	src := op.GetSource()
	if src == nil || !strings.HasPrefix(src.Identifier, "docker-image://") {
		return false, nil
	}
	_, d, ok := strings.Cut(src.Identifier, "@")
	if !ok {
		return false, fmt.Errorf("%w: %s", errForeignSource, src.Identifier)
	}
	src.Identifier = "oci-layout://" + imageName + "@" + d
	src.Attrs = map[string]string{pb.AttrOCILayoutSessionID: g.session, pb.AttrOCILayoutStoreID: storeID}
	return true, nil
}

// note keeps what belongs to an operation beside it.
func (g *graph) note(old, at string) {
	if g.source != nil {
		if l := g.source.Locations[old]; l != nil {
			g.out.Source.Locations[at] = l
		}
	}
	meta := g.metadata[old]
	if meta == nil {
		return
	}
	meta = meta.CloneVT()
	// What a child of the job needs of it was made just now.
	meta.IgnoreCache = meta.IgnoreCache || g.job.Dockerfile.Fresh && g.job == g.own
	g.out.Metadata[at] = meta
	if name := meta.Description["llb.customname"]; isStep(name) {
		g.steps[name] = g.job
	}
}
