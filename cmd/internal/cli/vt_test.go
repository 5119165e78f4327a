package cli

import (
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"
)

// vt is as much of a terminal as the live display uses: it keeps a screen,
// wraps long lines and scrolls. What it does not know it shows, so that a stray
// sequence is seen in the golden screen.
type vt struct {
	columns, rows int
	screen        [][]rune
	y, x          int
	cursor        bool
}

func newVT(columns, rows int) *vt { return &vt{columns: columns, rows: rows, cursor: true} }

var sequence = regexp.MustCompile(`^\x1b\[(\??[0-9;]*)([A-Za-z])`)

func (v *vt) Write(b []byte) (int, error) {
	for s := string(b); s != ""; {
		if m := sequence.FindStringSubmatch(s); m != nil {
			v.control(m[1], m[2])
			s = s[len(m[0]):]
			continue
		}
		r, n := utf8.DecodeRuneInString(s)
		v.put(r)
		s = s[n:]
	}
	return len(b), nil
}

func (v *vt) control(args, final string) {
	n, _ := strconv.Atoi(args)
	switch final {
	case "A":
		v.y = max(v.y-n, max(0, len(v.screen)-v.rows))
	case "K":
		v.line()
		v.screen[v.y] = v.screen[v.y][:min(v.x, len(v.screen[v.y]))]
	case "J":
		v.line()
		v.screen[v.y] = v.screen[v.y][:min(v.x, len(v.screen[v.y]))]
		v.screen = v.screen[:v.y+1]
	case "h", "l":
		v.cursor = final == "h"
	case "m":
	default:
		for _, r := range "ESC[" + args + final {
			v.put(r)
		}
	}
}

func (v *vt) line() {
	for len(v.screen) <= v.y {
		v.screen = append(v.screen, nil)
	}
}

func (v *vt) put(r rune) {
	switch r {
	case '\n':
		v.y, v.x = v.y+1, 0
		v.line()
		return
	case '\r':
		v.x = 0
		return
	}
	w := runeCells(r)
	if w > 0 && v.x+w > v.columns {
		v.y, v.x = v.y+1, 0
	}
	v.line()
	for len(v.screen[v.y]) < v.x {
		v.screen[v.y] = append(v.screen[v.y], ' ')
	}
	// A wide character takes two cells, the second of which is empty.
	v.screen[v.y] = append(v.screen[v.y][:v.x], r)
	for range w - 1 {
		v.screen[v.y] = append(v.screen[v.y], 0)
	}
	v.x += w
}

// resize rewraps, as terminals do when they become narrower.
func (v *vt) resize(columns int) {
	old := v.screen
	v.columns, v.screen, v.x, v.y = columns, nil, 0, 0
	for i, l := range old {
		for _, r := range l {
			if r != 0 {
				v.put(r)
			}
		}
		if i < len(old)-1 {
			v.put('\n')
		}
	}
}

// String returns the screen as it can be seen, with what has scrolled away above.
func (v *vt) String() string {
	var b strings.Builder
	for _, l := range v.screen {
		b.WriteString(strings.TrimRight(strings.ReplaceAll(string(l), "\x00", ""), " ") + "\n")
	}
	if !v.cursor {
		b.WriteString("(no cursor)\n")
	}
	return b.String()
}
