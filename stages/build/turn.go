package build

import (
	"context"
	"time"
)

// turn is a lock for work that takes long: who waits for it can give up. A
// mutex would have a cancelled run wait for a request that is under way.
type turn chan struct{}

func newTurn() turn { return make(turn, 1) }

// take waits for the turn or the end of ctx.
func (t turn) take(ctx context.Context) error {
	select {
	case t <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (t turn) give() { <-t }

// once runs a function until it succeeds once.
type once struct {
	turn
	done bool // under turn
}

func newOnce() *once { return &once{turn: newTurn()} }

func (o *once) do(ctx context.Context, f func() error) error {
	if err := o.take(ctx); err != nil {
		return err
	}
	defer o.give()
	if o.done {
		return nil
	}
	err := f()
	o.done = err == nil
	return err
}

// outliving returns ctx without its end, which comes later by d. The end has the
// same cause. The function returned ends it at once.
func outliving(ctx context.Context, d time.Duration) (context.Context, func()) {
	late, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	stop := context.AfterFunc(ctx, func() {
		if pause(late, d) == nil {
			cancel(context.Cause(ctx))
		}
	})
	return late, func() {
		stop()
		cancel(nil)
	}
}
