package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// figure is one measured value beside its target.
type figure struct {
	what, got, target string
	missed            bool
}

// result is a case with its figures.
type result struct {
	benchCase
	figures []figure
}

func (f figure) verdict() string {
	switch {
	case f.target == "":
		return ""
	case f.missed:
		return "MISSED"
	default:
		return "ok"
	}
}

// seconds is a duration that must not be longer than limit; no limit where it is 0.
func seconds(what string, got, limit time.Duration) figure {
	f := figure{what: what, got: fmt.Sprintf("%.3f s", got.Seconds())}
	if limit > 0 {
		f.target, f.missed = fmt.Sprintf("≤ %.3g s", limit.Seconds()), got > limit
	}
	return f
}

// count must not be more than limit.
func count(what string, got, limit int64) figure {
	return figure{what: what, got: fmt.Sprint(got), target: fmt.Sprintf("≤ %d", limit), missed: got > limit}
}

// mebibytes must not be more than limit; both are bytes.
func mebibytes(what string, got, limit int64) figure {
	return figure{what: what, got: fmt.Sprintf("%d MiB", got>>20), target: fmt.Sprintf("≤ %d MiB", limit>>20), missed: got > limit}
}

// atLeast must not be less than limit.
func atLeast(what string, got, limit int64) figure {
	return figure{what: what, got: fmt.Sprint(got), target: fmt.Sprintf("≥ %d", limit), missed: got < limit}
}

// exactly must be want.
func exactly(what string, got, want any) figure {
	return figure{what: what, got: fmt.Sprint(got), target: fmt.Sprint(want), missed: got != want}
}

// faster is how many times shorter cairn's time is than the yardstick's.
func faster(cairn, yardstick time.Duration, least float64) figure {
	ratio := yardstick.Seconds() / cairn.Seconds()
	return figure{what: "faster than buildctl", got: fmt.Sprintf("%.1f ×", ratio), target: fmt.Sprintf("≥ %.3g ×", least), missed: ratio < least}
}

// slower is how many times longer cairn's time is than the yardstick's.
func slower(what string, cairn, yardstick time.Duration, most float64) figure {
	ratio := cairn.Seconds() / yardstick.Seconds()
	return figure{what: what, got: fmt.Sprintf("%.2f ×", ratio), target: fmt.Sprintf("≤ %.3g ×", most), missed: ratio > most}
}

// median returns the middle value; of an even number the higher one of the two.
func median[T int64 | time.Duration](all []T) T {
	sorted := slices.Sorted(slices.Values(all))
	return sorted[len(sorted)/2]
}

// spread returns the one value that all have, or the least and the greatest.
func spread(all []int64) string {
	least, most := slices.Min(all), slices.Max(all)
	if least == most {
		return fmt.Sprint(least)
	}
	return fmt.Sprintf("%d to %d", least, most)
}

func (r result) text(to io.Writer) error {
	w := tabwriter.NewWriter(to, 2, 0, 3, ' ', 0)
	for _, f := range r.figures {
		fmt.Fprintf(w, "  %s\t%s\t%s\t%s\n", f.what, f.got, f.target, f.verdict())
	}
	return w.Flush()
}

// markdown writes the page of all results.
func markdown(ctx context.Context, w io.Writer, rounds int, results []result) error {
	var b strings.Builder
	fmt.Fprintf(&b, "# Benchmarks\n\nWritten by `make bench`. Each time is the median of %d runs, Cairn and plain BuildKit "+
		"(`buildctl` and `buildkitd` of the version below, with registry cache export and import) alternating in one run, on one registry on loopback. "+
		"Both begin without local state; BuildKit's daemon is started before its clock, what Cairn starts is inside of Cairn's time. "+
		"Requests are counted in the registry's access log, bytes on its disk.\n\n", rounds)
	for _, fact := range facts(ctx) {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	for _, r := range results {
		fmt.Fprintf(&b, "\n## %s\n\n| figure | measured | target | |\n|---|---|---|---|\n", r.title)
		for _, f := range r.figures {
			fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.what, f.got, f.target, f.verdict())
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// facts describe the machine. What cannot be found out is left out.
func facts(ctx context.Context) []string {
	out := []string{time.Now().UTC().Format(time.DateOnly), fmt.Sprintf("%s, %d cores", processor(), runtime.NumCPU())}
	for _, c := range [][]string{
		{"uname", "-sr"},
		{"git", "-C", ".", "describe", "--tags", "--always", "--dirty"},
		{"go", "version"},
		// The program itself does not know: it was not built by its own Makefile.
		{"go", "-C", "hack/tools/buildkit", "list", "-m", "github.com/moby/buildkit"},
		{"runc", "--version"},
		{"docker-registry", "--version"},
	} {
		b, err := exec.CommandContext(ctx, c[0], c[1:]...).Output()
		if err != nil {
			continue
		}
		first, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
		if c[0] == "git" {
			first = "cairn " + first
		}
		out = append(out, first)
	}
	return out
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if key, value, ok := strings.Cut(line, ":"); ok && strings.TrimSpace(key) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
