package config

import (
	"bytes"
	"fmt"
	"sort"
	"strings"
	"unicode/utf8"
)

// segment is a run of rendered bytes with one origin.
type segment struct {
	// rendered and source are offsets into the two texts.
	rendered, source int
	// verbatim runs were copied from the source byte by byte; others were made by
	// the template expression at source.
	verbatim bool
}

// output takes what a template writes, up to maxRendered bytes, and notes where
// each run of it came from.
type output struct {
	buf      bytes.Buffer
	segments []segment
}

// Write implements [io.Writer].
func (o *output) Write(b []byte) (int, error) {
	if o.buf.Len()+len(b) > maxRendered {
		return 0, fmt.Errorf("the rendered text is longer than %d bytes", maxRendered)
	}
	return o.buf.Write(b)
}

// mark says where what is written next comes from.
func (o *output) mark(source int, verbatim bool) {
	next := segment{o.buf.Len(), source, verbatim}
	if n := len(o.segments); n > 0 && o.segments[n-1].rendered == next.rendered {
		o.segments[n-1] = next
		return
	}
	o.segments = append(o.segments, next)
}

// rendered is a rendered text that remembers the source of each of its bytes.
type rendered struct {
	source, text string
	segments     []segment
	// lines are the offsets at which the lines of text begin.
	lines []int
}

func newRendered(source string, o *output) *rendered {
	text := o.buf.String()
	return &rendered{source: source, text: text, segments: o.segments, lines: lineStarts(text)}
}

// lineStarts returns the offsets at which the lines of text begin.
func lineStarts(text string) []int {
	starts := []int{0}
	for i := range len(text) {
		if text[i] == '\n' {
			starts = append(starts, i+1)
		}
	}
	return starts
}

// locate maps a line and column of the rendered text (both from 1, columns in
// characters) to the source. Column 0 asks for the first text of the line.
func (r *rendered) locate(line, column int) place {
	line = min(max(line, 1), len(r.lines))
	start := r.lines[line-1]
	text, _, _ := strings.Cut(r.text[start:], "\n")
	offset := start
	if column > 0 {
		offset += byteOffset(text, column-1)
	} else {
		offset += len(text) - len(strings.TrimLeft(text, " \t"))
	}
	source, verbatim := r.origin(offset)
	p := placeOf(r.source, source)
	if !verbatim {
		p.rendered = shorten(strings.TrimSpace(text))
	}
	if column == 0 {
		p.column = 0
	}
	return p
}

// origin returns the source offset of a rendered offset.
func (r *rendered) origin(offset int) (source int, verbatim bool) {
	i := sort.Search(len(r.segments), func(i int) bool { return r.segments[i].rendered > offset }) - 1
	if i < 0 {
		return 0, true
	}
	s := r.segments[i]
	if s.verbatim {
		return min(s.source+offset-s.rendered, len(r.source)), true
	}
	return s.source, false
}

// placeOf turns an offset into line and column.
func placeOf(text string, offset int) place {
	before := text[:min(offset, len(text))]
	start := strings.LastIndexByte(before, '\n') + 1
	return place{line: 1 + strings.Count(before, "\n"), column: 1 + utf8.RuneCountInString(before[start:])}
}

// byteOffset returns how many bytes the first n characters of s take.
func byteOffset(s string, n int) int {
	offset := 0
	for range n {
		if offset >= len(s) {
			break
		}
		_, size := utf8.DecodeRuneInString(s[offset:])
		offset += size
	}
	return offset
}

// shorten keeps a quotation in an error message readable.
func shorten(s string) string { return shortenTo(s, 80) }

func shortenTo(s string, most int) string {
	if utf8.RuneCountInString(s) <= most {
		return s
	}
	return string([]rune(s)[:most]) + "…"
}
