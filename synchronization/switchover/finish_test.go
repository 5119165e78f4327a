package switchover_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/switchover"
)

// watched is a storage that tells of manifests that are read, and of tags that are put.
type watched struct {
	storage.Storage
	reads func(ref string)
	puts  func(ctx context.Context, tag string)
}

func (s *watched) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	m, err := s.Storage.Manifest(ctx, ref)
	s.reads(ref)
	return m, err
}

func (s *watched) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	s.puts(ctx, tag)
	return s.Storage.Publish(ctx, tag, m)
}

// What was decided in the ledger that is closed gets its tag under the entry as it is
// directly before, and soon after that.
func TestFinishing(t *testing.T) {
	play(t, "puts no tag when the ledger was opened again meanwhile", func(t *testing.T, w *world) {
		m := w.leave(w.old, stage(4), "decided")
		o := w.options(w.old, w.new)
		o.From.Storage = &watched{Storage: w.old.storage, reads: func(ref string) {
			if ref != m.Descriptor.Digest.String() || w.stance(w.old).Seal.Open {
				return
			}
			w.must(w.old.backend.Remove(t.Context(), "cairn-shop", w.stance(w.old).Move.Session, 0))
			_, err := switchover.Back(t.Context(), w.options(w.new, w.old))
			w.must(err)
		}, puts: func(_ context.Context, tag string) { t.Errorf("tag %s is put in a ledger that is open", tag) }}
		_, err := switchover.Run(t.Context(), o)
		w.wantErr(err, synchronization.ErrTurned)
		w.wantBack()
	})
	play(t, "has a deadline for the tag that counts from before the look", func(t *testing.T, w *world) {
		w.leave(w.old, stage(4), "decided")
		o, puts := w.options(w.old, w.new), 0
		o.From.Storage = &watched{Storage: w.old.storage, reads: func(string) {}, puts: func(ctx context.Context, tag string) {
			puts++
			end, ok := ctx.Deadline()
			if left := time.Until(end); !ok || left > synchronization.DefaultGuard {
				t.Errorf("tag %s may be put for another %s", tag, left)
			}
		}}
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		if puts != 1 || w.shows(w.old, stage(4)) == "" {
			t.Errorf("%d tags were put", puts)
		}
	})
	play(t, "passes over what a person broke, or the storage lost", func(t *testing.T, w *world) {
		m := w.leave(w.old, stage(4), "decided")
		o := w.options(w.old, w.new)
		o.From.Storage = &watched{Storage: w.old.storage, reads: func(ref string) {
			if ref == m.Descriptor.Digest.String() {
				_, err := w.ledger(w.old).Break(t.Context(), stage(4))
				w.must(err)
			}
		}, puts: func(_ context.Context, tag string) { t.Errorf("tag %s is put without an entry", tag) }}
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		if w.shows(w.old, stage(4)) != "" || w.shows(w.new, stage(4)) != "" {
			t.Error("it has a tag")
		}
	})
	play(t, "gives the index of a build its own tag", func(t *testing.T, w *world) {
		w.fill(w.old)
		idx := w.index(w.old, stage(1))
		r := w.runner(w.old)
		_, err := r.decide(stage(40), idx)
		w.must(err)
		r.close()
		_, err = switchover.Run(t.Context(), w.options(w.old, w.new))
		w.must(err)
		for _, p := range []*place{w.old, w.new} {
			found, err := p.storage.Resolve(t.Context(), storage.BuildTag(stage(40)))
			if err != nil || found.Digest != idx.Descriptor.Digest || w.shows(p, stage(40)) != "" {
				t.Errorf("in %s it is %+v (%v)", p.name, found, err)
			}
		}
	})
}

// leave has a runner decide a stage and end before it gives the tag.
func (w *world) leave(p *place, d stages.Digest, what string) storage.Manifest {
	w.t.Helper()
	m := w.image(p, what)
	r := w.runner(p)
	_, err := r.decide(d, m)
	w.must(err)
	r.close()
	return m
}

// index returns the index of a build of one image, whose last stage is d.
func (w *world) index(p *place, d stages.Digest) storage.Manifest {
	w.t.Helper()
	found, err := p.storage.Resolve(w.t.Context(), storage.StageTag(d))
	w.must(err)
	found.Annotations = map[string]string{storage.AnnotationImage: "app", storage.AnnotationStage: d.String()}
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: []ocispec.Descriptor{found},
	})
	w.must(err)
	return m
}

