package cli

import (
	"io"
	"os"
	"slices"
	"strings"

	"golang.org/x/term"
)

// column is one of a grid.
type column struct {
	head string
	// right aligns numbers.
	right bool
	// flexible columns are cut where the terminal is narrow.
	flexible bool
	// sparse columns are left out where all cells are "" or "-".
	sparse bool
	// least is how important it is to keep the column, the least important 1; 0
	// stays always.
	least int
}

// leastFlexible is how narrow a flexible column may become before others go.
const leastFlexible = 8

// gap stands between columns.
const gap = "  "

// grid is a table that fits a terminal: flexible columns are cut, then columns are
// left out, the least important first.
type grid struct {
	columns []column
	rows    [][]string
}

// add adds a row of as many cells as there are columns.
func (g *grid) add(cells ...string) { g.rows = append(g.rows, cells) }

// write writes the grid; width is the terminal's, 0 where there is none and nothing
// is cut.
func (g *grid) write(w io.Writer, width int) error {
	keep, widths := g.fit(width)
	var b strings.Builder
	heads := make([]string, len(g.columns))
	for i, c := range g.columns {
		heads[i] = c.head
	}
	for _, row := range append([][]string{heads}, g.rows...) {
		line := make([]string, 0, len(keep))
		for _, i := range keep {
			text := cut(row[i], widths[i])
			if g.columns[i].right {
				text = strings.Repeat(" ", widths[i]-cells(text)) + text
			}
			line = append(line, pad(text, widths[i]))
		}
		b.WriteString(strings.TrimRight(strings.Join(line, gap), " ") + "\n")
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// fit returns the columns that are shown, and how wide each is.
func (g *grid) fit(width int) (keep, widths []int) {
	widths = make([]int, len(g.columns))
	for i, c := range g.columns {
		if c.sparse && !slices.ContainsFunc(g.rows, func(row []string) bool { return strings.Trim(row[i], "-") != "" }) {
			continue
		}
		keep = append(keep, i)
		widths[i] = cells(c.head)
		for _, row := range g.rows {
			widths[i] = max(widths[i], cells(row[i]))
		}
	}
	if width <= 0 {
		return keep, widths
	}
	for {
		narrow, fits := g.narrow(keep, widths, width)
		at := g.leastOf(keep)
		if fits || at < 0 {
			return keep, narrow
		}
		keep = slices.Delete(keep, at, at+1)
	}
}

// narrow cuts flexible columns until the others fit beside them, or no more can be cut.
func (g *grid) narrow(keep, widths []int, width int) (narrow []int, fits bool) {
	narrow = slices.Clone(widths)
	over := total(keep, widths) - width
	for _, i := range keep {
		if c := g.columns[i]; c.flexible && over > 0 {
			less := min(over, max(0, narrow[i]-max(leastFlexible, cells(c.head))))
			narrow[i] -= less
			over -= less
		}
	}
	return narrow, over <= 0
}

func total(keep, widths []int) int {
	n := len(gap) * (len(keep) - 1)
	for _, i := range keep {
		n += widths[i]
	}
	return n
}

// leastOf returns the place in keep of the least important column, -1 where all must stay.
func (g *grid) leastOf(keep []int) int {
	at := -1
	for k, i := range keep {
		if l := g.columns[i].least; l > 0 && (at < 0 || l < g.columns[keep[at]].least) {
			at = k
		}
	}
	return at
}

// outputWidth is the number of columns of the terminal behind standard output, 0
// where there is none.
func (a *app) outputWidth() int {
	f, ok := a.Out.(*os.File)
	if !ok || !term.IsTerminal(int(f.Fd())) || truthy(a.getenv("CI")) {
		return 0
	}
	columns, _, err := term.GetSize(int(f.Fd()))
	if err != nil {
		return 0
	}
	return columns
}
