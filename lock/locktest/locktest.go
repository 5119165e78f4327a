package locktest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// Harness is a store under test.
type Harness struct {
	// Open returns another process's access to the store.
	Open func() lock.Store
	// Lose removes a shard behind everybody's back.
	Lose func(shard string)
	// Now is the clock of the suite's processes. Required.
	Now func() time.Time
	// Real says that the store talks to a server, so time cannot be simulated.
	Real bool
}

// group is where the suite keeps sessions.
const group = "cairn-suite"

// patience bounds what the suite waits for.
const patience = 30 * time.Second

// Run runs the suite; open makes a fresh, empty store.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	tests := []struct {
		name string
		run  func(*testing.T, Harness)
	}{
		{"a shard that does not exist is left out of a read", readsNothing},
		{"a swap makes all changes or none", swapsAllOrNothing},
		{"a swap tests what must be absent", testsAbsence},
		{"values come back as they were", keepsValues},
		{"the revision grows and the UID stays", growsRevisions},
		{"a lost shard comes back with another UID", tellsIncarnations},
		{"one of 32 contenders wins a cell", hasOneWinner},
		{"writers of different cells do not disturb each other", mergesWriters},
		{"a request that has ended does nothing", respectsContext},
		{"a watch wakes after a change", wakes},
		{"a watch ends with its context", endsWatches},
		{"a session's record is made, renewed and removed", keepsSessions},
		{"a removed record cannot be renewed", refusesTheBuried},
		{"the store's clock does not go back", hasClock},
		{"waiting changes share a request", batches},
		{"a client gets through a store that fails", survivesFaults},
		{"a nonce is sent once", sendsNoncesOnce},
		{"fences grow with each acquisition", growsFences},
		{"an unavailable store is given up after the budget", givesUp},
		{"a session that is not renewed is lost before it is taken for dead", losesFirst},
		{"a session that moves is not taken for dead", seesLife},
		{"a session that left is dead at once", seesLeaving},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if open(t).Real {
				test.run(t, open(t))
				return
			}
			synctest.Test(t, func(t *testing.T) { test.run(t, open(t)) })
		})
	}
}

// client returns a client of a process of its own, and the faults before it.
func client(t *testing.T, h Harness, f Faults) (*lock.Client, *Faulty) {
	t.Helper()
	faulty := New(h.Open(), uint64(len(t.Name())), f)
	c := lock.NewClient(t.Context(), faulty, lock.Options{
		Now: h.Now, Rand: rand.Reader, Request: 2 * time.Second, Budget: 10 * time.Second,
	})
	t.Cleanup(func() { c.Close(); faulty.Wait() })
	return c, faulty
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Fatalf("got error %v, want %v", err, want)
	}
}

func read(t *testing.T, s lock.Store, shard string) lock.Snapshot {
	t.Helper()
	found, err := s.Read(t.Context(), shard)
	must(t, err)
	return found[shard]
}

func swap(t *testing.T, s lock.Store, shard string, changes ...lock.Change) lock.Snapshot {
	t.Helper()
	snap, err := s.Swap(t.Context(), shard, changes)
	must(t, err)
	return snap
}

func readsNothing(t *testing.T, h Harness) {
	s := h.Open()
	swap(t, s, "cairn-suite.1", lock.Add("a", "1"))
	found, err := s.Read(t.Context(), "cairn-suite.0", "cairn-suite.1")
	must(t, err)
	if len(found) != 1 || found["cairn-suite.1"].Data["a"] != "1" {
		t.Fatalf("read %v, want shard 1 alone", found)
	}
}

func swapsAllOrNothing(t *testing.T, h Harness) {
	s := h.Open()
	swap(t, s, "s", lock.Add("a", "1"), lock.Add("b", "1"))
	_, err := s.Swap(t.Context(), "s", []lock.Change{lock.Replace("a", "1", "2"), lock.Replace("b", "9", "2")})
	wantErr(t, err, lock.ErrConflict)
	if got := read(t, s, "s").Data; got["a"] != "1" || got["b"] != "1" {
		t.Fatalf("a refused swap left %v", got)
	}
	snap := swap(t, s, "s", lock.Test("a", "1"), lock.Remove("b", "1"), lock.Add("c", "3"))
	want := map[string]string{"a": "1", "c": "3"}
	if got := read(t, h.Open(), "s").Data; fmt.Sprint(got) != fmt.Sprint(want) || fmt.Sprint(snap.Data) != fmt.Sprint(want) {
		t.Fatalf("swap returned %v and left %v, want %v", snap.Data, got, want)
	}
}

