package synctest

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// protocolTests are the steps of the protocol, on a store that works.
func protocolTests() []test {
	return []test{
		{"a ledger is the same for everybody who opens it", opensOnce},
		{"a ledger of another format is refused", refusesFormats},
		{"a ledger is bound to one storage", bindsOnce},
		{"one of 32 contenders builds a stage", hasOneBuilder},
		{"a claim goes through its states", goesThroughStates},
		{"what is acquired again is the same claim", keepsClaims},
		{"what was released is free", releases},
		{"a release of what another took away is refused", refusesLateReleases},
		{"closing a session frees what it was building", closes},
		{"a new generation avoids the deleted manifest", avoids},
		{"a lost manifest ends its generation", abandons},
		{"a doomed stage is rescued", rescues},
		{"a doomed stage without a tag is built", reclaims},
		{"a published stage without a tag is published again", republishes},
		{"only stages without an entry are doomed", doomsTheSilent},
		{"a drain waits for what was being built", drains},
		{"a sweep drops what is Δ old", sweeps},
		{"a waiter is woken by the change, and does not find it by looking", wakesWaiters},
		{"a waiter is told who it waits for", tells},
		{"a chain is acquired with one write for each shard", acquiresInOneWrite},
		{"a closed ledger fences its writers", fences},
		{"a guard is short and only the owner's", guards},
		{"steps in the wrong state are refused", refusesSteps},
	}
}

func opensOnce(t *testing.T, s *suite) {
	var mu sync.Mutex
	uids := map[string]bool{}
	var wg sync.WaitGroup
	for i := range 8 {
		b := s.h.Open()
		wg.Go(func() {
			l, err := synchronization.Open(t.Context(), b, project, s.options(uint64(i)))
			if err != nil {
				t.Error(err)
				return
			}
			defer l.Close()
			uid, err := l.UID(t.Context())
			mu.Lock()
			defer mu.Unlock()
			uids[uid] = true
			if err != nil || len(l.Losses()) > 0 || l.Address() != b.Address() {
				t.Errorf("error %v, losses %v, address %q", err, l.Losses(), l.Address())
			}
		})
	}
	wg.Wait()
	if len(uids) != 1 || uids[""] {
		t.Fatalf("the ledger has the UIDs %v", uids)
	}
	if _, err := synchronization.Open(t.Context(), s.h.Open(), "no.dots", s.options(0)); err == nil {
		t.Error("a project's name with a dot was accepted")
	}
}

func refusesFormats(t *testing.T, s *suite) {
	s.ledger(locktest.Faults{})
	replaceKey(t, s, "cairn-"+project, "format", "2")
	_, err := synchronization.Open(t.Context(), s.h.Open(), project, s.options(0))
	var format *synchronization.FormatError
	if !errors.As(err, &format) || format.Found != "2" || format.Known != synchronization.Format {
		t.Fatalf("got error %v", err)
	}
}

func bindsOnce(t *testing.T, s *suite) {
	a, _ := s.ledger(locktest.Faults{})
	b, _ := s.ledger(locktest.Faults{})
	s.must(a.Bind(t.Context(), "registry.example.com/shop"))
	s.must(b.Bind(t.Context(), "registry.example.com/shop"))
	err := b.Bind(t.Context(), "registry.example.com/other")
	var elsewhere *synchronization.BoundElsewhereError
	if !errors.As(err, &elsewhere) || elsewhere.Bound != "registry.example.com/shop" || elsewhere.Wanted != "registry.example.com/other" {
		t.Fatalf("got error %v", err)
	}
}

func hasOneBuilder(t *testing.T, s *suite) {
	s.ttl = patience // nobody dies here, and 32 contenders make a real server slow
	var procs []*process
	for range 32 {
		procs = append(procs, s.join(locktest.Faults{}))
	}
	won := make(chan int, len(procs))
	var wg sync.WaitGroup
	for i, p := range procs {
		wg.Go(func() {
			got, err := p.TryAcquire(t.Context(), many(3))
			if err != nil {
				t.Error(err)
				return
			}
			if len(got.Claims)+len(got.Held) != 3 {
				t.Errorf("%d claims and %d held of 3", len(got.Claims), len(got.Held))
			}
			for range got.Claims {
				won <- i
			}
		})
	}
	wg.Wait()
	if len(won) != 3 {
		t.Fatalf("%d claims for 3 stages", len(won))
	}
}

