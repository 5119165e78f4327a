// Command model checks the protocols of the ledger and the storage with the
// model checker spin: every configuration of the matrix must hold, and every
// mutant, a protocol with one rule left out, must be refused. It prints a table
// and fails when anything is otherwise:
//
//	go run ./hack/model [-soak] [-only TEXT] [-parallel N] [-dir hack/model]
//
// The models beside it say what they assume; docs/decisions/0010-protocol-model.md
// says what came of them.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"strings"
	"syscall"
	"text/tabwriter"

	"golang.org/x/sync/errgroup"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "model:", err)
		os.Exit(1)
	}
}

// errDeviates says that a check did not end as it must.
var errDeviates = errors.New("a check did not end as expected")

type options struct {
	dir, only string
	soak      bool
	parallel  int
}

func parse(args []string) (options, error) {
	o := options{}
	flags := flag.NewFlagSet("model", flag.ContinueOnError)
	flags.StringVar(&o.dir, "dir", "hack/model", "where the models are")
	flags.StringVar(&o.only, "only", "", "run only checks whose model or switches contain this")
	flags.BoolVar(&o.soak, "soak", false, "larger configurations instead: more runners, deeper, the largest by swarms of partial searches")
	flags.IntVar(&o.parallel, "parallel", 2, "checks at once; each takes one core and up to 2 GB")
	err := flags.Parse(args)
	if err == nil && flags.NArg() > 0 {
		err = fmt.Errorf("unexpected argument %q", flags.Arg(0))
	}
	return o, err
}

func run(ctx context.Context, args []string, out io.Writer) (err error) {
	o, err := parse(args)
	if errors.Is(err, flag.ErrHelp) {
		return nil
	}
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "cairn-model-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	checks := choose(o)
	if len(checks) == 0 {
		return fmt.Errorf("no check contains %q", o.only)
	}
	results := make([]result, len(checks))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(max(1, o.parallel))
	for i, c := range checks {
		g.Go(func() error {
			var err error
			results[i], err = c.run(ctx, o.dir, work)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	return report(out, checks, results)
}

func choose(o options) []check {
	all := everyTime()
	if o.soak {
		all = atLength()
	}
	var chosen []check
	for _, c := range all {
		if strings.Contains(c.String(), o.only) {
			chosen = append(chosen, c)
		}
	}
	return chosen
}

// report prints the table and returns [errDeviates] when a check went wrong.
func report(out io.Writer, checks []check, results []result) error {
	w := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "model\tconfiguration\tstates\tdepth\tseconds\texpected\tgot\t")
	bad := 0
	for i, c := range checks {
		r, mark := results[i], ""
		if r.verdict != c.want {
			bad++
			mark = "← WRONG " + r.detail
		}
		fmt.Fprintf(w, "%s\t%s\t%.0f\t%d\t%.1f\t%s\t%s\t%s\n", c.model, c.switches, r.states, r.depth, r.seconds, c.want, r.verdict, mark)
	}
	if err := w.Flush(); err != nil {
		return err
	}
	if bad > 0 {
		return fmt.Errorf("%w: %d of %d", errDeviates, bad, len(checks))
	}
	fmt.Fprintf(out, "all %d checks ended as expected\n", len(checks))
	return nil
}
