package build

import (
	"context"
	"sync"
	"time"

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

	start sync.Once
	// ran is closed when commands have run here, before the result is published:
	// the next stage can go on from the engine's state. done is closed at the end.
	ran, done chan struct{}

	mu        sync.Mutex
	candidate *candidate       // set before ran is closed
	manifest  storage.Manifest // set before done is closed, without bytes where only the build index was read
	image     *assemble.Image  // the published image, loaded when first needed
	result    Result
	seconds   float64
	pushed    int64
	kept      bool
	err       error
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
}

func newNode(s *stages.Stage, label string) *node {
	return &node{stage: s, label: label, ran: make(chan struct{}), done: make(chan struct{})}
}

// ensure has n brought, once.
func (r *run) ensure(ctx context.Context, n *node) {
	n.start.Do(func() {
		r.group.Go(func() error {
			err := r.bring(ctx, n)
			if err != nil {
				err = n.wrap(err)
				n.mu.Lock()
				n.err = err
				n.mu.Unlock()
				r.tell(Event{Image: n.label, Stage: n.stage, Phase: PhaseFailed, Err: err})
			}
			close(n.done)
			return err
		})
	})
}

// wrap names the stage in an error once.
func (n *node) wrap(err error) error {
	if _, ok := err.(*StageError); ok { //nolint:errorlint // only the outermost error counts
		return err
	}
	return &StageError{Image: n.label, Stage: n.stage, Err: err}
}

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
	n.manifest, n.result = m, res
	n.mu.Unlock()
	r.tell(Event{Image: n.label, Stage: n.stage, Phase: PhaseDone, Result: res})
}

// publishedDigest returns what n was published as, "" when it is not.
func (n *node) publishedDigest() digest.Digest {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.manifest.Descriptor.Digest
}

// ready waits until a child of n can be made: n has run here or is published.
func (n *node) ready(ctx context.Context) error {
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

// isKept reports whether n was made but stays unpublished.
func (n *node) isKept() bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.kept
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
	if c != nil && (!n.isDone() || n.isKept() || c.image.Manifest().Descriptor.Digest == n.publishedDigest()) {
		return c.image, c, nil
	}
	img, err := r.loaded(ctx, n)
	return img, nil, err
}

// loaded returns the published image of n.
func (r *run) loaded(ctx context.Context, n *node) (*assemble.Image, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.image != nil {
		return n.image, nil
	}
	m := n.manifest
	if m.Bytes == nil {
		var err error
		if m, err = r.Storage.Manifest(ctx, m.Descriptor.Digest.String()); err != nil {
			return nil, err
		}
	}
	img, err := assemble.Load(ctx, r.Storage, m)
	n.manifest, n.image = m, img
	return img, err
}

func (n *node) report() StageReport {
	n.mu.Lock()
	defer n.mu.Unlock()
	s := StageReport{Name: n.stage.Name(), Digest: n.stage.Digest, Result: n.result, Seconds: n.seconds, BytesPushed: n.pushed}
	if d := n.manifest.Descriptor.Digest; d != "" {
		s.Manifest = &d
	}
	if s.Result == "" {
		// Nobody had to look: what stands on it exists.
		s.Result = ResultCached
	}
	return s
}

func (n *node) spent(d time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seconds += d.Seconds()
}

func (r *run) keptStages() []stages.Digest {
	var out []stages.Digest
	for _, img := range r.Plan.Images {
		for _, s := range img.Stages {
			n := r.node(s)
			n.mu.Lock()
			if n.kept {
				out = append(out, s.Digest)
			}
			n.mu.Unlock()
		}
	}
	return dedupe(out)
}

func dedupe(ds []stages.Digest) []stages.Digest {
	seen := make(map[stages.Digest]bool)
	var out []stages.Digest
	for _, d := range ds {
		if !seen[d] {
			seen[d] = true
			out = append(out, d)
		}
	}
	return out
}
