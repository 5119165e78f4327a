package cli

import (
	"fmt"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"golang.org/x/text/width"
)

// printable keeps what came from outside from steering the terminal: escape
// sequences are left out, other control characters replaced.
func printable(s string) string {
	var b strings.Builder
	for s != "" {
		if s[0] == '\x1b' {
			s = s[escapeLen(s):]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		if r != '\n' && r != '\t' && !unicode.IsPrint(r) {
			r = utf8.RuneError
		}
		b.WriteRune(r)
		s = s[n:]
	}
	return b.String()
}

// escapeLen returns the length of the escape sequence at the beginning of s, as
// ECMA-48 defines them. One that does not end reaches to the end of s.
func escapeLen(s string) int {
	if len(s) < 2 {
		return len(s)
	}
	switch s[1] {
	case '[': // control sequence: parameters, then one final byte
		for i := 2; i < len(s); i++ {
			if s[i] >= 0x40 && s[i] <= 0x7e {
				return i + 1
			}
		}
		return len(s)
	case ']', 'P', 'X', '^', '_': // control strings: up to BEL or ST
		if i := strings.IndexByte(s, '\a'); i >= 0 {
			if j := strings.Index(s, "\x1b\\"); j < 0 || i < j {
				return i + 1
			}
		}
		if i := strings.Index(s, "\x1b\\"); i >= 0 {
			return i + 2
		}
		return len(s)
	default:
		_, n := utf8.DecodeRuneInString(s[1:])
		return 1 + n
	}
}

// outputLine returns a line of a command's output for people. Of a line that was
// written over itself, as progress bars are, it is the last state.
func outputLine(line []byte) string {
	s := strings.TrimRight(string(line), "\r")
	s = s[strings.LastIndexByte(s, '\r')+1:]
	return printable(s)
}

// cells returns how many columns a terminal takes for s, which is printable.
func cells(s string) int {
	n := 0
	for _, r := range s {
		n += runeCells(r)
	}
	return n
}

func runeCells(r rune) int {
	if r < 0x300 {
		return 1
	}
	if unicode.In(r, unicode.Mn, unicode.Me, unicode.Cf) {
		return 0
	}
	switch width.LookupRune(r).Kind() {
	case width.EastAsianWide, width.EastAsianFullwidth:
		return 2
	default:
		return 1
	}
}

// cut shortens s to at most most columns; "…" stands for what was left out.
func cut(s string, most int) string {
	if cells(s) <= most {
		return s
	}
	if most < 1 {
		return ""
	}
	n := 0
	for i, r := range s {
		if n += runeCells(r); n > most-1 {
			return s[:i] + "…"
		}
	}
	return s
}

// pad fills s with blanks to a number of columns.
func pad(s string, to int) string { return s + strings.Repeat(" ", max(0, to-cells(s))) }

// indented puts blanks before every line but the first.
func indented(s, by string) string { return strings.ReplaceAll(s, "\n", "\n"+by) }

// plural says a number of things.
func plural(n int, one string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprintf("%d %ss", n, one)
}

// seconds writes a duration given in seconds for people.
func seconds(s float64) string { return shortDuration(time.Duration(s * float64(time.Second))) }

func shortDuration(d time.Duration) string {
	switch {
	case d < time.Second:
		return fmt.Sprintf("%d ms", max(0, d.Milliseconds()))
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
