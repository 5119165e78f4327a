package daemon

import (
	"context"
	"errors"
	"fmt"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/zap"
	"go.uber.org/zap/zapcore"
	"go.uber.org/zap/zaptest/observer"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
)

// watched is a daemon whose volume a test fills, and whose passes it decides.
type watched struct {
	*daemon
	log *observer.ObservedLogs
	// used is what the volume of 1000 bytes has in use, unread why it cannot be measured.
	used   int64
	unread error
	// outcome is that of passes.
	outcome passed
	passes  int
}

// room and full are fill levels of the volume.
const (
	room = 500
	full = 900
)

func watch(t *testing.T, interval time.Duration) *watched {
	t.Helper()
	core, log := observer.New(zapcore.InfoLevel)
	w := &watched{log: log, used: room}
	c := Config{Eviction: Eviction{Policy: hostcache.Policy{High: "80%", Low: "75%"}, Interval: interval}, Log: zap.New(core)}
	w.daemon = &daemon{config: c, usage: newUsage(time.Now()), engine: newSupervisor(nil, nil, "", zap.NewNop())}
	var err error
	w.evictor, err = newEvictor(c, w.engine)
	check(t, err)
	w.cleaner, err = newCleaner(Cleaning{}, zap.NewNop())
	check(t, err)
	w.metrics = newMetrics(w.daemon)
	w.evictor.measure = func() ([]hostcache.Fill, error) {
		return []hostcache.Fill{{Name: hostcache.PlaceCache, Path: "/cache", Volume: host.Volume{Total: 1000, Used: w.used}}}, w.unread
	}
	w.evictor.pass = func(context.Context, host.Rules) ([]passed, error) {
		w.passes++
		p := w.outcome
		p.Place = hostcache.Place{Name: hostcache.PlaceCache, Path: "/cache"}
		return []passed{p}, nil
	}
	return w
}

// came is what a pass over the full volume comes to.
func came(after int64, blocked ...host.Block) passed {
	r := host.Result{After: host.Volume{Total: 1000, Used: after}, Foreign: 200}
	r.Volume, r.Goal, r.Blocked, r.Ours = host.Volume{Total: 1000, Used: full}, 750, blocked, 700
	for n := int64(full); n > after; n -= 100 {
		r.Evicted = append(r.Evicted, host.Verdict{Ref: host.Ref{Store: "stages/shop", ID: fmt.Sprint(n)}})
	}
	return passed{Result: r, took: time.Second}
}

// messages counts what was logged at a level.
func (w *watched) messages(level zapcore.Level) int {
	n := 0
	for _, e := range w.log.All() {
		if e.Level == level {
			n++
		}
	}
	return n
}

func TestVolumesAreLookedAtAboutOnceAnInterval(t *testing.T) {
	for interval, want := range map[time.Duration][2]int{time.Minute: {60, 121}, time.Hour: {1, 2}, 0: {0, 0}} {
		t.Run(interval.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, interval)
				measure, looks := w.evictor.measure, 0
				w.evictor.measure = func() ([]hostcache.Fill, error) {
					looks++
					return measure()
				}
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				check(t, w.evictor.run(ctx))
				if looks < want[0] || looks > want[1] {
					t.Errorf("%d looks in an hour, want %v", looks, want)
				}
				if w.passes != 0 {
					t.Errorf("%d passes over a volume with room", w.passes)
				}
			})
		})
	}
}

