package main

import (
	"context"
	"fmt"
	"time"

	"github.com/cairnbuild/cairn/hack/runner"
)

// The case of Dockerfiles: many images that all exist, and one of which the last
// command has changed.
const (
	fileImages       = 50
	fileInstructions = 12
	// fileLayer is how many bytes each command but the last one makes; they do not compress.
	fileLayer = 48_000_000
)

// dockerfiles measures images that Dockerfiles make.
func dockerfiles(ctx context.Context, b *bench) ([]figure, error) {
	base, err := b.registry.PushBase(ctx, "busybox")
	if err != nil {
		return nil, err
	}
	still, err := b.filesNoop(ctx, base)
	if err != nil {
		return nil, err
	}
	changed, err := b.fileChanged(ctx, base)
	return append(still, changed...), err
}

// filesNoop has a CI job look at images that exist. They have their groups in common,
// so that they are published quickly, and are planned one by one all the same.
func (b *bench) filesNoop(ctx context.Context, base string) ([]figure, error) {
	var d, config document
	d.line("FROM %s\nARG NAME", base)
	for i := range fileInstructions - 1 {
		d.line("RUN echo %d > /file%d", i, i)
	}
	d.line("LABEL name=$NAME")
	config.line("project: files")
	for i := range fileImages {
		config.line("---\nimage: app%d\ndockerfile: Dockerfile\nargs: {NAME: \"%d\"}", i, i)
	}
	r, err := b.repository(ctx, "files", true, text("cairn.yaml", config.String()), text("Dockerfile", d.String()))
	if err != nil {
		return nil, err
	}
	if _, err := b.cairn(ctx, r.Dir, "files/stages"); err != nil {
		return nil, err
	}
	var took []time.Duration
	var requests []int64
	engine := false
	for i := range b.rounds {
		run, err := b.cairn(ctx, r.Dir, "files/stages")
		if err != nil {
			return nil, err
		}
		b.say("round %d: nothing changed: %.3f s", i+1, run.Wall.Seconds())
		took, requests = append(took, run.Wall), append(requests, int64(len(run.requests)))
		engine = engine || run.report.EngineStarted
	}
	return []figure{
		seconds(fmt.Sprintf("%d images of %d instructions, nothing changed", fileImages, fileInstructions), median(took), 150*time.Millisecond),
		count("requests to the registry", largest(requests), 1),
		exactly("engine started", engine, false),
	}, nil
}

// fileChanged has a machine without any state build after the last command has changed.
func (b *bench) fileChanged(ctx context.Context, base string) ([]figure, error) {
	r, err := b.repository(ctx, "file", true,
		text("cairn.yaml", "project: file\n---\nimage: app\ndockerfile: Dockerfile\n"), text("Dockerfile", bigDockerfile(base, 0)))
	if err != nil {
		return nil, err
	}
	yard := yardBuild{dir: r.Dir, file: "Dockerfile", image: "file/image", export: true}
	b.say("publish the layers once, on both sides")
	if _, err := b.cairn(ctx, r.Dir, "file/stages"); err != nil {
		return nil, err
	}
	if _, err := b.yardOnce(ctx, yard); err != nil {
		return nil, err
	}
	var ours, imports, exports []time.Duration
	var pushed []int64
	for i := range b.rounds {
		run, imported, exported, err := b.fileRound(ctx, r, base, yard, 2*i+1)
		if err != nil {
			return nil, err
		}
		b.say("round %d: cairn %.2f s, buildctl %.2f s, with cache export %.2f s", i+1, run.Wall.Seconds(), imported.Seconds(), exported.Seconds())
		ours, imports, exports = append(ours, run.Wall), append(imports, imported), append(exports, exported)
		pushed = append(pushed, run.uploaded)
	}
	return []figure{
		seconds("last of 12 commands changed, 500 MB below it, empty machine: cairn", median(ours), 0),
		seconds("buildctl with cache import", median(imports), 0),
		seconds("buildctl with cache import and export (mode=max)", median(exports), 0),
		faster(median(ours), median(imports), 1.05),
		mebibytes("added to the registry by cairn", largest(pushed), 1<<20),
	}, nil
}

// fileRound builds a change on both sides, and another one that buildctl exports.
func (b *bench) fileRound(ctx context.Context, r runner.Repository, base string, yard yardBuild, n int) (run cairnRun, imported, exported time.Duration, err error) {
	change := func(n int) error {
		if err := r.Write("Dockerfile", []byte(bigDockerfile(base, n))); err != nil {
			return err
		}
		return r.Commit(ctx, "New last command")
	}
	if err = change(n); err != nil {
		return
	}
	if run, err = b.cairn(ctx, r.Dir, "file/stages"); err != nil {
		return
	}
	yard.export = false
	if imported, err = b.yardOnce(ctx, yard); err != nil {
		return
	}
	if err = change(n + 1); err != nil {
		return
	}
	yard.export = true
	exported, err = b.yardOnce(ctx, yard)
	return
}

// bigDockerfile has commands that make layers, and a last one that is another one each round.
func bigDockerfile(base string, round int) string {
	var d document
	d.line("FROM %s", base)
	for i := range fileInstructions - 1 {
		d.line("RUN head -c %d /dev/urandom > /layer%d", fileLayer, i)
	}
	d.line("RUN echo %d > /round", round)
	return d.String()
}

// largest returns the largest of some numbers.
func largest(of []int64) int64 {
	var out int64
	for _, n := range of {
		out = max(out, n)
	}
	return out
}
