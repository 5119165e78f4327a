package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/engine"
)

// How many layers the files of one stage may become. Together the four command
// stages and the source stage of an image stay at 32.
const (
	commandFileLayers = 2
	sourceFileLayers  = 24
)

// engineTries is how often a job is given to an engine that dies under it.
const engineTries = 3

// generation is what sets a stage that is made anew apart from the one that was
// deleted: the manifest that it must not have, and a mark for equal bytes.
type generation struct {
	avoid digest.Digest
	mark  string
}

// candidateFor makes n, or finds it in the local cache, where an earlier run
// kept it. What it is built upon is ready.
func (r *run) candidateFor(ctx context.Context, n *node, gen generation) (*candidate, error) {
	cand, err := r.madeBefore(ctx, n, gen)
	if err != nil {
		return nil, err
	}
	if cand == nil {
		if cand, err = r.make(ctx, n); err != nil {
			return nil, err
		}
		if cand.image.Manifest().Descriptor.Digest == gen.avoid {
			// Equal bytes were deleted, and a late deletion could still hit them.
			cand.image = cand.image.WithGeneration(gen.mark)
		}
		if err := r.keepInPad(ctx, n, cand); err != nil {
			return nil, err
		}
	}
	n.made(cand)
	return cand, nil
}

// madeBefore returns what this run or an earlier one made of n, where it still
// stands on what is published; nil when there is nothing. What was withdrawn does
// not come back.
func (r *run) madeBefore(ctx context.Context, n *node, gen generation) (*candidate, error) {
	n.mu.Lock()
	mine := n.candidate
	n.mu.Unlock()
	for _, c := range []*candidate{mine, r.fromPad(ctx, n)} {
		if c == nil || c.image.Manifest().Descriptor.Digest == gen.avoid {
			continue
		}
		same, err := r.sameBasis(ctx, n, c.basis)
		if err != nil {
			return nil, err
		}
		if same {
			return c, nil
		}
	}
	return nil, nil
}

// made makes a candidate known to what stands on n.
func (n *node) made(c *candidate) {
	n.leavePlace() // what is left is to send it
	n.mu.Lock()
	defer n.mu.Unlock()
	n.candidate = c
	n.inPad = c.origin == ""
	if c.job != nil && !n.hasRun {
		n.hasRun = true
		close(n.ran)
	}
}

// make makes n in the way that its kind asks for.
func (r *run) make(ctx context.Context, n *node) (*candidate, error) {
	rec := &n.stage.Recipe
	switch {
	case rec.Kind == stages.KindFrom:
		return r.makeBase(ctx, n)
	case n.stage.NeedsEngine():
		return r.makeOnEngine(ctx, n)
	case rec.Dockerfile != nil:
		return r.makeImageConfig(ctx, n)
	case n.stage.WholeLayers():
		return r.makeImport(ctx, n)
	default:
		return r.makeSource(ctx, n)
	}
}

// makeBase takes a base image over.
func (r *run) makeBase(ctx context.Context, n *node) (*candidate, error) {
	defer r.timed(n)()
	r.phase(n, PhaseRunning, "")
	rec := &n.stage.Recipe
	cand := &candidate{basis: []digest.Digest{}, result: ResultAssembled}
	img := assemble.Scratch(rec.Platform)
	if ref := n.stage.BaseRef; ref != nil {
		repo, err := r.Base(ctx, ref.Name)
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", ref.Name, err)
		}
		m, err := repo.Manifest(ctx, ref.Digest)
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", ref.Name, err)
		}
		if img, err = assemble.From(ctx, repo, m, rec.Platform); err != nil {
			return nil, fmt.Errorf("base %s: %w", ref.Name, err)
		}
		cand.from, cand.origin, cand.fresh = repo, repo.Address(), img.Layers()
	}
	var err error
	cand.image, err = img.Append(nil, rec.Config)
	return cand, err
}

// makeSource puts files and config on top of what is there; no command runs.
func (r *run) makeSource(ctx context.Context, n *node) (*candidate, error) {
	if err := r.slot(ctx, n); err != nil {
		return nil, err
	}
	defer r.free()
	defer r.timed(n)()
	below, _, err := r.base(ctx, r.node(n.stage.Parent))
	if err != nil {
		return nil, err
	}
	layers, err := assemble.SourceLayers(ctx, r.Files, r.pad, n.stage, below, sourceFileLayers)
	if err != nil {
		return nil, err
	}
	return r.onTop(n, below, layers, nil)
}

// makeImport takes the layers of another image as they are. An image that was
// made again since, so that it has other layers below, is copied by the engine.
func (r *run) makeImport(ctx context.Context, n *node) (*candidate, error) {
	img, basis, err := r.imported(ctx, n)
	if errors.Is(err, assemble.ErrOtherLayers) {
		return r.makeOnEngine(ctx, n)
	}
	if err != nil {
		return nil, err
	}
	// The layers come into the storage with their own stages, which this one waits for.
	return &candidate{image: img, basis: basis, from: r.pad, result: ResultAssembled}, nil
}

