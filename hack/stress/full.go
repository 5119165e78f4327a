package main

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/cairnbuild/cairn/hack/history"
)

// costs is what the same build costs one runner alone and many at once.
type costs struct {
	alone, many *outcome
}

// seconds returns the CPU time of a round: its runners, and its engines since they
// were started.
func (o *outcome) seconds() float64 { return o.runnerSeconds + o.engineSeconds + o.startSeconds }

// events returns how many of a kind were recorded.
func (o *outcome) events(k history.Kind) int {
	n := 0
	for _, e := range o.history.Events {
		if e.Kind == k {
			n++
		}
	}
	return n
}

// How much more than one many runners may cost: what is wanted, and what a test
// refuses. In between is what waiting costs: each runner reads a shard of the
// ledger again whenever anything in it changes, and now and then.
const (
	target  = 1.25
	ceiling = 1.75
)

// waiting returns the CPU time that each runner takes beyond what one needs for
// the build itself.
func (c costs) waiting() float64 {
	return (c.many.runnerSeconds - c.alone.runnerSeconds) / float64(c.many.shape.runners-1)
}

func (c costs) ratio() float64 { return c.many.seconds() / c.alone.seconds() }

func (c costs) print(w io.Writer) {
	for _, o := range []struct {
		who string
		*outcome
	}{{"one runner", c.alone}, {"all runners", c.many}} {
		fmt.Fprintf(w, "%-12s %7.2f CPU s: runners %.2f, engines %.2f, start of engines %.2f\n", o.who, o.seconds(), o.runnerSeconds, o.engineSeconds, o.startSeconds)
	}
	for _, k := range []history.Kind{history.LedgerRead, history.LedgerWrite, history.Session, history.TagRead, history.TagPut, history.Push} {
		fmt.Fprintf(w, "%-12s %7d by one, %d by all\n", k, c.alone.events(k), c.many.events(k))
	}
	fmt.Fprintf(w, "%-12s %7.2f CPU s for each runner that waits, in %.0f s\n", "waiting", c.waiting(), c.many.wall.Seconds())
	fmt.Fprintf(w, "%-12s %7.2f ×, wanted at most %.2f\n", "ratio", c.ratio(), target)
}

// fresh plays a round without faults on engines that were just started, and ends them.
func (l *lab) fresh(ctx context.Context, seed uint64, s shape) (*outcome, error) {
	var hosts []*host
	var err error
	for i := range s.engines {
		var h *host
		if h, err = l.newHost(ctx, fmt.Sprintf("f%x-%d", seed, i)); err != nil {
			break
		}
		hosts = append(hosts, h)
	}
	var out *outcome
	started := 0.0
	if err == nil {
		for _, h := range hosts {
			started += treeSeconds(h.engine.PID())
		}
		if out, err = l.play(ctx, seed, s, hosts); out != nil {
			out.startSeconds = started
		}
	}
	for _, h := range hosts {
		err = errors.Join(err, h.engine.Stop())
	}
	return out, err
}

// measure plays the same build alone and with all runners.
func (l *lab) measure(ctx context.Context, seed uint64, s shape) (costs, error) {
	one := s
	one.runners, one.engines = 1, 1
	var c costs
	var err error
	if c.alone, err = l.fresh(ctx, seed, one); err != nil {
		return c, err
	}
	c.many, err = l.fresh(ctx, seed+1, s)
	return c, err
}

func (o options) runFull(ctx context.Context, l *lab, w io.Writer) error {
	s := whole()
	s.work = o.work
	c, err := l.measure(ctx, o.seed, s)
	for _, out := range []*outcome{c.alone, c.many} {
		if out == nil {
			continue
		}
		fmt.Fprintln(w, out.line())
		if len(out.violations) > 0 {
			err = errors.Join(err, keepHistory(w, o.keep, out, nil), fmt.Errorf("%d violations", len(out.violations)))
		}
	}
	if c.many != nil {
		c.print(w)
	}
	return err
}
