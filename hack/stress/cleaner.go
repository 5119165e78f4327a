package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

// cleaning is what a round with cleaners has besides. Its waves are the rounds that
// are counted: they follow one another in the same storage, since what one wave has
// made is only old enough to go when the next ones build.
type cleaning struct {
	// waves is how many times runners come, each for a commit taken at random; 0 is a
	// round without cleaners. A wave lasts for at least its length.
	waves  int
	length time.Duration
	// grace is for how long cleaners have what was named stay.
	grace time.Duration
	// delta and guard are what the programs take Δ and the time of a guarded write for;
	// cairn's own would have a round take an hour.
	delta, guard time.Duration
	// pause is for how long a runner, or a cleaner, is stopped.
	pause time.Duration
	// cleanerKills and cleanerStops are the harm that is done to cleaners.
	cleanerKills, cleanerStops int
}

// maxWaves is of how many waves a history consists at most.
const maxWaves = 10

// cleaned is the shape of waves with cleaners. Nothing is under way for Δ: a guarded
// write is sent within the guard and a pause, and is done a late write's time after.
func cleaned(waves int) shape {
	return shape{
		runners: 8, engines: 3, images: 2, faults: true, kills: waves, stops: (waves + 1) / 2, restarts: (waves + 4) / 5, bursts: (waves + 1) / 2,
		limit: 4 * time.Minute,
		cleaning: cleaning{
			waves: waves, length: 10 * time.Second, grace: 4 * time.Second, delta: 20 * time.Second, guard: 5 * time.Second,
			pause: 2 * quickTTL, cleanerKills: waves, cleanerStops: (waves + 1) / 2,
		},
	}
}

// planCleaning deals the harm out over all waves: that of cleaners strikes when they
// are about to delete something.
func planCleaning(seed uint64, s shape) []blow {
	r := rand.New(rand.NewPCG(seed, 7))
	building := []moment{commandRuns, entryAcquired, manifestSaved, stageDecided, tagPut, stageOver}
	sweeping := []moment{stageMarked, stageDoomed, tagDeleted, stageDeleted, graceNoted}
	var all []blow
	for _, h := range []struct {
		harm    harm
		n       int
		moments []moment
	}{
		{killing, s.kills, building},
		{stopping, s.stops, building},
		{restarting, s.restarts, building},
		{bursting, s.bursts, append(building, sweeping...)},
		{killing, s.cleanerKills, sweeping},
		{stopping, s.cleanerStops, sweeping},
	} {
		for range h.n {
			m := h.moments[r.IntN(len(h.moments))]
			all = append(all, blow{moment: m, nth: 1 + r.IntN(6*s.waves), harm: h.harm})
		}
	}
	return all
}

// waves has runners come and go while branches move, with a cleaner at work all the time.
func (r *round) waves(ctx context.Context) {
	for _, c := range r.past.commits {
		r.record.add(history.Event{Kind: history.Plan, Report: c.plan})
	}
	stop := r.cleanWithoutPause()
	defer stop()
	for n := range r.shape.waves {
		if ctx.Err() != nil {
			return
		}
		r.wave(ctx, n)
	}
}

// wave moves the branches and has the runners come, half of them at once.
func (r *round) wave(ctx context.Context, n int) {
	for i, b := range branches() {
		r.move(ctx, b, i == 0)
	}
	end := time.After(r.shape.length)
	for i := range r.shape.runners {
		if i >= r.shape.runners/2 {
			<-time.After(r.shape.length / time.Duration(r.shape.runners))
		}
		h := r.hosts[r.dice.below(len(r.hosts))]
		c := r.past.commits[r.dice.below(len(r.past.commits))]
		r.mu.Lock()
		r.serial++
		name := fmt.Sprintf("%s-%d", h.name(), r.serial)
		r.mu.Unlock()
		r.launch(job{name: name, host: h, dir: c.dir})
	}
	<-end
	r.await(r.shape.limit)
}

