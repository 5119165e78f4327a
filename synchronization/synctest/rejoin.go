package synctest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// hooked is a backend with something that happens at what is done to sessions' records.
type hooked struct {
	synchronization.Backend

	mu      sync.Mutex
	renewed func()       // after a record was written; nil for nothing
	removes func() error // in place of the removal of a record where it fails; nil for nothing
}

func (b *hooked) set(renewed func(), removes func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.renewed, b.removes = renewed, removes
}

func (b *hooked) hooks() (func(), func() error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.renewed, b.removes
}

// Renew implements [lock.Sessions].
func (b *hooked) Renew(ctx context.Context, group string, r lock.Record) error {
	err := b.Backend.Renew(ctx, group, r)
	if renewed, _ := b.hooks(); renewed != nil {
		renewed()
	}
	return err
}

// Remove implements [lock.Sessions].
func (b *hooked) Remove(ctx context.Context, group, session string, seq uint64) error {
	if _, removes := b.hooks(); removes != nil {
		if err := removes(); err != nil {
			return err
		}
	}
	return b.Backend.Remove(ctx, group, session, seq)
}

// displaced is a process whose session was lost while it had two stages in
// flight: stage 0 was being built, and of stage 1 manifest 1 was decided.
type displaced struct {
	t       *testing.T
	s       *suite
	hooks   *hooked
	ledger  *synchronization.Ledger
	lost    *synchronization.Session
	claimed map[stages.Digest]*synchronization.Claim
}

func (s *suite) displaced() *displaced {
	s.t.Helper()
	p := &displaced{t: s.t, s: s, hooks: &hooked{Backend: s.h.Open()}}
	s.procs++
	faulty := NewFaulty(p.hooks, s.procs, locktest.Faults{})
	var err error
	p.ledger, err = synchronization.Open(s.t.Context(), faulty, project, s.options(s.procs))
	s.must(err)
	s.t.Cleanup(func() { p.ledger.Close(); faulty.Wait() })
	p.lost, err = p.ledger.Join(s.t.Context())
	s.must(err)
	got, err := p.lost.TryAcquire(s.t.Context(), many(2))
	s.must(err)
	p.claimed = got.Claims
	s.must(p.claimed[stage(1)].Decide(s.t.Context(), manifest(1)))
	faulty.Pause()
	<-p.lost.Context().Done()
	faulty.Resume()
	return p
}

// rejoin takes the lost session's place, and checks that nothing was lost by it.
func (p *displaced) rejoin(ctx context.Context) *synchronization.Session {
	p.t.Helper()
	next, err := p.ledger.Rejoin(ctx, p.lost)
	p.s.must(err)
	p.hooks.set(nil, nil)
	p.t.Cleanup(func() {
		if err := next.Close(context.WithoutCancel(p.t.Context())); err != nil {
			p.t.Errorf("close: %v", err)
		}
	})
	all, err := p.ledger.List(p.t.Context())
	p.s.must(err)
	if b, d := all[stage(0)], all[stage(1)]; b.Session != next.ID() || b.State != synchronization.Building ||
		d.Session != next.ID() || d.State != synchronization.Publishing || d.Manifest != manifest(1) {
		p.t.Fatalf("the entries are %+v and %+v", b, d)
	}
	return next
}

// recorded reports whether others find the record of a session.
func (p *displaced) recorded(id string) bool {
	p.t.Helper()
	records, err := p.s.h.Open().Records(p.t.Context(), "cairn-"+project)
	p.s.must(err)
	return slices.ContainsFunc(records, func(r lock.Record) bool { return r.Session == id })
}

func takesThePlace(t *testing.T, s *suite) {
	p := s.displaced()
	next := p.rejoin(t.Context())
	if p.recorded(p.lost.ID()) {
		t.Error("the lost session is still recorded")
	}
	s.wantErr(p.claimed[stage(0)].Decide(t.Context(), manifest(0)), synchronization.ErrLost)
	got, err := next.TryAcquire(t.Context(), many(2))
	s.must(err)
	s.must(got.Claims[stage(0)].Decide(t.Context(), manifest(0)))
	s.must(got.Claims[stage(1)].Published(t.Context()))
	s.wantEntry(stage(1), synchronization.Published, manifest(1), "")
}

func putsDown(t *testing.T, s *suite) {
	p := s.displaced()
	next := p.rejoin(t.Context())
	if held := next.InHands(); len(held) != 2 || !slices.Contains(held, stage(0)) || !slices.Contains(held, stage(1)) {
		t.Fatalf("in hands are %v", held)
	}
	idle := next.PutDown(stage(0))
	if again := next.PutDown(stage(0)); again != nil {
		t.Error("a claim is put down twice")
	}
	got, err := next.TryAcquire(t.Context(), many(1))
	s.must(err)
	s.wantErr(idle.Release(t.Context()), synchronization.ErrTaken)
	s.must(got.Claims[stage(0)].Decide(t.Context(), manifest(0)))
	decided := next.PutDown(stage(1))
	s.must(decided.Published(t.Context()))
	s.wantEntry(stage(1), synchronization.Published, manifest(1), "")
	if held := next.InHands(); len(held) != 1 {
		t.Errorf("in hands are %v", held)
	}
}

func leavesTheEnded(t *testing.T, s *suite) {
	p := s.displaced()
	p.hooks.set(nil, func() error { return errors.New("sessions cannot be removed here") })
	p.rejoin(t.Context())
	if !p.recorded(p.lost.ID()) {
		t.Error("the lost session's record was removed after all")
	}
}

func endsTheLostAnyway(t *testing.T, s *suite) {
	p := s.displaced()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.hooks.set(nil, func() error { cancel(); return nil })
	p.rejoin(ctx)
	if p.recorded(p.lost.ID()) {
		t.Error("the lost session is still recorded")
	}
}

func givesUpThePlace(t *testing.T, s *suite) {
	p := s.displaced()
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	p.hooks.set(cancel, nil)
	_, err := p.ledger.Rejoin(ctx, p.lost)
	s.wantErr(err, context.Canceled)
	var op *synchronization.Error
	if !errors.As(err, &op) {
		t.Errorf("the error %v is not the ledger's", err)
	}
	records, err := s.h.Open().Records(t.Context(), "cairn-"+project)
	s.must(err)
	if len(records) > 1 || len(records) == 1 && records[0].Session != p.lost.ID() {
		t.Errorf("the records %+v are left", records)
	}
	p.hooks.set(nil, nil)
	p.rejoin(t.Context())
}
