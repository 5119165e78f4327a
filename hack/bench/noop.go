package main

import (
	"context"
	"fmt"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/hack/testbed"
)

const (
	noopImages = 100
	noopFiles  = 10_000
	// yardParallel is how many buildctl run at a time: more make this slower.
	yardParallel = 8
)

// noop has a CI job look at 100 images that all exist already. Half of the
// images map the whole tree, the others a directory of their own.
func noop(ctx context.Context, b *bench) ([]figure, error) {
	base, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	r, err := b.repository(ctx, "noop", true,
		files("tree/%d.txt", noopFiles-10*noopImages), services, text("deps/list.txt", "none\n"),
		text("cairn.yaml", noopConfig(base)), text("whole.Dockerfile", noopDockerfile(base, true)), text("part.Dockerfile", noopDockerfile(base, false)))
	if err != nil {
		return nil, err
	}
	b.say("publish the images once, on both sides")
	if _, err := b.cairn(ctx, r.Dir, "noop/stages"); err != nil {
		return nil, err
	}
	if err := b.withYardstick(ctx, func(d *testbed.Buildkitd) error { return b.noopYard(ctx, d, r.Dir, true) }); err != nil {
		return nil, err
	}
	return b.noopRounds(ctx, r.Dir)
}

func (b *bench) noopRounds(ctx context.Context, dir string) ([]figure, error) {
	var ours, theirs []time.Duration
	var requests, rss []int64
	var last cairnRun
	engine, daemons, ledger := false, 0, int64(0)
	for i := range b.rounds {
		run, err := b.cairn(ctx, dir, "noop/stages")
		if err != nil {
			return nil, err
		}
		took, err := b.noopYardOnce(ctx, dir)
		if err != nil {
			return nil, err
		}
		b.say("round %d: cairn %.3f s, buildctl %.1f s", i+1, run.Wall.Seconds(), took.Seconds())
		ours, theirs = append(ours, run.Wall), append(theirs, took)
		requests, rss = append(requests, int64(len(run.requests))), append(rss, run.RSS)
		engine, daemons, last = engine || run.report.EngineStarted, daemons+run.daemons, run
		if run.report.Requests.Ledger != nil {
			ledger += *run.report.Requests.Ledger
		}
	}
	return []figure{
		exactly("images, with one that the others only import from", len(last.report.Images), noopImages+1),
		exactly("stages of an image", len(last.report.Images[noopImages].Stages), 10),
		seconds("cairn build", median(ours), 150*time.Millisecond),
		seconds(fmt.Sprintf("buildctl for all images, %d at a time", yardParallel), median(theirs), 0),
		faster(median(ours), median(theirs), 50),
		exactly("registry requests, in every round", spread(requests), "1"),
		exactly("ledger requests", ledger, int64(0)),
		exactly("engine started", engine, false),
		exactly("processes left running", daemons, 0),
		{what: "largest resident size", got: fmt.Sprintf("%d MB", median(rss)>>20)},
	}, nil
}

// noopYardOnce measures one round in which no build failed. A round that met the
// registry's race is not counted and made again.
func (b *bench) noopYardOnce(ctx context.Context, dir string) (took time.Duration, err error) {
	for range 5 {
		err = b.withYardstick(ctx, func(d *testbed.Buildkitd) error {
			begin := time.Now()
			err := b.noopYard(ctx, d, dir, false)
			took = time.Since(begin)
			return err
		})
		if err == nil || ctx.Err() != nil {
			return took, err
		}
		b.say("a round of buildctl is not counted: %v", err)
	}
	return 0, err
}

// noopYard builds all images with buildctl.
func (b *bench) noopYard(ctx context.Context, d *testbed.Buildkitd, dir string, export bool) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(yardParallel)
	for i := range noopImages {
		file := "part.Dockerfile"
		if i%2 == 0 {
			file = "whole.Dockerfile"
		}
		y := yardBuild{
			dir: dir, file: file, image: fmt.Sprintf("noop/image-%d", i), export: export,
			args: map[string]string{"SERVICE": fmt.Sprint(i)},
		}
		g.Go(func() error {
			if export {
				return b.insist(ctx, d, y)
			}
			_, err := b.yardstick(ctx, d, y)
			return err
		})
	}
	return g.Wait()
}

// insist builds again when that failed, outside of what is measured: docker-registry 2.8 writes the links of a
// repository's blobs in two steps, and now and then refuses a manifest while
// another upload of the same blob ends.
func (b *bench) insist(ctx context.Context, d *testbed.Buildkitd, y yardBuild) error {
	var err error
	for range 5 {
		if _, err = b.yardstick(ctx, d, y); err == nil || ctx.Err() != nil {
			return err
		}
	}
	return err
}

// services gives each image ten files of its own.
func services(r runner.Repository) error {
	for i := range noopImages {
		if err := files(fmt.Sprintf("services/%d/", i)+"%d.txt", 10)(r); err != nil {
			return err
		}
	}
	return nil
}

// noopConfig has images of ten stages: from, four sections, four imports, source.
func noopConfig(base string) string {
	var d document
	d.line("project: noop\nconfigVersion: 1")
	for i := range noopImages {
		add, to, needed := "/", "/app", "deps/**"
		if i%2 == 1 {
			add, to, needed = fmt.Sprintf("/services/%d", i), "/service", "0.txt"
		}
		d.line("---\nimage: image-%d\nfrom: %s", i, base)
		d.line("git:\n- add: %s\n  to: %s\n  stageDependencies: {install: [%q]}", add, to, needed)
		d.line("shell:")
		for _, section := range []string{"beforeInstall", "install", "beforeSetup", "setup"} {
			d.line("  %s: [\"echo %s > /%s\"]", section, section, section)
		}
		d.line("import:")
		for n, when := range []string{"before: install", "after: install", "before: setup", "after: setup"} {
			d.line("- {image: shared, add: /shared, to: /imported/%d, %s}", n, when)
		}
		d.line("docker: {LABEL: {image: \"%d\"}}", i)
	}
	return d.String() + sharedImage(base)
}

func sharedImage(base string) string {
	return fmt.Sprintf("---\nimage: shared\nfrom: %s\ngit:\n- {add: /deps, to: /shared}\n", base)
}

func noopDockerfile(base string, whole bool) string {
	var d document
	d.line("FROM %s AS shared\nCOPY deps /shared\nFROM %s", base, base)
	for _, section := range []string{"beforeInstall", "install", "beforeSetup", "setup"} {
		d.line("RUN echo %s > /%s", section, section)
	}
	for i := range 4 {
		d.line("COPY --from=shared /shared /imported/%d", i)
	}
	d.line("ARG SERVICE")
	if whole {
		d.line("COPY . /app")
	} else {
		d.line("COPY services/$SERVICE /service")
	}
	d.line("LABEL image=$SERVICE")
	return d.String()
}
