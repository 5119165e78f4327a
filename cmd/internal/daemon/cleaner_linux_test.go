package daemon

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.uber.org/zap"
)

func TestCleanupsRunOnTheirScheduleOneAtATime(t *testing.T) {
	dirs := []string{t.TempDir(), t.TempDir()}
	synctest.Test(t, func(t *testing.T) {
		c, err := newCleaner(Cleaning{Schedule: "0 * * * *", Projects: []string{dirs[0], dirs[1] + "=registry.test/shop"}}, zap.NewNop())
		if err != nil {
			t.Fatal(err)
		}
		var began []time.Time
		running := 0
		c.clean = func(ctx context.Context, p cleanedProject) cleanedRun {
			if running++; running > 1 {
				t.Error("two at a time")
			}
			defer func() { running-- }()
			if p.dir == dirs[0] {
				began = append(began, time.Now())
			}
			select {
			case <-time.After(40 * time.Minute): // both together take longer than an hour
			case <-ctx.Done():
				return cleanedRun{outcome: cleanupFailed, line: "ended"}
			}
			return cleanedRun{outcome: cleanupDone, line: "removed 3 tags", removed: 3}
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		start := time.Now()
		go func() { done <- c.run(ctx) }()
		<-time.After(5*time.Hour - time.Since(start.Truncate(time.Hour)))
		cancel()
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		if len(began) != 2 {
			t.Fatalf("%d runs began: %v", len(began), began)
		}
		for _, at := range began {
			if late := at.Sub(at.Truncate(time.Hour)); late < 0 || late > 6*time.Minute {
				t.Errorf("one began at %s", at)
			}
		}
		last, next := c.status()
		if len(last) != 2 || last[1].Storage != "registry.test/shop" || last[0].Line != "removed 3 tags" || next == nil || !next.After(start) {
			t.Errorf("the status is %+v, next %v", last, next)
		}
		if got := testutil.ToFloat64(c.metrics.removed); got != 12 {
			t.Errorf("%v tags are counted", got)
		}
	})
}

func TestHowACleanupEndedIsRead(t *testing.T) {
	for _, c := range []struct {
		name, script, outcome, line string
		removed                     int
	}{
		{"it removed something", `echo '{"freed": 5, "removed": {"removed": 7, "waits": 2, "failed": 0}}'`, cleanupDone, "removed 7 tags, 2 wait for their grace, 0 failed", 7},
		{"there was nothing", `echo '{"freed": 0}'`, cleanupDone, "nothing to remove", 0},
		{"a cluster cannot be read", `echo '{"error": {"message": "everything is kept"}}'; exit 11`, cleanupUnread, "everything is kept", 0},
		{"it failed", `echo '{"error": {"message": "denied"}}'; exit 6`, cleanupFailed, "denied", 0},
		{"it says nothing", `exit 1`, cleanupFailed, "exit status 1\nEOF", 0},
		{"it says nonsense", `echo nothing`, cleanupFailed, "invalid character 'o' in literal null (expecting 'u')", 0},
		{"it gets what it should work on", `test "$*" = "cleanup --dir /shop --output json --stages-storage registry.test/shop" && echo '{}'`, cleanupDone, "nothing to remove", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			program := filepath.Join(t.TempDir(), "cairn")
			if err := os.WriteFile(program, []byte("#!/bin/sh\n"+c.script+"\n"), 0o700); err != nil {
				t.Fatal(err)
			}
			got := runProgram(t.Context(), program, cleanedProject{"/shop", "registry.test/shop"})
			if got != (cleanedRun{c.outcome, c.line, c.removed}) {
				t.Errorf("it ended as %+v", got)
			}
		})
	}
}

func TestAScheduleThatCannotBeIsRefused(t *testing.T) {
	dir := t.TempDir()
	for _, c := range []struct {
		in   Cleaning
		want string
	}{
		{Cleaning{Schedule: "every day", Projects: []string{dir}}, "--cleanup-schedule"},
		{Cleaning{Schedule: "61 * * * *", Projects: []string{dir}}, "--cleanup-schedule"},
		{Cleaning{Schedule: "0 3 * * *"}, "--cleanup-project"},
		{Cleaning{Projects: []string{dir}}, "--cleanup-schedule"},
		{Cleaning{Schedule: "0 3 * * *", Projects: []string{dir + "/none"}}, "no such directory"},
	} {
		if _, err := newCleaner(c.in, zap.NewNop()); err == nil || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%+v: %v", c.in, err)
		}
	}
	c, err := newCleaner(Cleaning{}, zap.NewNop())
	if err != nil {
		t.Fatal(err)
	}
	if err := c.run(t.Context()); err != nil { // it has nothing to do
		t.Error(err)
	}
}
