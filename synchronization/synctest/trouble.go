package synctest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// trouble are the tests of owners and stores that fail.
func trouble() []test {
	return []test{
		{"a paused owner is replaced and its decision refused", refusesThePaused},
		{"a stage being published is taken over with its manifest", takesOverPublishing},
		{"a stage being deleted is taken over to be deleted", takesOverDeleting},
		{"a dead builder's manifest to avoid is kept", takesOverAvoid},
		{"a sweep cleans up after the dead", sweepsTheDead},
		{"a sweep ends what the dead gave its tag", settlesThePublished},
		{"a lost session does nothing more", stopsTheLost},
		{"a session takes the place of a lost one", takesThePlace},
		{"what a session put down is its own to take, and refused to who put it down", putsDown},
		{"an ended session that cannot be removed is left to others", leavesTheEnded},
		{"taking a place ends a session also for who has given up", endsTheLostAnyway},
		{"whoever gives up taking a place leaves no session", givesUpThePlace},
		{"ambiguous answers do not decide twice", survivesAmbiguity},
		{"an acquisition that is applied late is the session's own", healsLateWrites},
		{"a store that is away is given up after the budget", givesUpStore},
		{"watches that are dropped delay nobody for long", survivesDroppedWatches},
		{"a lost shard is reported and made anew", reportsLostShard},
		{"a lost record is reported and keeps its epoch", reportsLostRecord},
		{"losing everything is reported by who knew it", reportsLosingEverything},
		{"losing everything is reported although another has made it anew", reportsLosingEverythingLate},
		{"nonsense in an entry names its key", namesNonsense},
		{"nonsense in what holds the ledger together is mended by removing its key", namesNonsenseThatHoldsItTogether},
	}
}

func set(snap lock.Snapshot, key, value string) []lock.Change {
	if old, ok := snap.Data[key]; ok {
		return []lock.Change{lock.Replace(key, old, value)}
	}
	return []lock.Change{lock.Add(key, value)}
}

func refusesThePaused(t *testing.T, s *suite) {
	slow, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c := slow.claim(d)
	slow.faulty.Pause()
	taken := quick.await(d)
	if taken.Fence() <= c.Fence() || taken.Entry().Nonce == c.Entry().Nonce {
		t.Errorf("taken over with fence %d after %d, nonce %s after %s",
			taken.Fence(), c.Fence(), taken.Entry().Nonce, c.Entry().Nonce)
	}
	slow.faulty.Resume()
	s.wantErr(context.Cause(slow.Context()), synchronization.ErrLost)
	s.wantErr(c.Decide(t.Context(), manifest(0)), synchronization.ErrLost)
	s.wantErr(c.Release(t.Context()), synchronization.ErrTaken)
	s.must(taken.Decide(t.Context(), manifest(1)))
	s.wantEntry(d, synchronization.Publishing, manifest(1), "")
}

func takesOverPublishing(t *testing.T, s *suite) {
	slow, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c := slow.claim(d)
	s.must(c.Decide(t.Context(), manifest(0)))
	slow.faulty.Pause()
	taken := quick.await(d)
	if e := taken.Entry(); e.State != synchronization.Publishing || e.Manifest != manifest(0) {
		t.Fatalf("took over %+v", e)
	}
	slow.faulty.Resume()
	_, _, err := c.Guard(t.Context())
	s.wantErr(err, synchronization.ErrLost)
	s.must(taken.Published(t.Context()))
	s.wantEntry(d, synchronization.Published, manifest(0), "")
}

func takesOverDeleting(t *testing.T, s *suite) {
	slow, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c, err := slow.Doom(t.Context(), d)
	s.must(err)
	s.must(c.Delete(t.Context(), manifest(0)))
	slow.faulty.Pause()
	taken := quick.await(d)
	if e := taken.Entry(); e.State != synchronization.Deleting || e.Manifest != manifest(0) {
		t.Fatalf("took over %+v", e)
	}
	s.must(taken.Deleted(t.Context()))
	s.wantEntry(d, synchronization.Deleted, manifest(0), "")
}

func takesOverAvoid(t *testing.T, s *suite) {
	slow, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	slow.deleted(d, manifest(0))
	slow.claim(d)
	slow.faulty.Pause()
	if e := quick.await(d).Entry(); e.Avoid != manifest(0) {
		t.Fatalf("took over %+v", e)
	}
}