func goesThroughStates(t *testing.T, s *suite) {
	p, d, m := s.join(locktest.Faults{}), stage(0), manifest(0)
	c := p.claim(d)
	if c.Digest() != d || c.Entry().State != synchronization.Building || c.Entry().Session != p.ID() {
		t.Fatalf("claimed %+v", c.Entry())
	}
	s.wantEntry(d, synchronization.Building, "", "")
	s.must(c.Decide(t.Context(), m))
	s.wantEntry(d, synchronization.Publishing, m, "")
	_, cancel, err := c.Guard(t.Context())
	s.must(err)
	cancel()
	s.must(c.Published(t.Context()))
	s.wantEntry(d, synchronization.Published, m, "")
	other := s.join(locktest.Faults{})
	got, err := other.TryAcquire(t.Context(), []stages.Digest{d})
	s.must(err)
	if h := got.Held[d]; h.Entry.State != synchronization.Published || h.Entry.Manifest != m || h.Session != p.ID() {
		t.Fatalf("another sees %+v", h)
	}
	entries, err := other.Entries(t.Context(), []stages.Digest{d, stage(1)})
	s.must(err)
	if len(entries) != 1 || entries[d].Manifest != m {
		t.Fatalf("entries %+v", entries)
	}
}

func keepsClaims(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	first := p.claim(stage(0))
	if again := p.claim(stage(0)); again != first {
		t.Fatal("a claim in hand was acquired again")
	}
	s.must(first.Decide(t.Context(), manifest(0)))
	if again := p.claim(stage(0)); again != first {
		t.Fatal("a claim in hand was acquired again after its decision")
	}
}

func releases(t *testing.T, s *suite) {
	a, b := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	c := a.claim(stage(0))
	s.must(c.Release(t.Context()))
	s.wantEntry(stage(0), synchronization.Absent, "", "")
	next := b.claim(stage(0))
	if next.Fence() <= c.Fence() {
		t.Errorf("fence %d after %d", next.Fence(), c.Fence())
	}
	s.wantErr(c.Decide(t.Context(), manifest(0)), synchronization.ErrState)
	s.wantErr(c.Release(t.Context()), synchronization.ErrState)
	s.wantEntry(stage(0), synchronization.Building, "", "")
}

// Who adopts what the tag showed depends on it: see Release.
func refusesLateReleases(t *testing.T, s *suite) {
	a, b := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	c := a.claim(stage(0))
	was, err := b.ledger.Break(t.Context(), stage(0))
	s.must(err)
	if !was {
		t.Error("nothing was broken")
	}
	s.wantErr(c.Release(t.Context()), synchronization.ErrTaken)
}

func closes(t *testing.T, s *suite) {
	l, _ := s.ledger(locktest.Faults{})
	session, err := l.Join(t.Context())
	s.must(err)
	got, err := session.TryAcquire(t.Context(), many(3))
	s.must(err)
	s.must(got.Claims[stage(2)].Decide(t.Context(), manifest(2)))
	s.must(session.Close(t.Context()))
	s.wantEntry(stage(0), synchronization.Absent, "", "")
	s.wantEntry(stage(1), synchronization.Absent, "", "")
	s.wantEntry(stage(2), synchronization.Publishing, manifest(2), "")
	if session.Context().Err() == nil {
		t.Error("the session's context goes on")
	}
	// Its record is gone, so what it was publishing is free at once.
	if c := s.join(locktest.Faults{}).claim(stage(2)); c.Entry().Manifest != manifest(2) {
		t.Errorf("took over %+v", c.Entry())
	}
}

