package cli

import (
	"strings"
	"testing"
)

func sampleGrid() *grid {
	g := &grid{columns: []column{
		{head: "KIND", least: 2}, {head: "IMAGE", flexible: true}, {head: "SIZE", right: true}, {head: "USED", right: true, sparse: true, least: 1},
		{head: "STATE", sparse: true},
	}}
	g.add("stage", "a-rather-long-name", "1 B", "3d", "")
	g.add("build", "日本語のイメージ", "1.0 MB", "-", "")
	return g
}

func TestAGridFitsTheTerminal(t *testing.T) {
	for _, c := range []struct {
		name  string
		width int
		want  []string
	}{
		{"without a terminal nothing is cut", 0, []string{
			"KIND   IMAGE                 SIZE  USED",
			"stage  a-rather-long-name     1 B    3d",
			"build  日本語のイメージ    1.0 MB     -",
		}},
		{"names are cut first", 30, []string{
			"KIND   IMAGE        SIZE  USED",
			"stage  a-rather…     1 B    3d",
			"build  日本語の…  1.0 MB     -",
		}},
		{"then columns go, the least important first", 24, []string{
			"KIND   IMAGE        SIZE",
			"stage  a-rather…     1 B",
			"build  日本語の…  1.0 MB",
		}},
		{"what must stay stays", 5, []string{
			"IMAGE       SIZE",
			"a-rathe…     1 B",
			"日本語…   1.0 MB",
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			var b strings.Builder
			if err := sampleGrid().write(&b, c.width); err != nil {
				t.Fatal(err)
			}
			if got, want := b.String(), strings.Join(c.want, "\n")+"\n"; got != want {
				t.Errorf("it is\n%swant\n%s", got, want)
			}
		})
	}
}
