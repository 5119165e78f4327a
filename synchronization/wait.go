package synchronization

import (
	"context"
	"time"

	"github.com/cairnbuild/cairn/stages"
)

// held describes who has a stage.
func (l *Ledger) held(d stages.Digest, e Entry, dead bool) Holder {
	return Holder{Digest: d, Session: e.Session, Name: l.crowd.Holder(e.Session), Entry: e, Dead: dead}
}

// Wait returns when at least one of the stages is not in flight under a live
// session of another: it is worth a look at the storage, or an attempt to acquire
// it. It returns at once when that is so at the beginning, so ask only for stages
// that another holds. Tell is called for each stage when the wait for it begins
// and whenever its holder changes; it says for people what is awaited and of whom. It
// may be nil.
//
// A watch wakes Wait, within 100 ms of a change. Reading again now and then is
// only for watches that miss one, and to observe the death of holders.
func (s *Session) Wait(ctx context.Context, ds []stages.Digest, tell func(Holder)) error {
	return s.waitUntil(ctx, ds, tell, func(_ stages.Digest, e Entry) bool {
		return !e.inFlight() || e.Session == s.ID()
	})
}

// waitUntil returns when an entry is free, in the words of its caller, or in the
// hands of a dead session.
func (s *Session) waitUntil(ctx context.Context, ds []stages.Digest, tell func(Holder), free func(stages.Digest, Entry) bool) error {
	if len(ds) == 0 {
		return nil
	}
	if tell == nil {
		tell = func(Holder) {}
	}
	ctx, cancel := s.within(ctx)
	defer cancel()
	groups, shards := s.ledger.byShard(ds)
	wake := make(chan struct{}, 1)
	leave := make([]func(), len(shards))
	for i, shard := range shards {
		leave[i] = s.ledger.watches.join(ctx, shard, wake)
	}
	defer func() {
		for _, leave := range leave {
			leave()
		}
	}()
	w := &wait{session: s, groups: groups, shards: shards, tell: tell, free: free, told: map[stages.Digest]string{}}
	if err := w.run(ctx, wake); err != nil {
		return opError(err, "wait for %d stages", len(ds))
	}
	return nil
}

// wait is one call of Wait.
type wait struct {
	session *Session
	groups  map[string][]stages.Digest
	shards  []string
	tell    func(Holder)
	free    func(stages.Digest, Entry) bool
	told    map[stages.Digest]string
	holders []Holder  // as they were read last
	read    time.Time // when that was
	looked  time.Time
	dead    map[string]bool
}

func (w *wait) run(ctx context.Context, wake <-chan struct{}) error {
	l := w.session.ledger
	for {
		// The first wake comes when the shards are watched: what was read before that
		// would have to be read again.
		t := time.NewTimer(l.look - l.client.Jitter(l.look/4))
		check := w.check
		select {
		case <-wake:
			t.Stop()
		case <-t.C:
			// The watch tells of changes; what does not change is whether the holders
			// live. Reading too is for a watch that missed something.
			if !w.read.IsZero() && l.now().Sub(w.read) < l.ttl {
				check = w.judge
			}
		case <-ctx.Done():
			t.Stop()
			return context.Cause(ctx)
		}
		free, err := check(ctx)
		if err != nil || free {
			return err
		}
	}
}

// check reports whether one of the stages is free, and tells who holds them.
func (w *wait) check(ctx context.Context) (bool, error) {
	s := w.session
	views, err := s.openViews(ctx, w.shards)
	if err != nil {
		return false, err
	}
	var holders []Holder
	for _, shard := range w.shards {
		for _, d := range w.groups[shard] {
			e, _, err := views[shard].entry(d)
			if err != nil {
				return false, err
			}
			if w.free(d, e) {
				return true, nil
			}
			holders = append(holders, Holder{Digest: d, Session: e.Session, Entry: e})
		}
	}
	w.holders, w.read = holders, s.ledger.now()
	return w.judge(ctx)
}

// judge reports whether one of the holders is dead, and tells of new ones.
func (w *wait) judge(ctx context.Context) (bool, error) {
	if err := w.look(ctx, w.holders); err != nil {
		return false, err
	}
	for _, h := range w.holders {
		if w.dead[h.Session] {
			return true, nil
		}
		if w.told[h.Digest] != h.Session {
			w.told[h.Digest] = h.Session
			w.tell(w.session.ledger.held(h.Digest, h.Entry, false))
		}
	}
	return false, nil
}

// look looks at the holders' sessions, but not more often than is due or a new
// holder demands.
func (w *wait) look(ctx context.Context, holders []Holder) error {
	l := w.session.ledger
	due := w.looked.IsZero() || l.now().Sub(w.looked) >= l.look/2
	owners := make([]string, len(holders))
	for i, h := range holders {
		owners[i] = h.Session
		due = due || w.told[h.Digest] != h.Session
	}
	if !due {
		return nil
	}
	// All that wait in this process share the reads.
	dead, err := l.crowd.Glance(ctx, l.look/2, owners...)
	if err != nil {
		return err
	}
	w.looked, w.dead = l.now(), dead
	return nil
}
