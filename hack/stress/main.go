// Command stress has many runners build the same commit at once, spoils what it
// can, and checks the history of it: docs/testing.md says what is promised and how
// this shows it.
//
//	go run ./hack/stress -rounds 200           rounds with faults
//	go run ./hack/stress -cleaner -rounds 200  runners at random commits, with cleaners
//	go run ./hack/stress -full                 32 runners without faults, and what they cost
//	go run ./hack/stress -check FILE           check a history that a failed round left
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
	"syscall"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
	"github.com/cairnbuild/cairn/lock"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stress:", err)
		os.Exit(1)
	}
}

// options are what the command line says.
type options struct {
	rounds int
	seed   uint64
	shape  shape
	full   bool
	clean  bool
	work   int
	check  string
	keep   string
	ttl    time.Duration
}

func run(ctx context.Context, args []string, w io.Writer) error {
	o := options{shape: faulty()}
	f := flag.NewFlagSet("stress", flag.ContinueOnError)
	f.IntVar(&o.rounds, "rounds", 10, "`NUMBER` of rounds with faults")
	f.Uint64Var(&o.seed, "seed", uint64(time.Now().Unix()), "`SEED` of the first round; the next ones follow it")
	f.IntVar(&o.shape.runners, "runners", o.shape.runners, "`NUMBER` of runners of a round")
	f.IntVar(&o.shape.engines, "engines", o.shape.engines, "`NUMBER` of hosts with an engine each")
	f.IntVar(&o.shape.images, "images", o.shape.images, "`NUMBER` of images of six stages each")
	f.BoolVar(&o.full, "full", false, "run 32 runners on 4 engines without faults, and measure what they cost")
	f.BoolVar(&o.clean, "cleaner", false, "have cleaners at work beside runners at random commits; the numbers of runners, engines and images are its own")
	f.IntVar(&o.work, "work", whole().work, "how many `MIB` each command of -full hashes")
	f.StringVar(&o.check, "check", "", "check the history in `FILE`, and run nothing")
	f.StringVar(&o.keep, "keep", os.TempDir(), "`DIRECTORY` for the histories of failed rounds")
	f.DurationVar(&o.ttl, "ttl", 0, "`TIME` after which a silent session counts as dead; 0 is 3s for rounds with faults and cairn's own without")
	if err := f.Parse(args); err != nil {
		return err
	}
	if o.check != "" {
		return checkFile(o.check, w)
	}
	if o.ttl == 0 {
		o.ttl = quickTTL
		if o.full {
			o.ttl = lock.DefaultTTL
		}
	}
	l, err := newLab(ctx, o.ttl)
	if err == nil {
		if o.full {
			err = o.runFull(ctx, l, w)
		} else {
			err = o.runRounds(ctx, l, w)
		}
	}
	if l != nil {
		err = errors.Join(err, l.close())
	}
	return err
}

// quickTTL is that of rounds with faults: a dead runner is noticed soon, and a
// pause of three times the TTL is short.
const quickTTL = 3 * time.Second

// faulty is the shape of a round with faults.
func faulty() shape {
	return shape{runners: 12, engines: 4, images: 6, faults: true, kills: 4, stops: 2, restarts: 1, bursts: 2, limit: 4 * time.Minute}
}

// whole is the shape of the largest round. Its commands hash 200 MiB each, which is
// about a second of work, as a short compilation is.
func whole() shape {
	return shape{runners: 32, engines: 4, images: 20, work: 200, limit: 8 * time.Minute}
}

// totals sums rounds up.
type totals struct {
	rounds, bad, commands, again, violations, nonzero int
	kills, stops, restarts, bursts, faults            int64
	wall                                              time.Duration
	sweeps                                            sweeps
}

func (t *totals) add(o *outcome) {
	t.rounds += max(1, o.shape.waves)
	t.sweeps = t.sweeps.plus(o.sweeps)
	t.commands += o.distinct
	t.again += o.commands - o.distinct
	t.violations += len(o.violations)
	t.nonzero += o.nonzero
	t.kills += o.kills
	t.stops += o.stops
	t.restarts += o.restarts
	t.bursts += o.bursts
	t.faults += o.faults
	t.wall += o.wall
}

func (o options) runRounds(ctx context.Context, l *lab, w io.Writer) error {
	var t totals
	for t.rounds < o.rounds {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		s := o.shape
		if o.clean {
			s = cleaned(min(maxWaves, o.rounds-t.rounds))
		}
		hosts, err := l.engines(ctx, s.engines)
		if err != nil {
			return err
		}
		out, err := l.play(ctx, o.seed+uint64(t.rounds), s, hosts)
		if out == nil {
			return err
		}
		t.add(out)
		fmt.Fprintf(w, "round %d/%d, %s\n", t.rounds, o.rounds, out.line())
		if err != nil || len(out.violations) > 0 {
			t.bad++
			if kept := keepHistory(w, o.keep, out, err); kept != nil {
				return kept
			}
		}
	}
	if o.clean {
		fmt.Fprintln(w, t.sweeps)
	}
	fmt.Fprintf(w, "%d rounds in %.0f s: %d kills, %d stops, %d API restarts, %d bursts, %d spoilt exchanges; %d commands, %d run again; %d runs ended with an error; %d violations in %d bad rounds\n",
		t.rounds, t.wall.Seconds(), t.kills, t.stops, t.restarts, t.bursts, t.faults, t.commands, t.again, t.nonzero, t.violations, t.bad)
	if t.bad > 0 {
		return fmt.Errorf("%d of %d rounds failed", t.bad, t.rounds)
	}
	return nil
}

// keepHistory keeps what a failed round leaves, and says how to look at it.
func keepHistory(w io.Writer, dir string, o *outcome, failure error) error {
	keep := filepath.Join(dir, fmt.Sprintf("cairn-stress-%d", o.seed))
	if err := os.CopyFS(keep, os.DirFS(o.dir)); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	path := filepath.Join(keep, "history.jsonl")
	file, err := os.Create(path)
	if err != nil {
		return err
	}
	err = errors.Join(history.Write(file, o.history), file.Close())
	if failure != nil {
		fmt.Fprintln(w, failure)
	}
	for _, v := range o.violations {
		fmt.Fprintln(w, v)
	}
	fmt.Fprintf(w, "The logs of its runners are in %s; check its history again with\n\n    go run ./hack/stress -check %s\n\n", keep, path)
	return err
}

// checkFile checks a history that was kept.
func checkFile(path string, w io.Writer) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	h, err := history.Read(file)
	if err != nil {
		return err
	}
	found := history.Check(h)
	for _, v := range found {
		fmt.Fprintln(w, v)
	}
	fmt.Fprintf(w, "%s: %d events, %d revisions of shards, %d violations\n", h.Name, len(h.Events), len(h.Revisions), len(found))
	if len(found) > 0 {
		return fmt.Errorf("%d violations", len(found))
	}
	return nil
}
