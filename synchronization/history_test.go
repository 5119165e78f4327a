package synchronization_test

import (
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
	ledgertest "github.com/cairnbuild/cairn/synchronization/synctest"
)

// The history test plays the whole publish protocol against a registry and a
// ledger that lose, delay and repeat, with runners that pause and die, and
// checks what the protocol promises: each stage has one manifest at a time.

// The times of a history. What is sent to the registry takes effect within
// guardFor + landing, and reads are at most stale old: all far below Δ.
const (
	historyTTL   = 2 * time.Second
	historyDelta = 30 * time.Second
	guardFor     = time.Second
	landing      = 6 * time.Second
	stale        = 2 * time.Second
	historyLasts = 4 * time.Minute
)

// mutant is a protocol with a step left out, which the history must catch.
type mutant int

const (
	faithful mutant = iota
	unguarded
	hasty
)

func TestHistoriesKeepOneManifestPerStage(t *testing.T) {
	seeds := 25
	if testing.Short() {
		seeds = 5
	}
	published, generations := 0, 0
	for seed := range seeds {
		h := play(t, uint64(seed), faithful)
		for _, v := range h.violations {
			t.Errorf("seed %d: %s", seed, v)
		}
		published += h.published
		generations += h.generations
	}
	if published < 5*seeds || generations < 8*seeds {
		t.Errorf("only %d publications and %d generations in %d histories: too little happened", published, generations, seeds)
	}
}

func TestHistoriesCatchABrokenProtocol(t *testing.T) {
	for name, m := range map[string]mutant{"writes without a guard": unguarded, "entries dropped before Δ": hasty} {
		t.Run(name, func(t *testing.T) {
			for seed := range 60 {
				if h := play(t, uint64(seed), m); len(h.violations) > 0 {
					return
				}
			}
			t.Error("no history shows a violation, so the histories prove nothing")
		})
	}
}

// history is one run: the world that its runners share.
type history struct {
	mu         sync.Mutex
	dice       *rand.Rand
	mutant     mutant
	store      *mem.Backend
	tags       map[stages.Digest][]version
	decided    map[stages.Digest][]generation
	violations []string

	published, generations int
	flights                sync.WaitGroup
}

// version is what a tag showed, from a moment on; generation what a stage was.
type version struct {
	m    digest.Digest
	from time.Time
}

type generation struct {
	m  digest.Digest
	to time.Time // zero: goes on
}

func play(t *testing.T, seed uint64, m mutant) (h *history) {
	synctest.Test(t, func(t *testing.T) {
		h = &history{
			dice: rand.New(rand.NewPCG(seed, uint64(m))), mutant: m, store: mem.New(time.Now),
			tags: map[stages.Digest][]version{}, decided: map[stages.Digest][]generation{},
		}
		ctx, cancel := context.WithTimeout(t.Context(), historyLasts)
		defer cancel()
		var wg sync.WaitGroup
		for i := range 5 {
			wg.Go(func() { h.host(ctx, t, uint64(i), (*runner).work) })
		}
		wg.Go(func() { h.host(ctx, t, 100, (*runner).clean) })
		wg.Go(func() { h.host(ctx, t, 200, (*runner).sweep) })
		wg.Wait()
		h.flights.Wait()
	})
	return h
}

func (h *history) violate(format string, args ...any) {
	h.violations = append(h.violations, fmt.Sprintf(format, args...))
}

func (h *history) chance(p float64) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.dice.Float64() < p
}

func (h *history) upTo(d time.Duration) time.Duration {
	h.mu.Lock()
	defer h.mu.Unlock()
	return time.Duration(h.dice.Int64N(int64(d)))
}

// Swap is seen by the history as it is applied: it follows the decisions.
func (h *history) applied(changes []lock.Change) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, c := range changes {
		hex, ok := strings.CutPrefix(c.Key, "stage.")
		if !ok || c.New == nil || c.Old == nil {
			continue
		}
		d, _ := stages.ParseDigest(hex)
		var from, to synchronization.Entry
		if json.Unmarshal([]byte(*c.Old), &from) != nil || json.Unmarshal([]byte(*c.New), &to) != nil {
			h.violate("%s became %q", c.Key, *c.New)
			continue
		}
		h.follow(d, from, to)
	}
}