func testsAbsence(t *testing.T, h Harness) {
	s := h.Open()
	swap(t, s, "s", lock.Add("a", "1"))
	for name, c := range map[string]lock.Change{
		"adding what is there":        lock.Add("a", "2"),
		"replacing what is missing":   lock.Replace("x", "1", "2"),
		"removing what is missing":    lock.Remove("x", "1"),
		"removing another value":      lock.Remove("a", "2"),
		"testing what is missing":     lock.Test("x", "1"),
		"demanding absence wrongly":   {Key: "a"},
		"testing for an empty string": lock.Test("x", ""),
	} {
		if _, err := s.Swap(t.Context(), "s", []lock.Change{c}); !errors.Is(err, lock.ErrConflict) {
			t.Errorf("%s: got error %v, want a conflict", name, err)
		}
	}
	swap(t, s, "s", lock.Change{Key: "x"}, lock.Replace("a", "1", "3"))
}

func keepsValues(t *testing.T, h Harness) {
	s := h.Open()
	for i, v := range []string{"", `{"a":"b"}`, "line\nline", "ünï ☃ 🪨", strings.Repeat("x", 4096), `\"~0/`, "<&>\u2028"} {
		key := fmt.Sprintf("stage.%d-a_b", i)
		swap(t, s, "s", lock.Add(key, v))
		if got := read(t, s, "s").Data[key]; got != v {
			t.Errorf("got %q, want %q", got, v)
		}
		swap(t, s, "s", lock.Test(key, v))
	}
}

func growsRevisions(t *testing.T, h Harness) {
	s := h.Open()
	last := swap(t, s, "s", lock.Add("a", "0"))
	if last.UID == "" {
		t.Fatal("the shard has no UID")
	}
	for i := range 5 {
		snap := swap(t, s, "s", lock.Replace("a", fmt.Sprint(i), fmt.Sprint(i+1)))
		if snap.Revision <= last.Revision || snap.UID != last.UID {
			t.Fatalf("after %+v came %+v", last, snap)
		}
		if got := read(t, s, "s"); got.Revision != snap.Revision || got.UID != snap.UID {
			t.Fatalf("read %+v, want %+v", got, snap)
		}
		last = snap
	}
}

func tellsIncarnations(t *testing.T, h Harness) {
	s := h.Open()
	first := swap(t, s, "s", lock.Add("a", "1"))
	h.Lose("s")
	if got := read(t, s, "s"); got.UID != "" || len(got.Data) != 0 {
		t.Fatalf("read %+v of a lost shard", got)
	}
	_, err := s.Swap(t.Context(), "s", []lock.Change{lock.Test("a", "1"), lock.Add("b", "1")})
	wantErr(t, err, lock.ErrConflict)
	if again := swap(t, s, "s", lock.Add("a", "1")); again.UID == first.UID || again.UID == "" {
		t.Fatalf("the shard came back with UID %q after %q", again.UID, first.UID)
	}
}

