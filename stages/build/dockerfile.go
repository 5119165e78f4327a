package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/dockerfile"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/source"
)

// build has the engine build the Dockerfile of a stage, all of it or a group of its
// instructions. A child goes on from the job as from any other, because the engine
// knows the whole graph.
func (j *jobMaker) build(ctx context.Context, e Engine) (*candidate, error) {
	s := j.node.stage
	j.start()
	if err := j.offered(s); err != nil {
		return nil, err
	}
	if err := j.dockerfile(ctx); err != nil {
		return nil, err
	}
	made := &builtLayers{all: map[int]*assemble.Layer{}}
	out, err := e.Build(ctx, j.job, func(ctx context.Context, n int, raw io.Reader) error {
		l, err := assemble.CommandLayer(ctx, j.pad, raw)
		made.set(n, l)
		return err
	}, j.progress)
	if errors.Is(err, engine.ErrEngineGone) {
		j.engines.of(s.Recipe.Platform).lost(j.gen)
	}
	if err != nil {
		return nil, err
	}
	if err := j.standsOn(out.Below); err != nil {
		return nil, err
	}
	layers := made.list(out)
	img, err := j.upon(layers, out.Config)
	if err != nil {
		return nil, err
	}
	cand := &candidate{
		image: img, basis: j.basis, from: j.pad,
		job: j.job, gen: j.gen, result: ResultBuilt, ran: engine.Result{Empty: true, Below: diffs(out)},
	}
	for _, l := range layers {
		cand.fresh = append(cand.fresh, l.Descriptor)
	}
	if j.job.Dockerfile.Fresh {
		// The engine would not find again what it was told not to look for: who goes on
		// from here begins with the layers.
		cand.job = nil
	}
	return cand, nil
}

// upon puts layers upon the image below. A group of instructions sets no config:
// that is the business of the image's last stage.
func (j *jobMaker) upon(layers []assemble.Layer, config []byte) (*assemble.Image, error) {
	if j.node.stage.Recipe.Kind == stages.KindInstructions {
		return j.below.Append(layers, nil)
	}
	return j.below.Build(layers, config)
}

// standsOn checks that the engine has built upon the layers that it was meant to.
func (j *jobMaker) standsOn(below []digest.Digest) error {
	if j.after != nil {
		if !slices.Equal(below, j.after.raw()) {
			return errBelowChanged
		}
		return nil
	}
	if has := j.below.Config().RootFS.DiffIDs; !slices.Equal(below, has) {
		return fmt.Errorf("the engine has built upon %d layers that are not the %d of the image below", len(below), len(has))
	}
	return nil
}

// raw are the engine's layers of what it made, from the first on; never nil.
func (c *candidate) raw() []digest.Digest {
	all := append([]digest.Digest{}, c.ran.Below...)
	if !c.ran.Empty {
		all = append(all, c.ran.Layer.Raw)
	}
	return all
}

// makeImageConfig sets the config that a Dockerfile gives its image; no command runs.
func (r *run) makeImageConfig(ctx context.Context, n *node) (*candidate, error) {
	if err := r.slot(ctx, n); err != nil {
		return nil, err
	}
	defer r.free()
	defer r.timed(n)()
	below, _, err := r.base(ctx, r.node(n.stage.Parent))
	if err != nil {
		return nil, err
	}
	d := &engine.Dockerfile{Recipe: n.stage.Recipe.Dockerfile, Source: n.stage.Dockerfile}
	if root := d.Source.Root; root >= 0 {
		base, triggers, err := r.borrow(ctx, d.Source, root)
		if err != nil {
			return nil, err
		}
		if d.Source.Part.Begins && dockerfile.MakeFiles(triggers) {
			return nil, &dockerfile.Error{
				File: d.Source.Path, Line: d.Source.Part.First, Hint: "set \"staged: false\" for the image",
				Message: "the base " + base.Reference + " has triggers (ONBUILD) that make files, and the Dockerfile has no instruction of its own that does",
			}
		}
		d.Bases = []engine.DockerfileBase{base}
	}
	config, err := engine.ImageConfig(ctx, d)
	if err != nil {
		return nil, err
	}
	img, err := below.Build(nil, config)
	return &candidate{
		image: img, basis: []digest.Digest{below.Manifest().Descriptor.Digest}, from: r.pad, result: ResultAssembled,
	}, err
}