func (h *history) follow(d stages.Digest, from, to synchronization.Entry) {
	now := time.Now()
	gens := h.decided[d]
	last := len(gens) - 1
	open := last >= 0 && gens[last].to.IsZero()
	switch {
	case from.State == synchronization.Building && to.State == synchronization.Publishing:
		if open && gens[last].m != to.Manifest {
			h.violate("%s was decided to be %s and then %s", d.Short(), gens[last].m, to.Manifest)
		}
		if !open {
			h.decided[d] = append(gens, generation{m: to.Manifest})
			h.generations++
		}
	case to.State == synchronization.Deleting && from.State != synchronization.Deleting && open:
		gens[last].to = now
	case to.State == synchronization.Published && from.State == synchronization.Publishing:
		h.published++
	}
}

// witness is the ledger's store, seen by the history.
type witness struct {
	*mem.Backend
	h *history
}

func (w witness) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	snap, err := w.Backend.Swap(ctx, shard, changes)
	if err == nil {
		w.h.applied(changes)
	}
	return snap, err
}

// land is a write that takes effect at the registry.
func (h *history) land(d stages.Digest, m digest.Digest) {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := h.tag(d, 0)
	gens := h.decided[d]
	if m != "" {
		if len(gens) == 0 || gens[len(gens)-1].m != m || !gens[len(gens)-1].to.IsZero() {
			h.violate("the tag of %s was set to %s, which is not what it is: %v", d.Short(), m, gens)
		}
		if now != "" && now != m {
			h.violate("the tag of %s moved from %s to %s", d.Short(), now, m)
		}
	}
	h.tags[d] = append(h.tags[d], version{m: m, from: time.Now()})
}

// tag returns what the tag showed some time ago.
func (h *history) tag(d stages.Digest, ago time.Duration) (m digest.Digest) {
	at := time.Now().Add(-ago)
	for _, v := range h.tags[d] {
		if !v.from.After(at) {
			m = v.m
		}
	}
	return m
}

func (h *history) read(d stages.Digest) digest.Digest {
	ago := h.upTo(stale)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.tag(d, ago)
}

// send sends a write: it takes effect now, later, twice, or never.
func (h *history) send(ctx context.Context, d stages.Digest, do func()) {
	if ctx.Err() != nil || h.chance(0.1) {
		return
	}
	if h.chance(0.6) {
		do()
	}
	if h.chance(0.5) {
		delay := h.upTo(landing)
		h.flights.Go(func() {
			<-time.After(delay)
			do()
		})
	}
}

// remove deletes manifest m and the tag if it names it.
func (h *history) remove(d stages.Digest, m digest.Digest) {
	h.mu.Lock()
	here := h.tag(d, 0) == m
	h.mu.Unlock()
	if here {
		h.land(d, "")
	}
}

// adopt checks the use of m as stage d by one who looked at the ledger since.
func (h *history) adopt(d stages.Digest, m digest.Digest, since time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, g := range h.decided[d] {
		if g.m == m && (g.to.IsZero() || !g.to.Before(since)) {
			return
		}
	}
	h.violate("%s was adopted as %s, it is %v", d.Short(), m, h.decided[d])
}

// host runs runners one after another until the history ends: one that dies is
// followed by another.
func (h *history) host(ctx context.Context, t *testing.T, id uint64, work func(*runner, context.Context) error) {
	for n := uint64(0); ctx.Err() == nil; n++ {
		h.process(ctx, t, id*1000+n, work)
	}
}

var errDied = errors.New("died")

