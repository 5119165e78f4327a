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

	mu   sync.Mutex
	seen map[string]sighting
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
	return &Observer{client: c, group: group, seen: map[string]sighting{}}
}

// Look reads the records once and returns, of the sessions asked about, those
// that are dead: their record has not changed for its TTL since this observer
// first saw it so, the store knows of the end of the process, or there is none.
// A session makes its record before its first lock, so the sessions asked about
// must have been read from a cell before Look is called.
func (o *Observer) Look(ctx context.Context, sessions ...string) (map[string]bool, error) {
	records, err := o.look(ctx)
	if err != nil {
		return nil, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	dead := map[string]bool{}
	for _, id := range sessions {
		if !contains(records, id) || o.seen[id].dead() {
			dead[id] = true
		}
	}
	return dead, nil
}

// Holder returns what the session said of itself when it was last seen.
func (o *Observer) Holder(session string) string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.seen[session].record.Holder
}

// Bury removes the records of all sessions that are dead, unless they moved.
func (o *Observer) Bury(ctx context.Context) error {
	if _, err := o.look(ctx); err != nil {
		return err
	}
	for _, r := range o.dead() {
		err := o.client.Retry(ctx, func(ctx context.Context) error {
			return o.client.store.Remove(ctx, o.group, r.Session, r.Seq)
		})
		if err != nil && !errors.Is(err, ErrConflict) {
			return fmt.Errorf("remove session %s: %w", r.Session, err)
		}
	}
	return nil
}

func (o *Observer) dead() []Record {
	o.mu.Lock()
	defer o.mu.Unlock()
	var dead []Record
	for _, s := range o.seen {
		if s.dead() {
			dead = append(dead, s.record)
		}
	}
	slices.SortFunc(dead, func(a, b Record) int { return strings.Compare(a.Session, b.Session) })
	return dead
}

// look reads the records and notes since when each is what it is. How long a
// record stood still counts from the end of the read that showed it first to the
// beginning of this one, which is never more than the truth.
func (o *Observer) look(ctx context.Context) ([]Record, error) {
	var asked time.Time
	var records []Record
	err := o.client.Retry(ctx, func(ctx context.Context) (err error) {
		asked = o.client.now()
		records, err = o.client.store.Records(ctx, o.group)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read the sessions of %s: %w", o.group, err)
	}
	o.note(records, asked, o.client.now())
	return records, nil
}

func contains(records []Record, session string) bool {
	return slices.ContainsFunc(records, func(r Record) bool { return r.Session == session })
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
		// Looks may overlap: one that began earlier does not make the record younger.
		still := max(old.still, asked.Sub(old.since))
		seen[r.Session] = sighting{record: r, since: old.since, still: still}
	}
	o.seen = seen
}
