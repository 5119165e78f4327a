package build

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
)

// node is a stage in a run. It is brought at most once, by a goroutine of its
// own; what stands upon it waits for its channels.
type node struct {
	stage *stages.Stage
	label string
	// renewals is how often a stage was seen and then found deleted by this run.
	renewals int

	// root is an image that was asked for; it is taken in hand in a place of its
	// own, unless it is wanted by another that has one.
	root     bool
	wanted   chan struct{}
	wantOnce sync.Once

	start sync.Once
	begin atomic.Bool
	over  atomic.Bool // it is not worked on any more

	waits *waits // for others that make it

	looking turn // had by who looks in the storage for the first time
	sight   *sight
	looked  atomic.Bool

	// ran is closed when commands have run here, before the result is published:
	// the next stage can go on from the engine's state. done is closed at the end.
	ran, done chan struct{}

	loading turn            // had by who reads image
	image   *assemble.Image // the published image, loaded when first needed

	outcome
}

// outcome is what has become of a node so far; all of it is under mu.
type outcome struct {
	mu        sync.Mutex
	hasRun    bool             // ran is closed
	candidate *candidate       // set before ran is closed
	manifest  storage.Manifest // set before done is closed
	result    Result
	seconds   float64
	pushed    int64
	// inPad: what was made lies in the local cache and is not published. local:
	// that is how the run leaves it, for want of a ledger.
	inPad, local bool
	decided      bool // under an entry of this run
	owned        bool // it was published under an entry of this run
	// handed is an entry that was acquired together with others and waits to be
	// worked on. foreign: another runner makes the stage. leave gives an image's
	// place back.
	handed  *grip
	foreign bool
	leave   func()
	err     error
}

// sight is what the first look in the storage found.
type sight struct {
	there    bool
	manifest storage.Manifest
}

// candidate is a result that is not decided yet.
type candidate struct {
	image *assemble.Image
	// job is set when the engine made it in this run; a child may run on it.
	job *engine.Job
	// ran is the engine's own account of job; gen tells which engine.
	ran engine.Result
	gen int
	// basis are the manifests of what it was made from, in the order of the
	// stage's Needs; nil for a result that came whole from elsewhere.
	basis []digest.Digest
	// fresh are the blobs that the storage may not have yet, the config apart;
	// from has them, at the address origin.
	fresh  []ocispec.Descriptor
	from   storage.Fetcher
	origin string
	result Result
	// old: an earlier run made it, and it comes from the local cache.
	old bool
}

func newNode(s *stages.Stage, label string) *node {
	return &node{
		stage: s, label: label, wanted: make(chan struct{}), waits: new(waits), looking: newTurn(),
		ran: make(chan struct{}), done: make(chan struct{}), loading: newTurn(),
	}
}

// tag returns the name that n is published under.
func (n *node) tag() string { return storage.StageTag(n.stage.Digest) }

// ensure has n brought, once.
func (r *run) ensure(n *node) {
	n.start.Do(func() {
		n.begin.Store(true)
		r.spawn(func(ctx context.Context) error {
			err := r.bring(ctx, n)
			if err != nil {
				err = r.failed(n, err)
			}
			close(n.done)
			return err
		})
	})
}

// failed ends n with an error, which names the stage where it arose. What stands
// on that stage, or was cancelled because of it, has failed only for its sake:
// nobody is told of that a second time.
func (r *run) failed(n *node, err error) error {
	var at *StageError
	if !errors.As(err, &at) {
		at = &StageError{Image: n.label, Stage: n.stage, Err: err}
		err = at
	}
	n.mu.Lock()
	n.err = err
	n.mu.Unlock()
	if at.Stage == n.stage {
		r.tell(Event{Image: n.label, Stage: n.stage, Phase: PhaseFailed, Err: err})
	}
	return err
}

// begun reports whether n is being brought, or was.
func (n *node) begun() bool { return n.begin.Load() }

// known reports whether anybody has looked for n yet.
func (n *node) known() bool { return n.begun() || n.looked.Load() }

func (r *run) tell(e Event) {
	e.Time = r.Now()
	r.Observer.Observe(e)
}

func (r *run) phase(n *node, p Phase, detail string) {
	r.tell(Event{Image: n.label, Stage: n.stage, Phase: p, Detail: detail})
}

