package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/hack/testbed"
)

// The case of cleanup. Of the large storage most stays, as after every cleanup but the
// first; of the other nearly all goes.
const (
	cleanupImages   = 5
	cleanupBuilds   = 2000
	cleanupDead     = 100 // of the builds that are planned, none keeps these
	cleanupNew      = 10  // builds between the first plan and the second
	cleanupGoing    = 910 // builds that go: 10,010 names with their stages
	cleanupStaying  = 4
	cleanupInterval = 20 * time.Millisecond
)

// cleanupConfig is a project with one image, which needs no engine.
const cleanupConfig = `project: fleet
configVersion: 1
cleanup:
  keepBuiltWithinLastNHours: 0
  keepPolicies:
  - references: {branch: main}
---
image: app
from: scratch
git:
- {add: /file, to: /file}
`

// cleaned is a project with a storage in a registry, and a machine that cleans it up.
type cleaned struct {
	*bench
	m          runner.Machine
	dir        string
	registry   *testbed.Registry
	repository string
	keepList   string
	args       []string
}

// cleanedProject builds a project once, so that its storage is there.
func (b *bench) cleanedProject(ctx context.Context, r *testbed.Registry, name, synchronization string) (*cleaned, error) {
	repo, err := b.repository(ctx, name, false, text("cairn.yaml", cleanupConfig), text("file", "one\n"))
	if err != nil {
		return nil, err
	}
	c := &cleaned{
		bench: b, m: runner.Machine{Home: b.path("home"), Bin: filepath.Join(b.top, "bin")}, dir: repo.Dir,
		registry: r, repository: name, keepList: b.path("keep"),
	}
	c.args = []string{"--stages-storage", r.Address() + "/" + name, "--synchronization", synchronization}
	if err := c.m.Make(); err != nil {
		return nil, err
	}
	_, _, err = c.m.Build(ctx, c.dir, nil, c.args...)
	return c, err
}

// keep writes the list of builds that stay.
func (c *cleaned) keep(s testbed.Stock, builds int) error {
	var list strings.Builder
	for i := range builds {
		fmt.Fprintln(&list, s.Tag(i))
	}
	return os.WriteFile(c.keepList, []byte(list.String()), 0o600)
}

// cleanupReport is what is used of the report of a cleanup.
type cleanupReport struct {
	Totals []struct {
		Keep bool
		Tags int
	}
	Freed   int64
	Removed *cleanupOutcome
}

type cleanupOutcome struct{ Removed, Gone, Waits, Needed, Failed int }

// tags returns how many tags stay and how many go.
func (r cleanupReport) tags() (stay, goes int) {
	for _, t := range r.Totals {
		if t.Keep {
			stay += t.Tags
		} else {
			goes += t.Tags
		}
	}
	return stay, goes
}

func (c *cleaned) arguments(more ...string) []string {
	return append(append([]string{"cleanup", "--without-kube", "--keep-list", c.keepList, "--output", "json"}, c.args...), more...)
}

// plan makes a plan and returns the requests that it took, by their methods.
func (c *cleaned) plan(ctx context.Context) (r cleanupReport, cost runner.Measure, requests map[string]int64, err error) {
	if err := c.registry.ResetLog(ctx); err != nil {
		return r, cost, nil, err
	}
	out, cost, err := c.m.Cairn(ctx, c.dir, nil, c.arguments("--dry-run")...)
	if err != nil {
		return r, cost, nil, err
	}
	if err := json.Unmarshal(out, &r); err != nil {
		return r, cost, nil, err
	}
	log, err := c.registry.AccessLog(ctx)
	requests = make(map[string]int64)
	for _, q := range log {
		switch {
		case q.Path == "/v2/":
		case strings.HasSuffix(q.Path, "/tags/list"):
			requests["list"]++
		default:
			requests[q.Method]++
		}
	}
	return r, cost, requests, err
}

// cleanupPlans plans the cleanup of 20,000 stages twice.
func cleanupPlans(ctx context.Context, b *bench) ([]figure, error) {
	c, err := b.cleanedProject(ctx, b.registry, "cleanup-plans", ":local")
	if err != nil {
		return nil, err
	}
	stock := testbed.Stock{Images: cleanupImages, Builds: cleanupBuilds}
	b.say("write %d stages of %d builds", stock.Stages(), stock.Builds)
	if err := errors.Join(b.registry.Fill(ctx, c.repository, stock), c.keep(stock, cleanupBuilds-cleanupDead)); err != nil {
		return nil, err
	}
	first, firstCost, firstRequests, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	b.say("first plan: %.1f s, %v", firstCost.Wall.Seconds(), firstRequests)
	more := testbed.Stock{Images: cleanupImages, First: cleanupBuilds, Builds: cleanupNew}
	if err := b.registry.Fill(ctx, c.repository, more); err != nil {
		return nil, err
	}
	second, secondCost, secondRequests, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	b.say("second plan: %.1f s, %v", secondCost.Wall.Seconds(), secondRequests)
	per := 2*cleanupImages + 1
	_, goesFirst := first.tags()
	_, goesSecond := second.tags()
	known := int64(stock.Names() + 3) // the project's own stage, build and marker
	return []figure{
		{what: "stages, builds", got: fmt.Sprintf("%d, %d", stock.Stages(), stock.Builds)},
		seconds("first plan", firstCost.Wall, 0),
		exactly("its listings", firstRequests["list"], int64(1)),
		exactly(fmt.Sprintf("its GETs: each of %d manifests, and the marker before", known), firstRequests["GET"], known+1),
		exactly("its HEADs", firstRequests["HEAD"], int64(0)),
		exactly("tags that go", goesFirst, cleanupDead*per),
		mebibytes("its largest resident size", firstCost.RSS, 200<<20),
		seconds(fmt.Sprintf("second plan, after %d more builds", cleanupNew), secondCost.Wall, 5*time.Second),
		exactly("its listings", secondRequests["list"], int64(1)),
		exactly("its GETs: what is new, and the marker", secondRequests["GET"], int64(more.Names()+1)),
		exactly("its HEADs: what goes and was read before", secondRequests["HEAD"], int64(cleanupDead*per)),
		exactly("tags that go", goesSecond, (cleanupDead+cleanupNew)*per),
	}, nil
}

