package build_test

import (
	"context"
	"errors"
	"math/rand/v2"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/synchronization"
	synchronizationtest "github.com/cairnbuild/cairn/synchronization/synctest"
)

var errDead = errors.New("this process is dead")

// mortal is a process that dies at one of its steps, which are what it asks of
// the storage and what it writes to the ledger: before the step is done, or after
// it, and then nothing of it goes on.
type mortal struct {
	dieAt int
	after bool
	kill  context.CancelCauseFunc

	mu    sync.Mutex
	steps int
	dead  bool
}

// step reports whether the step is to be done, and whether its caller learns of it.
func (m *mortal) step() (do, tell bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.dead {
		return false, false
	}
	m.steps++
	if m.steps != m.dieAt {
		return true, true
	}
	m.dead = true
	m.kill(errDead)
	return m.after, false
}

func (m *mortal) alive() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return !m.dead
}

// script is how the storage looks to the process.
func (m *mortal) script(faulty.Call) *faulty.Fault {
	switch do, tell := m.step(); {
	case !do:
		return &faulty.Fault{Err: errDead}
	case !tell:
		return &faulty.Fault{Lost: errDead}
	}
	return nil
}

// mortalLedger is how the ledger's store looks to the process.
type mortalLedger struct {
	synchronization.Backend
	*mortal
}

// Swap implements [lock.Cells].
func (l mortalLedger) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	do, tell := l.step()
	if !do {
		return lock.Snapshot{}, errDead
	}
	snap, err := l.Backend.Swap(ctx, shard, changes)
	if !tell {
		return lock.Snapshot{}, errDead
	}
	return snap, err
}

// Read implements [lock.Cells].
func (l mortalLedger) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	if !l.alive() {
		return nil, errDead
	}
	return l.Backend.Read(ctx, shards...)
}

// Renew implements [lock.Sessions].
func (l mortalLedger) Renew(ctx context.Context, group string, r lock.Record) error {
	if !l.alive() {
		return errDead
	}
	return l.Backend.Renew(ctx, group, r)
}

// Remove implements [lock.Sessions].
func (l mortalLedger) Remove(ctx context.Context, group, session string, seq uint64) error {
	if !l.alive() {
		return errDead
	}
	return l.Backend.Remove(ctx, group, session, seq)
}

// dieAt runs a build on a host that dies at a step; it reports whether it came to that.
func dieAt(t *testing.T, w *world, p *stages.Plan, step int, after bool) bool {
	ctx, cancel := context.WithCancelCause(t.Context())
	defer cancel(nil)
	m := &mortal{dieAt: step, after: after, kill: cancel}
	h := w.host()
	h.storage = faulty.New(w.log, m.script)
	h.ledger = mortalLedger{w.ledger, m}
	_, err := h.run(ctx, p, nil)
	if m.alive() {
		must(t, err)
		return false
	}
	return true
}

func TestWhoeverDiesAtAnyStepAnotherFinishes(t *testing.T) {
	for _, after := range []bool{false, true} {
		for step := 1; ; step++ {
			died := false
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				p := w.planOf(noSources{}, nil, config.Image{Name: "app", Shell: commands(stages.KindInstall)})
				died = dieAt(t, w, p, step, after)
				rep, err := w.host().run(t.Context(), p, nil)
				if err != nil {
					t.Fatalf("died at step %d (done: %v): %v", step, after, err)
				}
				if len(rep.Kept) > 0 {
					t.Errorf("died at step %d (done: %v): kept %v", step, after, rep.Kept)
				}
				w.sound()
				w.manifests(p)
			})
			if !died {
				if step < 20 {
					t.Errorf("a build has only %d steps", step-1)
				}
				break
			}
		}
	}
}

// slow has jobs take a while.
func slow(dice *rand.Rand) func(context.Context, *engine.Job, int) error {
	var mu sync.Mutex
	return func(ctx context.Context, _ *engine.Job, _ int) error {
		mu.Lock()
		d := time.Duration(dice.IntN(3000)) * time.Millisecond
		mu.Unlock()
		select {
		case <-time.After(d):
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func TestRunsAtOnceShareTheWorkWhateverTheLedgerLoses(t *testing.T) {
	const runs = 3
	for seed := range uint64(25) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			shared := config.Image{Name: "base", Shell: commands(stages.KindBeforeInstall)}
			p := w.planOf(noSources{}, nil, shared,
				config.Image{Name: "one", FromImage: "base", Shell: commands(stages.KindInstall, stages.KindSetup)},
				config.Image{Name: "two", FromImage: "base", Shell: commands(stages.KindInstall),
					Imports: []config.Import{{Kind: stages.KindImportAfterSetup, Image: "one", Add: "/made", To: "/made"}}},
			)
			faults := locktest.Faults{LostAnswer: 0.05, LostRequest: 0.05, Conflict: 0.05, DropWatch: 0.2, MaxDelay: 20 * time.Millisecond}
			if seed%5 == 0 {
				faults = locktest.Faults{}
			}
			hosts := make([]*host, runs)
			var wg sync.WaitGroup
			for i := range hosts {
				h := w.host()
				hosts[i] = h
				f := synchronizationtest.NewFaulty(w.ledger, seed*runs+uint64(i), faults)
				h.ledger = f
				dice := rand.New(rand.NewPCG(seed, uint64(i)))
				h.engine.before = slow(dice)
				wg.Go(func() {
					if _, err := h.run(t.Context(), p, nil); err != nil {
						t.Errorf("seed %d, run %d: %v", seed, i, err)
					}
					f.Wait()
				})
			}
			wg.Wait()
			for _, s := range p.Images[2].Stages {
				n := 0
				for _, h := range hosts {
					n += h.engine.runs[s.Digest.String()]
				}
				if s.NeedsEngine() && n != 1 {
					t.Errorf("seed %d: stage %s ran %d times", seed, s.Name(), n)
				}
			}
			w.sound()
			w.manifests(p)
		})
	}
}

