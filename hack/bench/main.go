// Command bench measures cairn beside a plain BuildKit of the pinned version
// with its registry cache, on the same registry, in one run, alternating. It
// prints every figure with its target and fails when one is missed:
//
//	go run ./hack/bench [-case NAME]… [-rounds N] [-out FILE]
//
// The yardstick's daemon is started before its clock is; everything that cairn
// starts is inside its own time.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"github.com/cairnbuild/cairn/hack/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:])
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// errMissed says that a figure is worse than its target.
var errMissed = errors.New("a target was missed")

type options struct {
	cases  []string
	rounds int
	out    string
}

func parse(args []string) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	flags.Func("case", "run only this case (may be repeated): "+strings.Join(caseNames(), ", "), func(s string) error {
		if !slices.Contains(caseNames(), s) {
			return fmt.Errorf("want one of %s", strings.Join(caseNames(), ", "))
		}
		o.cases = append(o.cases, s)
		return nil
	})
	flags.IntVar(&o.rounds, "rounds", 5, "how often each side is measured; the median counts")
	flags.StringVar(&o.out, "out", "", "page to write instead of docs/benchmarks.md; of its sections those of the cases that ran are replaced")
	if err := flags.Parse(args); err != nil {
		return o, err
	}
	if o.rounds < 1 || flags.NArg() > 0 {
		return o, errors.New("want -rounds of 1 or more and no further arguments")
	}
	return o, nil
}

// benchCase is one row of what has to be shown.
type benchCase struct {
	name, title string
	run         func(context.Context, *bench) ([]figure, error)
}

func cases() []benchCase {
	return []benchCase{
		{"noop", "Nothing has changed: 100 images of 10 stages, 10,000 files, empty local state", noop},
		{"source", "One source file has changed: 300 MB base, empty local state", source},
		{"tree", "One file has changed in a tree of 100 MB", tree},
		{"first", "First build: 4 command stages, all published", first},
		{"dockerfile", "Images of Dockerfiles, empty local state", dockerfiles},
		{"memory", "Memory while a layer of 2,000 MiB travels that does not compress, one run", memory},
		{"plan", "Plan of 1,000 images over 50,000 files", plan},
		{"ledger", "Coordination: 50 sessions with 8 stages in flight each, in the ledger of one project, beside one API server on this machine", ledger},
		{"sync", "Sync of 3,000 stages, 30 images of 100 builds with shared layers, between two repositories of one registry", syncStages},
		{"cleanup", "Cleanup of 20,000 stages of 2,000 builds: two plans", cleanupPlans},
		{"removal", "Removal of 10,000 names, with kills, and the registry's own garbage collector", cleanupRemovals},
		{"adopt", "Adoption of stages that another run publishes, beside one API server on this machine", adopt},
	}
}

func caseNames() []string {
	var names []string
	for _, c := range cases() {
		names = append(names, c.name)
	}
	return names
}

func run(ctx context.Context, args []string) (err error) {
	o, err := parse(args)
	if err != nil {
		return err
	}
	b, err := newBench(ctx, o.rounds)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, b.close()) }()
	var results []result
	for _, c := range cases() {
		if len(o.cases) > 0 && !slices.Contains(o.cases, c.name) {
			continue
		}
		fmt.Printf("\n%s: %s\n", c.name, c.title)
		figures, err := c.run(ctx, b)
		if err != nil {
			return fmt.Errorf("case %s: %w", c.name, err)
		}
		r := result{benchCase: c, figures: figures}
		if err := r.text(os.Stdout); err != nil {
			return err
		}
		results = append(results, r)
	}
	return report(ctx, o, results)
}

// report writes the page and returns errMissed where a figure is.
func report(ctx context.Context, o options, results []result) error {
	path, err := pageOf(o)
	if err == nil {
		err = write(ctx, path, o.rounds, results)
	}
	if err != nil {
		return err
	}
	for _, r := range results {
		for _, f := range r.figures {
			if f.missed {
				return errMissed
			}
		}
	}
	return nil
}

// bench is what the cases share.
type bench struct {
	top, work string
	rounds    int
	registry  *testbed.Registry
	progress  io.Writer
	serial    int
}

func newBench(ctx context.Context, rounds int) (*bench, error) {
	top, err := testbed.Root()
	if err != nil {
		return nil, err
	}
	work, err := os.MkdirTemp("", "cairn-bench-")
	if err != nil {
		return nil, err
	}
	b := &bench{top: top, work: work, rounds: rounds, progress: os.Stdout}
	if b.registry, err = testbed.StartRegistry(ctx, testbed.RegistryOptions{}); err != nil {
		return nil, errors.Join(err, os.RemoveAll(work))
	}
	return b, nil
}

func (b *bench) close() error { return errors.Join(b.registry.Stop(), os.RemoveAll(b.work)) }

// path returns a new path in the working directory.
func (b *bench) path(name string) string {
	b.serial++
	return filepath.Join(b.work, fmt.Sprintf("%s-%d", name, b.serial))
}

func (b *bench) say(format string, args ...any) {
	fmt.Fprintf(b.progress, "  "+format+"\n", args...)
}