func (h *history) process(ctx context.Context, t *testing.T, seed uint64, work func(*runner, context.Context) error) {
	var key [32]byte
	binary.LittleEndian.PutUint64(key[:], seed)
	binary.LittleEndian.PutUint64(key[8:], uint64(h.upTo(1<<62)))
	o := synchronization.Options{
		Now: time.Now, Rand: rand.NewChaCha8(key),
		TTL: historyTTL, Delta: historyDelta, Guard: guardFor, Request: time.Second, Budget: 20 * time.Second,
	}
	if h.mutant == hasty {
		o.Delta = time.Second
	}
	faulty := ledgertest.NewFaulty(witness{h.store, h}, seed+uint64(h.upTo(1<<62)), locktest.Faults{})
	l, err := synchronization.Open(ctx, faulty, "history", o)
	if err != nil {
		<-ctx.Done()
		return
	}
	defer faulty.Wait()
	defer l.Close()
	faulty.Set(locktest.Faults{
		Refused: 0.03, LostRequest: 0.03, LostAnswer: 0.03, Late: 0.03, Conflict: 0.03, DropWatch: 0.1,
		MaxDelay: 20 * time.Millisecond, MaxLate: 5 * time.Second,
	})
	session, err := l.Join(ctx)
	if err != nil {
		return
	}
	r := &runner{h: h, l: l, s: session, faulty: faulty}
	if err := work(r, ctx); errors.Is(err, errDied) {
		faulty.Pause() // says no more, and what it holds stays
	}
	leaving, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*historyTTL)
	defer cancel()
	_ = session.Close(leaving) // a dead process's does nothing, and a live one's may fail
}

// runner is one process in a history.
type runner struct {
	h      *history
	l      *synchronization.Ledger
	s      *synchronization.Session
	faulty *ledgertest.Faulty
}

// step is a moment at which a runner may be slow, be stopped for long, or die.
func (r *runner) step() error {
	<-time.After(r.h.upTo(300 * time.Millisecond))
	switch {
	case r.h.chance(0.02):
		return errDied
	case r.h.chance(0.03):
		r.faulty.Pause()
		<-time.After(r.h.upTo(3 * historyTTL))
		r.faulty.Resume()
	}
	return nil
}

// sleep is the worst moment to be stopped: between a guard and its write, and
// for longer than Δ.
func (r *runner) sleep() {
	if r.h.chance(0.05) {
		r.faulty.Pause()
		<-time.After(r.h.upTo(3 * historyDelta))
		r.faulty.Resume()
	}
}

// stagesOfHistory are the stages that everybody wants.
func stagesOfHistory() []stages.Digest {
	var ds []stages.Digest
	for i := range 3 {
		ds = append(ds, stages.DigestOf([]byte{byte(i)}))
	}
	return ds
}

func (r *runner) work(ctx context.Context) error {
	for ctx.Err() == nil {
		ds := stagesOfHistory()
		d := ds[int(r.h.upTo(time.Duration(len(ds))))]
		if err := r.want(ctx, d); err != nil {
			return err
		}
		<-time.After(r.h.upTo(5 * time.Second))
	}
	return nil
}

// want gets stage d, by adopting or making it. It returns an error when the
// process ends.
func (r *runner) want(ctx context.Context, d stages.Digest) error {
	since := time.Now()
	got, err := r.s.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return err
	}
	if err := r.step(); err != nil {
		return err
	}
	if c := got.Claims[d]; c != nil {
		return ours(r.finish(ctx, c))
	}
	switch e := got.Held[d].Entry; e.State {
	case synchronization.Published:
		r.h.adopt(d, e.Manifest, since)
	case synchronization.Doomed:
		return ours(r.rescue(ctx, d, e))
	default:
		wait, cancel := context.WithTimeout(ctx, 4*historyTTL)
		defer cancel()
		err := r.s.Wait(wait, []stages.Digest{d}, func(synchronization.Holder) {})
		if errors.Is(err, context.DeadlineExceeded) {
			return nil
		}
		return err
	}
	return nil
}

// ours keeps the errors that end a process: other runners' progress is none.
func ours(err error) error {
	if errors.Is(err, synchronization.ErrTaken) {
		return nil
	}
	return err
}

func (r *runner) rescue(ctx context.Context, d stages.Digest, seen synchronization.Entry) error {
	since := time.Now()
	if m := r.h.read(d); m != "" {
		if err := r.s.Rescue(ctx, d, seen, m); err != nil {
			return err
		}
		r.h.adopt(d, m, since)
		return nil
	}
	c, err := r.s.Reclaim(ctx, d, seen)
	if err != nil {
		return err
	}
	return r.finish(ctx, c)
}

