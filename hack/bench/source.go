package main

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
)

// source changes one file of an application on a large base and has a CI job
// without any state build it.
func source(ctx context.Context, b *bench) ([]figure, error) {
	base, err := b.registry.PushBase(ctx, "big-300")
	if err != nil {
		return nil, err
	}
	r, err := b.repository(ctx, "source", true, files("app/lib/%d.txt", 500), text("app/main.txt", "0\n"), text("app/deps.txt", "none\n"),
		text("cairn.yaml", sourceConfig(base)), text("Dockerfile", sourceDockerfile(base)))
	if err != nil {
		return nil, err
	}
	yard := yardBuild{dir: r.Dir, file: "Dockerfile", image: "source/image", export: true}
	b.say("publish the image once, on both sides")
	if _, err := b.cairn(ctx, r.Dir, "source/stages"); err != nil {
		return nil, err
	}
	if _, err := b.yardOnce(ctx, yard); err != nil {
		return nil, err
	}
	yard.export = false // a build that only reads the cache is faster
	var ours, theirs []time.Duration
	var requests, pulled []int64
	engine := false
	for i := range b.rounds {
		if err := r.Write("app/main.txt", fmt.Appendf(nil, "round %d\n", i)); err != nil {
			return nil, err
		}
		if err := r.Commit(ctx, "Change one file"); err != nil {
			return nil, err
		}
		run, err := b.cairn(ctx, r.Dir, "source/stages")
		if err != nil {
			return nil, err
		}
		took, err := b.yardOnce(ctx, yard)
		if err != nil {
			return nil, err
		}
		b.say("round %d: cairn %.3f s with %d requests, buildctl %.3f s", i+1, run.Wall.Seconds(), len(run.requests), took.Seconds())
		ours, theirs = append(ours, run.Wall), append(theirs, took)
		requests, pulled = append(requests, int64(len(run.requests))), append(pulled, run.pulled())
		engine = engine || run.report.EngineStarted
	}
	return []figure{
		seconds("cairn build", median(ours), 0),
		seconds("buildctl, COPY --link", median(theirs), 0),
		faster(median(ours), median(theirs), 3),
		count("registry requests, at most", slices.Max(requests), 14),
		count("bytes of blobs pulled (configs only: no base layer)", slices.Max(pulled), 64<<10),
		exactly("engine started", engine, false),
	}, nil
}

func sourceConfig(base string) string {
	return strings.ReplaceAll(`project: source
configVersion: 1
---
image: app
from: BASE
git:
- {add: /app, to: /app, stageDependencies: {install: [deps.txt]}}
shell:
  install: ["dd if=/dev/urandom of=/app/archive bs=1M count=20"]
docker: {WORKDIR: /app, CMD: [cat, main.txt]}
`, "BASE", base)
}

func sourceDockerfile(base string) string {
	return fmt.Sprintf("FROM %s\nCOPY --link app/deps.txt /app/\nRUN dd if=/dev/urandom of=/app/archive bs=1M count=20\nCOPY --link app /app\nWORKDIR /app\nCMD [\"cat\", \"main.txt\"]\n", base)
}