func (r *run) imported(ctx context.Context, n *node) (*assemble.Image, []digest.Digest, error) {
	if err := r.slot(ctx, n); err != nil {
		return nil, nil, err
	}
	defer r.free()
	defer r.timed(n)()
	below, _, err := r.base(ctx, r.node(n.stage.Parent))
	if err != nil {
		return nil, nil, err
	}
	source, _, err := r.base(ctx, r.node(n.stage.ImportFrom[0]))
	if err != nil {
		return nil, nil, err
	}
	img, err := below.WithLayersOf(source)
	if err == nil {
		img, err = img.Append(nil, n.stage.Recipe.Config)
	}
	return img, []digest.Digest{below.Manifest().Descriptor.Digest, source.Manifest().Descriptor.Digest}, err
}

// onTop is the candidate of layers made in the pad upon an image.
func (r *run) onTop(n *node, below *assemble.Image, layers []assemble.Layer, basis []digest.Digest) (*candidate, error) {
	img, err := below.Append(layers, n.stage.Recipe.Config)
	if err != nil {
		return nil, err
	}
	if basis == nil {
		basis = []digest.Digest{below.Manifest().Descriptor.Digest}
	}
	cand := &candidate{image: img, basis: basis, from: r.pad, result: ResultAssembled}
	for _, l := range layers {
		cand.fresh = append(cand.fresh, l.Descriptor)
	}
	return cand, nil
}

