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

// facts describe the parts that were measured with. What cannot be found out is left out.
func facts(ctx context.Context) []string {
	var out []string
	for _, c := range [][]string{
		{"uname", "-sr"},
		{"go", "version"},
		// The program itself does not know: it was not built by its own Makefile.
		{"go", "-C", "hack/tools/buildkit", "list", "-m", "github.com/moby/buildkit"},
		{"go", "-C", "hack/tools/kube", "list", "-m", "k8s.io/kubernetes"},
		{"runc", "--version"},
		{"docker-registry", "--version"},
	} {
		if fact := output(ctx, c[0], c[1:]...); fact != "" {
			out = append(out, fact)
		}
	}
	return out
}

// output is the first line that a program says; "" where it fails.
func output(ctx context.Context, program string, args ...string) string {
	b, err := exec.CommandContext(ctx, program, args...).Output()
	if err != nil {
		return ""
	}
	first, _, _ := strings.Cut(strings.TrimSpace(string(b)), "\n")
	return first
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
