package build

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
)

// engines are those of a run: one for each platform that something is run for.
type engines struct {
	start func(ctx context.Context, p stages.Platform) (Engine, error)

	mu    sync.Mutex
	slots map[stages.Platform]*engineSlot
}

func (e *engines) of(p stages.Platform) *engineSlot {
	e.mu.Lock()
	defer e.mu.Unlock()
	s := e.slots[p]
	if s == nil {
		s = &engineSlot{starting: newTurn(), start: func(ctx context.Context) (Engine, error) { return e.start(ctx, p) }}
		e.slots[p] = s
	}
	return s
}

// started reports whether any engine was.
func (e *engines) started() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	for _, s := range e.slots {
		if s.started() {
			return true
		}
	}
	return false
}

// haveEngines is called before n is made on an engine. The first time, it makes
// sure that there is an engine for the commands of every platform that this run
// has to run: nobody waits for an hour of one platform to learn that there is
// nothing that could run the other.
func (r *run) haveEngines(ctx context.Context, n *node) error {
	if !runsCommands(n.stage) {
		return nil // to copy files, any engine will do
	}
	return r.served.do(ctx, func() error {
		first, err := r.firstCommands(ctx, n)
		if err != nil {
			return err
		}
		for _, s := range first {
			if err := r.hasEngine(ctx, s); err != nil {
				return &StageError{Image: r.node(s).label, Stage: s, Err: err}
			}
		}
		return nil
	})
}

// runsCommands reports whether a stage must be made on an engine for its own platform.
func runsCommands(s *stages.Stage) bool { return s.NeedsEngine() && len(s.Recipe.Imports) == 0 }

func (r *run) hasEngine(ctx context.Context, s *stages.Stage) error {
	slot := r.engines.of(s.Recipe.Platform)
	e, gen, err := slot.get(ctx)
	if err != nil {
		return err
	}
	err = e.Check(ctx, s.Recipe.Platform)
	if errors.Is(err, engine.ErrEngineGone) {
		slot.lost(gen)
	}
	return err
}

// firstCommands returns, for each platform with commands to be run, a stage that
// runs some. That of n is known to; of the others it asks the storage.
func (r *run) firstCommands(ctx context.Context, n *node) ([]*stages.Stage, error) {
	out := []*stages.Stage{n.stage}
	found := map[stages.Platform]bool{n.stage.Recipe.Platform: true}
	for _, img := range r.Plan.Images {
		if found[img.Platform] {
			continue
		}
		s, err := r.firstCommand(ctx, img.Final(), make(map[stages.Digest]bool))
		if err != nil {
			return nil, err
		}
		if s != nil {
			found[img.Platform] = true
			out = append(out, s)
		}
	}
	return out, nil
}

// firstCommand looks from s down for a stage that is missing and runs commands;
// nil where all that is needed to make s is there.
func (r *run) firstCommand(ctx context.Context, s *stages.Stage, seen map[stages.Digest]bool) (*stages.Stage, error) {
	if seen[s.Digest] {
		return nil, nil
	}
	seen[s.Digest] = true
	there, err := r.exists(ctx, r.node(s))
	if err != nil || there {
		return nil, err
	}
	if runsCommands(s) {
		return s, nil
	}
	for _, need := range s.Needs() {
		if first, err := r.firstCommand(ctx, need, seen); err != nil || first != nil {
			return first, err
		}
	}
	return nil, nil
}

// exists reports whether n need not be made: somebody has it, or an earlier run
// kept it here.
func (r *run) exists(ctx context.Context, n *node) (bool, error) {
	if n.publishedDigest() != "" || r.fromPad(ctx, n) != nil {
		return true, nil
	}
	_, err := r.Storage.Resolve(ctx, storage.StageTag(n.stage.Digest))
	if errors.Is(err, storage.ErrNotFound) && r.Second != nil {
		_, err = r.Second.Find(ctx, storage.StageTag(n.stage.Digest))
	}
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return err == nil, err
}

// engineSlot starts an engine when the first stage needs it, and again after it died.
type engineSlot struct {
	start    func(ctx context.Context) (Engine, error)
	starting turn

	mu  sync.Mutex
	now Engine
	// gen counts engines, so that two jobs that lose the same one start one.
	gen int
}

func (e *engineSlot) get(ctx context.Context) (Engine, int, error) {
	if err := e.starting.take(ctx); err != nil {
		return nil, 0, err
	}
	defer e.starting.give()
	if now, gen := e.current(); now != nil {
		return now, gen, nil
	}
	eng, err := e.start(ctx)
	if err != nil {
		return nil, 0, fmt.Errorf("start the engine: %w", err)
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.now = eng
	e.gen++
	return eng, e.gen, nil
}

func (e *engineSlot) current() (Engine, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.now, e.gen
}

func (e *engineSlot) lost(gen int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.gen == gen {
		e.now = nil
	}
}

func (e *engineSlot) started() bool {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.gen > 0
}
