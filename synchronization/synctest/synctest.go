// Package synctest is the conformance suite of the ledger, which runs on every
// backend: the publish protocol's steps, owners that pause, die or are cut off,
// and stores that fail or lose what they held. (Its name is that of its room; for
// simulated time it uses testing/synctest.)
package synctest

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// Harness is a backend under test.
type Harness struct {
	// Open returns another process's access to the same store.
	Open func() synchronization.Backend
	// Lose removes a shard or the record behind everybody's back.
	Lose func(shard string)
	// Now is the clock of the suite's processes. Required.
	Now func() time.Time
	// Real says that the store talks to a server, so time cannot be simulated.
	Real bool
}

// The suite's project, and the times of its ledgers.
const (
	project = "suite"
	ttl     = 2 * time.Second
	delta   = 20 * time.Second
	guard   = time.Second
)

// patience bounds what the suite waits for.
const patience = time.Minute

type test struct {
	name string
	run  func(*testing.T, *suite)
}

// Run runs the suite; open makes a fresh, empty store.
func Run(t *testing.T, open func(t *testing.T) Harness) {
	for _, test := range slices.Concat(protocolTests(), cleanerTests(), trouble()) {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			if h := open(t); h.Real {
				test.run(t, &suite{t: t, h: h, ttl: ttl})
				return
			}
			synctest.Test(t, func(t *testing.T) { test.run(t, &suite{t: t, h: open(t), ttl: ttl}) })
		})
	}
}

// suite is one test's store.
type suite struct {
	t     *testing.T
	h     Harness
	ttl   time.Duration // of the sessions that join from now on
	procs uint64
}

// process is one simulated process: its access to the store, its ledger and its session.
type process struct {
	*synchronization.Session
	t      *testing.T
	ledger *synchronization.Ledger
	faulty *Faulty
}

// ledger opens the ledger as another process does.
func (s *suite) ledger(f locktest.Faults) (*synchronization.Ledger, *Faulty) {
	s.t.Helper()
	s.procs++
	faulty := NewFaulty(s.h.Open(), s.procs, f)
	l, err := synchronization.Open(s.t.Context(), faulty, project, s.options(s.procs))
	s.must(err)
	s.t.Cleanup(func() { l.Close(); faulty.Wait() })
	return l, faulty
}

func (s *suite) options(proc uint64) synchronization.Options {
	return synchronization.Options{
		Now: s.h.Now, Rand: rand.Reader, Holder: fmt.Sprintf("runner %d", proc),
		TTL: s.ttl, Delta: delta, Guard: guard, LookEvery: s.ttl / 10,
		Request: time.Second, Budget: 10 * time.Second,
	}
}

// join opens the ledger and joins it, as another process does.
func (s *suite) join(f locktest.Faults) *process {
	s.t.Helper()
	l, faulty := s.ledger(f)
	session, err := l.Join(s.t.Context())
	s.must(err)
	p := &process{Session: session, t: s.t, ledger: l, faulty: faulty}
	s.t.Cleanup(func() {
		faulty.Resume()
		faulty.Set(locktest.Faults{})
		if err := session.Close(context.WithoutCancel(s.t.Context())); err != nil {
			s.t.Errorf("close: %v", err)
		}
	})
	return p
}

func (s *suite) must(err error) {
	s.t.Helper()
	if err != nil {
		s.t.Fatal(err)
	}
}

func (s *suite) wantErr(err, want error) {
	s.t.Helper()
	if !errors.Is(err, want) {
		s.t.Fatalf("got error %v, want %v", err, want)
	}
}

// wantEntry checks what another process reads of a stage.
func (s *suite) wantEntry(d stages.Digest, state synchronization.State, m, avoid digest.Digest) {
	s.t.Helper()
	l, _ := s.ledger(locktest.Faults{})
	all, err := l.List(s.t.Context())
	s.must(err)
	if e := all[d]; e.State != state || e.Manifest != m || e.Avoid != avoid {
		s.t.Fatalf("the entry is %+v, want %s of manifest %q, avoiding %q", e, state, m, avoid)
	}
}

// claim acquires a stage that must be free.
func (p *process) claim(d stages.Digest) *synchronization.Claim {
	p.t.Helper()
	got, err := p.TryAcquire(p.t.Context(), []stages.Digest{d})
	if err != nil {
		p.t.Fatal(err)
	}
	c := got.Claims[d]
	if c == nil {
		p.t.Fatalf("stage %s is held by %+v", d.Short(), got.Held[d])
	}
	return c
}

// await waits for a stage and then claims it.
func (p *process) await(d stages.Digest) *synchronization.Claim {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), patience)
	defer cancel()
	if err := p.Wait(ctx, []stages.Digest{d}, func(synchronization.Holder) {}); err != nil {
		p.t.Fatal(err)
	}
	return p.claim(d)
}

// published makes stage d have manifest m, with its entry still there.
func (p *process) published(d stages.Digest, m digest.Digest) {
	p.t.Helper()
	c := p.claim(d)
	for _, err := range []error{c.Decide(p.t.Context(), m), c.Published(p.t.Context())} {
		if err != nil {
			p.t.Fatal(err)
		}
	}
}

// pass lets time pass.
func pass(d time.Duration) { <-time.After(d) }

// stage returns some stage's digest, manifest some manifest's.
func stage(n int) stages.Digest    { return stages.DigestOf(fmt.Appendf(nil, "stage %d", n)) }
func manifest(n int) digest.Digest { return digest.FromString(fmt.Sprintf("manifest %d", n)) }

func many(n int) []stages.Digest {
	ds := make([]stages.Digest, n)
	for i := range ds {
		ds[i] = stage(i)
	}
	return ds
}

func always(context.Context, stages.Digest, digest.Digest) (bool, error) { return true, nil }

// shardOf finds the shard of a stage by its entry, as a person would.
func (s *suite) shardOf(d stages.Digest) (string, lock.Snapshot) {
	s.t.Helper()
	b := s.h.Open()
	for n := range synchronization.Shards {
		name := fmt.Sprintf("cairn-%s.%d", project, n)
		found, err := b.Read(s.t.Context(), name)
		s.must(err)
		if _, ok := found[name].Data["stage."+d.Hex()]; ok {
			return name, found[name]
		}
	}
	s.t.Fatalf("no shard has stage %s", d.Short())
	return "", lock.Snapshot{}
}
