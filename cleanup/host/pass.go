package host

import (
	"context"
	"errors"
	"fmt"
)

// Store is a part of a host's local state that can be evicted from.
type Store interface {
	// Name tells it from the host's other stores: "stages/shop", "engine".
	Name() string
	// Items returns all that it holds.
	Items(ctx context.Context) ([]Item, error)
	// Evict removes the items with these ids and what only they had. It looks at
	// each once more, alone: what has come into use since Items stays, and so does
	// what has gone already. The error is the first; it goes on after one.
	Evict(ctx context.Context, ids []string) error
}

// Result is what a pass came to.
type Result struct {
	Decision
	// Evicted were given to their stores, in this order.
	Evicted []Verdict
	// After is the volume as it was measured last.
	After Volume
	// Foreign is what other data than the stores' takes of the volume.
	Foreign int64
}

// Freed is what the volume gained, as measured. Others write to it as well, so it
// may be less than what went, and below zero.
func (r Result) Freed() int64 { return r.Volume.Used - r.After.Used }

// Met reports whether the volume is at its goal or had none.
func (r Result) Met() bool { return r.Goal == 0 || r.After.Used <= r.Goal }

// Passer makes passes over a volume.
type Passer struct {
	Stores []Store
	// Measure returns the state of the volume.
	Measure func() (Volume, error)
	// Batch is how many items go between two measurements; 0 means 64.
	Batch int
	// DryRun has nothing evicted.
	DryRun bool
}

const defaultBatch = 64

// Pass brings the volume below the low mark, when it is above the high one. It
// returns what it did also with an error; one store's failure does not keep it
// from the others.
func (p Passer) Pass(ctx context.Context, r Rules) (Result, error) {
	v, err := p.Measure()
	if err != nil {
		return Result{}, fmt.Errorf("measure the volume: %w", err)
	}
	if err := r.Marks.Check(v); err != nil {
		return Result{}, err
	}
	inventories, errs := p.inventories(ctx)
	res := Result{Decision: Plan(v, inventories, r), After: v}
	res.Foreign = max(v.Used-res.Ours, 0)
	if !p.DryRun && res.Goal > 0 {
		errs = append(errs, p.apply(ctx, &res))
	}
	return res, errors.Join(errs...)
}

func (p Passer) inventories(ctx context.Context) ([]Inventory, []error) {
	var out []Inventory
	var errs []error
	for _, s := range p.Stores {
		items, err := s.Items(ctx)
		if err != nil {
			errs = append(errs, fmt.Errorf("look at %s: %w", s.Name(), err))
			continue
		}
		out = append(out, Inventory{s.Name(), items})
	}
	return out, errs
}

// apply evicts batch by batch until the measured volume is at its goal.
func (p Passer) apply(ctx context.Context, res *Result) error {
	size := p.Batch
	if size == 0 {
		size = defaultBatch
	}
	var errs []error
	for left := res.Evict; len(left) > 0 && !res.Met(); {
		if err := ctx.Err(); err != nil {
			return errors.Join(append(errs, err)...)
		}
		n := nextBatch(left, res.After.Used-res.Goal, size)
		if err := p.evict(ctx, left[:n]); err != nil {
			errs = append(errs, err)
		}
		res.Evicted = append(res.Evicted, left[:n]...)
		left = left[n:]
		v, err := p.Measure()
		if err != nil {
			return errors.Join(append(errs, fmt.Errorf("measure the volume: %w", err))...)
		}
		res.After = v
	}
	return errors.Join(errs...)
}

// nextBatch counts the items that should free need, at most size and at least one.
func nextBatch(left []Verdict, need int64, size int) int {
	for i, v := range left[:min(size, len(left))] {
		if need <= 0 {
			return max(i, 1)
		}
		need -= v.Frees
	}
	return min(size, len(left))
}

func (p Passer) evict(ctx context.Context, batch []Verdict) error {
	var errs []error
	for _, s := range p.Stores {
		var ids []string
		for _, v := range batch {
			if v.Store == s.Name() {
				ids = append(ids, v.ID)
			}
		}
		if len(ids) == 0 {
			continue
		}
		if err := s.Evict(ctx, ids); err != nil {
			errs = append(errs, fmt.Errorf("evict from %s: %w", s.Name(), err))
		}
	}
	return errors.Join(errs...)
}