func hasOneWinner(t *testing.T, h Harness) {
	var wg sync.WaitGroup
	won := make(chan int, 32)
	for i := range 32 {
		s := h.Open()
		wg.Go(func() {
			_, err := s.Swap(t.Context(), "s", []lock.Change{lock.Add("cell", fmt.Sprint(i))})
			if err == nil {
				won <- i
			} else if !errors.Is(err, lock.ErrConflict) {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	close(won)
	var winners []int
	for i := range won {
		winners = append(winners, i)
	}
	if len(winners) != 1 || read(t, h.Open(), "s").Data["cell"] != fmt.Sprint(winners[0]) {
		t.Fatalf("winners %v, cell %q", winners, read(t, h.Open(), "s").Data["cell"])
	}
}

func mergesWriters(t *testing.T, h Harness) {
	swap(t, h.Open(), "s", lock.Add("guard", "1"))
	var wg sync.WaitGroup
	for i := range 8 {
		c, _ := client(t, h, Faults{})
		wg.Go(func() {
			for n := range 5 {
				_, err := c.Apply(t.Context(), "s", lock.Test("guard", "1"), lock.Add(fmt.Sprintf("k%d-%d", i, n), "v"))
				if err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if got := len(read(t, h.Open(), "s").Data); got != 41 {
		t.Fatalf("%d cells, want 41", got)
	}
}

func respectsContext(t *testing.T, h Harness) {
	s := h.Open()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := s.Swap(ctx, "s", []lock.Change{lock.Add("a", "1")}); err == nil {
		t.Error("a swap with an ended context succeeded")
	}
	if got := read(t, s, "s"); len(got.Data) != 0 {
		t.Errorf("a swap with an ended context wrote %v", got.Data)
	}
	c, _ := client(t, h, Faults{})
	_, err := c.Apply(ctx, "s", lock.Add("a", "1"))
	wantErr(t, err, context.Canceled)
}

func wakes(t *testing.T, h Harness) {
	a, b := h.Open(), h.Open()
	swap(t, a, "s", lock.Add("a", "0"))
	ch, err := b.Watch(t.Context(), "s")
	must(t, err)
	for i := range 3 {
		for len(ch) > 0 { // wakings without a cause are allowed
			<-ch
		}
		began := h.Now()
		swap(t, a, "s", lock.Replace("a", fmt.Sprint(i), fmt.Sprint(i+1)))
		select {
		case _, ok := <-ch:
			if took := h.Now().Sub(began); ok && took > 100*time.Millisecond {
				t.Errorf("woken after %s", took)
			} else if !ok {
				t.Fatal("the watch ended")
			}
		case <-time.After(patience):
			t.Fatal("not woken")
		}
	}
}

func endsWatches(t *testing.T, h Harness) {
	ctx, cancel := context.WithCancel(t.Context())
	ch, err := h.Open().Watch(ctx, "nothing-yet")
	must(t, err)
	cancel()
	deadline := time.After(patience)
	for {
		select {
		case _, ok := <-ch:
			if !ok {
				return
			}
		case <-deadline:
			t.Fatal("the watch did not end")
		}
	}
}

func keepsSessions(t *testing.T, h Harness) {
	a, b := h.Open(), h.Open()
	r := lock.Record{Session: "ab12", Holder: "a runner, somewhere", Seq: 1, TTL: time.Minute}
	must(t, a.Renew(t.Context(), group, r))
	must(t, a.Renew(t.Context(), group, r)) // as after a lost answer
	r.Seq = 2
	must(t, a.Renew(t.Context(), group, r))
	must(t, b.Renew(t.Context(), group+"-other", lock.Record{Session: "ff", Seq: 1, TTL: time.Minute}))
	got, err := b.Records(t.Context(), group)
	must(t, err)
	if len(got) != 1 || got[0] != r {
		t.Fatalf("records %+v, want %+v", got, r)
	}
	wantErr(t, b.Remove(t.Context(), group, "ab12", 1), lock.ErrConflict)
	must(t, b.Remove(t.Context(), group, "ab12", 2))
	must(t, b.Remove(t.Context(), group, "ab12", 2))
	if got, err = b.Records(t.Context(), group); err != nil || len(got) != 0 {
		t.Fatalf("records %+v, error %v after the removal", got, err)
	}
}

func refusesTheBuried(t *testing.T, h Harness) {
	a, b := h.Open(), h.Open()
	must(t, a.Renew(t.Context(), group, lock.Record{Session: "ab12", Seq: 1, TTL: time.Minute}))
	must(t, b.Remove(t.Context(), group, "ab12", 0))
	err := a.Renew(t.Context(), group, lock.Record{Session: "ab12", Seq: 2, TTL: time.Minute})
	wantErr(t, err, lock.ErrNoSession)
}

func hasClock(t *testing.T, h Harness) {
	first, err := h.Open().Now(t.Context())
	must(t, err)
	then, err := h.Open().Now(t.Context())
	must(t, err)
	if then.Before(first) || first.IsZero() {
		t.Fatalf("the clock showed %s, then %s", first, then)
	}
}

func batches(t *testing.T, h Harness) {
	c, faulty := client(t, h, Faults{MaxDelay: 200 * time.Millisecond})
	var wg sync.WaitGroup
	for i := range 100 {
		wg.Go(func() {
			if _, err := c.Apply(t.Context(), "s", lock.Add(fmt.Sprintf("k%d", i), "v")); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if got := faulty.Swaps(); got > 5 {
		t.Errorf("%d requests for 100 changes at once, want at most 5", got)
	}
	if got := len(read(t, h.Open(), "s").Data); got != 100 {
		t.Errorf("%d cells, want 100", got)
	}
}

// storm is what a bad day looks like.
func storm() Faults {
	return Faults{
		Refused: 0.1, LostRequest: 0.1, LostAnswer: 0.1, Conflict: 0.1,
		MaxDelay: 20 * time.Millisecond,
	}
}

func survivesFaults(t *testing.T, h Harness) {
	const writers, rounds = 4, 10
	var wg sync.WaitGroup
	for i := range writers {
		c, _ := client(t, h, storm())
		wg.Go(func() {
			for n := range rounds {
				key := fmt.Sprintf("k%d", i)
				change := lock.Replace(key, fmt.Sprint(n-1), fmt.Sprint(n))
				if n == 0 {
					change = lock.Add(key, "0")
				}
				if _, err := c.Apply(t.Context(), "s", change); err != nil {
					t.Errorf("writer %d, round %d: %v", i, n, err)
				}
			}
		})
	}
	wg.Wait()
	for k, v := range read(t, h.Open(), "s").Data {
		if v != fmt.Sprint(rounds-1) {
			t.Errorf("%s is %q", k, v)
		}
	}
}

// claim acquires a cell that is free, and returns its value and fence.
func claim(ctx context.Context, c *lock.Client, key, who string) (value string, fence uint64, err error) {
	found, err := c.Read(ctx, "s")
	if err != nil {
		return "", 0, err
	}
	snap, err := c.Acquire(ctx, "s", found["s"], func(snap lock.Snapshot, nonce func() (string, error)) ([]lock.Change, error) {
		if held, ok := snap.Data[key]; ok && !strings.HasPrefix(held, who+" ") {
			value = ""
			return nil, nil
		}
		n, err := nonce()
		if err != nil {
			return nil, err
		}
		change := lock.Add(key, who+" "+n)
		if held, ok := snap.Data[key]; ok {
			change = lock.Replace(key, held, who+" "+n) // an earlier attempt, applied late
		}
		value = *change.New
		return []lock.Change{change}, nil
	})
	return value, snap.Revision, err
}

func sendsNoncesOnce(t *testing.T, h Harness) {
	swap(t, h.Open(), "s", lock.Add("guard", "1"))
	bad := storm()
	bad.Refused, bad.Conflict = 0, 0 // after a certain refusal a nonce is not used up
	bad.Late, bad.MaxLate = 0.2, 50*time.Millisecond
	c, faulty := client(t, h, bad)
	for i := range 20 {
		value, _, err := claim(t.Context(), c, fmt.Sprintf("k%d", i), "me")
		if err != nil || value == "" {
			t.Fatalf("claim %d: %q, %v", i, value, err)
		}
	}
	faulty.Wait()
	sent := map[string]int{}
	for _, change := range faulty.Sent() {
		sent[*change.New]++
	}
	for value, n := range sent {
		if n > 1 {
			t.Errorf("%q was sent %d times", value, n)
		}
	}
	if len(sent) < 21 {
		t.Errorf("%d nonces for 20 claims: no answer was lost, so nothing was tested", len(sent))
	}
}

func growsFences(t *testing.T, h Harness) {
	swap(t, h.Open(), "s", lock.Add("guard", "1"))
	var mu sync.Mutex
	var fences []uint64
	var wg sync.WaitGroup
	for i := range 4 {
		c, _ := client(t, h, storm())
		who := fmt.Sprintf("p%d", i)
		wg.Go(func() {
			for won := 0; won < 3; {
				value, fence, err := claim(t.Context(), c, "cell", who)
				if err != nil {
					t.Error(err)
					return
				}
				if value == "" {
					<-time.After(c.Jitter(5 * time.Millisecond))
					continue
				}
				mu.Lock() // between acquisition and release: in the cell's own order
				fences = append(fences, fence)
				mu.Unlock()
				won++
				// A conflict: the removal's answer was lost, and another has the cell by now.
				_, err = c.Apply(t.Context(), "s", lock.Remove("cell", value))
				if err != nil && !errors.Is(err, lock.ErrConflict) {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
	if len(fences) != 12 || !slices.IsSorted(fences) || len(slices.Compact(slices.Clone(fences))) != 12 {
		t.Fatalf("fences %v do not grow", fences)
	}
}

func givesUp(t *testing.T, h Harness) {
	if h.Real {
		return // it is the client that is tested, and it would take its time
	}
	c, _ := client(t, h, Faults{Refused: 1})
	began := h.Now()
	_, err := c.Apply(t.Context(), "s", lock.Add("a", "1"))
	wantErr(t, err, lock.ErrUnavailable)
	_, err = c.Read(t.Context(), "s")
	wantErr(t, err, lock.ErrUnavailable)
	if took := h.Now().Sub(began); took < 20*time.Second || took > 30*time.Second {
		t.Errorf("gave up twice in %s, want twice the budget of 10 s", took)
	}
}

func losesFirst(t *testing.T, h Harness) {
	const ttl = 4 * time.Second
	c, faulty := client(t, h, Faults{})
	s, err := c.Join(t.Context(), lock.SessionOptions{Group: group, TTL: ttl})
	must(t, err)
	defer func() { faulty.Resume(); must(t, s.Leave(context.WithoutCancel(t.Context()))) }()
	watcher, _ := client(t, h, Faults{})
	crowd := watcher.Observe(group)
	faulty.Pause()
	for {
		dead, err := crowd.Look(t.Context(), s.ID())
		must(t, err)
		if dead[s.ID()] {
			break
		}
		<-time.After(50 * time.Millisecond)
	}
	if cause := context.Cause(s.Context()); !errors.Is(cause, lock.ErrLost) {
		t.Fatalf("taken for dead while its context's cause is %v", cause)
	}
	wantErr(t, s.Check(), lock.ErrLost)
}

func seesLife(t *testing.T, h Harness) {
	const ttl = 2 * time.Second
	c, _ := client(t, h, Faults{LostAnswer: 0.2, LostRequest: 0.1, Refused: 0.1})
	s, err := c.Join(t.Context(), lock.SessionOptions{Group: group, TTL: ttl, Holder: "me"})
	must(t, err)
	defer func() { must(t, s.Leave(context.WithoutCancel(t.Context()))) }()
	watcher, _ := client(t, h, Faults{})
	crowd := watcher.Observe(group)
	for end := h.Now().Add(3 * ttl); h.Now().Before(end); <-time.After(ttl / 10) {
		dead, err := crowd.Look(t.Context(), s.ID())
		must(t, err)
		if dead[s.ID()] {
			t.Fatal("a session that renews was taken for dead")
		}
	}
	must(t, s.Check())
	if got := crowd.Holder(s.ID()); got != "me" {
		t.Errorf("the holder is %q", got)
	}
	must(t, crowd.Bury(t.Context()))
	must(t, s.Check())
}

func seesLeaving(t *testing.T, h Harness) {
	c, _ := client(t, h, Faults{})
	s, err := c.Join(t.Context(), lock.SessionOptions{Group: group})
	must(t, err)
	must(t, s.Leave(t.Context()))
	if s.Context().Err() == nil {
		t.Error("the session's context goes on")
	}
	watcher, _ := client(t, h, Faults{})
	dead, err := watcher.Observe(group).Look(t.Context(), s.ID())
	must(t, err)
	if !dead[s.ID()] {
		t.Error("a session that left is not dead")
	}
}
