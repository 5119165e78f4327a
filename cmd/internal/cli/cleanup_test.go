package cli

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/cleanup/kube"
	"github.com/cairnbuild/cairn/cleanup/sweep"
	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
)

// sampleCleanup is a plan with a verdict of most kinds.
func sampleCleanup(t *testing.T) *wire.Cleanup {
	t.Helper()
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	inv := &inventory.Inventory{Manifests: map[digest.Digest]*inventory.Manifest{}}
	add := func(tag string, kind inventory.Kind, m *inventory.Manifest) {
		if m != nil {
			inv.Manifests[m.Digest] = m
		}
		inv.Names = append(inv.Names, inventory.Name{Tag: tag, Kind: kind, Manifest: m, Seen: now.Add(-48 * time.Hour)})
	}
	manifest := func(word string) *inventory.Manifest {
		return &inventory.Manifest{Digest: digest.FromString(word), Size: 400, Config: inventory.Blob{Digest: digest.FromString("config " + word), Size: 100},
			Layers: []inventory.Blob{{Digest: digest.FromString("layer " + word), Size: 3_000_000}}}
	}
	stage := func(word string) stages.Digest { return stages.DigestOf([]byte(word)) }
	index := func(word string) *inventory.Manifest {
		return &inventory.Manifest{Digest: digest.FromString("index " + word), Size: 300, Index: true, Members: []inventory.Member{{Digest: digest.FromString(word), Image: "web", Stage: stage(word)}}}
	}
	for _, word := range []string{"old", "new", "used", "lost"} {
		add(storage.StageTag(stage(word)), inventory.KindStage, manifest(word))
	}
	add(storage.BuildTag(stage("build old")), inventory.KindBuild, index("old"))
	add(storage.BuildTag(stage("build new")), inventory.KindBuild, index("new"))
	add(storage.ProjectTag, inventory.KindMarker, &inventory.Manifest{Digest: digest.FromString("marker"), Size: 500})
	add("latest\x1b[31m", inventory.KindForeign, nil)
	commits := []cleanup.Commit{
		{ID: "1111111111111111111111111111111111111111", Why: "tip of branch main", Images: []cleanup.Image{{Name: "web", Stages: []stages.Digest{stage("new")}}}},
		{ID: "2222222222222222222222222222222222222222", Why: "tag v1"},
	}
	d, err := cleanup.Plan(cleanup.Input{
		Inventory: inv, Commits: commits, Now: now,
		InUse:  []cleanup.Mention{{Digest: stage("used"), Where: "Pod shop/web (spec.containers[0].image), cluster prod"}, {Tag: "v9", Where: "Pod shop/job (spec.containers[0].image), cluster prod"}},
		Listed: []cleanup.Mention{{Digest: stage("used"), Where: "keep.txt:3"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	return &wire.Cleanup{Decision: d, Storage: "registry.test/shop", References: 2, Commits: commits, Clusters: []string{"prod"}}
}

func TestACleanupIsReported(t *testing.T) {
	for name, c := range map[string]struct {
		output string
		dryRun bool
		change func(*wire.Cleanup, *cleanupReport) error
	}{
		"cleanup-plan.txt":  {formatText, true, nil},
		"cleanup-plan.json": {formatJSON, true, nil},
		"cleanup-done.txt": {formatText, false, func(_ *wire.Cleanup, r *cleanupReport) error {
			r.Removed = removedOf(sweep.Outcome{Removed: 1, Waits: 2, Left: 23*time.Hour + 59*time.Minute})
			return nil
		}},
		"cleanup-unread.json": {formatJSON, false, func(c *wire.Cleanup, r *cleanupReport) error {
			c.Unread = []*kube.Error{{Cluster: "prod", Resource: "pods", Status: 403, Err: errors.New("pods is forbidden")}}
			*r = reportCleanup("shop", c, false)
			return &unreadError{1, c.Unread[0]}
		}},
	} {
		t.Run(name, func(t *testing.T) {
			plan := sampleCleanup(t)
			report := reportCleanup("shop", plan, c.dryRun)
			var ended error
			if c.change != nil {
				ended = c.change(plan, &report)
			}
			var out bytes.Buffer
			a := &app{Process: Process{Out: &out}, output: c.output}
			if err := a.showCleanup(report, ended); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join("testdata", "cleanup", name)
			if *update {
				if err := os.WriteFile(path, out.Bytes(), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			if out.String() != string(want) {
				t.Errorf("%s is stale; write it anew with -update\ngot:\n%s", path, out.String())
			}
			if strings.Contains(out.String(), "\x1b[31m") {
				t.Error("a tag steers the terminal")
			}
			if c.output == formatJSON {
				if err := validate(filepath.Join("..", "..", "..", "docs", "cleanup.schema.json"), out.Bytes()); err != nil {
					t.Error(err)
				}
			}
		})
	}
}

func TestEveryCodeHasWords(t *testing.T) {
	for _, c := range append(cleanup.Keeping(), cleanup.Removing()...) {
		if codeWords(c) == "" {
			t.Errorf("%s has none", c)
		}
	}
}

func TestStepsAreToldNowAndThen(t *testing.T) {
	var out bytes.Buffer
	now := time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)
	s := newSteps(&out, func() time.Time { return now })
	s.tell("reading", 0, 100)
	s.tell("reading", 1, 100)
	now = now.Add(stepEvery)
	s.tell("reading", 50, 100)
	s.tell("deciding", 0, 0)
	if got, want := out.String(), "reading\nreading: 50 of 100\ndeciding\n"; got != want {
		t.Errorf("told %q, want %q", got, want)
	}
}