// slot waits for one of the places in which stages are made on this host.
func (r *run) slot(ctx context.Context, n *node) error {
	r.phase(n, PhaseQueued, "")
	select {
	case r.slots <- struct{}{}:
		r.phase(n, PhaseRunning, "")
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (r *run) free() { <-r.slots }

// makeOnEngine runs commands or copies imports. An engine that dies is started
// again; what it had not finished is run again on the published parents.
func (r *run) makeOnEngine(ctx context.Context, n *node) (*candidate, error) {
	for try := 1; ; try++ {
		chained := try == 1
		if !chained {
			// Not while holding a slot: what is waited for may need one.
			if err := r.waitNeeds(ctx, n); err != nil {
				return nil, err
			}
		}
		cand, err := r.inSlot(ctx, n, chained)
		again := errors.Is(err, engine.ErrEngineGone) || errors.Is(err, errBelowChanged)
		if !again || try == engineTries || ctx.Err() != nil {
			return cand, err
		}
	}
}

func (r *run) waitNeeds(ctx context.Context, n *node) error {
	for _, need := range n.stage.Needs() {
		if err := r.node(need).wait(ctx); err != nil {
			return err
		}
	}
	return nil
}

func (r *run) inSlot(ctx context.Context, n *node, chained bool) (*candidate, error) {
	if err := r.haveEngines(ctx, n); err != nil {
		return nil, err
	}
	if err := r.slot(ctx, n); err != nil {
		return nil, err
	}
	defer r.free()
	defer r.timed(n)()
	return r.runJob(ctx, n, chained)
}

// errBelowChanged: the engine made an earlier stage again, with another outcome
// than the one that was taken from it.
var errBelowChanged = errors.New("the engine has lost what this stage is built upon")

// runJob has the engine make n once. Chained, it goes on from jobs of this run;
// otherwise it waits until everything below is published and begins from there.
func (r *run) runJob(ctx context.Context, n *node, chained bool) (*candidate, error) {
	slot := r.engines.of(n.stage.Recipe.Platform)
	e, gen, err := slot.get(ctx)
	if err != nil {
		return nil, err
	}
	j := &jobMaker{run: r, node: n, chained: chained, gen: gen}
	if n.stage.Recipe.Dockerfile != nil {
		return j.build(ctx, e)
	}
	if err := j.prepare(ctx); err != nil {
		return nil, err
	}
	var made *assemble.Layer
	res, err := e.Run(ctx, j.job, func(ctx context.Context, raw io.Reader) error {
		l, err := assemble.CommandLayer(ctx, r.pad, raw)
		made = l
		return err
	}, j.progress)
	if errors.Is(err, engine.ErrEngineGone) {
		slot.lost(gen)
	}
	if err != nil {
		return nil, err
	}
	if j.after != nil && !j.after.reaches(res.Below) {
		return nil, errBelowChanged
	}
	layers := j.files
	if made != nil {
		layers = append(layers, *made)
	}
	cand, err := r.onTop(n, j.below, layers, j.basis)
	if err != nil {
		return nil, err
	}
	cand.job, cand.ran, cand.gen, cand.result = j.job, res, gen, ResultBuilt
	return cand, nil
}

// reaches reports whether the engine's layers below a child are those that c was
// taken from, followed at most by the child's own files.
func (c *candidate) reaches(below []digest.Digest) bool {
	mine := c.raw()
	return len(below) >= len(mine) && slices.Equal(below[:len(mine)], mine)
}

// jobMaker turns a stage into a job.
type jobMaker struct {
	*run
	node    *node
	chained bool
	gen     int

	job   *engine.Job
	below *assemble.Image
	// after is the candidate that the job goes on from, nil when it begins from
	// a published image.
	after *candidate
	files []assemble.Layer
	basis []digest.Digest
}

// start begins the job with what does not depend on its kind.
func (j *jobMaker) start() {
	s := j.node.stage
	j.job = &engine.Job{
		Key:      s.Digest.String(),
		Name:     j.node.label + "/" + s.Name(),
		Platform: s.Recipe.Platform,
		// Runs that may read each other's stages may read each other's caches.
		CacheScope: j.Plan.Project + "\x00" + j.Storage.Address(),
	}
}

func (j *jobMaker) prepare(ctx context.Context) error {
	s := j.node.stage
	j.start()
	j.job.Commands = s.Recipe.Commands
	if err := j.offered(s); err != nil { // what was kept could not be used
		return err
	}
	if err := j.parent(ctx); err != nil {
		return err
	}
	if err := j.place(ctx); err != nil {
		return err
	}
	for i := range s.Recipe.Imports {
		if err := j.copy(ctx, i); err != nil {
			return err
		}
	}
	return nil
}

// state returns what the job stands on or copies from: the published image or
// the job that made it on this very engine.
func (j *jobMaker) state(ctx context.Context, s *stages.Stage) (*assemble.Image, *candidate, error) {
	img, cand, err := j.base(ctx, j.run.node(s))
	if err != nil || !j.chained || cand == nil || cand.job == nil || cand.gen != j.gen {
		return img, nil, err
	}
	return img, cand, nil
}

func (j *jobMaker) parent(ctx context.Context) error {
	img, cand, err := j.state(ctx, j.node.stage.Parent)
	if err != nil {
		return err
	}
	j.below, j.after = img, cand
	j.basis = append(j.basis, img.Manifest().Descriptor.Digest)
	j.job.Env = img.Config().Config.Env
	if cand != nil {
		j.job.After = cand.job
		return nil
	}
	j.job.Parent = j.image(j.node.stage.Parent, img)
	return nil
}

// image hands an image to the engine. An image without layers is nothing to
// begin from.
func (r *run) image(s *stages.Stage, img *assemble.Image) *engine.Image {
	if len(img.Layers()) == 0 {
		return nil
	}
	m := img.Manifest()
	return &engine.Image{Manifest: m.Descriptor, Bytes: m.Bytes, Config: img.ConfigBlob(), Blobs: r.blobsOf(s)}
}

// place makes the layers of the files that the commands need, and gives the
// engine the same files.
func (j *jobMaker) place(ctx context.Context) error {
	s := j.node.stage
	if len(s.Recipe.Files) == 0 {
		return nil
	}
	dirs, placed, err := assemble.Place(ctx, j.Files, s, j.below)
	if err != nil {
		return err
	}
	if j.job.Files, err = newTree(ctx, j.Files, j.run.files(), dirs, placed); err != nil {
		return err
	}
	j.files, err = assemble.SourceLayers(ctx, j.Files, j.pad, s, j.below, commandFileLayers)
	return err
}

func (j *jobMaker) copy(ctx context.Context, i int) error {
	im := j.node.stage.Recipe.Imports[i]
	img, cand, err := j.state(ctx, j.node.stage.ImportFrom[i])
	if err != nil {
		return err
	}
	c := engine.Copy{Add: im.Add, To: im.To, Include: im.IncludePaths, Exclude: im.ExcludePaths}
	if im.Owner != "" || im.Group != "" {
		c.Chown = true
		if c.UID, c.GID, err = j.owner(ctx, im); err != nil {
			return fmt.Errorf("import of %s: %w", im.Add, err)
		}
	}
	if cand != nil {
		c.FromJob = cand.job
	} else if c.From = j.image(j.node.stage.ImportFrom[i], img); c.From == nil {
		return fmt.Errorf("import of %s: its image is empty", im.Add)
	}
	j.basis = append(j.basis, img.Manifest().Descriptor.Digest)
	j.job.Copies = append(j.job.Copies, c)
	return nil
}

// owner looks up whom imported files shall belong to, as the image below knows them.
func (j *jobMaker) owner(ctx context.Context, im stages.Import) (uid, gid int, err error) {
	t, err := j.below.Tables(ctx)
	if err != nil {
		return 0, 0, err
	}
	if im.Owner != "" {
		if uid, err = t.User(im.Owner); err != nil {
			return 0, 0, err
		}
	}
	if im.Group != "" {
		gid, err = t.Group(im.Group)
	}
	return uid, gid, err
}

func (j *jobMaker) progress(e engine.Event) {
	if e.Kind == engine.Log {
		j.tell(Event{Image: j.node.label, Stage: j.node.stage, Line: e.Line})
	}
}
