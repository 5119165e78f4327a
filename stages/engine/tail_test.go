package engine

import (
	"fmt"
	"slices"
	"testing"
)

func TestTheTailKeepsTheLastLinesAndTheCause(t *testing.T) {
	var first tail
	first.add(2, "oops")
	for i := range 100 {
		first.add(1, fmt.Sprint("out ", i))
	}
	got := first.lines()
	if len(got) != tailLines || got[0] != "oops" || got[1] != "out 61" || got[tailLines-1] != "out 99" {
		t.Errorf("after much output the tail is %q", got)
	}

	var noisy tail
	for i := range 100 {
		noisy.add(2, fmt.Sprint("err ", i))
	}
	noisy.add(1, "out")
	got = noisy.lines()
	if len(got) != tailLines || got[0] != "err 61" || got[tailLines-1] != "out" {
		t.Errorf("after many errors the tail is %q", got)
	}

	var short tail
	short.add(1, "a")
	short.add(2, "b")
	short.add(1, "c")
	if got := short.lines(); !slices.Equal(got, []string{"a", "b", "c"}) {
		t.Errorf("of three lines the tail is %q", got)
	}
	if got := (&tail{}).lines(); got != nil {
		t.Errorf("of nothing the tail is %q", got)
	}
}