func TestAPassIsToldInStatusMetricsAndLog(t *testing.T) {
	failed := came(full)
	failed.err = errors.New("the disk is broken")
	busy := passed{err: fmt.Errorf("%w (/cache)", hostcache.ErrBusy)}
	for _, tt := range []struct {
		name, outcome string
		pass          passed
		line          string // of the status; none where there was no pass
		level         zapcore.Level
	}{
		{"a pass that frees enough", passMet, came(700), "evicted 2 items, freed 200 bytes", zapcore.InfoLevel},
		{
			"a pass that does not", passShort, came(800, host.Block{Reason: "in use by a running build", Items: 3, Bytes: 500}),
			"evicted 1 items, freed 100 bytes, which is not enough: 500 bytes are in use by a running build; 200 bytes are not Cairn's", zapcore.WarnLevel,
		},
		{"a pass that fails", passFailed, failed, "evicted 0 items, freed 0 bytes, and failed: the disk is broken", zapcore.ErrorLevel},
		{"a pass of another process", passBusy, busy, "", zapcore.InfoLevel},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := watch(t, time.Minute)
			w.used, w.outcome = full, tt.pass
			w.evictor.look(t.Context())
			if w.passes != 1 || w.messages(tt.level) != 1 || w.log.Len() != 1 {
				t.Errorf("%d passes, told as %v", w.passes, w.log.All())
			}
			s := httptest.NewServer(w.handler())
			defer s.Close()
			if _, text := get(t, s.URL+"/metrics"); !strings.Contains(text, `cairnd_eviction_passes_total{outcome="`+tt.outcome+`"} 1`) {
				t.Errorf("the metrics do not count it as %s:\n%s", tt.outcome, text)
			}
			status := w.status()
			if len(status.Volumes) != 1 || status.Evicting {
				t.Fatalf("the status is %+v", status)
			}
			v := status.Volumes[0]
			if v.Volume != hostcache.PlaceCache || v.Used != full || v.High != 800 || v.Low != 750 || (v.LastPass == nil) != (tt.line == "") {
				t.Errorf("the status of the volume is %+v", v)
			}
			if p := v.LastPass; p != nil && (p.Line != tt.line || p.Met != (tt.outcome == passMet) || len(p.Blocked) != len(tt.pass.Blocked)) {
				t.Errorf("the pass is told as %+v", p)
			}
		})
	}
}

func TestAVolumeThatStaysTooFullIsWarnedOfOnceAnHour(t *testing.T) {
	held := func(bytes int64) passed {
		return came(full, host.Block{Reason: "in use by a running build", Items: 1, Bytes: bytes})
	}
	failed := held(500)
	failed.err = errors.New("the disk is broken")
	for _, tt := range []struct {
		name   string
		change func(w *watched, minute int)
		want   int // warnings and errors in 150 minutes
	}{
		{"nothing changes", func(*watched, int) {}, 3},
		{"figures change a little", func(w *watched, minute int) { w.outcome = held(500 + int64(minute%10)) }, 3},
		{"what blocks grows", func(w *watched, minute int) { w.outcome = held(500 + int64(minute/30*10)) }, 5},
		{"something else blocks", func(w *watched, minute int) {
			if minute == 30 {
				w.outcome = came(full, host.Block{Reason: "not yet published", Items: 1, Bytes: 500})
			}
		}, 3},
		{"it is well for a while", func(w *watched, minute int) {
			if w.used = full; minute == 30 {
				w.used = room
			}
		}, 3},
		{"it fails from half an hour on", func(w *watched, minute int) {
			if minute == 30 {
				w.outcome = failed
			}
		}, 3},
		{"it cannot be measured", func(w *watched, _ int) { w.unread = errors.New("no such volume") }, 3},
		{"it evicts each time", func(w *watched, _ int) { w.outcome = came(800) }, 3},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, time.Minute)
				w.used, w.outcome = full, held(500)
				for minute := range 150 {
					tt.change(w, minute)
					w.evictor.look(t.Context())
					time.Sleep(time.Minute) // of the bubble's clock
				}
				told := w.messages(zapcore.WarnLevel) + w.messages(zapcore.ErrorLevel)
				if told != tt.want {
					t.Errorf("it is told %d times, want %d", told, tt.want)
				}
				if evicted := w.messages(zapcore.InfoLevel); len(w.outcome.Evicted) > 0 && told+evicted != w.passes {
					t.Errorf("%d of %d passes that evicted are told", told+evicted, w.passes)
				}
			})
		})
	}
}

