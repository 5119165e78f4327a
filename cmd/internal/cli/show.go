package cli

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"

	"github.com/cairnbuild/cairn/cmd/internal/wire"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
)

// table returns a writer for columns; its error comes with Flush.
func (a *app) table() *tabwriter.Writer { return tabwriter.NewWriter(a.Out, 0, 4, 2, ' ', 0) }

// showReport writes the closing table.
func (a *app) showReport(rep *build.Report) error {
	if n := count(rep); n[build.ResultBuilt]+n[build.ResultAssembled]+n[build.ResultAdopted] == 0 {
		fmt.Fprintf(a.Out, "Nothing to do: %s there already (%s, %s)\n", plural(len(rep.Images), "image"), requests(rep), seconds(rep.Seconds))
		return a.showRefs(rep)
	}
	w := a.table()
	fmt.Fprintln(w, "IMAGE\tSTAGE\tDIGEST\tRESULT\tTIME\tPUSHED")
	for _, img := range rep.All() {
		for _, s := range img.Stages {
			took, pushed := "", ""
			if made(s) {
				took, pushed = seconds(s.Seconds), bytesText(s.BytesPushed)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", imageLabel(rep, img), s.Name, s.Digest.Short(), s.Result, took, pushed)
		}
	}
	if err := w.Flush(); err != nil {
		return err
	}
	fmt.Fprintf(a.Out, "\n%s in %s (%s, pulled %s, pushed %s)\n", countWords(rep), seconds(rep.Seconds), requests(rep), bytesText(rep.BytesPulled), bytesText(rep.BytesPushed))
	return a.showRefs(rep)
}

func (a *app) showRefs(rep *build.Report) error {
	w := a.table()
	for _, img := range rep.Images {
		if img.Ref != "" {
			fmt.Fprintf(w, "%s\t%s\n", imageLabel(rep, img), img.Ref)
		}
	}
	for _, idx := range rep.Indexes {
		if idx.Ref != "" {
			fmt.Fprintf(w, "%s\t%s\n", nameLabel(idx.Name), idx.Ref)
		}
	}
	return w.Flush()
}

// made reports whether this run made and published the stage.
func made(s build.StageReport) bool {
	return s.Result == build.ResultAssembled || s.Result == build.ResultBuilt
}

// imageLabel names an image for people, with its platform where it has several.
func imageLabel(rep *build.Report, img build.ImageReport) string {
	label := nameLabel(img.Name)
	for _, other := range rep.All() {
		if other.Name == img.Name && other.Platform != img.Platform {
			return label + " (" + string(img.Platform) + ")"
		}
	}
	return label
}

func nameLabel(name string) string {
	if name == "" {
		return "(nameless)"
	}
	return name
}

// count counts the stages, each once, by how they came.
func count(rep *build.Report) map[build.Result]int {
	n := map[build.Result]int{}
	seen := map[stages.Digest]bool{}
	for _, img := range rep.All() {
		for _, s := range img.Stages {
			if !seen[s.Digest] {
				seen[s.Digest] = true
				n[s.Result]++
			}
		}
	}
	return n
}

func countWords(rep *build.Report) string {
	n := count(rep)
	var parts []string
	for _, r := range []build.Result{build.ResultBuilt, build.ResultAssembled, build.ResultAdopted, build.ResultCached} {
		if n[r] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[r], r))
		}
	}
	return strings.Join(parts, ", ")
}

func requests(rep *build.Report) string {
	return fmt.Sprintf("%s, %s", plural(int(rep.Requests.Registry), "registry request"), plural(int(rep.Requests.Ledger), "ledger request"))
}

// showFailure writes what a failed command said, how to reproduce it, and what
// the run leaves behind.
func (a *app) showFailure(ctx context.Context, rep *build.Report, err error) {
	var exit *engine.ExitError
	if errors.As(err, &exit) && !interrupted(ctx) {
		a.showCommand(rep, exit)
	}
	n := count(rep)
	published := n[build.ResultBuilt] + n[build.ResultAssembled]
	if published > 0 {
		fmt.Fprintf(a.Err, "published: %s; the next build goes on from there\n", plural(published, "finished stage"))
	}
	if len(rep.Kept) > 0 {
		fmt.Fprintf(a.Err, "kept in the local cache: %s; the next build publishes what is kept\n", plural(len(rep.Kept), "finished stage"))
	}
}

func (a *app) showCommand(rep *build.Report, e *engine.ExitError) {
	fmt.Fprintf(a.Err, "\n%s failed with exit code %d\n", printable(e.Job.Name), e.Code)
	if len(e.Output) > 0 {
		fmt.Fprintln(a.Err, "last lines:")
		for _, l := range outputOf(e) {
			fmt.Fprintf(a.Err, "  | %s\n", l)
		}
	}
	if c := e.Job.Commands; c != nil {
		fmt.Fprintf(a.Err, "to reproduce it, run with %s -e in %s:\n", c.Interpreter, a.below(rep, e.Job.Key))
		for _, l := range c.Script {
			fmt.Fprintf(a.Err, "  %s\n", indented(printable(l), "  "))
		}
	}
}

// below names what the stage with a digest stands on, by reference where it is published.
func (a *app) below(rep *build.Report, digest string) string {
	for _, img := range rep.All() {
		for i, s := range img.Stages {
			if i == 0 || s.Digest.String() != digest {
				continue
			}
			parent := img.Stages[i-1]
			if parent.Manifest != nil && a.settings.Storage != wire.Local {
				return a.settings.Storage + "@" + parent.Manifest.String()
			}
			return "the stage below, " + parent.Name
		}
	}
	return "the stage below"
}
