package dockerfile

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"unicode/utf8"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Error says what is wrong with a Dockerfile, or what of it cannot be built.
type Error struct {
	// File is the path of the Dockerfile; Line counts from 1, 0 is the file as a whole.
	File string
	Line int
	// Message says what is wrong, Hint what to do about it or nothing.
	Message, Hint string
	// Quote is what stands on the line, and Mark the part of it that is wrong. Both are
	// empty where a line must not be shown.
	Quote, Mark string
	// Err is the cause, if there is one beside the message.
	Err error
}

// Excerpt returns the line with a mark below what is wrong, "" where there is none to
// show.
func (e *Error) Excerpt() string {
	if e.Quote == "" || e.Line == 0 {
		return ""
	}
	number := fmt.Sprintf("%d | ", e.Line)
	before, _, found := strings.Cut(e.Quote, e.Mark)
	if !found || e.Mark == "" {
		before = ""
	}
	width := len(number) + utf8.RuneCountInString(before)
	return number + e.Quote + "\n" + strings.Repeat(" ", width) + strings.Repeat("^", max(1, utf8.RuneCountInString(e.Mark)))
}

// Error returns "file:line: message".
func (e *Error) Error() string {
	at := e.File
	if e.Line > 0 {
		at = fmt.Sprintf("%s:%d", e.File, e.Line)
	}
	return at + ": " + e.Message
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// errorf makes an error at a line.
func (f *file) errorf(line int, hint, format string, args ...any) error {
	return f.quote(&Error{File: f.name, Line: line, Message: fmt.Sprintf(format, args...), Hint: hint}, "")
}

// maxQuote is how long a line may be to be quoted, in bytes.
const maxQuote = 200

// quote has an error show its line, with a mark at a word, or at the first one. A line
// that may hold a login is not shown: errors end up in logs that many can read.
func (f *file) quote(e *Error, word string) *Error {
	lines := bytes.Split(f.text, []byte("\n"))
	if e.Line < 1 || e.Line > len(lines) {
		return e
	}
	text := strings.ReplaceAll(strings.TrimRight(string(lines[e.Line-1]), "\r "), "\t", " ")
	first, _, _ := strings.Cut(strings.TrimSpace(text), " ")
	if len(text) > maxQuote || strings.ContainsAny(text, "@?") || !utf8.ValidString(text) {
		return e
	}
	e.Quote, e.Mark = text, first
	if word != "" && strings.Contains(text, word) {
		e.Mark = word
	}
	return e
}

// failed passes on an error of the parser with its place.
func (f *file) failed(line int, err error) error {
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		line = located.Locations[0][0].Start.Line
	}
	return f.quote(&Error{File: f.name, Line: line, Message: err.Error(), Hint: "correct the line; the language is that of docker/dockerfile:1", Err: err}, "")
}
