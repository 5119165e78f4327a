// Command demo builds the sample project hack/samples/demo four times with
// bin/cairn, first with the stages on disk and then in a registry on loopback,
// and says what each build had to do.
//
// It keeps everything in a temporary directory and ends what it started.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"text/tabwriter"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/hack/testbed"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := demo(ctx)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func demo(ctx context.Context) (err error) {
	top, err := testbed.Root()
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp("", "cairn-demo-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(work)) }()
	registry, err := testbed.StartRegistry(ctx, testbed.RegistryOptions{})
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, registry.Stop()) }()
	for _, base := range []string{"busybox", "toolchain"} {
		if _, err := registry.PushBase(ctx, base); err != nil {
			return err
		}
	}
	for _, p := range []part{
		{"disk", "stages on this disk", ":local"},
		{"registry", "stages in a registry", registry.Address() + "/demo/stages"},
	} {
		p.say(registry)
		machine := runner.Machine{
			Home: filepath.Join(work, p.name, "home"), Bin: filepath.Join(top, "bin"),
			Env: []string{"CAIRN_DEMO_REGISTRY=" + registry.Address(), "NO_COLOR=1"},
		}
		if err := p.run(ctx, machine, filepath.Join(top, "hack", "samples", "demo"), filepath.Join(work, p.name, "project")); err != nil {
			return err
		}
	}
	return nil
}

// part is one half of the demo.
type part struct{ name, title, storage string }

func (p part) say(r *testbed.Registry) {
	fmt.Printf("\n==== %s: --stages-storage %s (bases come from %s) ====\n", p.title, p.storage, r.Address())
}

// step is one build, after a change.
type step struct {
	title string
	// file is appended to, with text.
	file, text string
	// expect returns what of the report contradicts the title, or "".
	expect func(runner.Report) string
}

func steps() []step {
	return []step{
		{title: "everything is new", expect: func(r runner.Report) string {
			return when(r.Count("built") == 0, "no stage was built")
		}},
		{title: "nothing has changed", expect: func(r runner.Report) string {
			asked := r.Requests.Registry == nil || *r.Requests.Registry > 1
			return when(changed(r) != 0 || r.EngineStarted || asked, "something was made or asked for")
		}},
		{title: "a source file has changed", file: "site/pages/index.html", text: "<p>One line more.\n", expect: func(r runner.Report) string {
			return when(names(r, "site") != "source" || changed(r) != 1 || r.EngineStarted, "more than the stage source of site was made: "+names(r, "site"))
		}},
		{title: "a declared dependency has changed", file: "backend/vendor/greeting/greeting.c", text: "\nint greeting_version = 2;\n", expect: func(r runner.Report) string {
			return when(names(r, "backend") != "install beforeSetup setup source", "backend was not made from install on: "+names(r, "backend"))
		}},
	}
}

func when(wrong bool, message string) string {
	if wrong {
		return message
	}
	return ""
}

// run builds after each change and closes with a table.
func (p part) run(ctx context.Context, m runner.Machine, sample, dir string) (err error) {
	if err := m.Make(); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.Remove(context.WithoutCancel(ctx))) }()
	if err := os.CopyFS(dir, os.DirFS(sample)); err != nil {
		return err
	}
	repository, err := runner.NewRepository(ctx, dir)
	if err != nil {
		return err
	}
	if err := pin(ctx, m, repository.Dir); err != nil {
		return err
	}
	var table strings.Builder
	w := tabwriter.NewWriter(&table, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "build\tseconds\tcached\tassembled\tbuilt\tengine\trequests\tstages made")
	for i, s := range steps() {
		report, cost, err := p.build(ctx, m, repository, i, s)
		if err != nil {
			return err
		}
		fmt.Fprintf(w, "%d. %s\t%.2f\t%d\t%d\t%d\t%s\t%s\t%s\n", i+1, s.title, cost.Wall.Seconds(), report.Count("cached")+report.Count("adopted"),
			report.Count("assembled"), report.Count("built"), yes(report.EngineStarted), number(report.Requests.Registry), orNone(made(report)))
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Printf("\n%s\n", table.String())
	return nil
}

// pin writes cairn.lock, which the first build commits with everything else.
func pin(ctx context.Context, m runner.Machine, dir string) error {
	fmt.Println("\n-- 0. the bases are pinned, and cairn.lock is committed\n$ cairn lock")
	_, _, err := m.Cairn(ctx, dir, os.Stdout, "lock")
	return err
}

func (p part) build(ctx context.Context, m runner.Machine, r runner.Repository, i int, s step) (runner.Report, runner.Measure, error) {
	fmt.Printf("\n-- %d. %s\n", i+1, s.title)
	if s.file != "" {
		if err := r.Append(s.file, s.text); err != nil {
			return runner.Report{}, runner.Measure{}, err
		}
		fmt.Printf("   (a line more in %s, committed)\n", s.file)
	}
	if i == 0 || s.file != "" {
		if err := r.Commit(ctx, s.title); err != nil {
			return runner.Report{}, runner.Measure{}, err
		}
	}
	fmt.Printf("$ cairn build --stages-storage %s --synchronization :local\n", p.storage)
	report, cost, err := m.Build(ctx, r.Dir, os.Stdout, "--stages-storage", p.storage, "--synchronization", ":local")
	if err != nil {
		return report, cost, err
	}
	if wrong := s.expect(report); wrong != "" {
		return report, cost, fmt.Errorf("build %d, %s: %s", i+1, s.title, wrong)
	}
	if changed(report) == 0 {
		fmt.Println("   nothing to do: all images exist")
	}
	return report, cost, nil
}

func changed(r runner.Report) int { return r.Count("built") + r.Count("assembled") }

// names returns the stages of an image that were made.
func names(r runner.Report, image string) string {
	var made []string
	for _, i := range r.Images {
		for _, s := range i.Stages {
			if i.Name == image && (s.Result == "built" || s.Result == "assembled") {
				made = append(made, s.Name)
			}
		}
	}
	return strings.Join(made, " ")
}

// made returns all stages that were made, by image.
func made(r runner.Report) string {
	var all []string
	for _, i := range r.Images {
		if n := names(r, i.Name); n != "" {
			all = append(all, i.Name+": "+n)
		}
	}
	return strings.Join(all, "; ")
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

func number(n *int64) string {
	if n == nil {
		return "-"
	}
	return fmt.Sprint(*n)
}

func orNone(s string) string {
	if s == "" {
		return "none"
	}
	return s
}