func sweepsTheDead(t *testing.T, s *suite) {
	slow, quick := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	slow.claim(stage(0))
	s.must(slow.claim(stage(1)).Decide(t.Context(), manifest(1)))
	_, err := slow.Doom(t.Context(), stage(2))
	s.must(err)
	s.must(quick.ledger.Sweep(t.Context(), always)) // first sight of the session
	s.wantEntry(stage(0), synchronization.Building, "", "")
	slow.faulty.Pause()
	s.must(quick.ledger.Sweep(t.Context(), always))
	pass(2 * ttl)
	never := func(context.Context, stages.Digest, digest.Digest) (bool, error) { return false, nil }
	s.must(quick.ledger.Sweep(t.Context(), never))
	s.wantEntry(stage(0), synchronization.Absent, "", "")
	s.wantEntry(stage(1), synchronization.Publishing, manifest(1), "")
	s.wantEntry(stage(2), synchronization.Absent, "", "")
	records, err := quick.faulty.Records(t.Context(), "cairn-"+project)
	s.must(err)
	for _, r := range records {
		if r.Session == slow.ID() {
			t.Error("the dead session's record is still there")
		}
	}
}

// settlesThePublished: a runner gave a stage its tag and was cut off before it could
// say so. Nobody builds upon that stage, so only a sweep comes by.
func settlesThePublished(t *testing.T, s *suite) {
	slow, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(1)
	c := slow.claim(d)
	s.must(c.Decide(t.Context(), manifest(1)))
	s.must(quick.ledger.Sweep(t.Context(), always)) // it lives: its tag is its own affair
	s.wantEntry(d, synchronization.Publishing, manifest(1), "")
	slow.faulty.Pause()
	pass(2 * ttl)
	s.must(quick.ledger.Sweep(t.Context(), func(_ context.Context, of stages.Digest, m digest.Digest) (bool, error) {
		if of != d || m != manifest(1) {
			t.Errorf("asked whether %s is %s", of, m)
		}
		return true, nil
	}))
	s.wantEntry(d, synchronization.Published, manifest(1), "")
	slow.faulty.Resume()
	if err := c.Published(t.Context()); err == nil {
		t.Error("the dead owner had the last word")
	}
	s.must(quick.ledger.Sweep(t.Context(), always))
	s.wantEntry(d, synchronization.Published, manifest(1), "") // Δ has only begun
	pass(delta + 2*time.Second)
	s.must(quick.ledger.Sweep(t.Context(), always))
	s.wantEntry(d, synchronization.Absent, "", "")
}