// told collects what a switch waits for.
type told struct {
	mu  sync.Mutex
	all []switchover.Awaited
}

func (o *told) add(a switchover.Awaited) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.all = append(o.all, a)
}

// of returns what was told of one matter.
func (o *told) of(m switchover.Matter) []switchover.Awaited {
	return slices.DeleteFunc(slices.Clone(o.all), func(a switchover.Awaited) bool { return a.For != m })
}

// Whatever a switch waits for has a name and an end.
func TestWaits(t *testing.T) {
	play(t, "say which builds still run, and for how long they may", func(t *testing.T, w *world) {
		stays := w.runner(w.old)
		o, told := w.options(w.old, w.new), &told{}
		o.Waiting = told.add
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		stays.close()
		all := told.of(switchover.EndOfBuilds)
		if len(all) != 6 || !slices.Equal(all[0].By, []string{"a runner"}) || all[0].Left != o.Drain || all[5].Left > 10*time.Second {
			t.Errorf("told %+v", all)
		}
	})
	play(t, "say who is switching, and end", func(t *testing.T, w *world) {
		o, second := w.options(w.old, w.new), w.options(w.old, w.new)
		told := &told{}
		second.Waiting = told.add
		o.Reached = func(_ context.Context, at synchronization.Step) error {
			if at == synchronization.Finishing {
				_, err := switchover.Run(t.Context(), second)
				var busy *switchover.BusyError
				if !errors.As(err, &busy) {
					t.Errorf("error %v", err)
				}
			}
			return nil
		}
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		if all := told.of(switchover.EndOfSwitch); len(all) != 5 || all[0].By[0] != "an operator" {
			t.Errorf("told %+v", all)
		}
	})
	play(t, "say who holds a name, and leave it in the end", func(t *testing.T, w *world) {
		w.fill(w.old)
		there := w.runner(w.new)
		w.must(w.ledger(w.new).Bind(t.Context(), w.new.storage.Address())) // as builds do
		_, err := there.TryAcquire(t.Context(), []stages.Digest{stage(1)})
		w.must(err)
		o, told := w.options(w.old, w.new), &told{}
		o.Waiting = told.add
		began := time.Now()
		rep, err := switchover.Run(t.Context(), o)
		w.must(err)
		if took := time.Since(began); took < o.Patience || took > o.Patience+5*time.Second {
			t.Errorf("it took %s", took)
		}
		all := told.of(switchover.FreeName)
		if len(all) != 1 || all[0].By[0] != "a runner" || all[0].Tag != storage.StageTag(stage(1)) || all[0].Left <= 0 {
			t.Errorf("told %+v", all)
		}
		if len(rep.Left) != 1 || rep.Left[0].Tag != storage.StageTag(stage(1)) || !strings.Contains(rep.Left[0].Err.Error(), "those of a runner, for more than 1m0s") {
			t.Errorf("left %v", rep.Left)
		}
		there.close()
	})
}

// An index is named under an entry of its own, which keeps the stages that it lists
// from a cleaner of the new place.
func TestAnIndexKeepsWhatItLists(t *testing.T) {
	play(t, "although a cleaner has marked it", func(t *testing.T, w *world) {
		w.fill(w.old)
		tag := storage.BuildTag(stage(50))
		w.must(w.old.storage.Publish(t.Context(), tag, w.index(w.old, stage(1))))
		o := w.options(w.old, w.new)
		_, err := switchover.Run(t.Context(), o)
		w.must(err)
		cleaner := w.runner(w.new)
		w.must(w.new.storage.DeleteTag(t.Context(), tag))
		time.Sleep(synchronization.DefaultDelta + time.Minute) // simulated: the entries may go
		w.must(w.ledger(w.new).Sweep(t.Context(), func(context.Context, stages.Digest, digest.Digest) (bool, error) { return true, nil }))
		doomed, err := cleaner.Doom(t.Context(), stage(1))
		w.must(err)
		second := newPlace("second")
		second.storage = w.old.storage
		_, err = switchover.Run(t.Context(), w.options(second, w.new))
		w.must(err)
		w.wantErr(doomed.Delete(t.Context(), w.shows(w.new, stage(1))), synchronization.ErrTaken)
		cleaner.close()
	})
}