// finish does what the claim's entry asks for, to the end.
func (r *runner) finish(ctx context.Context, c *synchronization.Claim) error {
	for {
		if err := r.step(); err != nil {
			return err
		}
		var over bool
		var err error
		switch c.Entry().State {
		case synchronization.Building:
			over, err = r.build(ctx, c)
		case synchronization.Publishing:
			over, err = r.publish(ctx, c)
		case synchronization.Deleting:
			over, err = r.remove(ctx, c)
		}
		if over || err != nil {
			return err
		}
	}
}

func (r *runner) build(ctx context.Context, c *synchronization.Claim) (bool, error) {
	since := time.Now()
	if m := r.h.read(c.Digest()); m != "" && c.Entry().Avoid == "" {
		if err := c.Release(ctx); err != nil {
			return false, err // what the tag showed is only right while the entry was ours
		}
		r.h.adopt(c.Digest(), m, since)
		return true, nil
	}
	if r.h.chance(0.1) {
		return true, c.Release(ctx) // the command failed
	}
	m := digest.FromString(fmt.Sprint(r.h.upTo(3)))
	if m == c.Entry().Avoid {
		return false, nil
	}
	return false, c.Decide(ctx, m)
}

func (r *runner) publish(ctx context.Context, c *synchronization.Claim) (bool, error) {
	m := c.Entry().Manifest
	guarded, cancel, err := r.guard(ctx, c)
	if err != nil {
		return false, err
	}
	defer cancel()
	r.sleep()
	r.h.send(guarded, c.Digest(), func() { r.h.land(c.Digest(), m) })
	if r.h.read(c.Digest()) != m {
		return false, nil
	}
	since := time.Now()
	if err := c.Published(ctx); err != nil {
		return false, err
	}
	r.h.adopt(c.Digest(), m, since)
	return true, nil
}

// guard is the step that a mutant leaves out.
func (r *runner) guard(ctx context.Context, c *synchronization.Claim) (context.Context, context.CancelFunc, error) {
	if r.h.mutant == unguarded {
		return ctx, func() {}, nil
	}
	return c.Guard(ctx)
}

func (r *runner) remove(ctx context.Context, c *synchronization.Claim) (bool, error) {
	guarded, cancel, err := r.guard(ctx, c)
	if err != nil {
		return false, err
	}
	defer cancel()
	m := c.Entry().Manifest
	r.sleep()
	r.h.send(guarded, c.Digest(), func() { r.h.remove(c.Digest(), m) })
	<-time.After(stale) // so that a read shows what is there now
	if r.h.read(c.Digest()) != "" {
		return false, nil
	}
	return true, c.Deleted(ctx)
}

// clean deletes a stage now and then.
func (r *runner) clean(ctx context.Context) error {
	for ctx.Err() == nil {
		<-time.After(r.h.upTo(20 * time.Second))
		ds := stagesOfHistory()
		d := ds[int(r.h.upTo(time.Duration(len(ds))))]
		if err := ours(r.cleanOne(ctx, d)); err != nil {
			return err
		}
	}
	return nil
}

func (r *runner) cleanOne(ctx context.Context, d stages.Digest) error {
	c, err := r.s.Doom(ctx, d)
	if err != nil {
		return err
	}
	if err := r.step(); err != nil {
		return err
	}
	m := r.h.read(d)
	if m == "" {
		return c.Release(ctx)
	}
	if err := c.Delete(ctx, m); err != nil {
		return err
	}
	return r.finish(ctx, c)
}

// sweep drops what is old.
func (r *runner) sweep(ctx context.Context) error {
	for ctx.Err() == nil {
		<-time.After(r.h.upTo(5 * time.Second))
		err := r.l.Sweep(ctx, func(_ context.Context, d stages.Digest, m digest.Digest) (bool, error) {
			shown := r.h.read(d)
			if shown != m && shown != "" && !slices.Contains([]mutant{hasty, unguarded}, r.h.mutant) {
				r.h.mu.Lock()
				r.h.violate("the tag of %s shows %s and not %s when swept", d.Short(), shown, m)
				r.h.mu.Unlock()
			}
			return shown == m, nil
		})
		if err != nil {
			return err
		}
	}
	return nil
}
