package cli

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// golden compares with a file of testdata, which -update writes.
func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s differs; got\n%s\nwant\n%s", path, got, want)
	}
}

// clock is a time that tests move.
type clock struct{ t time.Time }

func (c *clock) now() time.Time          { return c.t }
func (c *clock) forward(d time.Duration) { c.t = c.t.Add(d) }

func stage(image string, kind stages.Kind) *stages.Stage {
	s := &stages.Stage{Digest: stages.DigestOf([]byte(image + string(kind))), Recipe: stages.Recipe{Kind: kind}}
	if kind != stages.KindFrom && kind != stages.KindSource {
		s.Recipe.Commands = &stages.Commands{}
	}
	return s
}

// story is a build as a display is told of it. step is called at places worth
// looking at.
func story(c *clock, o build.Observer, step func(what string)) {
	from, install, setup := stage("shop/backend", stages.KindFrom), stage("shop/backend", stages.KindInstall), stage("shop/backend", stages.KindSetup)
	site, wide := stage("site", stages.KindInstall), stage("网站", stages.KindInstall)
	tell := func(image string, s *stages.Stage, e build.Event) {
		e.Image, e.Stage, e.Time = image, s, c.now()
		o.Observe(e)
	}
	tell("shop/backend", from, build.Event{Phase: build.PhaseDone, Result: build.ResultCached})
	tell("shop/backend", install, build.Event{Phase: build.PhaseQueued})
	tell("shop/backend", setup, build.Event{Phase: build.PhaseQueued})
	tell("shop/backend", install, build.Event{Phase: build.PhaseRunning})
	tell("site", site, build.Event{Phase: build.PhaseWaiting, Detail: "held by ci-7, process 12"})
	c.forward(1500 * time.Millisecond)
	tell("shop/backend", install, build.Event{Line: []byte("Get:1 http://deb.debian.org/debian stable InRelease [151 kB] and a line that goes on for long")})
	tell("网站", wide, build.Event{Phase: build.PhaseRunning})
	tell("网站", wide, build.Event{Line: []byte("正在下载\t依赖项目 正在下载依赖项目 正在下载依赖项目 正在下载依赖项目")})
	step("running")
	c.forward(61 * time.Second)
	tell("shop/backend", install, build.Event{Line: []byte("10%\r\x1b[31m50%\x1b[0m\r\x1b[2J\x1b]0;title\a100% \x07done\u202e\r")})
	step("hostile output")
	tell("shop/backend", install, build.Event{Phase: build.PhasePushing})
	tell("site", site, build.Event{Phase: build.PhaseDone, Result: build.ResultAdopted})
	c.forward(200 * time.Millisecond)
	step("pushing")
	tell("shop/backend", install, build.Event{Phase: build.PhasePublishing})
	tell("shop/backend", install, build.Event{Phase: build.PhaseDone, Result: build.ResultBuilt})
	tell("shop/backend", setup, build.Event{Phase: build.PhaseRunning})
	tell("shop/backend", setup, build.Event{Line: []byte("make: *** [all] Error 1")})
	tell("网站", wide, build.Event{Phase: build.PhaseDone, Result: build.ResultBuilt})
	step("setup runs")
	c.forward(2 * time.Second)
	tell("shop/backend", setup, build.Event{Phase: build.PhaseFailed})
}

func TestLiveRows(t *testing.T) {
	for name, width := range map[string]int{"wide": 100, "narrow": 44, "tiny": 20} {
		t.Run(name, func(t *testing.T) {
			c := &clock{time.Unix(0, 0)}
			term := newVT(width, 24)
			l := newLive(term, func() (int, int) { return term.columns, term.rows }, styles{}, c.now)
			var screens strings.Builder
			story(c, l, func(what string) {
				l.refresh()
				screens.WriteString("== " + what + "\n" + term.String())
			})
			l.note("warning: a note in between")
			l.close()
			screens.WriteString("== closed\n" + term.String())
			golden(t, filepath.Join("testdata", "live-"+name+".golden"), screens.String())
		})
	}
}