// move has a branch name another commit, or none. What it names is not kept for sure
// from before that is changed until after.
func (r *round) move(ctx context.Context, branch string, always bool) {
	n := r.dice.below(len(r.past.commits) + 2)
	if n >= len(r.past.commits) && always {
		n = 0
	}
	r.record.add(history.Event{Kind: history.Refer, Tag: branch})
	ref, to := "refs/heads/"+branch, ""
	args := []string{"update-ref", "-d", ref}
	if n < len(r.past.commits) {
		to = r.past.commits[n].plan.Root
		args = []string{"update-ref", ref, r.past.commits[n].id}
	}
	if _, err := r.past.origin.Git(ctx, args...); err != nil {
		r.fail(err)
		return
	}
	if to != "" {
		r.record.add(history.Event{Kind: history.Refer, Tag: branch, Digest: to})
	}
}

// maxFailed is how many cleaners may fail one after the other.
const maxFailed = 10

// cleanWithoutPause starts one cleaner after the other until the result is called,
// which waits for the last. While one is stopped the next is at work already.
func (r *round) cleanWithoutPause() (stop func()) {
	quit := make(chan struct{})
	var all sync.WaitGroup
	all.Go(func() {
		for n, failed := 0, 0; ; n++ {
			p := r.sweep(n)
			if p == nil {
				return
			}
			select {
			case <-p.done:
				if failed++; p.cmd.ProcessState.Success() {
					failed = 0
				}
				if failed == maxFailed {
					r.fail(fmt.Errorf("%d cleaners in a row fail, the last is %s: %s", failed, p.name, lastLines(p.log.Name())))
					return
				}
			case <-p.paused:
				all.Go(func() { <-p.done })
			}
			select {
			case <-quit:
				return
			default:
			}
		}
	})
	return func() {
		close(quit)
		all.Wait()
	}
}

// sweep starts the nth cleaner.
func (r *round) sweep(n int) *process {
	h := r.past.sweepers[n%len(r.past.sweepers)]
	return r.launch(job{name: fmt.Sprint("cleaner-", n), host: h, dir: h.clone(), cleaner: true})
}

// lastWave builds each commit that a branch names, and cleans up, with nothing that
// goes wrong.
func (r *round) lastWave() {
	for _, c := range r.past.commits {
		h := r.hosts[0]
		r.launch(job{name: "last-" + c.id[:8], host: h, dir: c.dir})
		r.await(r.shape.limit)
	}
	if p := r.sweep(len(r.cleaners)); p != nil {
		<-p.done
	}
}

// sweeps is what the cleaners of a round did.
type sweeps struct{ runs, gaveUp, removed, rescued int }

// String is a part of a round's line.
func (s sweeps) String() string {
	return fmt.Sprintf("%d cleanups, %d gave up, %d names removed, %d rescued", s.runs, s.gaveUp, s.removed, s.rescued)
}

// plus sums two up.
func (s sweeps) plus(o sweeps) sweeps {
	return sweeps{s.runs + o.runs, s.gaveUp + o.gaveUp, s.removed + o.removed, s.rescued + o.rescued}
}

// sweepsOf counts what cleaners did by what they asked for.
func sweepsOf(h *history.History) sweeps {
	var s sweeps
	cleaners := map[string]bool{}
	for _, e := range h.Events {
		switch {
		case e.Kind == history.Clean:
			s.runs++
			cleaners[e.Runner] = true
		case e.Kind == history.End && e.Exit != 0 && cleaners[e.Runner]:
			s.gaveUp++
		case e.Kind == history.LedgerWrite && e.Status/100 == 2:
			s.count(e.Changes)
		}
	}
	return s
}

// count counts what a change of the ledger says that was done.
func (s *sweeps) count(changes []history.Change) {
	state := func(text string) string {
		var e struct{ State string }
		_ = json.Unmarshal([]byte(text), &e) // what is no entry has no state
		return e.State
	}
	for _, c := range changes {
		if !strings.HasPrefix(c.Key, "stage.") || state(c.Old) != "doomed" && state(c.Old) != "deleting" {
			continue
		}
		switch state(c.New) {
		case "published":
			s.rescued++
		case "deleted":
			s.removed++
		}
	}
}