// published ends n with the manifest that the storage shows.
func (r *run) published(n *node, m storage.Manifest, res Result) {
	n.mu.Lock()
	if c := n.candidate; c != nil && c.image.Manifest().Descriptor.Digest == m.Descriptor.Digest {
		res = c.result // made here, whoever gave it its name
	}
	n.manifest, n.result, n.inPad = m, res, false
	n.mu.Unlock()
	r.tell(Event{Image: n.label, Stage: n.stage, Phase: PhaseDone, Result: res})
}

// adopted is published for what others have published since this run looked first.
func (r *run) adopted(n *node, m storage.Manifest) {
	r.published(n, m, ResultAdopted)
}

// publishedHere is published for what got its name under an entry of this run.
func (r *run) publishedHere(n *node, m storage.Manifest, res Result) {
	n.mu.Lock()
	n.owned = true
	n.mu.Unlock()
	r.published(n, m, res)
}

// endLocally ends n with a result that stays unpublished.
func (r *run) endLocally(n *node, c *candidate) {
	n.mu.Lock()
	n.local, n.result = true, c.result
	n.mu.Unlock()
	r.tell(Event{Image: n.label, Stage: n.stage, Phase: PhaseDone, Result: c.result})
}

func (n *node) decide() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.decided = true
}

// isDecided reports whether what n is published as was decided under an entry of this run,
// or one that it took over: it has to see to the end of that.
func (n *node) isDecided() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.decided
}

// publishedDigest returns what n was published as, "" when it is not.
func (n *node) publishedDigest() digest.Digest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.manifest.Descriptor.Digest
}

// standing returns what a child of n is made from when n is done: its published
// manifest, or the one that stays here.
func (n *node) standing() digest.Digest {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.local {
		return n.candidate.image.Manifest().Descriptor.Digest
	}
	return n.manifest.Descriptor.Digest
}

// ready waits until a child of n can be made: n has run here or is published.
func (n *node) ready(ctx context.Context) error {
	if n.isDone() {
		return n.failure() // also when it has run and could not be published
	}
	select {
	case <-n.ran:
		return nil
	case <-n.done:
		return n.failure()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// wait waits until n is published.
func (n *node) wait(ctx context.Context) error {
	select {
	case <-n.done:
		return n.failure()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (n *node) isDone() bool {
	select {
	case <-n.done:
		return true
	default:
		return false
	}
}

// isLocal reports whether n was made and the run leaves it unpublished.
func (n *node) isLocal() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.local
}

func (n *node) failure() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.err
}

// base returns the image that a child of n stands on: the published one, or
// where that is still under way what was made here.
func (r *run) base(ctx context.Context, n *node) (*assemble.Image, *candidate, error) {
	n.mu.Lock()
	c := n.candidate
	n.mu.Unlock()
	if c != nil && (!n.isDone() || n.isLocal() || c.image.Manifest().Descriptor.Digest == n.publishedDigest()) {
		return c.image, c, nil
	}
	img, err := r.loaded(ctx, n)
	return img, nil, err
}

// loaded returns the published image of n.
func (r *run) loaded(ctx context.Context, n *node) (*assemble.Image, error) {
	if err := n.loading.take(ctx); err != nil {
		return nil, err
	}
	defer n.loading.give()
	if n.image != nil {
		return n.image, nil
	}
	n.mu.Lock()
	m := n.manifest
	n.mu.Unlock()
	img, err := assemble.Load(ctx, r.Storage, m)
	if err != nil {
		return nil, fmt.Errorf("stage %s: %w", n.stage.Name(), err)
	}
	n.image = img
	return img, nil
}

func (n *node) report() StageReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := StageReport{Name: n.stage.Name(), Digest: n.stage.Digest, Result: n.result, Seconds: n.seconds, BytesPushed: n.pushed}
	if d := n.manifest.Descriptor.Digest; d != "" {
		s.Manifest = &d
	}
	return s
}

// timed begins to count the time that is spent on n, and returns what ends it.
func (r *run) timed(n *node) func() {
	began := r.Now()
	return func() {
		d := r.Now().Sub(began)
		n.mu.Lock()
		defer n.mu.Unlock()
		n.seconds += d.Seconds()
	}
}

// madeHere reports whether this run made n.
func (n *node) madeHere() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.result == ResultAssembled || n.result == ResultBuilt
}

// keptStages returns the stages whose results wait in the local cache.
func (r *run) keptStages() []stages.Digest {
	var out []stages.Digest
	for _, d := range r.order {
		n := r.at(d)
		n.mu.Lock()
		if n.inPad {
			out = append(out, d)
		}
		n.mu.Unlock()
	}
	return out
}
