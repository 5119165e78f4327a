package dockerfile

import (
	"errors"
	"fmt"

	"github.com/moby/buildkit/frontend/dockerfile/parser"
)

// Error says what is wrong with a Dockerfile, or what of it cannot be built.
type Error struct {
	// File is the path of the Dockerfile; Line counts from 1, 0 is the file as a whole.
	File string
	Line int
	// Message says what is wrong, Hint what to do about it or nothing.
	Message, Hint string
	// Err is the cause, if there is one beside the message.
	Err error
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
	return &Error{File: f.name, Line: line, Message: fmt.Sprintf(format, args...), Hint: hint}
}

// failed passes on an error of the parser with its place.
func (f *file) failed(line int, err error) error {
	var located *parser.LocationError
	if errors.As(err, &located) && len(located.Locations) > 0 && len(located.Locations[0]) > 0 {
		line = located.Locations[0][0].Start.Line
	}
	return &Error{File: f.name, Line: line, Message: err.Error(), Hint: "correct the line; the language is that of docker/dockerfile:1", Err: err}
}
