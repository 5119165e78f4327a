package switchover

import (
	"context"
	"errors"
	"fmt"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
)

// transferring is a [Copier] by package transfer: it brings everything that the old storage
// names, verified, each blob once.
type transferring struct {
	from   transfer.Source
	to     transfer.Target
	passes func() *transfer.Progress
}

// NewCopier returns the copier of a switch between two storages. It goes through what
// is there twice; passes, which may be nil, is called for each time, and returns what
// counts what travels.
func NewCopier(from transfer.Source, to transfer.Target, passes func() *transfer.Progress) Copier {
	if passes == nil {
		passes = func() *transfer.Progress { return nil }
	}
	return &transferring{from: from, to: to, passes: passes}
}

// Contents implements [Copier].
func (c *transferring) Contents(ctx context.Context) error {
	_, err := c.copy(ctx, func(int) {}, namerFunc(func(ctx context.Context, _ string, m storage.Manifest) error {
		return c.to.PushManifest(ctx, m)
	}))
	return err
}

// Names implements [Copier].
func (c *transferring) Names(ctx context.Context, found func(total int), name Namer) ([]LeftError, error) {
	res, err := c.copy(ctx, found, namerFunc(func(ctx context.Context, tag string, m storage.Manifest) error {
		err := name(ctx, tag, m)
		if left := new(LeftError); errors.As(err, &left) {
			return fmt.Errorf("%w: %w", transfer.ErrRefused, left.Err)
		}
		return err
	}))
	if res == nil {
		return nil, err
	}
	var left []LeftError
	for _, skip := range res.Skips {
		left = append(left, LeftError{Tag: skip.Tag, Err: skip.Err})
	}
	return left, err
}

func (c *transferring) copy(ctx context.Context, found func(total int), n transfer.Namer) (*transfer.Result, error) {
	progress := c.passes()
	view, err := transfer.Look(ctx, c.from, c.to, transfer.LookOptions{Progress: progress})
	if err != nil {
		return nil, err
	}
	plan, err := transfer.NewPlan(view, transfer.Selection{})
	if err != nil {
		return nil, err
	}
	total := 0
	for _, u := range plan.Units {
		if u.Tag != "" && !u.Grows {
			total++
		}
	}
	found(total)
	return transfer.Copy(ctx, c.to, c.from, plan, transfer.Options{Namer: n, Progress: progress})
}

// namerFunc makes a function a [transfer.Namer].
type namerFunc func(ctx context.Context, tag string, m storage.Manifest) error

// Name implements [transfer.Namer].
func (f namerFunc) Name(ctx context.Context, tag string, m storage.Manifest) error {
	return f(ctx, tag, m)
}