// Runs that lose their sessions again and again may make a stage twice. But none may
// hold, under its next session, what it does not work on: then all wait for each other
// for as long as they have patience.
func TestRunsThatLoseTheirSessionsDoNotHoldEachOtherUp(t *testing.T) {
	for seed := range uint64(15) {
		synctest.Test(t, func(t *testing.T) {
			w := newWorld(t)
			deep := commands(stages.KindBeforeInstall, stages.KindInstall, stages.KindBeforeSetup, stages.KindSetup)
			p := w.planOf(noSources{}, nil, config.Image{Name: "one", Shell: deep}, config.Image{Name: "two", FromImage: "one", Shell: deep})
			var wg, pauses sync.WaitGroup
			began := time.Now()
			for i := range uint64(3) {
				h := w.host()
				f := synchronizationtest.NewFaulty(w.ledger, seed*3+i, locktest.Faults{LostAnswer: 0.05, LostRequest: 0.05, MaxDelay: 2 * time.Second})
				h.ledger = f
				dice := rand.New(rand.NewPCG(seed, i))
				h.engine.before = slow(rand.New(rand.NewPCG(seed, i+100)))
				ended := make(chan struct{})
				pauses.Go(func() { pausing(f, dice, ended) })
				wg.Go(func() {
					defer close(ended)
					if _, err := h.run(t.Context(), p, nil); err != nil && !errors.Is(err, synchronization.ErrUnavailable) {
						t.Errorf("seed %d, run %d: %v", seed, i, err)
					}
				})
			}
			wg.Wait()
			pauses.Wait()
			if took := time.Since(began); took > 30*time.Minute {
				t.Errorf("seed %d: took %s", seed, took)
			}
			w.sound()
			w.manifests(p)
			w.free(p.Project)
		})
	}
}

// pausing has a ledger stop to answer for longer than a session lives, from time to time.
func pausing(f *synchronizationtest.Faulty, dice *rand.Rand, ended <-chan struct{}) {
	for range 3 {
		select {
		case <-ended:
		case <-time.After(10*time.Second + time.Duration(dice.IntN(20000))*time.Millisecond):
		}
		f.Pause()
		time.Sleep(time.Duration(32+dice.IntN(12)) * time.Second)
		f.Resume()
	}
	<-ended
	f.Wait()
}

func TestStorageFaultsAtAnyCallLeaveNothingHalf(t *testing.T) {
	kinds := map[string]faulty.Fault{
		"error":       {Err: storage.ErrTransient},
		"lost answer": {Lost: storage.ErrTransient},
		"lagging":     {Stale: true},
		"missing":     {Err: storage.ErrNotFound},
	}
	ops := []faulty.Operation{
		faulty.Resolve, faulty.FetchManifest, faulty.FetchBlob, faulty.HasBlob,
		faulty.PushBlob, faulty.PushManifest, faulty.Publish,
	}
	for name, fault := range kinds {
		for _, op := range ops {
			for n := 1; ; n++ {
				var calls int
				synctest.Test(t, func(t *testing.T) {
					w := newWorld(t)
					p := w.planOf(noSources{}, nil, config.Image{Name: "app", Shell: commands(stages.KindInstall)})
					h := w.host()
					h.storage = faulty.New(w.log, func(c faulty.Call) *faulty.Fault {
						if c.Operation == op {
							calls = max(calls, c.N)
						}
						return faulty.On(op, n, fault)(c)
					})
					_, first := h.run(t.Context(), p, nil)
					w.sound()
					again := w.host()
					again.pad = h.pad
					if _, err := again.run(t.Context(), p, nil); err != nil {
						t.Errorf("%s at %s %d: first run: %v; second: %v", name, op, n, first, err)
					}
					if n := h.engine.count() + again.engine.count(); n != 1 {
						t.Errorf("%s at %s %d: commands ran %d times", name, op, n, n)
					}
					w.sound()
					w.manifests(p)
				})
				if n >= calls {
					break
				}
			}
		}
	}
}
