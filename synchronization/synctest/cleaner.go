package synctest

import (
	"fmt"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/lock/locktest"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// cleanerTests are about what only cleaners do, and what takes no work to make.
func cleanerTests() []test {
	return []test{
		{"what takes no work is taken from who builds it", supersedes},
		{"what is superseded still avoids the deleted manifest", supersedesAvoiding},
		{"only the entry that was seen is superseded", supersedesWhatWasSeen},
		{"a mark is taken over from a cleaner, alive or not", redooms},
		{"a mark that was rescued is not taken over", redoomsNoRescued},
		{"a deletion is finished by another when its cleaner is dead", finishesDeletions},
		{"what has no name is counted from when that was noted first", countsUnnamed},
		{"what gets a name loses its count", forgetsNamed},
		{"what loses its name again is counted anew", countsAnew},
		{"what another is about to free has no age", leavesFreed},
		{"what a dead cleaner was about to free is counted anew", countsWhatTheDeadFreed},
		{"reading ages notes nothing", readsAges},
		{"notes survive whoever wrote them", keepsNotes},
		{"notes that are nonsense count as none", distrustsNotes},
	}
}

// seen returns the entry as a process sees it.
func (p *process) seen(d stages.Digest) synchronization.Entry {
	p.t.Helper()
	entries, err := p.Entries(p.t.Context(), []stages.Digest{d})
	if err != nil {
		p.t.Fatal(err)
	}
	return entries[d]
}

func supersedes(t *testing.T, s *suite) {
	busy, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c := busy.claim(d)
	won, err := quick.Supersede(t.Context(), d, quick.seen(d))
	s.must(err)
	if won.Fence() <= c.Fence() {
		t.Errorf("fence %d after %d", won.Fence(), c.Fence())
	}
	s.wantErr(c.Decide(t.Context(), manifest(0)), synchronization.ErrTaken)
	s.must(won.Decide(t.Context(), manifest(1)))
	s.wantEntry(d, synchronization.Publishing, manifest(1), "")
	_, err = busy.Supersede(t.Context(), d, busy.seen(d))
	s.wantErr(err, synchronization.ErrTaken) // it is decided
}

func supersedesAvoiding(t *testing.T, s *suite) {
	busy, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	busy.deleted(d, manifest(0))
	busy.claim(d)
	won, err := quick.Supersede(t.Context(), d, quick.seen(d))
	s.must(err)
	s.wantEntry(d, synchronization.Building, "", manifest(0))
	s.wantErr(won.Decide(t.Context(), manifest(0)), synchronization.ErrAvoided)
}

func supersedesWhatWasSeen(t *testing.T, s *suite) {
	busy, quick, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	_, err := quick.Supersede(t.Context(), d, synchronization.Entry{})
	s.wantErr(err, synchronization.ErrTaken)
	first := busy.claim(d)
	seen := quick.seen(d)
	s.must(first.Release(t.Context()))
	busy.claim(d)
	_, err = quick.Supersede(t.Context(), d, seen)
	s.wantErr(err, synchronization.ErrTaken)
	if e := busy.seen(d); e.Session != busy.ID() {
		t.Errorf("the entry is that of %s", e.Session)
	}
}

func redooms(t *testing.T, s *suite) {
	one, two, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c, err := one.Doom(t.Context(), d)
	s.must(err)
	mine, err := two.Redoom(t.Context(), d, two.seen(d))
	s.must(err)
	s.wantErr(c.Delete(t.Context(), manifest(0)), synchronization.ErrTaken)
	s.must(mine.Delete(t.Context(), manifest(0)))
	s.wantEntry(d, synchronization.Deleting, manifest(0), "")
	_, err = one.Redoom(t.Context(), d, one.seen(d))
	s.wantErr(err, synchronization.ErrTaken)
}

func redoomsNoRescued(t *testing.T, s *suite) {
	one, two, runner, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	_, err := one.Doom(t.Context(), d)
	s.must(err)
	seen := two.seen(d)
	s.must(runner.Rescue(t.Context(), d, seen, manifest(0)))
	_, err = two.Redoom(t.Context(), d, seen)
	s.wantErr(err, synchronization.ErrTaken)
	s.wantEntry(d, synchronization.Published, manifest(0), "")
}

func finishesDeletions(t *testing.T, s *suite) {
	dying, next, d := s.join(locktest.Faults{}), s.join(locktest.Faults{}), stage(0)
	c, err := dying.Doom(t.Context(), d)
	s.must(err)
	s.must(c.Delete(t.Context(), manifest(0)))
	if got, err := next.TryAcquire(t.Context(), []stages.Digest{d}); err != nil || got.Claims[d] != nil {
		t.Fatalf("a deletion was taken from a cleaner that lives: %v, error %v", got, err)
	}
	dying.faulty.Pause()
	s.must(next.Wait(t.Context(), []stages.Digest{d}, func(synchronization.Holder) {}))
	end := next.claim(d)
	if e := end.Entry(); e.State != synchronization.Deleting || e.Manifest != manifest(0) {
		t.Fatalf("took over %+v", e)
	}
	s.must(end.Deleted(t.Context()))
	s.wantEntry(d, synchronization.Deleted, manifest(0), "")
}

// age is for how long a stage is noted to have no name, -1 for one of which that
// is not noted.
func (p *process) age(d stages.Digest, unnamed ...stages.Digest) time.Duration {
	p.t.Helper()
	ages, err := p.SetUnnamed(p.t.Context(), unnamed, nil)
	if err != nil {
		p.t.Fatal(err)
	}
	if age, ok := ages[d]; ok {
		return age
	}
	return -1
}

// waited is how long the tests of notes wait, and slack by how much a real store
// may be slower. Notes are of whole seconds.
const (
	waited = 4 * time.Second
	slack  = 30 * time.Second
)

func (p *process) wantAge(d stages.Digest, least, most time.Duration, unnamed ...stages.Digest) {
	p.t.Helper()
	if age := p.age(d, unnamed...); age < least || age > most {
		p.t.Errorf("%s has been without a name for %s, want from %s to %s", d.Short(), age, least, most)
	}
}

func countsUnnamed(_ *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.wantAge(stage(0), 0, 0, many(2)...)
	pass(waited)
	p.wantAge(stage(0), waited-2*time.Second, waited+slack, many(3)...)
	p.wantAge(stage(2), 0, slack, many(3)...)
}

func forgetsNamed(_ *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.age(stage(0), many(2)...)
	pass(waited)
	p.wantAge(stage(0), -1, -1, stage(1))
	p.wantAge(stage(0), 0, 0, many(2)...)
}

func countsAnew(_ *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.age(stage(0), many(2)...)
	pass(waited)
	s.must(p.AddUnnamed(s.t.Context(), []stages.Digest{stage(0), stage(5)}))
	ages, err := p.SetUnnamed(s.t.Context(), []stages.Digest{stage(0), stage(1), stage(5)}, nil)
	s.must(err)
	if ages[stage(0)] >= waited-time.Second || ages[stage(1)] < waited-2*time.Second || ages[stage(5)] >= waited-time.Second {
		s.t.Errorf("ages are %v", ages)
	}
}

func leavesFreed(_ *testing.T, s *suite) {
	one, two := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	two.age(stage(0), stage(0), stage(1))
	_, err := one.SetUnnamed(s.t.Context(), nil, []stages.Digest{stage(0)})
	s.must(err)
	two.wantAge(stage(0), -1, -1, stage(0), stage(1)) // one lives, which takes two a while to find
	two.wantAge(stage(1), 0, slack+4*ttl, stage(0), stage(1))
	s.must(one.AddUnnamed(s.t.Context(), []stages.Digest{stage(0)}))
	two.wantAge(stage(0), 0, slack, stage(0), stage(1))
}

func countsWhatTheDeadFreed(_ *testing.T, s *suite) {
	dying, next := s.join(locktest.Faults{}), s.join(locktest.Faults{})
	next.age(stage(0), many(2)...)
	_, err := dying.SetUnnamed(s.t.Context(), []stages.Digest{stage(1)}, []stages.Digest{stage(0)})
	s.must(err)
	// A late cleaner, which does not know of the name that is about to go.
	next.wantAge(stage(0), -1, -1, many(2)...)
	dying.faulty.Pause()
	pass(waited)
	next.wantAge(stage(0), 0, 0, many(2)...)
	next.wantAge(stage(1), waited-2*time.Second, waited+slack+8*ttl, many(2)...)
}

func readsAges(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.age(stage(0), stage(0))
	before := p.faulty.Swaps()
	ages, err := p.Unnamed(t.Context(), many(2))
	s.must(err)
	if _, ok := ages[stage(1)]; ok || len(ages) != 1 || p.faulty.Swaps() != before {
		t.Errorf("ages %v, %d writes", ages, p.faulty.Swaps()-before)
	}
}

func keepsNotes(_ *testing.T, s *suite) {
	l, _ := s.ledger(locktest.Faults{})
	dead, err := l.Join(s.t.Context())
	s.must(err)
	_, err = dead.SetUnnamed(s.t.Context(), many(1), nil)
	s.must(err)
	s.must(dead.Close(s.t.Context()))
	pass(waited)
	s.join(locktest.Faults{}).wantAge(stage(0), waited-2*time.Second, waited+slack, stage(0))
}

func distrustsNotes(t *testing.T, s *suite) {
	p := s.join(locktest.Faults{})
	p.age(stage(0), many(1)...)
	b := s.h.Open()
	shards := make([]string, 0, synchronization.Shards)
	for n := range synchronization.Shards {
		shards = append(shards, fmt.Sprintf("cairn-%s.%d", project, n))
	}
	found, err := b.Read(t.Context(), shards...)
	s.must(err)
	for _, shard := range shards {
		if found[shard].Data["unnamed"] != "" {
			replaceKey(t, s, shard, "unnamed", `{"yesterday":"0","2020-01-01T00:00:00Z":"not a whole stub"}`)
		}
	}
	pass(waited)
	p.wantAge(stage(0), 0, 0, stage(0))
}