func TestADaemonEvictsBeforeItLeaves(t *testing.T) {
	for name, tt := range map[string]struct {
		interval time.Duration
		want     int
	}{"one that evicts": {time.Hour, 1}, "one that does not": {0, 0}} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := watch(t, tt.interval)
				w.used, w.outcome = full, came(700)
				if err := w.usage.awaitIdle(t.Context(), time.Minute, w.lastLook); !errors.Is(err, errIdle) {
					t.Errorf("it leaves with %v", err)
				}
				if w.passes != tt.want {
					t.Errorf("%d passes, want %d", w.passes, tt.want)
				}
			})
		})
	}
	t.Run("one that is needed again meanwhile", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			w := watch(t, time.Hour)
			w.used = full
			began := time.Now()
			pass := w.evictor.pass
			w.evictor.pass = func(ctx context.Context, r host.Rules) ([]passed, error) {
				if w.passes == 0 && !w.usage.hold() {
					t.Error("who comes during the last look is refused")
				}
				w.outcome = came(700)
				return pass(ctx, r)
			}
			if err := w.usage.awaitIdle(t.Context(), time.Minute, w.lastLook); !errors.Is(err, errIdle) {
				t.Errorf("it leaves with %v", err)
			}
			if stayed := time.Since(began); stayed != 2*time.Minute || w.passes != 2 {
				t.Errorf("it stayed for %v and made %d passes", stayed, w.passes)
			}
		})
	})
}

func TestAPassThatDoesNotEndIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := watch(t, time.Hour)
		w.used = full
		began := time.Now()
		w.evictor.pass = func(ctx context.Context, _ host.Rules) ([]passed, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		w.evictor.look(t.Context())
		if took := time.Since(began); took != passTime || w.messages(zapcore.WarnLevel) != 1 {
			t.Errorf("it took %v, told as %v", took, w.log.All())
		}
	})
}

// fetchedCommit is a commit of another repository in a cache, used two hours ago.
func fetchedCommit(t *testing.T, cache string) string {
	t.Helper()
	dir := filepath.Join(cache, hostcache.GitDir, strings.Repeat("a", 24), strings.Repeat("b", 40))
	check(t, os.MkdirAll(dir, 0o700))
	check(t, os.WriteFile(filepath.Join(dir, "HEAD"), make([]byte, 1<<16), 0o600))
	then := time.Now().Add(-2 * time.Hour)
	check(t, os.Chtimes(dir, then, then))
	return dir
}

func missing(path string) bool {
	_, err := os.Stat(path)
	return errors.Is(err, os.ErrNotExist)
}

func TestARealDaemonEvicts(t *testing.T) {
	for _, tt := range []struct {
		name, interval string
		idle           time.Duration
	}{
		{"while it runs", "50ms", time.Hour},
		{"before it leaves", "100h", 300 * time.Millisecond},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Setenv(hostcache.VariableHigh, "1")
			t.Setenv(hostcache.VariableLow, "1")
			t.Setenv("CAIRN_EVICTION_INTERVAL", tt.interval)
			p, cache := paths(t), t.TempDir()
			commit := fetchedCommit(t, cache)
			_, _, err := daemonctl.Ensure(t.Context(), daemonctl.Options{Paths: p, Beside: cairnd, Cache: cache, IdleTimeout: tt.idle})
			check(t, err)
			s, err := daemonctl.Ask(t.Context(), p)
			check(t, err)
			t.Cleanup(func() {
				_ = syscall.Kill(s.PID, syscall.SIGTERM) // it may have left
				eventually(t, "the daemon ends", func() bool { return gone(s.PID) })
			})
			eventually(t, "the commit goes", func() bool { return missing(commit) })
			if tt.idle < time.Minute {
				eventually(t, "the daemon leaves", func() bool { return gone(s.PID) })
				return
			}
			eventually(t, "the pass is told", func() bool {
				s, err = daemonctl.Ask(t.Context(), p)
				return err == nil && len(s.Volumes) > 0 && s.Volumes[0].LastPass != nil
			})
			if v := s.Volumes[0]; v.Path != cache || v.High != 1 || v.LastPass.Met || !strings.Contains(v.LastPass.Line, "not enough") {
				t.Errorf("the volume is told as %+v, the pass as %+v", v, v.LastPass)
			}
		})
	}
}
