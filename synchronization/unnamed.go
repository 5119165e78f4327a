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
// names its stages. It is theirs alone.
const keyUnnamed = "unnamed"

// stub is how much of a stage's digest such a note has, in hexadecimal digits. Two
// stages that share it would share a time, too; nothing else comes of it.
const stub = 16

// noting bounds how many shards are noted in at once.
const noting = 8

// unnamed are the notes of one shard: stubs by the time that they have.
type unnamed map[string]time.Time

// decodeUnnamed reads notes. Nonsense is as good as none: all times begin anew, and
// what they protect stays longer.
func decodeUnnamed(text string) unnamed {
	var stored map[string]string
	notes := unnamed{}
	if text == "" || json.Unmarshal([]byte(text), &stored) != nil {
		return notes
	}
	for when, stubs := range stored {
		at, err := time.Parse(time.RFC3339, when)
		if err != nil || len(stubs)%stub != 0 || strings.Trim(stubs, "0123456789abcdef") != "" {
			continue
		}
		for ; stubs != ""; stubs = stubs[stub:] {
			notes[stubs[:stub]] = at
		}
	}
	return notes
}

func (u unnamed) encode() (string, error) {
	if len(u) == 0 {
		return "", nil
	}
	stored := map[string]*strings.Builder{}
	for _, s := range slices.Sorted(maps.Keys(u)) {
		when := u[s].Format(time.RFC3339)
		if stored[when] == nil {
			stored[when] = &strings.Builder{}
		}
		stored[when].WriteString(s)
	}
	text := make(map[string]string, len(stored))
	for when, stubs := range stored {
		text[when] = stubs.String()
	}
	b, err := json.Marshal(text)
	return string(b), err
}

// SetUnnamed notes that nothing names these stages, and that something names all
// others, or that they are gone. It returns for how long each has been noted
// without a break, by the store's own clock: clocks of two cleaners are never
// compared.
func (l *Ledger) SetUnnamed(ctx context.Context, ds []stages.Digest) (map[stages.Digest]time.Duration, error) {
	since, now, err := l.note(ctx, ds, false)
	if err != nil {
		return nil, opError(err, "note which stages of %s have no name", l.project)
	}
	ages := make(map[stages.Digest]time.Duration, len(ds))
	for _, d := range ds {
		// The second less is for the times, which are of whole seconds.
		ages[d] = max(0, now.Sub(since[d.Hex()[:stub]])-time.Second)
	}
	return ages, nil
}

// AddUnnamed notes that nothing names these stages from now on, whatever was noted
// of them before, and leaves the notes of all others.
func (l *Ledger) AddUnnamed(ctx context.Context, ds []stages.Digest) error {
	if len(ds) == 0 {
		return nil
	}
	if _, _, err := l.note(ctx, ds, true); err != nil {
		return opError(err, "note which stages of %s have lost their name", l.project)
	}
	return nil
}

// note writes the notes of all shards that change, and returns those of the stages.
func (l *Ledger) note(ctx context.Context, ds []stages.Digest, add bool) (unnamed, time.Time, error) {
	now, err := l.client.Now(ctx)
	if err != nil {
		return nil, now, err
	}
	shards := allShards(l.project)
	views, err := l.views(ctx, shards)
	if err != nil {
		return nil, now, err
	}
	groups, _ := l.byShard(ds)
	notes := make([]unnamed, len(shards))
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(noting)
	for n, shard := range shards {
		tasks.Go(func() (err error) {
			notes[n], err = l.noteShard(ctx, views[shard], groups[shard], stamp(now), add)
			return err
		})
	}
	err = tasks.Wait()
	all := unnamed{}
	for _, u := range notes {
		maps.Copy(all, u)
	}
	return all, now, err
}

func (l *Ledger) noteShard(ctx context.Context, v view, ds []stages.Digest, now time.Time, add bool) (unnamed, error) {
	for {
		if err := v.open(); err != nil {
			return nil, err
		}
		old := v.snap.Data[keyUnnamed]
		notes := decodeUnnamed(old).after(ds, now, add)
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
			return nil, err
		}
		v = views[v.shard]
	}
}

// after returns the notes once these stages were seen without a name.
func (u unnamed) after(ds []stages.Digest, now time.Time, add bool) unnamed {
	next := unnamed{}
	if add {
		maps.Copy(next, u)
	}
	for _, d := range ds {
		s := d.Hex()[:stub]
		next[s] = now
		if at, ok := u[s]; ok && !add {
			next[s] = at
		}
	}
	return next
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