// deleted brings a stage to the end of its first generation.
func (p *process) deleted(d stages.Digest, m digest.Digest) {
	p.t.Helper()
	c, err := p.Doom(p.t.Context(), d)
	if err != nil {
		p.t.Fatal(err)
	}
	for _, step := range []func() error{
		func() error { return c.Delete(p.t.Context(), m) },
		func() error { _, cancel, err := c.Guard(p.t.Context()); cancel(); return err },
		func() error { return c.Deleted(p.t.Context()) },
	} {
		if err := step(); err != nil {
			p.t.Fatal(err)
		}
	}
}

func avoids(t *testing.T, s *suite) {
	p, d := s.join(locktest.Faults{}), stage(0)
	p.deleted(d, manifest(0))
	s.wantEntry(d, synchronization.Deleted, manifest(0), "")
	c := p.claim(d)
	s.wantEntry(d, synchronization.Building, "", manifest(0))
	s.wantErr(c.Decide(t.Context(), manifest(0)), synchronization.ErrAvoided)
	s.must(c.Release(t.Context()))
	s.wantEntry(d, synchronization.Deleted, manifest(0), "")
	c = p.claim(d)
	s.must(c.Decide(t.Context(), manifest(1)))
	s.wantEntry(d, synchronization.Publishing, manifest(1), "")
}

func abandons(t *testing.T, s *suite) {
	p, d := s.join(locktest.Faults{}), stage(0)
	c := p.claim(d)
	s.must(c.Decide(t.Context(), manifest(0)))
	s.must(c.Abandon(t.Context()))
	s.wantEntry(d, synchronization.Deleting, manifest(0), "")
	s.must(c.Deleted(t.Context()))
	if e := p.claim(d).Entry(); e.State != synchronization.Building || e.Avoid != manifest(0) {
		t.Fatalf("claimed %+v", e)
	}
}

func rescues(t *testing.T, s *suite) {
	cleaner, runner, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c, err := cleaner.Doom(t.Context(), d)
	s.must(err)
	got, err := runner.TryAcquire(t.Context(), []stages.Digest{d})
	s.must(err)
	if got.Held[d].Entry.State != synchronization.Doomed {
		t.Fatalf("got %+v", got)
	}
	seen := got.Held[d].Entry
	other := seen
	other.Nonce = "ab"
	s.wantErr(runner.Rescue(t.Context(), d, other, manifest(1)), synchronization.ErrTaken)
	s.must(runner.Rescue(t.Context(), d, seen, manifest(0)))
	s.wantEntry(d, synchronization.Published, manifest(0), "")
	s.wantErr(c.Delete(t.Context(), manifest(0)), synchronization.ErrTaken)
	s.wantErr(runner.Rescue(t.Context(), d, seen, manifest(0)), synchronization.ErrTaken)
}

func reclaims(t *testing.T, s *suite) {
	cleaner, runner, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	doomed, err := cleaner.Doom(t.Context(), d)
	s.must(err)
	c, err := runner.Reclaim(t.Context(), d, doomed.Entry())
	s.must(err)
	s.must(c.Decide(t.Context(), manifest(0)))
	s.wantEntry(d, synchronization.Publishing, manifest(0), "")
}

func republishes(t *testing.T, s *suite) {
	p, d := s.join(locktest.Faults{}), stage(0)
	p.published(d, manifest(0))
	entries, err := p.Entries(t.Context(), []stages.Digest{d})
	s.must(err)
	c, err := s.join(locktest.Faults{}).Republish(t.Context(), d, entries[d])
	s.must(err)
	s.wantEntry(d, synchronization.Publishing, manifest(0), "")
	s.must(c.Published(t.Context()))
	s.wantEntry(d, synchronization.Published, manifest(0), "")
}

func doomsTheSilent(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.claim(stage(0))
	p.published(stage(1), manifest(1))
	for _, d := range many(2) {
		_, err := p.Doom(t.Context(), d)
		s.wantErr(err, synchronization.ErrTaken)
	}
	c, err := p.Doom(t.Context(), stage(2))
	s.must(err)
	s.must(c.Release(t.Context()))
	s.wantEntry(stage(2), synchronization.Absent, "", "")
}

