package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/cairnbuild/cairn/hack/runner"
)

const (
	planImages = 1_000
	planFiles  = 50_000
)

// plan names all stages of a large project, without looking any of them up.
func plan(ctx context.Context, b *bench) ([]figure, error) {
	base, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	r, err := b.repository(ctx, "plan", true, planTree, text("cairn.yaml", planConfig(base)))
	if err != nil {
		return nil, err
	}
	var wall []time.Duration
	var rss []int64
	for i := range b.rounds {
		cost, err := b.planOnce(ctx, r.Dir)
		if err != nil {
			return nil, err
		}
		b.say("round %d: %.2f s, %d MB", i+1, cost.Wall.Seconds(), cost.RSS>>20)
		wall, rss = append(wall, cost.Wall), append(rss, cost.RSS)
	}
	return []figure{
		seconds("cairn plan", median(wall), 1500*time.Millisecond),
		{what: "largest resident size", got: fmt.Sprintf("%d MB", median(rss)>>20), target: "≤ 250 MB", missed: median(rss) > 250<<20},
	}, nil
}

func (b *bench) planOnce(ctx context.Context, dir string) (cost runner.Measure, err error) {
	m := runner.Machine{Home: b.path("home"), Bin: filepath.Join(b.top, "bin")}
	if err := m.Make(); err != nil {
		return cost, err
	}
	defer func() { err = errors.Join(err, m.Remove(context.WithoutCancel(ctx))) }()
	_, cost, err = m.Cairn(ctx, dir, nil, "plan", "--offline", "--output", "json")
	return cost, err
}

func planTree(r runner.Repository) error {
	for i := range planImages {
		if err := files(fmt.Sprintf("services/%d/", i)+"%d.txt", planFiles/planImages)(r); err != nil {
			return err
		}
	}
	return nil
}

func planConfig(base string) string {
	var d document
	d.line("project: plan\nconfigVersion: 1")
	for i := range planImages {
		d.line("---\nimage: service-%d\nfrom: %s", i, base)
		d.line("git:\n- add: /services/%d\n  to: /service\n  stageDependencies: {install: [\"1.txt\"], setup: [\"2*.txt\"]}", i)
		d.line("shell: {install: [\"make install\"], setup: [\"make setup\"]}\ndocker: {CMD: [\"/service/run\"]}")
	}
	return d.String()
}
