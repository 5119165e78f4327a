package transfer

import (
	"context"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// work is a graph of blobs and units that a bounded number of workers takes care
// of. Nothing in it waits for another step but a worker who has nothing to do: a
// step is taken when all before it are done. So it cannot come to a standstill,
// and it needs no room beyond the plan.
type work struct {
	c *copier

	mu      sync.Mutex
	changed *sync.Cond
	// ready are units whose parts are all there; they go before further blobs, so
	// that what is whole becomes visible.
	ready   []*task
	blobs   []*parcel // in the order of the plan
	running int
	err     error // of what ends the copy
}

// task is a unit to be stored.
type task struct {
	unit *Unit
	// missing counts the blobs and units that have to come before.
	missing int
	next    []*task
	// later wait for its end, whether it comes or fails.
	later  []*task
	done   bool
	failed error
}

// parcel is a blob to be brought.
type parcel struct {
	d  ocispec.Descriptor
	to []*task
}

// run brings units, all of whose other dependencies are among done.
func (c *copier) run(ctx context.Context, units []*Unit, done map[*Unit]*task) error {
	w := &work{c: c}
	w.changed = sync.NewCond(&w.mu)
	w.add(units, done)
	g, ctx := errgroup.WithContext(ctx)
	for range c.o.Concurrency {
		g.Go(func() error {
			for {
				step, err := w.take(ctx)
				if step == nil {
					return err
				}
				step(ctx)
			}
		})
	}
	return g.Wait()
}

func (w *work) add(units []*Unit, done map[*Unit]*task) {
	parcels := map[digest.Digest]*parcel{}
	var lost []*task
	for _, u := range units {
		t := &task{unit: u}
		done[u] = t
		for _, before := range u.After {
			b := done[before]
			switch {
			case b == nil:
				lost = append(lost, t)
				t.failed = needsError(before.label(), errNeeds)
			case b.failed != nil:
				lost = append(lost, t)
				t.failed = needsError(before.label(), b.failed)
			case !b.done:
				b.next = append(b.next, t)
				t.missing++
			}
		}
		for _, first := range u.First {
			if b := done[first]; b != nil && !b.done && b.failed == nil {
				b.later = append(b.later, t)
				t.missing++
			}
		}
		for _, d := range u.Blobs {
			p := parcels[d.Digest]
			if p == nil {
				p = &parcel{d: d}
				parcels[d.Digest] = p
				w.blobs = append(w.blobs, p)
			}
			p.to = append(p.to, t)
			t.missing++
		}
		if t.missing == 0 && t.failed == nil {
			w.ready = append(w.ready, t)
		}
	}
	for _, t := range lost {
		err := t.failed
		t.failed = nil
		w.fail(t, ReasonNeeds, err)
	}
}

// label names a unit for people.
func (u *Unit) label() string {
	if u.Tag != "" {
		return u.Tag
	}
	return u.Manifest.Descriptor.Digest.String()
}

// take returns the next step, nil when there is none any more, with the error that
// ended the copy. It waits only while others are at work, whose end may bring one.
func (w *work) take(ctx context.Context) (func(context.Context), error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for {
		if w.err == nil && ctx.Err() != nil {
			w.err = context.Cause(ctx)
		}
		if w.err != nil {
			return nil, w.err
		}
		if step := w.next(); step != nil {
			w.running++
			return step, nil
		}
		if w.running == 0 {
			return nil, nil
		}
		w.changed.Wait()
	}
}

// next returns a step that can be taken now.
func (w *work) next() func(context.Context) {
	if len(w.ready) > 0 {
		t := w.ready[0]
		w.ready = w.ready[1:]
		return func(ctx context.Context) { w.store(ctx, t) }
	}
	for len(w.blobs) > 0 {
		p := w.blobs[0]
		w.blobs = w.blobs[1:]
		if p.wanted() {
			return func(ctx context.Context) { w.bring(ctx, p) }
		}
	}
	return nil
}

// wanted reports whether anything still needs the blob.
func (p *parcel) wanted() bool {
	for _, t := range p.to {
		if t.failed == nil {
			return true
		}
	}
	return false
}

func (w *work) bring(ctx context.Context, p *parcel) {
	how, err := w.c.blob(ctx, p.d)
	w.begin()
	defer w.end()
	if err != nil {
		w.lost(p, err)
		return
	}
	w.c.result.Blobs[how]++
	w.c.result.Bytes[how] += p.d.Size
	for _, t := range p.to {
		w.arrived(t)
	}
}

// lost deals with a blob that did not come.
func (w *work) lost(p *parcel, err error) {
	reason := reasonOf(err)
	if reason == "" {
		w.stop(err)
		return
	}
	for _, t := range p.to {
		w.fail(t, reason, needsError("blob "+p.d.Digest.String(), err))
	}
}

func (w *work) store(ctx context.Context, t *task) {
	err := w.c.unit(ctx, t.unit)
	w.begin()
	defer w.end()
	switch reason := reasonOf(err); {
	case err == nil:
		w.stored(t)
	case reason == "":
		w.stop(err)
	default:
		w.fail(t, reason, err)
	}
}

func (w *work) stored(t *task) {
	t.done = true
	w.c.o.Progress.ended()
	if t.unit.Tag != "" && !t.unit.Grows {
		w.c.result.Named[t.unit.Tag] = t.unit.Manifest.Descriptor.Digest
	}
	for _, n := range slices.Concat(t.next, t.later) {
		w.arrived(n)
	}
}

func (w *work) arrived(t *task) {
	if t.missing--; t.missing == 0 && t.failed == nil {
		w.ready = append(w.ready, t)
	}
}

// fail skips a unit and what needs it.
func (w *work) fail(t *task, r Reason, err error) {
	if t.failed != nil {
		return
	}
	t.failed = err
	w.c.o.Progress.ended()
	w.c.skip(t.unit, r, err)
	for _, n := range t.next {
		w.fail(n, ReasonNeeds, needsError(t.unit.label(), err))
	}
	for _, n := range t.later {
		w.arrived(n)
	}
}

func (w *work) stop(err error) {
	if w.err == nil {
		w.err = err
	}
}

// begin and end enclose what a finished step changes.
func (w *work) begin() { w.mu.Lock() }

func (w *work) end() {
	w.running--
	w.mu.Unlock()
	w.changed.Broadcast()
}