func drains(t *testing.T, s *suite) {
	builder, dying, cleaner := s.join(locktest.Faults{}), s.join(locktest.Faults{}), s.join(locktest.Faults{})
	c := builder.claim(stage(0))
	lost := dying.claim(stage(1))
	dying.faulty.Pause()
	done := make(chan error, 1)
	go func() { done <- cleaner.Drain(t.Context(), func(synchronization.Holder) {}) }()
	pass(2 * ttl)
	select {
	case err := <-done:
		t.Fatalf("drained with error %v while a stage was being built", err)
	default:
	}
	s.wantEntry(stage(1), synchronization.Absent, "", "")
	later := builder.claim(stage(2)) // began after the drain: not waited for
	s.must(c.Decide(t.Context(), manifest(0)))
	s.must(<-done)
	s.must(later.Release(t.Context()))
	dying.faulty.Resume()
	s.wantErr(lost.Decide(t.Context(), manifest(1)), synchronization.ErrLost)
}

func sweeps(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.published(stage(0), manifest(0))
	p.published(stage(1), manifest(1))
	p.deleted(stage(2), manifest(2))
	p.claim(stage(3))
	s.must(p.ledger.Sweep(t.Context(), always))
	s.wantEntry(stage(0), synchronization.Published, manifest(0), "")
	pass(delta + 2*time.Second)
	s.must(p.ledger.Sweep(t.Context(), func(_ context.Context, d stages.Digest, m digest.Digest) (bool, error) {
		if d == stage(0) && m != manifest(0) {
			t.Errorf("asked whether %s is %s", d, m)
		}
		return d != stage(1), nil
	}))
	s.wantEntry(stage(0), synchronization.Absent, "", "")
	s.wantEntry(stage(1), synchronization.Published, manifest(1), "")
	s.wantEntry(stage(2), synchronization.Absent, "", "")
	s.wantEntry(stage(3), synchronization.Building, "", "")
	broken := errors.New("the storage is away")
	err := p.ledger.Sweep(t.Context(), func(context.Context, stages.Digest, digest.Digest) (bool, error) { return false, broken })
	s.wantErr(err, broken)
	s.wantEntry(stage(1), synchronization.Published, manifest(1), "")
}

func wakesWaiters(t *testing.T, s *suite) {
	s.ttl = patience // which has it look by itself so rarely that a busy machine is no excuse
	owner, waiter := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	c := owner.claim(stage(0))
	s.must(c.Decide(t.Context(), manifest(0)))
	told := make(chan struct{}, 1)
	woken := make(chan time.Time, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), patience)
		defer cancel()
		if err := waiter.Wait(ctx, many(1), func(synchronization.Holder) { told <- struct{}{} }); err != nil {
			t.Error(err)
		}
		woken <- s.h.Now()
	}()
	<-told
	pass(3 * ttl)
	s.must(c.Published(t.Context()))
	done := s.h.Now()
	if took := (<-woken).Sub(done); took > patience/20 {
		t.Errorf("woken after %s", took)
	}
	s.must(waiter.Wait(t.Context(), many(2), nil)) // free at the beginning: returns at once
}

func tells(t *testing.T, s *suite) {
	first, second, waiter := s.join(locktest.Faults{}), s.join(locktest.Faults{}), s.join(locktest.Faults{})
	c := first.claim(stage(0))
	second.claim(stage(1))
	told := make(chan synchronization.Holder, 2)
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- waiter.Wait(ctx, many(2), func(h synchronization.Holder) { told <- h }) }()
	names := map[stages.Digest]string{}
	for range 2 {
		h := <-told
		names[h.Digest] = h.Session + " " + h.Name
	}
	want := map[stages.Digest]string{stage(0): first.ID() + " runner 1", stage(1): second.ID() + " runner 2"}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("told %v, want %v", names, want)
	}
	s.must(c.Decide(t.Context(), manifest(0))) // still in flight: nothing to return for
	pass(ttl)
	cancel()
	s.wantErr(<-done, context.Canceled)
	if len(told) > 0 {
		t.Errorf("told again: %+v", <-told)
	}
}

