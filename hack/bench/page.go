package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// pagePath is where the figures stand, below the top of the tree.
const pagePath = "docs/benchmarks.md"

// page is the document: what holds for all figures, and a section for each case.
// A run of some cases replaces their sections only, so each says of itself when
// and of which commit it is.
type page struct {
	facts    []string
	sections map[string]string // by title
}

// readPage reads the sections of an earlier page; one that is not there has none.
func readPage(path string) (page, error) {
	p := page{sections: map[string]string{}}
	b, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return p, nil
	}
	if err != nil {
		return p, err
	}
	_, rest, found := strings.Cut(string(b), "\n## ")
	for found {
		var section string
		section, rest, found = strings.Cut(rest, "\n## ")
		title, body, _ := strings.Cut(section, "\n")
		p.sections[title] = strings.TrimSpace(body)
	}
	return p, nil
}

// set replaces the section of r, which was measured as circumstances say.
func (p page) set(r result, circumstances string) {
	var b strings.Builder
	b.WriteString("| figure | measured | target | |\n|---|---|---|---|\n")
	for _, f := range r.figures {
		fmt.Fprintf(&b, "| %s | %s | %s | %s |\n", f.what, f.got, f.target, f.verdict())
	}
	fmt.Fprintf(&b, "\n*%s*", circumstances)
	p.sections[r.title] = b.String()
}

// String is the document, its sections in the order of cases.
func (p page) String() string {
	var b strings.Builder
	b.WriteString("# Benchmarks\n\nWritten by `make bench`, or for one case by `make bench CASE=…`. Each time is a median; below each table stands of how many rounds, " +
		"of which commit, and when. Cairn and plain BuildKit (`buildctl` and `buildkitd` of the version below, with registry cache export and import) " +
		"alternate in one run, on one registry on loopback. " +
		"Both begin without local state; BuildKit's daemon is started before its clock, what Cairn starts is inside of Cairn's time. " +
		"Requests are counted in the registry's access log, bytes on its disk. An API server is built with the compiler's optimization, as any that is deployed.\n\n")
	for _, fact := range p.facts {
		fmt.Fprintf(&b, "- %s\n", fact)
	}
	for _, c := range cases() {
		if body, ok := p.sections[c.title]; ok {
			fmt.Fprintf(&b, "\n## %s\n\n%s\n", c.title, body)
		}
	}
	return b.String()
}

// write puts results into the page at path.
func write(ctx context.Context, path string, rounds int, results []result) error {
	p, err := readPage(path)
	if err != nil {
		return err
	}
	p.facts = facts(ctx)
	here := circumstances(ctx, rounds)
	for _, r := range results {
		p.set(r, here)
	}
	return os.WriteFile(path, []byte(p.String()), 0o644)
}

// circumstances say what was measured, when and where.
func circumstances(ctx context.Context, rounds int) string {
	commit := "unknown"
	if lines := output(ctx, "git", "describe", "--tags", "--always", "--dirty"); lines != "" {
		commit = lines
	}
	return fmt.Sprintf("cairn %s, %s, %d rounds, %s, %d cores", commit, time.Now().UTC().Format(time.DateOnly), rounds, processor(), runtime.NumCPU())
}

// pageOf is the page of this tree.
func pageOf(o options) (string, error) {
	if o.out != "" {
		return o.out, nil
	}
	top, err := testbed.Root()
	return filepath.Join(top, filepath.FromSlash(pagePath)), err
}