func stopsTheLost(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	c := p.claim(stage(0))
	p.faulty.Pause()
	<-p.Context().Done()
	p.faulty.Resume()
	_, acquireErr := p.TryAcquire(t.Context(), many(2))
	_, entriesErr := p.Entries(t.Context(), many(2))
	for name, err := range map[string]error{
		"decide": c.Decide(t.Context(), manifest(0)), "acquire": acquireErr, "read": entriesErr,
		"wait": p.Wait(t.Context(), many(1), nil), "rescue": p.Rescue(t.Context(), stage(3), synchronization.Entry{State: synchronization.Doomed}, manifest(3)),
	} {
		if !errors.Is(err, synchronization.ErrLost) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
}

// storm is what a bad day looks like.
func storm() locktest.Faults {
	return locktest.Faults{
		Refused: 0.08, LostRequest: 0.08, LostAnswer: 0.08, Late: 0.08, Conflict: 0.08, DropWatch: 0.2,
		MaxDelay: 10 * time.Millisecond, MaxLate: 300 * time.Millisecond,
	}
}

func survivesAmbiguity(t *testing.T, s *suite) {
	const runners, count = 4, 6
	var mu sync.Mutex
	decided := map[stages.Digest]int{}
	var wg sync.WaitGroup
	for i := range runners {
		p := s.join(locktest.Faults{})
		p.faulty.Set(storm())
		wg.Go(func() {
			for n := range count {
				if p.run(stage(n), i*count+n) {
					mu.Lock()
					decided[stage(n)]++
					mu.Unlock()
				}
			}
		})
	}
	wg.Wait()
	for n := range count {
		if got := decided[stage(n)]; got != 1 {
			t.Errorf("stage %d was decided %d times", n, got)
		}
	}
}

// run brings a stage to its end as a runner does, and reports whether it decided.
func (p *process) run(d stages.Digest, m int) (decided bool) {
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	for {
		got, err := p.TryAcquire(ctx, []stages.Digest{d})
		if err != nil {
			p.t.Error(err)
			return decided
		}
		c := got.Claims[d]
		switch {
		case c == nil && got.Held[d].Entry.State == synchronization.Published:
			return decided
		case c == nil:
			err = p.Wait(ctx, []stages.Digest{d}, func(synchronization.Holder) {})
		case c.Entry().State == synchronization.Building:
			if err = c.Decide(ctx, manifest(m)); err == nil {
				decided = true
			}
		default:
			err = c.Published(ctx)
		}
		if err != nil && !errors.Is(err, synchronization.ErrTaken) {
			p.t.Error(err)
			return decided
		}
	}
}

func healsLateWrites(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.faulty.Set(locktest.Faults{Late: 1, MaxLate: time.Second})
	ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
	defer cancel()
	if _, err := p.TryAcquire(ctx, many(1)); err == nil {
		t.Fatal("acquired although no answer came")
	}
	p.faulty.Wait()
	p.faulty.Set(locktest.Faults{})
	s.must(p.claim(stage(0)).Decide(t.Context(), manifest(0)))
	s.wantEntry(stage(0), synchronization.Publishing, manifest(0), "")
}

func givesUpStore(t *testing.T, s *suite) {
	if s.h.Real {
		return // it is the client that is tested, and it would take its time
	}
	p := s.join(locktest.Faults{})
	p.faulty.Set(locktest.Faults{Refused: 1})
	l := p.ledger
	s.wantErr(l.Bind(t.Context(), "somewhere"), synchronization.ErrUnavailable)
	_, err := l.Join(t.Context())
	s.wantErr(err, synchronization.ErrUnavailable)
	_, err = synchronization.Open(t.Context(), p.faulty, project, s.options(0))
	s.wantErr(err, synchronization.ErrUnavailable)
	if err := l.Sweep(t.Context(), always); !errors.Is(err, synchronization.ErrUnavailable) || !strings.Contains(err.Error(), project) {
		t.Errorf("got error %v", err)
	}
}

func survivesDroppedWatches(t *testing.T, s *suite) {
	owner, waiter := s.join(locktest.Faults{}), s.join(locktest.Faults{DropWatch: 1})
	c := owner.claim(stage(0))
	done := make(chan error, 1)
	go func() { done <- waiter.Wait(t.Context(), many(1), func(synchronization.Holder) {}) }()
	pass(2 * ttl)
	s.must(c.Release(t.Context()))
	select {
	case err := <-done:
		s.must(err)
	case <-time.After(ttl):
		t.Fatal("still waiting")
	}
}

func reportsLostShard(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	c := p.claim(stage(0))
	shard, _ := s.shardOf(stage(0))
	s.h.Lose(shard)
	s.wantErr(c.Decide(t.Context(), manifest(0)), synchronization.ErrTaken)
	again := p.claim(stage(0))
	s.must(again.Decide(t.Context(), manifest(0)))
	wantLoss(t, p.ledger, shard)
	later, _ := s.ledger(locktest.Faults{})
	wantLoss(t, later, shard) // who opens it within Δ is told too
	pass(delta + time.Second)
	if calm, _ := s.ledger(locktest.Faults{}); len(calm.Losses()) != 0 {
		t.Errorf("losses %v after Δ", calm.Losses())
	}
}

// wantLoss checks that the ledger reports one loss, of exactly these objects.
func wantLoss(t *testing.T, l *synchronization.Ledger, objects ...string) {
	t.Helper()
	losses := l.Losses()
	if len(losses) != 1 || !slices.Equal(losses[0].Objects, slices.Sorted(slices.Values(objects))) {
		t.Errorf("losses %v, want %s", losses, objects)
	}
}

func reportsLostRecord(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	s.must(p.ledger.Shut(t.Context()))
	s.must(p.ledger.Reopen(t.Context()))
	c := p.claim(stage(0))
	before, err := p.ledger.UID(t.Context())
	s.must(err)
	s.h.Lose("cairn-" + project)
	other := s.join(locktest.Faults{})
	wantLoss(t, other.ledger, "cairn-"+project)
	after, err := other.ledger.UID(t.Context())
	s.must(err)
	if after == before {
		t.Error("the UID did not tell")
	}
	s.must(c.Decide(t.Context(), manifest(0))) // the epoch was kept, and the entry
	_, err = p.Entries(t.Context(), many(1))
	s.must(err)
	wantLoss(t, p.ledger, "cairn-"+project)
}

func namesNonsense(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.claim(stage(0))
	shard, _ := s.shardOf(stage(0))
	key := "stage." + stage(0).Hex()
	replaceKey(t, s, shard, key, `{"state":"finished"}`)
	_, acquireErr := p.TryAcquire(t.Context(), many(1))
	_, listErr := p.ledger.List(t.Context())
	for name, err := range map[string]error{
		"acquire": acquireErr, "list": listErr,
		"wait":  p.Wait(t.Context(), many(1), nil),
		"sweep": p.ledger.Sweep(t.Context(), always),
	} {
		if !errors.Is(err, synchronization.ErrBadEntry) || !strings.Contains(err.Error(), key) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	for _, want := range []bool{true, false} {
		if was, err := p.ledger.Break(t.Context(), stage(0)); was != want || err != nil {
			t.Errorf("break: %v, error %v, want %v", was, err, want)
		}
	}
	p.claim(stage(0))
}

// loseAll loses the record and all shards.
func (s *suite) loseAll() (objects []string) {
	objects = append(objects, "cairn-"+project)
	for n := range synchronization.Shards {
		objects = append(objects, fmt.Sprintf("cairn-%s.%d", project, n))
	}
	for _, name := range objects {
		s.h.Lose(name)
	}
	return objects
}

// Nothing in the store tells of a loss of everything. Those who knew the ledger do.
func reportsLosingEverything(t *testing.T, s *suite) {
	p, q := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	c := p.claim(stage(0))
	s.must(c.Decide(t.Context(), manifest(0)))
	objects := s.loseAll()
	s.wantErr(c.Published(t.Context()), synchronization.ErrTaken)
	p.claim(stage(0))
	q.claim(stage(1))
	later, _ := s.ledger(locktest.Faults{})
	for _, l := range []*synchronization.Ledger{p.ledger, q.ledger, later} {
		wantLoss(t, l, objects...)
	}
}

func reportsLosingEverythingLate(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.claim(stage(0))
	objects := s.loseAll()
	s.join(locktest.Faults{}).claim(stage(0)) // of a ledger that it takes for new
	got, err := p.TryAcquire(t.Context(), many(1))
	s.must(err)
	if len(got.Held) != 1 {
		t.Errorf("acquired %+v", got)
	}
	wantLoss(t, p.ledger, objects...)
	later, _ := s.ledger(locktest.Faults{})
	wantLoss(t, later, objects...)
}

func namesNonsenseThatHoldsItTogether(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.claim(stage(0))
	shard, _ := s.shardOf(stage(0))
	for _, tt := range []struct {
		object, key string
		loses       bool
	}{{shard, "ledger", true}, {"cairn-" + project, "shards", false}} {
		replaceKey(t, s, tt.object, tt.key, "nonsense")
		b := s.h.Open()
		_, err := synchronization.Open(t.Context(), b, project, s.options(99))
		if err == nil {
			_, err = p.Entries(t.Context(), many(1))
		}
		var bad *synchronization.BadKeyError
		if !errors.As(err, &bad) || !errors.Is(err, synchronization.ErrBadEntry) ||
			bad.Object != tt.object || bad.Key != tt.key || bad.Loses != tt.loses || bad.Delta != delta {
			t.Fatalf("%s of %s: got error %v", tt.key, tt.object, err)
		}
		found, err := b.Read(t.Context(), tt.object)
		s.must(err)
		_, err = b.Swap(t.Context(), tt.object, []lock.Change{lock.Remove(tt.key, found[tt.object].Data[tt.key])})
		s.must(err)
		calm, _ := s.ledger(locktest.Faults{})
		if _, err := calm.List(t.Context()); err != nil {
			t.Errorf("without %s of %s: %v", tt.key, tt.object, err)
		}
		wantLoss(t, calm, shard)
	}
	s.wantEntry(stage(0), synchronization.Building, "", "")
}
