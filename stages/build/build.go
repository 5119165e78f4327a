package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/stages/source"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// Engine runs jobs; implemented by [engine.Engine].
type Engine interface {
	Run(ctx context.Context, job *engine.Job, layer func(ctx context.Context, raw io.Reader) error, p engine.Progress) (engine.Result, error)
	Build(ctx context.Context, job *engine.Job, layer func(ctx context.Context, n int, raw io.Reader) error, p engine.Progress) (engine.Built, error)
	// Check returns an error where the engine cannot run commands of the platform.
	Check(ctx context.Context, p stages.Platform) error
}

// Pad is the local cache: layers are made in it, and results that could not be
// published wait in it for the next run.
type Pad interface {
	storage.Storage
	assemble.Scratchpad
}

// Second is a storage that is only read: what it has is taken over instead of
// being made. See storage/secondary.
type Second interface {
	// Find returns the manifest that ref names there, or storage.ErrNotFound.
	Find(ctx context.Context, ref string) (storage.Manifest, error)
	// Adopt brings m, its config and its layers into the primary storage, without a name.
	Adopt(ctx context.Context, m storage.Manifest) error
}

// Options are what a run needs. Its functions that open something are called only
// when the run comes so far: a build in which nothing changed calls none.
type Options struct {
	Plan *stages.Plan
	// Files are the project's sources.
	Files Files
	// Storage is where stages are looked up and published.
	Storage storage.Storage
	// Second may be nil.
	Second Second
	// Pad opens the local cache. It may be the Storage itself.
	Pad func(ctx context.Context) (Pad, error)
	// Base opens the repository of a base reference.
	Base func(ctx context.Context, reference string) (storage.Storage, error)
	// Ledger opens the ledger of the project.
	Ledger func(ctx context.Context) (*synchronization.Ledger, error)
	// Engine starts or finds the engine for stages of a platform. It is called again
	// after that engine is gone.
	Engine func(ctx context.Context, p stages.Platform) (Engine, error)
	// Offer says whether what a mount of type secret or ssh asks for can be given to
	// commands: nil, or a [*NotOfferedError]. Without it nothing is given.
	Offer func(m stages.Mount) error
	// Counts tells what was sent so far.
	Counts func() Counts
	// Now is the clock that durations are taken from, Began when the work that the
	// report covers began.
	Now   func() time.Time
	Began time.Time
	// Parallel is how many stages run at once on this host; at least 1.
	Parallel int
	// Observer may be nil.
	Observer Observer
	// Delta is the ledger's Δ; 0 means [synchronization.DefaultDelta].
	Delta time.Duration
	// Patience is how long a stage is waited for that living runners hold, all waits
	// for it together; 0 means [DefaultPatience].
	Patience time.Duration
	// KeepLocal has a run whose ledger cannot be reached make what is missing and
	// keep it in the Pad, unpublished.
	KeepLocal bool
}

// KeptError is the end of a run that made stages and could not publish them all.
type KeptError struct {
	// Kept are the stages that wait in the local cache.
	Kept []stages.Digest
	Err  error
}

// Error implements error.
func (e *KeptError) Error() string {
	kept := "1 finished stage is kept"
	if n := len(e.Kept); n != 1 {
		kept = fmt.Sprintf("%d finished stages are kept", n)
	}
	return fmt.Sprintf("%v (%s in the local cache, to be published by the next run)", e.Err, kept)
}

// Unwrap returns the cause.
func (e *KeptError) Unwrap() error { return e.Err }

// StageError is the failure of one stage.
type StageError struct {
	// Image is the one that the stage belongs to, as in an [Event].
	Image string
	Stage *stages.Stage
	Err   error
}

// Error implements error.
func (e *StageError) Error() string {
	if e.Image == "" {
		return fmt.Sprintf("stage %s: %v", e.Stage.Name(), e.Err)
	}
	return fmt.Sprintf("image %s, stage %s: %v", e.Image, e.Stage.Name(), e.Err)
}

// Unwrap returns the cause.
func (e *StageError) Unwrap() error { return e.Err }

// Run brings every image of the plan into the storage and returns the account of
// it. The report is there after a failure too, as far as the run came.
func Run(ctx context.Context, o Options) (*Report, error) {
	root, err := o.Plan.Root()
	if err != nil {
		return nil, err
	}
	if o.Observer == nil {
		o.Observer = silent{}
	}
	if o.Delta == 0 {
		o.Delta = synchronization.DefaultDelta
	}
	if o.Patience == 0 {
		o.Patience = DefaultPatience
	}
	r := newRun(o)
	err = errors.Join(cause(ctx, r.all(ctx, root)), r.closeFiles())
	if err == nil {
		r.ledger.sweep(ctx, r.showsNamed)
	}
	r.ledger.close(ctx)
	rep := r.report(root)
	if err == nil && r.noLedger != nil {
		rep.Unlisted = r.noLedger.Error()
	}
	if err != nil && len(rep.Kept) > 0 {
		err = &KeptError{Kept: rep.Kept, Err: err}
	}
	return rep, err
}