func acquiresInOneWrite(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	before := p.faulty.Swaps()
	got, err := p.TryAcquire(t.Context(), many(64))
	s.must(err)
	if len(got.Claims) != 64 {
		t.Fatalf("%d claims", len(got.Claims))
	}
	if n := p.faulty.Swaps() - before; n > synchronization.Shards {
		t.Errorf("%d writes for 64 stages", n)
	}
	before = p.faulty.Swaps()
	reads := p.faulty.Reads()
	_, err = p.TryAcquire(t.Context(), many(64))
	s.must(err)
	if n, r := p.faulty.Swaps()-before, p.faulty.Reads()-reads; n != 0 || r != 1 {
		t.Errorf("%d writes and %d reads for what is in hand", n, r)
	}
}

func fences(t *testing.T, s *suite) {
	p, admin := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	building, publishing := p.claim(stage(0)), p.claim(stage(1))
	s.must(publishing.Decide(t.Context(), manifest(1)))
	s.must(admin.ledger.Shut(t.Context()))
	s.must(admin.ledger.Shut(t.Context()))
	_, _, guardErr := publishing.Guard(t.Context())
	_, acquireErr := p.TryAcquire(t.Context(), many(3))
	_, entriesErr := p.Entries(t.Context(), many(3))
	for name, err := range map[string]error{
		"decide":  building.Decide(t.Context(), manifest(0)),
		"publish": publishing.Published(t.Context()),
		"guard":   guardErr, "acquire": acquireErr, "read": entriesErr,
		"sweep": p.ledger.Sweep(t.Context(), always),
	} {
		if !errors.Is(err, synchronization.ErrClosed) {
			t.Errorf("%s: got error %v", name, err)
		}
	}
	s.wantEntry(stage(0), synchronization.Building, "", "")
	s.must(admin.ledger.Reopen(t.Context()))
	s.wantErr(building.Decide(t.Context(), manifest(0)), synchronization.ErrClosed)
	again := p.claim(stage(0)) // names our session without being in our hands
	if again == building {
		t.Fatal("a claim of the epoch before was given back")
	}
	s.must(again.Decide(t.Context(), manifest(0)))
}

func guards(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	c := p.claim(stage(0))
	_, _, err := c.Guard(t.Context())
	s.wantErr(err, synchronization.ErrState)
	s.must(c.Decide(t.Context(), manifest(0)))
	ctx, cancel, err := c.Guard(t.Context())
	s.must(err)
	defer cancel()
	deadline, ok := ctx.Deadline()
	if left := deadline.Sub(s.h.Now()); !ok || left > guard {
		t.Errorf("the deadline is in %s", left)
	}
	p.faulty.Pause() // the session is lost; the guard's context must end with it, or before
	<-p.Context().Done()
	if ctx.Err() == nil {
		t.Error("the guard outlives the session")
	}
}

func refusesSteps(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	c := p.claim(stage(0))
	for name, err := range map[string]error{
		"published": c.Published(t.Context()), "deleted": c.Deleted(t.Context()),
		"abandon": c.Abandon(t.Context()), "delete": c.Delete(t.Context(), manifest(0)),
	} {
		if !errors.Is(err, synchronization.ErrState) {
			t.Errorf("%s while building: got error %v", name, err)
		}
	}
	if err := c.Decide(t.Context(), "no digest"); err == nil {
		t.Error("a manifest that is no digest was decided")
	}
	s.must(c.Decide(t.Context(), manifest(0)))
	s.wantErr(c.Decide(t.Context(), manifest(0)), synchronization.ErrState)
	s.wantErr(c.Release(t.Context()), synchronization.ErrState)
}

// replaceKey writes a key behind the ledger's back.
func replaceKey(t *testing.T, s *suite, shard, key, value string) {
	t.Helper()
	b := s.h.Open()
	found, err := b.Read(t.Context(), shard)
	s.must(err)
	_, err = b.Swap(t.Context(), shard, set(found[shard], key, value))
	s.must(err)
}
