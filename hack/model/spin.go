package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// verdict is how a search ended.
type verdict string

const (
	holds   verdict = "holds"   // everything was searched and nothing is wrong
	partial verdict = "partial" // nothing is wrong in what was searched
	refused verdict = "refused" // an assertion fails
	stuck   verdict = "stuck"   // an end is not reached: a cycle, or nobody can move
	unsure  verdict = "UNKNOWN" // it ran out of memory, depth or time
)

// check is one search: a model, its switches, and how it must end.
type check struct {
	model    string
	switches string
	want     verdict
	// live checks progress, under weak fairness, instead of assertions.
	live bool
	// seed, where it is not 0, searches a part at random with so many bits of
	// memory (swarm verification); without it the search is exhaustive.
	seed int
}

// String returns what -only looks at.
func (c check) String() string { return c.model + " " + c.switches }

type result struct {
	verdict verdict
	detail  string
	states  float64
	depth   int
	seconds float64
}

// Bounds of a search.
const (
	megabytes = 2000
	maxDepth  = 1_000_000
	minutes   = 30
	// A partial search takes so many bits of memory, 1 GiB, and minutes.
	bits           = 33
	partialMinutes = 5
)

// run has spin make the verifier, compiles it and runs it.
func (c check) run(ctx context.Context, models, work string) (result, error) {
	dir, err := os.MkdirTemp(work, c.model+"-")
	if err != nil {
		return result{}, err
	}
	model, err := filepath.Abs(filepath.Join(models, c.model+".pml"))
	if err != nil {
		return result{}, err
	}
	if out, err := command(ctx, dir, "spin", append(append([]string{"-a"}, strings.Fields(c.switches)...), model)...); err != nil {
		return result{}, fmt.Errorf("spin -a %s: %w\n%s", c, err, out)
	}
	if out, err := command(ctx, dir, "gcc", c.compile()...); err != nil {
		return result{}, fmt.Errorf("compile %s: %w\n%s", c, err, out)
	}
	// Its exit status says nothing that its output does not say better.
	out, err := command(ctx, dir, filepath.Join(dir, "pan"), c.search()...)
	if ctx.Err() != nil {
		return result{}, context.Cause(ctx)
	}
	r := read(out)
	if r.detail == "" && err != nil {
		r.detail = err.Error()
	}
	if c.seed != 0 && (r.verdict == holds || r.detail == outOfTime) {
		r.verdict = partial
	}
	return r, os.RemoveAll(dir)
}

func (c check) compile() []string {
	args := []string{"-O2", "-w", "-o", "pan", "-DVECTORSZ=512", "-DMEMLIM=" + strconv.Itoa(megabytes)}
	switch {
	case c.live:
		args = append(args, "-DNFAIR=4", "-DCOLLAPSE")
	case c.seed != 0:
		args = append(args, "-DSAFETY", "-DBITSTATE", "-DP_RAND", "-DT_RAND")
	default:
		args = append(args, "-DSAFETY", "-DCOLLAPSE")
	}
	return append(args, "pan.c")
}

func (c check) search() []string {
	args := []string{"-m" + strconv.Itoa(maxDepth)}
	if c.seed != 0 {
		return append(args, "-Q"+strconv.Itoa(partialMinutes), "-k3", "-w"+strconv.Itoa(bits), "-RS"+strconv.Itoa(c.seed))
	}
	args = append(args, "-Q"+strconv.Itoa(minutes))
	if c.live {
		args = append(args, "-a", "-f")
	}
	return args
}

func command(ctx context.Context, dir, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// outOfTime is the detail of a search that found nothing until its time was up.
const outOfTime = "the time was up"

// read understands the account of a search. What it does not find makes the
// search unsure, never a success.
func read(out string) result {
	r := result{verdict: unsure}
	r.states = number(out, `(?m)^\s*([0-9.e+]+) states, stored`)
	r.depth = int(number(out, `depth reached (\d+)`))
	r.seconds = number(out, `elapsed time ([0-9.e+-]+) seconds`)
	wrong := regexp.MustCompile(`(?m)^pan:\d+: (.*)$`).FindStringSubmatch(out)
	switch {
	case wrong != nil:
		r.detail = wrong[1]
		switch {
		case strings.HasPrefix(r.detail, "assertion violated"):
			r.verdict = refused
		case strings.HasPrefix(r.detail, "acceptance cycle"), strings.HasPrefix(r.detail, "invalid end state"):
			r.verdict = stuck
		}
	case strings.Contains(out, "Time limit of"):
		r.detail = outOfTime
	case strings.Contains(out, "Search not completed"), strings.Contains(out, "max search depth too small"),
		strings.Contains(out, "reached -DMEMLIM bound"), strings.Contains(out, "out of memory"):
		r.detail = "the search was not completed"
	case strings.Contains(out, "errors: 0"):
		r.verdict = holds
	}
	return r
}

// number returns what the expression's group matches, 0 where there is nothing.
func number(out, expression string) float64 {
	m := regexp.MustCompile(expression).FindStringSubmatch(out)
	if m == nil {
		return 0
	}
	v, err := strconv.ParseFloat(m[1], 64)
	if err != nil {
		return 0
	}
	return v
}