// diffs are the engine's layers of the whole image.
func diffs(out engine.Built) []digest.Digest {
	all := slices.Clone(out.Below)
	for _, l := range out.Layers {
		all = append(all, l.Raw)
	}
	return all
}

// builtLayers collects layers, which come in any order.
type builtLayers struct {
	mu  sync.Mutex
	all map[int]*assemble.Layer
}

func (b *builtLayers) set(n int, l *assemble.Layer) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.all[n] = l
}

// list returns the layers in their order, without those that hold nothing. What
// the engine has several times came once.
func (b *builtLayers) list(out engine.Built) []assemble.Layer {
	b.mu.Lock()
	defer b.mu.Unlock()
	first := map[digest.Digest]*assemble.Layer{}
	var list []assemble.Layer
	for i, l := range out.Layers {
		if _, seen := first[l.Raw]; !seen {
			first[l.Raw] = b.all[i]
		}
		if made := first[l.Raw]; made != nil {
			list = append(list, *made)
		}
	}
	return list
}

// dockerfile gives the job what its Dockerfile names: images, the results of other
// groups and the context.
func (j *jobMaker) dockerfile(ctx context.Context) error {
	s := j.node.stage
	src := s.Dockerfile
	d := &engine.Dockerfile{Recipe: s.Recipe.Dockerfile, Source: src, Fresh: j.fresh()}
	j.job.Dockerfile = d
	for i := range src.Bases {
		base, _, err := j.borrow(ctx, src, i)
		if err != nil {
			return err
		}
		d.Bases = append(d.Bases, base)
	}
	if err := j.lower(ctx, d); err != nil {
		return err
	}
	if len(src.Files) == 0 {
		return nil
	}
	t, err := newContextTree(ctx, j.Files, j.run.files(), src)
	if err != nil {
		return fmt.Errorf("context of %s: %w", src.Path, err)
	}
	d.Context = t
	return nil
}

// fresh reports whether the engine must not use what it has of earlier runs: for
// commands that were asked to be run again, and where a cache mount may hold products
// that are younger than what the engine has of the files.
func (j *jobMaker) fresh() bool {
	if p := j.node.stage.Dockerfile.Part; p != nil && p.Caches {
		return true
	}
	for s := j.node.stage; s != nil; s = s.Parent {
		if s.Recipe.Salt != "" {
			return true
		}
	}
	return false
}

// lower gives a job what its stage stands on and takes files of.
func (j *jobMaker) lower(ctx context.Context, d *engine.Dockerfile) error {
	s := j.node.stage
	img, after, err := j.state(ctx, s.Parent)
	if err != nil {
		return err
	}
	j.below, j.basis = img, append(j.basis, img.Manifest().Descriptor.Digest)
	part := s.Dockerfile.Part
	switch {
	case part == nil || part.Begins:
		if d.Source.Root >= 0 {
			d.Bases[d.Source.Root].Image.Blobs = j.blobsOf(s.Parent)
		}
	case after != nil:
		j.after, j.job.After, d.Below = after, after.job, after.raw()
	default:
		j.job.Parent = j.image(s.Parent, img)
		d.Below = append([]digest.Digest{}, img.Config().RootFS.DiffIDs...)
	}
	for _, from := range s.ImportFrom {
		img, cand, err := j.state(ctx, from)
		if err != nil {
			return err
		}
		u := engine.DockerfileResult{}
		if cand != nil {
			u.Job = cand.job
		} else {
			u.Image = j.image(from, img)
		}
		j.basis = append(j.basis, img.Manifest().Descriptor.Digest)
		d.Uses = append(d.Uses, u)
	}
	if part != nil && part.OwnCaches {
		d.Caches = cachesOf(s)
	}
	return nil
}

