package e2e

import (
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// counting is a project whose commands count how often they ran to their end.
const counting = `
-- cairn.yaml --
project: counting
configVersion: 1
---
image: one
from: @REGISTRY@/base/busybox:latest
git:
- add: /src
  to: /src
  stageDependencies:
    setup: ["a"]
shell:
  cacheVersion: '@VERSION@'
  beforeInstall:
  - dd if=/dev/zero of=/first bs=1M count=3 2>/dev/null
  - @COUNT@/@VERSION@beforeInstall
  install:
  - seq 100000 > /second
  - @COUNT@/@VERSION@install
  setup:
  - cat /src/a > /third
  - @COUNT@/@VERSION@setup
---
image: two
from: @REGISTRY@/base/busybox:latest
import:
- image: one
  add: /second
  to: /from/one
  before: setup
shell:
  cacheVersion: '@VERSION@'
  install:
  - date > /now
  - @COUNT@/@VERSION@other
-- src/a --
a
-- src/b --
b
`

func countingProject(t *testing.T, version string) *project {
	t.Helper()
	return newProject(t, strings.ReplaceAll(counting, "@VERSION@", version), shared.registry)
}

// countedStages maps the command stages of [counting] to what their commands count as.
func countedStages() map[string]string {
	return map[string]string{"one/beforeInstall": "beforeInstall", "one/install": "install", "one/setup": "setup", "two/install": "other"}
}

func TestAKilledBuildIsFinishedByTheNext(t *testing.T) {
	t.Parallel()
	begin := time.Now()
	newHost(t, 0).build(t, countingProject(t, "measured"), storageOf(t, shared.registry, "-measured"))
	whole := time.Since(begin)
	const moments = 10
	for i := range moments {
		after := whole * time.Duration(i+1) / (moments + 1)
		t.Run(fmt.Sprintf("killed after %d of %d parts", i+1, moments+1), func(t *testing.T) {
			h := newHost(t, i%2)
			if i%3 == 0 {
				dir := filepath.Join(h.cache, "stages", "counting")
				killed{
					h: h, storage: ":local", after: after,
					tags:  func() map[string][]byte { return layoutTags(t, dir) },
					check: func() { checkLayout(t, dir) },
				}.run(t, shared.engines[(i+1)%2].Address())
				return
			}
			storage := storageOf(t, shared.registry, "")
			killed{
				h: h, storage: storage, after: after,
				tags:  func() map[string][]byte { return tagsOf(t, storage) },
				check: func() { checkRepository(t, storage) },
			}.run(t, shared.engines[(i+1)%2].Address())
		})
	}
}

// killed is a build that is killed.
type killed struct {
	h       *host
	storage string
	after   time.Duration
	// tags lists what is published, check looks whether all of it is whole.
	tags  func() map[string][]byte
	check func()
}

// run kills the build and finishes it on another engine.
func (k killed) run(t *testing.T, other string) {
	t.Helper()
	p := countingProject(t, "")
	first := k.h.startBuild(t, p, k.storage)
	select {
	case <-time.After(k.after):
	case <-first.done:
	}
	first.kill(t)
	published := k.tags()
	before := map[string]int{}
	for _, what := range countedStages() {
		before[what] = shared.counter.count(counted(t, what))
	}
	k.h.engine = other
	r := k.h.build(t, p, k.storage)
	for stage, what := range countedStages() {
		runs := shared.counter.count(counted(t, what))
		if _, ok := published[digestOf(t, r, stage)]; ok && runs != before[what] {
			t.Errorf("the commands of %s ran again although it was published", stage)
		}
		if runs == 0 {
			t.Errorf("the commands of %s never ran", stage)
		}
	}
	k.check()
	if again := k.h.build(t, p, k.storage); again.count("cached") == 0 || again.count("built", "assembled") != 0 {
		t.Errorf("a third build has to do something: %v", again.results())
	}
}

// digestOf returns the hexadecimal digest of a stage, image/stage.
func digestOf(t *testing.T, r report, stage string) string {
	t.Helper()
	for _, i := range r.Images {
		for _, s := range i.Stages {
			if i.Name+"/"+s.Name == stage {
				return strings.TrimPrefix(s.Digest, "sha256:")
			}
		}
	}
	t.Fatalf("the report has no stage %s", stage)
	return ""
}

const slow = `
-- cairn.yaml --
project: slow
configVersion: 1
---
image: app
from: @REGISTRY@/base/busybox:latest
shell:
  install:
  - date > /one
  - @COUNT@/install
  setup:
  - @COUNT@/begin
  - date > /two
  - @COUNT@/setup
`

// The engine is killed while a command runs: the build goes on with the next one,
// or says what happened.
func TestABuildSurvivesTheEndOfItsEngine(t *testing.T) {
	t.Parallel()
	p, storage := newProject(t, slow, shared.registry), storageOf(t, shared.registry, "")
	h := newHost(t, ownDaemon)
	open := shared.counter.hold(t, counted(t, "begin"))
	b := h.startBuild(t, p, storage)
	shared.counter.await(t, counted(t, "begin"), 1)
	s, ok := h.status(t)
	if !ok || s.EnginePID == 0 {
		t.Fatalf("no engine runs: %+v", s)
	}
	if err := syscall.Kill(s.EnginePID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	// Then no command of it is left.
	await(t, "the engine ends", func() bool { return !alive(s.EnginePID) })
	open()
	res := b.wait(t)
	if res.code != 0 {
		message, _ := res.errorLines()
		if res.code != 8 || message == "" {
			t.Fatalf("cairn ends with %d:\n%s", res.code, res.stderr)
		}
		t.Logf("the build fails: %s", message)
	}
	h.build(t, p, storage)
	after, ok := h.status(t)
	if !ok || after.PID != s.PID || after.Restarts == 0 || after.EnginePID == s.EnginePID {
		t.Errorf("the daemon has not started another engine: %+v, before %+v", after, s)
	}
	if n := shared.counter.count(counted(t, "install")); n != 1 {
		t.Errorf("the commands of the stage before ran %d times", n)
	}
	if n := shared.counter.count(counted(t, "setup")); n != 1 {
		t.Errorf("the interrupted commands came to their end %d times", n)
	}
	checkRepository(t, storage)
}

// The daemon is killed with its engine while a command runs.
func TestTheNextBuildStartsAKilledDaemonAgain(t *testing.T) {
	t.Parallel()
	p, storage := newProject(t, slow, shared.registry), storageOf(t, shared.registry, "")
	h := newHost(t, ownDaemon)
	open := shared.counter.hold(t, counted(t, "begin"))
	b := h.startBuild(t, p, storage)
	shared.counter.await(t, counted(t, "begin"), 1)
	s, ok := h.status(t)
	if !ok {
		t.Fatal("no daemon runs")
	}
	if err := syscall.Kill(s.PID, syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, "the engine ends with its daemon", func() bool { return !alive(s.EnginePID) })
	open()
	if res := b.wait(t); res.code != 0 && res.code != 8 {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	h.build(t, p, storage)
	if after, ok := h.status(t); !ok || after.PID == s.PID {
		t.Errorf("no other daemon runs: %+v", after)
	}
	if n := shared.counter.count(counted(t, "install")); n != 1 {
		t.Errorf("the commands of the stage before ran %d times", n)
	}
	checkRepository(t, storage)
}

func TestAFailedCommandIsReportedAsItIs(t *testing.T) {
	t.Parallel()
	p := newProject(t, strings.Replace(slow, "date > /two", "echo what went wrong; exit 7", 1), shared.registry)
	storage, h := storageOf(t, shared.registry, ""), newHost(t, 0)
	res := h.startBuild(t, p, storage).wait(t)
	message, _ := res.errorLines()
	if res.code != 5 || !strings.Contains(message, "7") || !strings.Contains(res.stderr, "what went wrong") {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	want := map[string]string{"app/from": "assembled", "app/install": "built", "app/setup": ""}
	if got := res.report.results(); !maps.Equal(got, want) {
		t.Errorf("the report says %v, want %v", got, want)
	}
	published := tagsOf(t, storage)
	for stage := range want {
		if _, ok := published[digestOf(t, res.report, stage)]; ok == (stage == "app/setup") {
			t.Errorf("stage %s is published: %v", stage, ok)
		}
	}
}

func TestAnInterruptedBuildEndsAtOnceAndLeavesNothingHeld(t *testing.T) {
	t.Parallel()
	p, storage := newProject(t, slow, shared.registry), storageOf(t, shared.registry, "")
	h := newHost(t, 0)
	open := shared.counter.hold(t, counted(t, "begin"))
	b := h.startBuild(t, p, storage)
	shared.counter.await(t, counted(t, "begin"), 1)
	if err := b.cmd.Process.Signal(syscall.SIGINT); err != nil {
		t.Fatal(err)
	}
	if res := b.wait(t); res.code != 130 {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	open()
	again := h.on(1).startBuild(t, p, storage).wait(t)
	succeeded(t, again)
	if strings.Contains(again.stderr, "waiting") {
		t.Errorf("the next build waits:\n%s", again.stderr)
	}
	if n := shared.counter.count(counted(t, "install")); n != 1 {
		t.Errorf("the commands of the stage before ran %d times", n)
	}
}

// A layer is on its way into the engine when cairn is killed: what the engine has
// of it must not be in the way of the next build.
func TestALayerThatWasCutOffIsSentAgain(t *testing.T) {
	t.Parallel()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{})
	if _, err := r.PushBase(t.Context(), "big-200"); err != nil {
		t.Fatal(err)
	}
	p := newProject(t, strings.ReplaceAll(slow, "base/busybox", "base/big-200"), r)
	h, storage := newHost(t, ownDaemon), storageOf(t, r, "")
	b := h.startBuild(t, p, storage)
	await(t, "the engine has a part of the layer", func() bool { return ingested(t, h.state) > 10<<20 })
	b.kill(t)
	if n := shared.counter.count(counted(t, "install")); n != 0 {
		t.Fatalf("the commands ran %d times before the layer was there", n)
	}
	h.build(t, p, storage)
}

// ingested returns the size of the largest unfinished blob in an engine's store.
func ingested(t *testing.T, state string) (largest int64) {
	t.Helper()
	_ = filepath.WalkDir(state, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return nil // the engine is about its work
		}
		if d.Name() == "data" && strings.Contains(path, "/ingest/") {
			if info, err := d.Info(); err == nil {
				largest = max(largest, info.Size())
			}
		}
		return nil
	})
	return largest
}
