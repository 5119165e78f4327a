package main

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// laboratory starts the servers when the first test asks for them.
type laboratory struct {
	once sync.Once
	l    *lab
	err  error
}

// shared is set by TestMain, before any test runs.
var shared *laboratory

func TestMain(m *testing.M) {
	shared = &laboratory{}
	code := m.Run()
	if shared.l != nil {
		if err := shared.l.close(); err != nil {
			fmt.Fprintln(os.Stderr, "stress:", err)
			code = 1
		}
	}
	os.Exit(code)
}

// start returns the lab, with sessions of the TTL.
func (s *laboratory) start(t *testing.T, ttl time.Duration) *lab {
	t.Helper()
	s.once.Do(func() { s.l, s.err = newLab(context.WithoutCancel(t.Context()), ttl) })
	if s.err != nil {
		t.Fatal(s.err)
	}
	s.l.ttl = ttl
	return s.l
}

// judge fails the test for what is wrong with a round, and keeps its history.
func judge(t *testing.T, o *outcome, err error) {
	t.Helper()
	if o == nil {
		t.Fatal(err)
	}
	t.Log(o.line())
	if err == nil && len(o.violations) == 0 {
		return
	}
	dir, made := os.MkdirTemp("", "cairn-stress-")
	if made != nil {
		t.Fatal(made)
	}
	var b bytes.Buffer
	if kept := keepHistory(&b, dir, o, err); kept != nil {
		t.Error(kept)
	}
	t.Error(b.String())
}

// seed is another one each time; a failure names it.
func seed() uint64 { return uint64(time.Now().UnixNano()) }

func TestFaultsBreakNoPromise(t *testing.T) {
	const rounds = 10
	l := shared.start(t, quickTTL)
	hosts, err := l.engines(t.Context(), faulty().engines)
	if err != nil {
		t.Fatal(err)
	}
	var all totals
	first := seed()
	for i := range uint64(rounds) {
		o, err := l.play(t.Context(), first+i, faulty(), hosts)
		judge(t, o, err)
		all.add(o)
	}
	if all.faults < 10*rounds || all.kills < rounds || all.stops < rounds/2 || all.restarts < rounds/2 {
		t.Errorf("too little happened: %+v", all)
	}
}

// Ten waves of eight runners at random commits, while one cleaner follows the other
// and keeps nothing but what branches name.
func TestCleanersHarmNoBuild(t *testing.T) {
	s := cleaned(maxWaves)
	l := shared.start(t, quickTTL)
	hosts, err := l.engines(t.Context(), s.engines)
	if err != nil {
		t.Fatal(err)
	}
	o, err := l.play(t.Context(), seed(), s, hosts)
	judge(t, o, err)
	if n := o.sweeps; n.runs < maxWaves || n.removed < maxWaves || o.kills < maxWaves/2 || o.stops < maxWaves/4 {
		t.Errorf("too little happened: %s; %d kills, %d stops", n, o.kills, o.stops)
	}
}

// Runners die, so that others have to find them dead: where all clocks are behind, or
// ahead, of the servers' nobody else can do so for those who cannot.
func TestWrongClocksHaveNoEffect(t *testing.T) {
	l := shared.start(t, quickTTL)
	for _, test := range []struct {
		name   string
		clocks []time.Duration
	}{
		{"all differ", []time.Duration{-time.Hour, time.Hour, -time.Minute, 37 * time.Minute}},
		{"all are an hour behind", []time.Duration{-time.Hour}},
		{"all are an hour ahead", []time.Duration{time.Hour}},
	} {
		t.Run(test.name, func(t *testing.T) {
			s := faulty()
			s.clocks, s.faults = test.clocks, false
			s.restarts, s.bursts = 0, 0
			hosts, err := l.engines(t.Context(), s.engines)
			if err != nil {
				t.Fatal(err)
			}
			o, err := l.play(t.Context(), seed(), s, hosts)
			judge(t, o, err)
			if o.kills == 0 {
				t.Error("nobody was killed")
			}
		})
	}
}

// Without faults each command runs once, which the checker demands, and many
// runners cost little more than one. The sessions have their usual TTL: it is the
// ordinary case that is measured. What is wanted is printed beside it.
func TestManyRunnersCostLittleMoreThanOne(t *testing.T) {
	c, err := shared.start(t, lock.DefaultTTL).measure(t.Context(), seed(), whole())
	judge(t, c.alone, err)
	judge(t, c.many, err)
	var b bytes.Buffer
	c.print(&b)
	t.Log("\n" + b.String())
	if c.ratio() > ceiling {
		t.Errorf("the CPU time of all is %.2f times that of one", c.ratio())
	}
}
