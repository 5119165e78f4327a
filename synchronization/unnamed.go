package synchronization

import (
	"context"
	"encoding/json"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// keyUnnamed is a shard's key that says since when cleaners have seen nothing that
// names its stages, and which of them cleaners are about to take a name from. It is
// theirs alone.
const keyUnnamed = "unnamed"

// stub is how much of a stage's digest such a note has, in hexadecimal digits. Two
// stages that share it would share a time, too; nothing else comes of it.
const stub = 16

// noting bounds how many shards are noted in at once.
const noting = 8

// freeingPrefix begins the keys of what a session is about to free.
const freeingPrefix = "freeing."

// unnamed are the notes of one shard.
type unnamed struct {
	since   map[string]time.Time // by stub
	freeing map[string][]string  // stubs by session
}

func newUnnamed() unnamed {
	return unnamed{since: map[string]time.Time{}, freeing: map[string][]string{}}
}

// decodeUnnamed reads notes. Nonsense is as good as none: all times begin anew, and
// what they protect stays longer.
func decodeUnnamed(text string) unnamed {
	var stored map[string]string
	notes := newUnnamed()
	if text == "" || json.Unmarshal([]byte(text), &stored) != nil {
		return notes
	}
	for key, stubs := range stored {
		session, freeing := strings.CutPrefix(key, freeingPrefix)
		at, err := time.Parse(time.RFC3339, key)
		freeing = freeing && token(session)
		if len(stubs)%stub != 0 || strings.Trim(stubs, "0123456789abcdef") != "" || err != nil && !freeing {
			continue
		}
		for ; stubs != ""; stubs = stubs[stub:] {
			if freeing {
				notes.freeing[session] = append(notes.freeing[session], stubs[:stub])
			} else {
				notes.since[stubs[:stub]] = at
			}
		}
	}
	return notes
}

func (u unnamed) encode() (string, error) {
	stored := map[string]string{}
	for _, s := range slices.Sorted(maps.Keys(u.since)) {
		stored[u.since[s].Format(time.RFC3339)] += s
	}
	for session, stubs := range u.freeing {
		if len(stubs) > 0 {
			stored[freeingPrefix+session] = strings.Join(slices.Compact(slices.Sorted(slices.Values(stubs))), "")
		}
	}
	if len(stored) == 0 {
		return "", nil
	}
	b, err := json.Marshal(stored)
	return string(b), err
}

// freed reports whether a session other than this is about to free what has the stub.
func (u unnamed) freed(s, except string) bool {
	for session, stubs := range u.freeing {
		if session != except && slices.Contains(stubs, s) {
			return true
		}
	}
	return false
}

// SetUnnamed notes that nothing names the stages of unnamed, that this session is about
// to delete the last that names those of freeing, and that something names all others,
// or that they are gone. It returns for how long each of unnamed has been noted
// without a break, by the store's own clock: clocks of two cleaners are never
// compared. What another session is about to free has no age, since nobody else knows
// when that comes about. What one that died was about to free counts from now.
func (s *Session) SetUnnamed(ctx context.Context, unnamed, freeing []stages.Digest) (map[stages.Digest]time.Duration, error) {
	dead, err := s.deadFreers(ctx)
	var ages map[stages.Digest]time.Duration
	if err == nil {
		ages, err = s.note(ctx, unnamed, freeing, setUnless(dead))
	}
	if err != nil {
		return nil, opError(err, "note which stages of %s have no name", s.ledger.project)
	}
	return ages, nil
}

// AddUnnamed notes that nothing names these stages from now on, whatever was noted
// of them before, that this session frees nothing any more, and leaves the notes of
// all others.
func (s *Session) AddUnnamed(ctx context.Context, ds []stages.Digest) error {
	if _, err := s.note(ctx, ds, nil, addFreed); err != nil {
		return opError(err, "note which stages of %s have lost their name", s.ledger.project)
	}
	return nil
}

// Unnamed returns what SetUnnamed would return of the stages by now, and notes nothing.
func (s *Session) Unnamed(ctx context.Context, ds []stages.Digest) (map[stages.Digest]time.Duration, error) {
	ages, err := s.note(ctx, ds, nil, leave)
	if err != nil {
		return nil, opError(err, "read which stages of %s have no name", s.ledger.project)
	}
	return ages, nil
}

// moment is of a change: by whom, and when by the store's clock.
type moment struct {
	session string
	now     time.Time
}

// notation says what notes of a shard become, with what is noted of its stages.
type notation func(m moment, u unnamed, ds, freeing []string) unnamed

// setUnless returns the notation of stages that were seen without a name, and of those
// that are about to lose their last. The dead free nothing any more.
func setUnless(dead map[string]bool) notation {
	return func(m moment, u unnamed, ds, freeing []string) unnamed {
		next := newUnnamed()
		for session, stubs := range u.freeing {
			if session != m.session && !dead[session] {
				next.freeing[session] = stubs
			}
		}
		for _, s := range ds {
			if next.freed(s, m.session) {
				continue
			}
			next.since[s] = m.now
			if at, ok := u.since[s]; ok && !u.freed(s, m.session) {
				next.since[s] = at
			}
		}
		next.freeing[m.session] = freeing
		return next
	}
}

// addFreed notes stages that have lost their last name.
func addFreed(m moment, u unnamed, ds, _ []string) unnamed {
	next := unnamed{since: maps.Clone(u.since), freeing: maps.Clone(u.freeing)}
	delete(next.freeing, m.session)
	for _, s := range ds {
		next.since[s] = m.now
	}
	return next
}

func leave(_ moment, u unnamed, _, _ []string) unnamed { return u }

// note changes the notes of all shards, and returns the ages of the stages.
func (s *Session) note(ctx context.Context, ds, freeing []stages.Digest, by notation) (map[stages.Digest]time.Duration, error) {
	l := s.ledger
	now, err := l.client.Now(ctx)
	if err != nil {
		return nil, err
	}
	shards := allShards(l.project)
	views, err := l.views(ctx, shards)
	if err != nil {
		return nil, err
	}
	groups, _ := l.byShard(ds)
	frees, _ := l.byShard(freeing)
	notes := make([]unnamed, len(shards))
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(noting)
	for i, shard := range shards {
		tasks.Go(func() (err error) {
			notes[i], err = l.noteShard(ctx, views[shard], func(u unnamed) unnamed {
				return by(moment{s.ID(), stamp(now)}, u, stubs(groups[shard]), stubs(frees[shard]))
			})
			return err
		})
	}
	if err := tasks.Wait(); err != nil {
		return nil, err
	}
	ages := make(map[stages.Digest]time.Duration, len(ds))
	for i, shard := range shards {
		for _, d := range groups[shard] {
			at, ok := notes[i].since[stubOf(d)]
			if ok && !notes[i].freed(stubOf(d), s.ID()) {
				// The second less is for the times, which are of whole seconds.
				ages[d] = max(0, now.Sub(at)-time.Second)
			}
		}
	}
	return ages, nil
}

func stubOf(d stages.Digest) string { return d.Hex()[:stub] }

func stubs(ds []stages.Digest) []string {
	all := make([]string, len(ds))
	for i, d := range ds {
		all[i] = stubOf(d)
	}
	return all
}

// deadFreers returns, of the other sessions that free something by the notes, those
// that are dead. Who does not move is watched until that is known.
func (s *Session) deadFreers(ctx context.Context) (map[string]bool, error) {
	l := s.ledger
	views, err := l.views(ctx, allShards(l.project))
	if err != nil {
		return nil, err
	}
	others := map[string]bool{}
	for _, v := range views {
		for session := range decodeUnnamed(v.snap.Data[keyUnnamed]).freeing {
			if session != s.ID() {
				others[session] = true
			}
		}
	}
	if len(others) == 0 {
		return nil, nil
	}
	for until := l.now().Add(2 * l.ttl); ; {
		dead, err := l.crowd.Look(ctx, slices.Sorted(maps.Keys(others))...)
		if err != nil || len(dead) == len(others) || l.now().After(until) {
			return dead, err
		}
		if err := l.untilWoken(ctx, nil); err != nil {
			return nil, err
		}
	}
}

// noteShard changes the notes of one shard.
func (l *Ledger) noteShard(ctx context.Context, v view, change func(unnamed) unnamed) (unnamed, error) {
	for {
		if err := v.open(); err != nil {
			return unnamed{}, err
		}
		old := v.snap.Data[keyUnnamed]
		notes := change(decodeUnnamed(old))
		text, err := notes.encode()
		if err != nil || text == old {
			return notes, err
		}
		_, err = l.client.Apply(ctx, v.shard, v.test(), keyChange(keyUnnamed, old, text))
		if err == nil || !errors.Is(err, lock.ErrConflict) {
			return notes, err
		}
		views, err := l.views(ctx, []string{v.shard})
		if err != nil {
			return unnamed{}, err
		}
		v = views[v.shard]
	}
}

// keyChange returns the change of a key; "" is absence.
func keyChange(key, from, to string) lock.Change {
	switch {
	case from == "":
		return lock.Add(key, to)
	case to == "":
		return lock.Remove(key, from)
	}
	return lock.Replace(key, from, to)
}
