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

// build has the engine build the Dockerfile of a stage. The stage below is the base
// of its target. A child goes on from the job as from any other, because the
// engine knows the whole graph.
func (j *jobMaker) build(ctx context.Context, e Engine) (*candidate, error) {
	s := j.node.stage
	j.start()
	if err := j.offered(s); err != nil {
		return nil, err
	}
	below, _, err := j.base(ctx, j.run.node(s.Parent))
	if err != nil {
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
	if has := below.Config().RootFS.DiffIDs; !slices.Equal(out.Below, has) {
		return nil, fmt.Errorf("the engine has built upon %d layers that are not the %d of the base", len(out.Below), len(has))
	}
	layers := made.list(out)
	img, err := below.Build(layers, out.Config)
	if err != nil {
		return nil, err
	}
	cand := &candidate{
		image: img, basis: []digest.Digest{below.Manifest().Descriptor.Digest}, from: j.pad,
		job: j.job, gen: j.gen, result: ResultBuilt, ran: engine.Result{Empty: true, Below: diffs(out)},
	}
	for _, l := range layers {
		cand.fresh = append(cand.fresh, l.Descriptor)
	}
	return cand, nil
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

// dockerfile gives the job what its Dockerfile names: images and the context.
func (j *jobMaker) dockerfile(ctx context.Context) error {
	s := j.node.stage
	d := &engine.Dockerfile{Recipe: s.Recipe.Dockerfile, Source: s.Dockerfile, Fresh: s.Recipe.Salt != ""}
	j.job.Dockerfile = d
	for i, ref := range s.Dockerfile.Bases {
		base, triggers, err := j.borrow(ctx, ref, s.Recipe.Dockerfile.Bases[i].Platform)
		if err != nil {
			return fmt.Errorf("base %s: %w", ref.Name, err)
		}
		// Triggers run where a stage begins, not where files are taken.
		if s.Recipe.Dockerfile.Begins(i) {
			if err := dockerfile.CheckTriggers(ref.Name, triggers); err != nil {
				return fmt.Errorf("base %s: %w", ref.Name, err)
			}
		}
		if i == s.Dockerfile.Root {
			base.Image.Blobs = j.blobsOf(s.Parent)
		}
		d.Bases = append(d.Bases, base)
	}
	if len(s.Dockerfile.Files) == 0 {
		return nil
	}
	t, err := newContextTree(ctx, j.Files, j.run.files(), s.Dockerfile)
	if err != nil {
		return fmt.Errorf("context of %s: %w", s.Dockerfile.Path, err)
	}
	d.Context = t
	return nil
}

// borrow opens a base. Its layers are read where it is, and only when the engine
// asks for them: a base that is not that of the target never gets into the storage.
// Its triggers are returned, too.
func (j *jobMaker) borrow(ctx context.Context, ref stages.BaseRef, p stages.Platform) (engine.DockerfileBase, []string, error) {
	out := engine.DockerfileBase{Reference: ref.Name, Platform: p}
	repo, err := j.Base(ctx, ref.Name)
	if err != nil {
		return out, nil, err
	}
	m, err := repo.Manifest(ctx, ref.Digest)
	if err != nil {
		return out, nil, err
	}
	img, err := assemble.Borrow(ctx, repo, m, p)
	if err != nil {
		return out, nil, err
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
