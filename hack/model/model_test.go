package main

import (
	"bytes"
	"errors"
	"testing"
)

func TestASearchIsASuccessOnlyWhenItSaysSo(t *testing.T) {
	for _, c := range []struct {
		name, out string
		want      verdict
	}{
		{"complete and without errors", "State-vector 48 byte, depth reached 69, errors: 0\n    52117 states, stored\n", holds},
		{"a failed assertion", "pan:1: assertion violated (cur==0) (at depth 153)\nState-vector 84 byte, depth reached 189, errors: 1\n", refused},
		{"a cycle", "pan:1: acceptance cycle (at depth 43)\nerrors: 1\n", stuck},
		{"nobody can move", "pan:1: invalid end state (at depth 87)\nerrors: 1\n", stuck},
		{"out of depth", "error: max search depth too small\nState-vector 48 byte, depth reached 9, errors: 0\n", unsure},
		{"out of memory", "pan: reached -DMEMLIM bound\nWarning: Search not completed\nerrors: 0\n", unsure},
		{"out of time", "Time limit of      1 minutes exceeded\nState-vector 48 byte, depth reached 9, errors: 0\n", unsure},
		{"another error", "pan:1: VECTORSZ is too small\nerrors: 0\n", unsure},
		{"silence", "", unsure},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := read(c.out).verdict; got != c.want {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

func TestADeviationFails(t *testing.T) {
	var out bytes.Buffer
	err := report(&out, []check{{model: "m", want: refused}}, []result{{verdict: holds}})
	if !errors.Is(err, errDeviates) || !bytes.Contains(out.Bytes(), []byte("WRONG")) {
		t.Errorf("error %v, table:\n%s", err, &out)
	}
}
