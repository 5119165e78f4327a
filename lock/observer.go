package lock

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"
)

// Observer decides which sessions of a group are dead, by looking at their
// records from time to time. It is safe for concurrent use.
type Observer struct {
	client *Client
	group  string
	reads  *shared[[]Record] // one after another, so what was noted last was read last

	mu    sync.Mutex
	seen  map[string]sighting
	asked time.Time // when the last read began
}

// sighting is since when a record has been seen to be what it is.
type sighting struct {
	record Record
	since  time.Time
	still  time.Duration
}

// dead is false for the zero sighting, of a session never seen.
func (s sighting) dead() bool {
	return s.record.Gone || s.record.TTL > 0 && s.still >= s.record.TTL
}

// Observe returns an observer of the group's sessions.
func (c *Client) Observe(group string) *Observer {
	o := &Observer{client: c, group: group, seen: map[string]sighting{}}
	o.reads = &shared[[]Record]{c: c, do: o.read}
	return o
}

// Look reads the records and returns, of the sessions asked about, those that are
// dead: their record has not changed for its TTL since this observer first saw it
// so, the store knows of the end of the process, or there is none. A session
// makes its record before its first lock, so the sessions asked about must have
// been read from a cell before Look is called. The read is shared with who else
// looks.
func (o *Observer) Look(ctx context.Context, sessions ...string) (map[string]bool, error) {
	if err := o.look(ctx); err != nil {
		return nil, err
	}
	return o.deadOf(sessions), nil
}

// Glance is Look that does without a read where the last one is younger than age
// and showed all the sessions asked about. It may see a death by age later.
func (o *Observer) Glance(ctx context.Context, age time.Duration, sessions ...string) (map[string]bool, error) {
	if o.fresh(age, sessions) {
		return o.deadOf(sessions), nil
	}
	return o.Look(ctx, sessions...)
}

func (o *Observer) fresh(age time.Duration, sessions []string) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.asked.IsZero() || o.client.now().Sub(o.asked) >= age {
		return false
	}
	return !slices.ContainsFunc(sessions, func(id string) bool { _, ok := o.seen[id]; return !ok })
}

// deadOf returns which of the sessions are dead, or were not there, when the
// records were read last.
func (o *Observer) deadOf(sessions []string) map[string]bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	dead := map[string]bool{}
	for _, id := range sessions {
		if s, ok := o.seen[id]; !ok || s.dead() {
			dead[id] = true
		}
	}
	return dead
}

// Living reads the records and returns, in the order of their ids, those of the
// sessions that are not known to be dead.
func (o *Observer) Living(ctx context.Context) ([]Record, error) {
	if err := o.look(ctx); err != nil {
		return nil, err
	}
	return o.sightings(func(s sighting) bool { return !s.dead() }), nil
}

// Holder returns what the session said of itself when it was last seen.
func (o *Observer) Holder(session string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen[session].record.Holder
}

// Bury removes the records of all sessions that are dead, unless they moved.
func (o *Observer) Bury(ctx context.Context) error {
	if err := o.look(ctx); err != nil {
		return err
	}
	for _, r := range o.sightings(sighting.dead) {
		err := o.client.Retry(ctx, func(ctx context.Context) error {
			return o.client.store.Remove(ctx, o.group, r.Session, r.Seq)
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("remove session %s: %w", r.Session, err)
		}
	}
	return nil
}

// sightings returns the records that are so, in the order of their ids.
func (o *Observer) sightings(so func(sighting) bool) []Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	var found []Record
	for _, s := range o.seen {
		if so(s) {
			found = append(found, s.record)
		}
	}
	slices.SortFunc(found, func(a, b Record) int { return strings.Compare(a.Session, b.Session) })
	return found
}

// look reads the records, together with who else does, and retries within the budget.
func (o *Observer) look(ctx context.Context) error {
	if _, err := o.reads.ask(ctx).answer(); err != nil {
		return fmt.Errorf("read the sessions of %s: %w", o.group, err)
	}
	return nil
}

// read reads the records and notes since when each is what it is. How long a
// record stood still counts from the end of the read that showed it first to the
// beginning of this one, which is never more than the truth.
func (o *Observer) read(ctx context.Context) ([]Record, error) {
	asked := o.client.now()
	records, err := o.client.store.Records(ctx, o.group)
	if err == nil {
		o.note(records, asked, o.client.now())
	}
	return records, err
}

func (o *Observer) note(records []Record, asked, answered time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	seen := make(map[string]sighting, len(records))
	for _, r := range records {
		old, ok := o.seen[r.Session]
		if !ok || old.record.Seq != r.Seq {
			seen[r.Session] = sighting{record: r, since: answered}
			continue
		}
		seen[r.Session] = sighting{record: r, since: old.since, still: max(old.still, asked.Sub(old.since))}
	}
	o.seen, o.asked = seen, asked
}
