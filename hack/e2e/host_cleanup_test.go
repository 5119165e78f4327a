package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// smallVolume mounts a file system of so many MiB.
func smallVolume(t *testing.T, mib int) string {
	t.Helper()
	dir, err := os.MkdirTemp("/tmp", "ce")
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, fmt.Sprintf("size=%dm", mib)); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
		if err := os.Remove(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// usedOf returns the used bytes of a volume.
func usedOf(t *testing.T, dir string) int64 {
	t.Helper()
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		t.Fatal(err)
	}
	return int64(st.Blocks-st.Bfree) * int64(st.Bsize)
}

type cleaned struct {
	Total, Used, Goal, After, Freed, Ours, Foreign int64
	Evicted                                        []struct{ Store, ID string }
	Blocked                                        []struct {
		Reason string
		Items  int
		Bytes  int64
	}
}

func (h *host) cleanup(t *testing.T, p *project, args ...string) (cleaned, result) {
	t.Helper()
	r := h.run(t, p, append([]string{"host", "cleanup", "--output", "json"}, args...)...)
	var all []cleaned
	if err := json.Unmarshal([]byte(r.stdout), &all); err != nil || len(all) != 1 {
		t.Fatalf("%v: %s%s", err, r.stdout, r.stderr)
	}
	return all[0], r
}

// A volume is filled by builds of changing files; one pass brings it down to the
// low mark, what it says that it freed is what the volume gained, and the newest
// build is still there.
func TestHostCleanupBringsAFullVolumeToTheLowMark(t *testing.T) {
	t.Parallel()
	h := newHost(t, 0)
	h.cache = filepath.Join(smallVolume(t, 64), "cache")
	p := newProject(t, `
-- cairn.yaml --
project: full
---
image: app
from: scratch
git:
- {add: /data, to: /data}
`, shared.registry)
	var last report
	for i := range 11 {
		noise := make([]byte, 5<<20)
		if err := exec.CommandContext(t.Context(), "sh", "-c", "head -c 5242880 /dev/urandom > "+filepath.Join(p.dir, "noise")).Run(); err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(p.dir, "noise"))
		if err != nil {
			t.Fatal(err)
		}
		copy(noise, b)
		p.change(t, "data/blob", string(noise))
		last = h.build(t, p, ":local")
		if i == 0 {
			c, r := h.cleanup(t, p, "--min-age", "0s")
			if r.code != 0 || c.Goal != 0 || len(c.Evicted) != 0 {
				t.Fatalf("a volume with room is cleaned: %s%s", r.stdout, r.stderr)
			}
		}
	}
	before := usedOf(t, h.cache)
	young, r := h.cleanup(t, p)
	if r.code == 0 || len(young.Evicted) != 0 || !strings.Contains(fmt.Sprint(young.Blocked), "used in the last 1h") {
		t.Fatalf("what was just used goes, or it is not said why it stays: %d %s", r.code, r.stdout)
	}
	dry, _ := h.cleanup(t, p, "--min-age", "0s", "--dry-run")
	if len(dry.Evicted) == 0 || usedOf(t, h.cache) != before {
		t.Fatalf("a dry run tells %d and leaves %d bytes of %d", len(dry.Evicted), usedOf(t, h.cache), before)
	}
	c, r := h.cleanup(t, p, "--min-age", "0s")
	after := usedOf(t, h.cache)
	if r.code != 0 || after > c.Goal || c.Goal > c.Total*75/100 {
		t.Fatalf("it ends with %d at %d bytes, the goal is %d of %d: %s", r.code, after, c.Goal, c.Total, r.stderr)
	}
	if gained := before - after; c.Freed < gained*99/100 || c.Freed > gained*101/100 {
		t.Errorf("it says that %d bytes were freed, the volume gained %d", c.Freed, gained)
	}
	// No more than needed went: the last one that did was worth a stage of 5 MiB.
	if after < c.Goal-6<<20 {
		t.Errorf("it went down to %d, the goal was %d", after, c.Goal)
	}
	again := h.build(t, p, ":local")
	if again.Root != last.Root || again.count("assembled", "built") != 0 {
		t.Errorf("the newest build is made again: %v", again.results())
	}
}