// run is the state of one build.
type run struct {
	Options
	ledger  *ledger
	engines engines
	pad     Pad
	slots   chan struct{}
	marked  *once
	served  *once // see haveEngines
	places  places
	// grasping is had by who takes entries for many stages.
	grasping turn
	// newMarker: this run has put the storage's marker. remarked reads it again.
	newMarker atomic.Bool
	remarked  *once
	// missed: the build's index is missing and its entry is ours.
	missed bool
	// noLedger is why the run goes on without an index, which nothing has asked for yet.
	noLedger error
	// marks are the generations of those images whose own index has one. Indexes are
	// published one after another.
	marks map[string]string
	// spawn runs a function under the run's own context: what one stage asks for
	// must not end with that stage's hold on its entry.
	spawn func(func(ctx context.Context) error)
	// order are the stages as the plan lists them.
	order []stages.Digest

	mu     sync.Mutex
	nodes  map[stages.Digest]*node
	reader *source.Reader // opened when the engine first asks for files
}

func newRun(o Options) *run {
	r := &run{
		Options: o,
		ledger:  &ledger{turn: newTurn(), open: o.Ledger},
		engines: engines{start: o.Engine, slots: make(map[stages.Platform]*engineSlot)},
		served:  newOnce(),
		marked:  newOnce(), remarked: newOnce(),
		slots:  make(chan struct{}, max(1, o.Parallel)),
		places: places{free: max(1, o.Parallel)},
		nodes:  make(map[stages.Digest]*node),
		marks:  make(map[string]string),

		grasping: newTurn(),
	}
	r.ledger.admit, r.ledger.inherited = r.checkMarker, r.inherited
	labels := owners(o.Plan.All())
	for _, img := range o.Plan.All() {
		for _, s := range img.Stages {
			r.add(s, labels)
		}
	}
	for _, img := range o.Plan.Images {
		r.nodes[img.Final().Digest].root = true
	}
	return r
}

// owners names for each stage the first image that adds it itself, with the
// platform where the image has several.
func owners(images []*stages.Image) map[stages.Digest]string {
	out := make(map[stages.Digest]string)
	for _, img := range images {
		label := img.Name
		if slices.ContainsFunc(images, func(other *stages.Image) bool {
			return other.Name == img.Name && other.Platform != img.Platform
		}) {
			label += " (" + string(img.Platform) + ")"
		}
		for _, s := range img.Stages[len(img.Stages)-img.Own:] {
			if _, ok := out[s.Digest]; !ok {
				out[s.Digest] = label
			}
		}
	}
	return out
}

// add makes nodes for s and what it needs.
func (r *run) add(s *stages.Stage, labels map[stages.Digest]string) {
	if _, ok := r.nodes[s.Digest]; ok {
		return
	}
	r.nodes[s.Digest] = newNode(s, labels[s.Digest])
	r.order = append(r.order, s.Digest)
	for _, need := range s.Needs() {
		r.add(need, labels)
	}
}

func (r *run) node(s *stages.Stage) *node { return r.at(s.Digest) }

func (r *run) at(d stages.Digest) *node {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.nodes[d]
}

// files returns the reader of single files that all jobs of the run share. An
// engine may read a job's files again for a later job that continues it.
func (r *run) files() *source.Reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == nil {
		r.reader = r.Files.Reader()
	}
	return r.reader
}

func (r *run) closeFiles() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.reader == nil {
		return nil
	}
	return r.reader.Close()
}

// all answers a build that exists already with one request, and makes what is
// missing otherwise.
func (r *run) all(ctx context.Context, root stages.Digest) error {
	found, err := r.findBuild(ctx, root)
	if err != nil || found {
		return err
	}
	if r.pad, err = r.Pad(ctx); err != nil {
		return err
	}
	lists, err := r.listings(root)
	if err != nil {
		return err
	}
	if err := r.claimEarly(ctx, lists); err != nil {
		return err
	}
	group, gctx := errgroup.WithContext(ctx)
	r.spawn = func(f func(context.Context) error) { group.Go(func() error { return f(gctx) }) }
	for _, img := range r.Plan.Images {
		r.ensure(r.node(img.Final()))
	}
	r.spawn(func(ctx context.Context) error { return r.publishBuild(ctx, lists) })
	return group.Wait()
}

func (r *run) anyLocal() bool {
	return slices.ContainsFunc(r.order, func(d stages.Digest) bool { return r.at(d).isLocal() })
}

// cause prefers the reason for which a run was cancelled to the news that it was.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil && errors.Is(err, context.Canceled) {
		return context.Cause(ctx)
	}
	return err
}