// cleanupRemovals removes most of a storage under a ledger in a cluster.
func cleanupRemovals(ctx context.Context, b *bench) (_ []figure, err error) {
	cluster, err := testbed.StartCluster(ctx, testbed.ClusterOptions{Optimized: true})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, cluster.Stop()) }()
	server, err := testbed.StartRegistry(ctx, testbed.RegistryOptions{})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, server.Stop()) }()
	c, err := b.cleanedProject(ctx, server, "cleanup-removals", "kubernetes://cleanup?ttl=5s&kubeconfig="+cluster.Kubeconfig)
	if err != nil {
		return nil, err
	}
	stock := testbed.Stock{Images: cleanupImages, Builds: cleanupGoing + cleanupStaying}
	b.say("write %d stages of %d builds", stock.Stages(), stock.Builds)
	if err := errors.Join(server.Fill(ctx, c.repository, stock), c.keep(stock, cleanupStaying)); err != nil {
		return nil, err
	}
	plan, cost, _, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	_, goes := plan.tags()
	run, err := c.removeWithKills(ctx, goes)
	if err != nil {
		return nil, err
	}
	run.rss = max(run.rss, cost.RSS)
	freed, collected, err := collect(ctx, server)
	if err != nil {
		return nil, err
	}
	left, _, _, err := c.plan(ctx)
	if err != nil {
		return nil, err
	}
	stay, again := left.tags()
	return []figure{
		atLeast("tags to remove, ledger in a cluster", int64(goes), 10_000),
		atLeast("kill -9 of the runs: asking, marking, removing", int64(run.kills), 3),
		seconds("all runs together", run.took, 0),
		seconds("of it the last, which ends", run.lastTook, 0),
		exactly("what the last run left", run.last.Waits+run.last.Needed+run.last.Failed, 0),
		exactly("tags that go afterwards", again, 0),
		exactly("tags that stay", stay, cleanupStaying*(2*cleanupImages+1)+3),
		mebibytes("largest resident size of all runs", run.rss, 200<<20),
		seconds("docker-registry garbage-collect --delete-untagged", collected, 0),
		{what: "bytes that the plan promised", got: fmt.Sprint(plan.Freed)},
		atLeast("bytes that the collector freed, with Cairn's own small manifests", freed, plan.Freed),
	}, nil
}

// collect runs a registry's own collector and returns how many bytes that freed.
func collect(ctx context.Context, r *testbed.Registry) (int64, time.Duration, error) {
	before, err := r.StoredBytes()
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := r.GarbageCollect(ctx, "--delete-untagged"); err != nil {
		return 0, 0, err
	}
	took := time.Since(began)
	after, err := r.StoredBytes()
	return before - after, took, err
}

// removal is what the runs of a cleanup took.
type removal struct {
	kills          int
	took, lastTook time.Duration
	rss            int64
	last           cleanupOutcome
}

// removeWithKills cleans up, and kills all runs but the last: while they ask for
// what goes, while they mark it, and while they remove.
func (c *cleaned) removeWithKills(ctx context.Context, goes int) (removal, error) {
	var r removal
	began := time.Now()
	// Each name is asked for once before anything is marked, and takes more requests to go.
	for _, answered := range []int{goes / 2, goes + 20, goes + goes/4} {
		killed, rss, err := c.killedAfter(ctx, answered)
		if err != nil {
			return r, err
		}
		if r.rss = max(r.rss, rss); killed {
			r.kills++
		}
		c.say("killed after %d requests: %v, %.1f s", answered, killed, time.Since(began).Seconds())
	}
	out, cost, err := c.m.Cairn(ctx, c.dir, nil, c.arguments("--removal-grace", "0s")...)
	if err != nil {
		return r, err
	}
	var report cleanupReport
	if err := json.Unmarshal(out, &report); err != nil || report.Removed == nil {
		return r, errors.Join(err, fmt.Errorf("nothing was removed: %.500s", out))
	}
	r.rss, r.took, r.lastTook, r.last = max(r.rss, cost.RSS), time.Since(began), cost.Wall, *report.Removed
	c.say("the last run: %.1f s, %+v", cost.Wall.Seconds(), r.last)
	return r, nil
}

// killedAfter begins a cleanup and kills it when the registry has answered so many
// requests. It reports whether the cleanup was still under way, and its largest
// resident size.
func (c *cleaned) killedAfter(ctx context.Context, answered int) (bool, int64, error) {
	if err := c.registry.ResetLog(ctx); err != nil {
		return false, 0, err
	}
	p, err := c.m.Start(ctx, c.dir, c.arguments("--removal-grace", "0s")...)
	if err != nil {
		return false, 0, err
	}
	ticks := time.NewTicker(cleanupInterval)
	defer ticks.Stop()
	for c.registry.Answered() < answered {
		select {
		case <-p.Done():
			return false, p.RSS(), nil
		case <-ticks.C:
		}
	}
	p.Kill()
	<-p.Done()
	return true, p.RSS(), nil
}
