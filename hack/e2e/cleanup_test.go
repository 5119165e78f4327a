package e2e

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/registry"
)

// cleanedUp is a project that needs no engine, and keeps what its branch has.
const cleanedUp = `
-- cairn.yaml --
project: cleaned
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
-- file --
one
`

// Stock of the test: all builds but cleanedStay of it go, 308 names.
const (
	cleanedImages = 5
	cleanedBuilds = 30
	cleanedStay   = 2
)

// cleanedReport is what is looked at of a cleanup's report.
type cleanedReport struct {
	Freed   int64
	Removed *struct{ Removed, Gone, Waits, Needed, Failed int }
	Totals  []struct {
		Keep bool
		Tags int
	}
}

func (r cleanedReport) goes() int {
	n := 0
	for _, t := range r.Totals {
		if !t.Keep {
			n += t.Tags
		}
	}
	return n
}

func TestAKilledCleanupGoesOnAndTheRegistryFreesWhatWasPromised(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	p, h := newProject(t, cleanedUp, r), newHost(t, 0)
	repository := repository(t)
	h.flags = []string{"--stages-storage", r.Address() + "/" + repository, "--output", "json"}
	if res := h.run(t, p, "build"); res.code != 0 {
		t.Fatal(res.stderr)
	}
	stock := testbed.Stock{Images: cleanedImages, Builds: cleanedBuilds}
	if err := r.Fill(t.Context(), repository, stock); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "keep")
	if err := os.WriteFile(list, []byte(strings.Join([]string{stock.Tag(0), stock.Tag(1)}, "\n")), 0o600); err != nil {
		t.Fatal(err)
	}
	clean := func(more ...string) []string {
		return append([]string{"cleanup", "--without-kube", "--keep-list", list, "--removal-grace", "0s"}, more...)
	}
	plan := cleanupReport(t, h.run(t, p, clean("--dry-run")...))
	if want := (cleanedBuilds - cleanedStay) * (2*cleanedImages + 1); plan.goes() != want {
		t.Fatalf("%d tags go, want %d", plan.goes(), want)
	}
	killed := killCleanups(t, r, func() *running { return h.start(t, p, clean()...) }, 4*plan.goes())
	last := cleanupReport(t, h.run(t, p, clean()...))
	if last.Removed != nil && last.Removed.Waits+last.Removed.Needed+last.Removed.Failed > 0 {
		t.Errorf("after %d kills the last run left something: %+v", killed, *last.Removed)
	}
	leavesWhatIsKept(t, r.Address()+"/"+repository, stock)
	before := stored(t, r)
	if err := r.GarbageCollect(t.Context(), "--delete-untagged"); err != nil {
		t.Fatal(err)
	}
	// Cairn's own small manifests, by which it found out how to delete, go as well.
	if freed := before - stored(t, r); freed < plan.Freed || freed > plan.Freed+10_000 {
		t.Errorf("the collector freed %d bytes, and the plan promised %d", freed, plan.Freed)
	}
	leavesWhatIsKept(t, r.Address()+"/"+repository, stock)
}

// killCleanups kills some cleanups at random moments, of one with so many requests.
func killCleanups(t *testing.T, r *testbed.Registry, start func() *running, requests int) int {
	t.Helper()
	killed := 0
	for range 6 {
		if err := r.ResetLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		after := 1 + rand.N(requests/6)
		b := start()
		tick := time.NewTicker(2 * time.Millisecond)
		for under := true; under && r.Answered() < after; {
			select {
			case <-tick.C:
			case <-b.done:
				under = false
			}
		}
		tick.Stop()
		select {
		case <-b.done:
		default:
			b.kill(t)
			killed++
		}
		settled(t, r)
	}
	if killed < 2 {
		t.Errorf("only %d of 6 cleanups were under way when they were to be killed", killed)
	}
	return killed
}

func cleanupReport(t *testing.T, res result) cleanedReport {
	t.Helper()
	var out cleanedReport
	if err := json.Unmarshal([]byte(res.stdout), &out); err != nil || res.code != 0 {
		t.Fatalf("exit code %d, %v:\n%s", res.code, err, res.stderr)
	}
	return out
}

func stored(t *testing.T, r *testbed.Registry) int64 {
	t.Helper()
	n, err := r.StoredBytes()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// leavesWhatIsKept reads all that should be there, and nothing else is.
func leavesWhatIsKept(t *testing.T, address string, stock testbed.Stock) {
	t.Helper()
	client, err := registry.NewClient(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := client.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	kinds := map[inventory.Kind]int{}
	var indexes []string
	for tag, err := range s.Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		k := inventory.KindOf(tag)
		kinds[k]++
		if k == inventory.KindBuild {
			indexes = append(indexes, tag)
		}
		m, err := s.Manifest(t.Context(), tag)
		if err != nil {
			t.Errorf("%s: %v", tag, err)
			continue
		}
		members, blobs, err := m.References()
		if err != nil || !readable(t, s, blobs) {
			t.Errorf("%s is not whole: %v", tag, err)
		}
		for _, d := range members {
			if _, err := s.Manifest(t.Context(), d.Digest.String()); err != nil {
				t.Errorf("%s lists what is not there: %v", tag, err)
			}
		}
	}
	// The project's own image has two stages and a build.
	if got, want := fmt.Sprint(kinds[inventory.KindStage], kinds[inventory.KindBuild]), fmt.Sprint(2*cleanedImages*cleanedStay+2, cleanedStay+1); got != want {
		t.Errorf("stages and builds are %s, want %s", got, want)
	}
	for i := range cleanedStay {
		if !slices.Contains(indexes, stock.Tag(i)) {
			t.Errorf("build %d was to be kept", i)
		}
	}
}