func TestLiveRowsSurviveANarrowerTerminal(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	term := newVT(100, 24)
	l := newLive(term, func() (int, int) { return term.columns, term.rows }, styles{}, c.now)
	story(c, l, func(string) {
		l.refresh()
		term.resize(term.columns - 12)
		l.refresh()
		if n := strings.Count(term.String(), " done  "); n != 1 {
			t.Errorf("%d counting lines:\n%s", n, term)
		}
	})
	l.close()
	if strings.Contains(term.String(), "running") || !term.cursor {
		t.Errorf("after the end:\n%s", term)
	}
}

func TestALowTerminalShowsFewerRows(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	term := newVT(80, 5)
	l := newLive(term, func() (int, int) { return term.columns, term.rows }, styles{}, c.now)
	for _, name := range strings.Split("abcdefghijklmnopqrst", "") {
		l.Observe(build.Event{Image: name, Stage: stage(name, stages.KindInstall), Phase: build.PhaseRunning, Time: c.now()})
	}
	for range 3 {
		l.refresh()
	}
	if n := strings.Count(term.String(), "\n"); n > 6 {
		t.Errorf("%d lines:\n%s", n, term)
	}
}

func TestAnInterruptionGivesTheCursorBackAtOnce(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	term := newVT(80, 24)
	l := newLive(term, func() (int, int) { return term.columns, term.rows }, styles{}, c.now)
	story(c, l, func(what string) {
		l.refresh()
		if what != "running" {
			return
		}
		if term.cursor {
			t.Errorf("the cursor is visible over the rows:\n%s", term)
		}
		l.note(interruptedNote)
		l.refresh()
		if !term.cursor {
			t.Errorf("no cursor after the interruption:\n%s", term)
		}
	})
	l.close()
	if !term.cursor {
		t.Error("no cursor at the end")
	}
}

func TestColoursAreOnlyStyle(t *testing.T) {
	a := &app{Process: Process{Env: func(string) (string, bool) { return "", false }}}
	screens := map[string]string{}
	for name, s := range map[string]styles{"with": a.styles(), "without": {}} {
		c := &clock{time.Unix(0, 0)}
		term := newVT(60, 24)
		l := newLive(term, func() (int, int) { return term.columns, term.rows }, s, c.now)
		story(c, l, func(string) { l.refresh(); screens[name] += term.String() })
		l.close()
	}
	if screens["with"] != screens["without"] {
		t.Errorf("colours change the text:\n%s\n%s", screens["with"], screens["without"])
	}
	a.Env = func(name string) (string, bool) { return "1", name == "NO_COLOR" }
	if a.styles() != (styles{}) {
		t.Error("NO_COLOR is not honoured")
	}
}

func TestLiveRowsAreDrawnAgainWhileNothingHappens(t *testing.T) {
	drawn := make(chan struct{}, 1)
	l := newLive(signalling{drawn}, func() (int, int) { return 80, 24 }, styles{}, time.Now)
	l.start()
	l.Observe(build.Event{Image: "a", Stage: stage("a", stages.KindInstall), Phase: build.PhaseRunning, Time: time.Now()})
	<-drawn
	<-drawn
	l.close()
}

// signalling tells of each write, if somebody listens.
type signalling struct{ to chan struct{} }

func (s signalling) Write(b []byte) (int, error) {
	select {
	case s.to <- struct{}{}:
	default:
	}
	return len(b), nil
}

func TestPlainLines(t *testing.T) {
	c := &clock{time.Unix(0, 0)}
	var out bytes.Buffer
	p := newPlain(&out, c.now)
	story(c, p, func(string) {})
	p.note("warning: a note")
	p.close()
	golden(t, filepath.Join("testdata", "plain.golden"), out.String())
}

func TestNoLiveRowsWithoutATerminal(t *testing.T) {
	null, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	a := &app{Process: Process{Err: null, Env: os.LookupEnv}}
	if a.terminal() != nil {
		t.Error("a file is taken for a terminal")
	}
	if _, ok := a.newProgress(t.Context()).(*plain); !ok {
		t.Error("no plain lines")
	}
}

func TestVariablesThatAreSetForYes(t *testing.T) {
	for v, want := range map[string]bool{"": false, "0": false, "false": false, "No": false, "1": true, "true": true, "gitlab": true} {
		if truthy(v) != want {
			t.Errorf("%q is %v", v, !want)
		}
	}
}
