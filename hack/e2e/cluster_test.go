package e2e

import (
	"fmt"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// spaced is a cluster of a test's own, with a namespace that is made by the first build.
type spaced struct {
	*testbed.Cluster
	namespace string
}

func newSpaced(t *testing.T) *spaced {
	t.Helper()
	return &spaced{testbed.NewCluster(t, testbed.ClusterOptions{}), "cairn-test-" + shared.serials.of(t)}
}

// ledger is the address of a ledger in the cluster; more are parameters of it.
func (c *spaced) ledger(more string) string {
	return fmt.Sprintf("kubernetes://%s?kubeconfig=%s%s", c.namespace, c.Kubeconfig, more)
}

// kubectl runs kubectl in the namespace.
func (c *spaced) kubectl(t *testing.T, args ...string) string {
	t.Helper()
	out, err := c.Kubectl(t.Context(), append([]string{"-n", c.namespace}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("kubectl %v: %v: %s", args, err, out)
	}
	return string(out)
}

// held is a build whose one command waits for a test's leave to end.
const held = `
-- cairn.yaml --
project: held
configVersion: 1
---
image: app
from: @REGISTRY@/base/busybox:latest
shell:
  install:
  - @COUNT@/first
  setup:
  - @COUNT@/second
  - date > /now
`

// An outage of the API server within what is allowed costs nothing, also when the
// session was lost during it; a longer one costs no result.
func TestAnOutageOfTheClusterLosesNothing(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, ttl, timeout string
		lasts              string // what the log says before the server comes back
		fails              bool
	}{
		{name: "within the time allowed", timeout: "5m", lasts: "does not answer"},
		{name: "with the session lost", ttl: "&ttl=3s", timeout: "5m", lasts: "does not answer"},
		{name: "for longer", timeout: "6s", fails: true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newSpaced(t)
			p, storage := newProject(t, held, shared.registry), storageOf(t, shared.registry, "")
			h := newHost(t, 0)
			flags := []string{"--synchronization", c.ledger(tt.ttl), "--synchronization-timeout", tt.timeout}
			open := shared.counter.hold(t, counted(t, "second"))
			b := h.startBuild(t, p, storage, flags...)
			t.Cleanup(func() {
				if t.Failed() {
					t.Logf("cairn said:\n%s", b.err.String())
				}
			})
			shared.counter.await(t, counted(t, "second"), 1)
			if err := c.Kill(); err != nil {
				t.Fatal(err)
			}
			if tt.ttl != "" {
				await(t, "the outage is told of", func() bool { return strings.Contains(b.err.String(), tt.lasts) })
				await(t, "the session is lost", func() bool { return strings.Count(b.err.String(), "does not answer") > 1 })
			}
			open()
			if !tt.fails {
				await(t, "the countdown is told", func() bool { return strings.Contains(b.err.String(), "s more; results are kept") })
			} else {
				<-b.done
			}
			if err := c.Restart(t.Context()); err != nil {
				t.Fatal(err)
			}
			res := b.wait(t)
			if tt.fails {
				message, hint := res.errorLines()
				if res.code != 9 || !strings.Contains(message, c.namespace) || !strings.Contains(hint, "keep-local") || len(res.report.Kept) != 1 {
					t.Errorf("cairn ends with %d, kept %v:\n%s", res.code, res.report.Kept, res.stderr)
				}
				res = h.on(1).startBuild(t, p, storage, flags...).wait(t)
			} else if !strings.Contains(res.stderr, "the ledger answers again") {
				t.Errorf("nobody was told that the ledger is back:\n%s", res.stderr)
			}
			succeeded(t, res)
			for _, what := range []string{"first", "second"} {
				if n := shared.counter.count(counted(t, what)); n != 1 {
					t.Errorf("the command %s ran %d times:\n%s", what, n, res.stderr)
				}
			}
			checkRepository(t, storage)
		})
	}
}

// Four runners on two engines share eight images; each command runs once.
func TestRunnersShareTheImagesOfABuild(t *testing.T) {
	t.Parallel()
	const images, runners = 8, 4
	c := newSpaced(t)
	var config strings.Builder
	config.WriteString("-- cairn.yaml --\nproject: fleet\nconfigVersion: 1\n")
	for i := range images {
		fmt.Fprintf(&config, "---\nimage: app%d\nfrom: @REGISTRY@/base/busybox:latest\nshell:\n", i)
		for _, section := range []string{"beforeInstall", "install", "beforeSetup", "setup"} {
			fmt.Fprintf(&config, "  %s: [\"sleep 0.3; date +%%N > /%s; @COUNT@/%d-%s\"]\n", section, section, i, section)
		}
	}
	p, storage := newProject(t, config.String(), shared.registry), storageOf(t, shared.registry, "")
	began := time.Now()
	results := make([]result, runners)
	var all sync.WaitGroup
	for i := range results {
		b := newHost(t, i%2).startBuild(t, p, storage, "--synchronization", c.ledger(""), "--parallel", "2")
		all.Go(func() { results[i] = b.wait(t) })
	}
	all.Wait()
	var built []int
	for _, res := range results {
		r := succeeded(t, res)
		if r.Root != results[0].report.Root {
			t.Errorf("the roots are %s and %s", r.Root, results[0].report.Root)
		}
		built = append(built, r.count("built"))
	}
	t.Logf("%d runners on 2 engines built %v of %d command stages in %s", runners, built, 4*images, time.Since(began).Round(time.Millisecond))
	for i := range images {
		for _, section := range []string{"beforeInstall", "install", "beforeSetup", "setup"} {
			if n := shared.counter.count(counted(t, fmt.Sprintf("%d-%s", i, section))); n != 1 {
				t.Errorf("the command of app%d/%s ran %d times", i, section, n)
			}
		}
	}
	for i, n := range built {
		if n == 0 {
			t.Errorf("runner %d had nothing to do: %v", i, built)
		}
	}
	checkRepository(t, storage)
}