// cachesOf names the cache mounts of a group that belong to what it is made from: all
// that they can hold was made from the same files below.
func cachesOf(s *stages.Stage) string {
	words := make([]string, 0, 1+len(s.ImportFrom))
	for _, need := range s.Needs() {
		words = append(words, need.Digest.String())
	}
	return strings.Join(words, " ")
}

// borrow opens a base. Its layers are read where it is, and only when the engine
// asks for them: a base that no build stage stands on never gets into the storage.
// Its triggers are returned, too.
func (r *run) borrow(ctx context.Context, src *stages.DockerfileSource, i int) (engine.DockerfileBase, []string, error) {
	ref, p := src.Bases[i], src.Platforms[i]
	out := engine.DockerfileBase{Reference: ref.Name, Platform: p}
	fail := func(err error) (engine.DockerfileBase, []string, error) {
		return out, nil, fmt.Errorf("base %s: %w", ref.Name, err)
	}
	repo, err := r.Base(ctx, ref.Name)
	if err != nil {
		return fail(err)
	}
	m, err := repo.Manifest(ctx, ref.Digest)
	if err != nil {
		return fail(err)
	}
	img, err := assemble.Borrow(ctx, repo, m, p)
	if err != nil {
		return fail(err)
	}
	// Triggers run where a stage begins, not where files are taken.
	if src.Begins[i] {
		if err := dockerfile.CheckTriggers(ref.Name, img.Triggers()); err != nil {
			return fail(err)
		}
	}
	out.Image = &engine.Image{Manifest: img.Manifest().Descriptor, Bytes: img.Manifest().Bytes, Config: img.ConfigBlob(), Blobs: repo}
	return out, img.Triggers(), nil
}

// contextTree is the context of a Dockerfile.
type contextTree struct {
	reader *source.Reader
	files  map[string]source.File // by their paths
	sizes  map[string]int64
	links  map[string]string
}

// newContextTree reads what the engine must know beforehand: sizes and link targets.
func newContextTree(ctx context.Context, files Files, reader *source.Reader, d *stages.DockerfileSource) (*contextTree, error) {
	t := &contextTree{reader: reader, files: map[string]source.File{}, sizes: map[string]int64{}, links: map[string]string{}}
	all, err := files.Files(dockerfile.Selection(d.Context))
	if err != nil {
		return nil, err
	}
	all = slices.DeleteFunc(all, func(f source.File) bool {
		_, taken := slices.BinarySearch(d.Files, f.Path)
		return !taken
	})
	sizes, err := files.Sizes(ctx, all)
	if err != nil {
		return nil, err
	}
	for i, f := range all {
		t.files[f.Path], t.sizes[f.Path] = f, sizes[i]
		if f.Mode != source.ModeSymlink {
			continue
		}
		if t.links[f.Path], err = linkTarget(ctx, reader, f); err != nil {
			return nil, err
		}
	}
	return t, nil
}

// Walk implements [engine.Tree].
func (t *contextTree) Walk(_ context.Context, fn func(engine.Entry) error) error {
	seen := map[string]bool{}
	for _, p := range slices.Sorted(maps.Keys(t.files)) {
		for i := range len(p) {
			if p[i] != '/' || seen[p[:i]] {
				continue
			}
			seen[p[:i]] = true
			if err := fn(engine.Entry{Path: p[:i], Mode: fs.ModeDir | 0o755}); err != nil {
				return err
			}
		}
		e := engine.Entry{Path: p, Size: t.sizes[p], Mode: 0o644}
		switch t.files[p].Mode {
		case source.ModeExecutable:
			e.Mode = 0o755
		case source.ModeSymlink:
			e.Mode, e.Link, e.Size = fs.ModeSymlink|0o777, t.links[p], 0
		}
		if err := fn(e); err != nil {
			return err
		}
	}
	return nil
}

// Open implements [engine.Tree].
func (t *contextTree) Open(ctx context.Context, path string) (io.ReadCloser, error) {
	f, ok := t.files[strings.TrimPrefix(path, "/")]
	if !ok {
		return nil, &fs.PathError{Op: "open", Path: path, Err: fs.ErrNotExist}
	}
	return t.reader.Open(ctx, f)
}

var _ engine.Tree = (*contextTree)(nil)
