package engine

import (
	"cmp"
	"slices"
)

const (
	// stderrStream is the number of standard error.
	stderrStream = 2
	// stderrLines is how many lines of standard error a tail holds at least, where
	// there are so many: that is where the cause stands.
	stderrLines = 15
)

// tail keeps the last lines of a step. The two streams come through two pipes, so
// that what was written to standard error last can arrive before much of standard
// output; it must not be crowded out by that.
type tail struct {
	n           int
	out, errors []tailLine
}

type tailLine struct {
	// n counts the lines of both streams as they arrive.
	n    int
	text string
}

func (t *tail) add(stream int, text string) {
	t.n++
	if stream == stderrStream {
		t.errors = keepLast(append(t.errors, tailLine{t.n, text}), tailLines)
		return
	}
	t.out = keepLast(append(t.out, tailLine{t.n, text}), tailLines)
}

func keepLast(lines []tailLine, most int) []tailLine {
	return slices.Delete(lines, 0, max(0, len(lines)-most))
}

// lines returns the last lines of both streams in the order in which they came.
func (t *tail) lines() []string {
	sure := t.errors[max(0, len(t.errors)-stderrLines):]
	rest := slices.Concat(t.errors[:len(t.errors)-len(sure)], t.out)
	byArrival := func(a, b tailLine) int { return cmp.Compare(a.n, b.n) }
	slices.SortFunc(rest, byArrival)
	all := slices.Concat(rest[max(0, len(rest)-(tailLines-len(sure))):], sure)
	slices.SortFunc(all, byArrival)
	var texts []string
	for _, l := range all {
		texts = append(texts, l.text)
	}
	return texts
}