// versioned is a project of which each version makes one more stage upon the first.
func versioned(t *testing.T, name string) (*project, func(version string)) {
	t.Helper()
	config := func(version string) string {
		return expand(t, "project: "+name+"\nconfigVersion: 1\n---\nimage: app\nfrom: @REGISTRY@/base/busybox:latest\n"+
			"shell:\n  install: [\"date > /now\"]\n  setup: [\": "+version+"\"]\n", shared.registry)
	}
	p := newProject(t, "-- cairn.yaml --\n"+config("1"), shared.registry)
	return p, func(version string) { p.change(t, "cairn.yaml", config(version)) }
}

// What somebody else did to a ledger is told with its place and what mends it.
func TestALedgerThatWasTamperedWith(t *testing.T) {
	t.Parallel()
	c := newSpaced(t)
	h := newHost(t, 0)
	storage := storageOf(t, shared.registry, "")
	p, change := versioned(t, "tampered")
	flags := []string{"--synchronization", c.ledger("")}
	refused := func(storage, says, hints string, args ...string) {
		t.Helper()
		res := h.startBuild(t, p, storage, args...).wait(t)
		message, hint := res.errorLines()
		if res.code == 0 || !strings.Contains(message, says) || !strings.Contains(hint, hints) {
			t.Errorf("cairn ends with %d, want an error about %q with a hint at %q:\n%s", res.code, says, hints, res.stderr)
		}
	}
	first := h.build(t, p, storage, flags...)

	// Nonsense in an entry.
	below := digestOf(t, first, "app/install")
	shard := shardWith(t, c, "stage."+below)
	c.kubectl(t, "patch", "configmap", shard, "--type=merge", "-p", fmt.Sprintf(`{"data":{"stage.%s":"nonsense"}}`, below))
	change("2")
	repair := "cairn locks break " + below
	refused(storage, "stage."+below, repair, flags...)
	refused(storage, shard, repair, flags...)
	if res := h.run(t, p, append([]string{"locks", "break", below, "--reason", "a test", "--stages-storage", storage}, flags...)...); res.code != 0 {
		t.Errorf("the repair ends with %d:\n%s", res.code, res.stderr)
	}
	h.build(t, p, storage, flags...)

	// Another repository for the project, and another ledger for the repository.
	change("3")
	refused(storage+"-other", storage, "use the storage that the ledger belongs to", flags...)
	other := *c
	other.namespace += "-other"
	refused(storage, "ledger", "cairn synchronization adopt", "--synchronization", other.ledger(""))

	// The ledger is lost and made again.
	c.kubectl(t, "delete", "configmap", "--all")
	refused(storage, "ledger", "cairn synchronization adopt", flags...)
	adopt := append([]string{"synchronization", "adopt", "--reason", "the cluster was made anew", "--stages-storage", storage}, flags...)
	if res := h.run(t, p, adopt...); res.code != 2 || !strings.Contains(res.stderr, "--yes") {
		t.Errorf("adopt without --yes ends with %d:\n%s", res.code, res.stderr)
	}
	if res := h.run(t, p, append(adopt, "--yes")...); res.code != 0 {
		t.Errorf("adopt ends with %d:\n%s", res.code, res.stderr)
	}
	h.build(t, p, storage, flags...)

	// A ledger of another format.
	c.kubectl(t, "patch", "configmap", "cairn-tampered", "--type=merge", "-p", `{"data":{"format":"7"}}`)
	change("4")
	refused(storage, `format "7", this program knows format "1"`, "use the version of cairn that made it", flags...)
	checkRepository(t, storage)
}

// shardWith returns the name of the ConfigMap that has a key.
func shardWith(t *testing.T, c *spaced, key string) string {
	t.Helper()
	const each = `{range .items[*]}{.metadata.name}{" "}{.data}{"\n"}{end}`
	for line := range strings.Lines(c.kubectl(t, "get", "configmaps", "-o", "jsonpath="+each)) {
		if name, data, _ := strings.Cut(line, " "); strings.Contains(data, key) {
			return name
		}
	}
	t.Fatalf("no ConfigMap has the key %s", key)
	return ""
}

// Objects that are deleted under a build are made again; what was in flight is
// decided anew, and the report tells of the loss.
func TestALedgerThatIsDeletedUnderABuild(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		lost func(name string) bool
	}{
		{"all shards", func(name string) bool { return strings.HasPrefix(name, "configmap/cairn-held.") }},
		{"one shard", func(name string) bool { return name == "configmap/cairn-held.3" }},
		{"everything", func(name string) bool { return strings.HasPrefix(name, "configmap/cairn-held") }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newSpaced(t)
			p, storage := newProject(t, held, shared.registry), storageOf(t, shared.registry, "")
			open := shared.counter.hold(t, counted(t, "second"))
			b := newHost(t, 0).startBuild(t, p, storage, "--synchronization", c.ledger(""))
			shared.counter.await(t, counted(t, "second"), 1)
			for name := range strings.Lines(c.kubectl(t, "get", "configmaps", "-o", "name")) {
				if name = strings.TrimSpace(name); tt.lost(name) {
					c.kubectl(t, "delete", name)
				}
			}
			open()
			res := b.wait(t)
			r := succeeded(t, res)
			if len(r.Losses) == 0 || !strings.Contains(res.stderr, "parts of the ledger were lost") {
				t.Errorf("losses %v:\n%s", r.Losses, res.stderr)
			}
			if n := shared.counter.count(counted(t, "second")); n != 1 {
				t.Errorf("the command ran %d times", n)
			}
			checkRepository(t, storage)
		})
	}
}
