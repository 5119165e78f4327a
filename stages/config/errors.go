package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
)

// Error is one thing that is wrong with a configuration file.
type Error struct {
	// File is the path as given in [Input], or that of a template file.
	File string
	// Line and Column count from 1 in the file as it is written, templates not
	// rendered. Column is 0 where it is not known.
	Line, Column int
	Message      string
	// Hint says what to do about it, or is empty.
	Hint string
	// Rendered is the line as it came out of the templates, where it was made by
	// the template expression at Line and so does not stand in the file.
	Rendered string
}

// Error returns "file:line:column: message" on one line, without the hint.
func (e *Error) Error() string {
	var b strings.Builder
	fmt.Fprintf(&b, "%s:%d", e.File, e.Line)
	if e.Column > 0 {
		fmt.Fprintf(&b, ":%d", e.Column)
	}
	b.WriteString(": " + e.Message)
	if e.Rendered != "" {
		fmt.Fprintf(&b, " (the template made the line %q)", e.Rendered)
	}
	return b.String()
}

// Errors is all that is wrong with a configuration, sorted by place.
type Errors struct {
	// List is never empty, and holds at most 100.
	List []*Error
	// Omitted is how many more there were.
	Omitted int
}

// Error returns one line for each error.
func (e *Errors) Error() string {
	lines := make([]string, 0, len(e.List)+1)
	for _, one := range e.List {
		lines = append(lines, one.Error())
	}
	if e.Omitted > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", e.Omitted))
	}
	return strings.Join(lines, "\n")
}

// Unwrap gives each error to [errors.As].
func (e *Errors) Unwrap() []error {
	out := make([]error, len(e.List))
	for i, one := range e.List {
		out[i] = one
	}
	return out
}

// single makes an [*Errors] of one error.
func single(e *Error) error { return &Errors{List: []*Error{e}} }

// place is where something stands in the file as written.
type place struct {
	line, column int
	rendered     string
}

// collector gathers what is wrong, each thing once: the same node can be read
// several times through aliases.
type collector struct {
	file     string
	errors   []*Error
	warnings []*Error
	seen     map[string]bool
}

func (c *collector) addf(at place, hint, format string, args ...any) {
	c.errors = c.add(c.errors, at, hint, format, args...)
}

func (c *collector) warnf(at place, hint, format string, args ...any) {
	c.warnings = c.add(c.warnings, at, hint, format, args...)
}

func (c *collector) add(to []*Error, at place, hint, format string, args ...any) []*Error {
	e := &Error{
		File: c.file, Line: at.line, Column: at.column, Rendered: at.rendered,
		Message: fmt.Sprintf(format, args...), Hint: hint,
	}
	if c.seen == nil {
		c.seen = make(map[string]bool)
	}
	text := e.Error()
	if c.seen[text] {
		return to
	}
	c.seen[text] = true
	return append(to, e)
}

// err returns nil, or the errors as [*Errors].
func (c *collector) err() error {
	if len(c.errors) == 0 {
		return nil
	}
	list := sorted(c.errors)
	kept := min(len(list), maxErrors)
	return &Errors{List: list[:kept], Omitted: len(list) - kept}
}

func (c *collector) sortedWarnings() []*Error { return sorted(c.warnings) }

func sorted(list []*Error) []*Error {
	slices.SortStableFunc(list, func(a, b *Error) int {
		return cmp.Or(cmp.Compare(a.Line, b.Line), cmp.Compare(a.Column, b.Column))
	})
	return list
}
