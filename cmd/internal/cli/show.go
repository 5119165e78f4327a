package cli

import (
	"errors"
	"fmt"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
)

// showReport writes the closing table.
func (a *app) showReport(rep *build.Report) {
	if untouched(rep) {
		fmt.Fprintf(a.out, "Nothing to do: all %d images exist (%s, %s)\n", len(rep.Images), requests(rep), seconds(rep.Seconds))
		a.showRefs(rep)
		return
	}
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	fmt.Fprintln(w, "IMAGE\tSTAGE\tDIGEST\tRESULT\tTIME\tPUSHED")
	for _, img := range rep.Images {
		for _, s := range img.Stages {
			took, pushed := "", ""
			if s.Result == build.ResultAssembled || s.Result == build.ResultBuilt {
				took, pushed = seconds(s.Seconds), bytesText(s.BytesPushed)
			}
			fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\t%s\n", imageLabel(img), s.Name, s.Digest.Short(), s.Result, took, pushed)
		}
	}
	_ = w.Flush()
	fmt.Fprintf(a.out, "\n%s in %s: %s, pulled %s, pushed %s\n", count(rep), seconds(rep.Seconds), requests(rep), bytesText(rep.BytesPulled), bytesText(rep.BytesPushed))
	a.showRefs(rep)
}

func (a *app) showRefs(rep *build.Report) {
	w := tabwriter.NewWriter(a.out, 0, 4, 2, ' ', 0)
	for _, img := range rep.Images {
		if img.Ref != "" {
			fmt.Fprintf(w, "%s\t%s\n", imageLabel(img), img.Ref)
		}
	}
	_ = w.Flush()
}

func imageLabel(img build.ImageReport) string {
	if img.Name == "" {
		return "(nameless)"
	}
	return img.Name
}

// untouched reports whether the run made and took over nothing.
func untouched(rep *build.Report) bool {
	for _, img := range rep.Images {
		for _, s := range img.Stages {
			if s.Result != build.ResultCached {
				return false
			}
		}
	}
	return true
}

// count says how many stages came how.
func count(rep *build.Report) string {
	n := map[build.Result]int{}
	seen := map[string]bool{}
	for _, img := range rep.Images {
		for _, s := range img.Stages {
			if !seen[s.Digest.Hex()] {
				seen[s.Digest.Hex()] = true
				n[s.Result]++
			}
		}
	}
	var parts []string
	for _, r := range []build.Result{build.ResultBuilt, build.ResultAssembled, build.ResultAdopted, build.ResultCached} {
		if n[r] > 0 {
			parts = append(parts, fmt.Sprintf("%d %s", n[r], r))
		}
	}
	return strings.Join(parts, ", ")
}

func requests(rep *build.Report) string {
	return fmt.Sprintf("%d registry and %d ledger requests", rep.Requests.Registry, rep.Requests.Ledger)
}

// showFailure writes what a failed command said, how to reproduce it, and what
// the run leaves behind.
func (a *app) showFailure(rep *build.Report, err error) {
	var exit *engine.ExitError
	if errors.As(err, &exit) {
		a.showCommand(exit)
	}
	kept := 0
	for _, img := range rep.Images {
		for _, s := range img.Stages {
			if s.Result == build.ResultBuilt || s.Result == build.ResultAssembled {
				kept++
			}
		}
	}
	if kept > 0 {
		fmt.Fprintf(a.err, "%d stages were finished and published; the next build goes on from them\n", kept)
	}
}

func (a *app) showCommand(e *engine.ExitError) {
	fmt.Fprintf(a.err, "\n%s failed with exit code %d", e.Job.Name, e.Code)
	if e.Command != "" {
		fmt.Fprintf(a.err, " in: %s", printable(e.Command))
	}
	fmt.Fprintln(a.err)
	if len(e.Output) > 0 {
		fmt.Fprintln(a.err, "last lines:")
		for _, l := range e.Output {
			fmt.Fprintf(a.err, "  | %s\n", printable(l))
		}
	}
	if c := e.Job.Commands; c != nil {
		fmt.Fprintf(a.err, "reproduce it in the stage below with %s -e:\n", c.Interpreter)
		for _, l := range c.Script {
			fmt.Fprintf(a.err, "  $ %s\n", strings.ReplaceAll(printable(l), "\n", "\n    "))
		}
	}
}

// seconds writes a duration given in seconds for people.
func seconds(s float64) string {
	return shortDuration(time.Duration(s * float64(time.Second)))
}

func shortDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", d.Milliseconds())
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", d.Seconds())
	default:
		return fmt.Sprintf("%d m %02d s", int(d.Minutes()), int(d.Seconds())%60)
	}
}

// bytesText writes a size in decimal units.
func bytesText(n int64) string {
	const unit = 1000
	if n < unit {
		return fmt.Sprintf("%d B", n)
	}
	div, exp := int64(unit), 0
	for m := n / unit; m >= unit && exp < 4; m /= unit {
		div *= unit
		exp++
	}
	return fmt.Sprintf("%.1f %cB", float64(n)/float64(div), "kMGTP"[exp])
}
