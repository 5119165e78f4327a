package synchronization

import (
	"context"
	"errors"
	"maps"
	"slices"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// Sweep drops what the ledger needs no longer: published and deleted entries that
// are Δ old by the store's own clock — published ones only where confirm says
// that the tag shows the manifest —, what dead sessions left building or doomed,
// and the records of dead sessions. What a dead session left publishing becomes
// published where confirm says that the tag shows it already: a stage that nobody
// builds upon would keep its entry for ever. The rest of what dead sessions left
// publishing or deleting stays for the runner that finishes it.
//
// An entry's time and the time that it is compared with were both read from the
// store's clock, so no two machines' clocks are compared. Entries that hold
// nonsense are left, and named by the error beside the others' sweep.
func (l *Ledger) Sweep(ctx context.Context,
	confirm func(ctx context.Context, d stages.Digest, m digest.Digest) (bool, error),
) error {
	if err := l.sweep(ctx, confirm); err != nil {
		return opError(err, "sweep the ledger of %s", l.project)
	}
	return nil
}

func (l *Ledger) sweep(ctx context.Context, confirm confirmation) error {
	views, err := l.views(ctx, allShards(l.project))
	if err != nil {
		return err
	}
	dead, err := l.deadOwners(ctx, views)
	if err != nil {
		return err
	}
	now, err := l.client.Now(ctx)
	if err != nil {
		return err
	}
	var errs []error
	for _, shard := range slices.Sorted(maps.Keys(views)) {
		v := views[shard]
		if err := v.open(); err != nil {
			return err
		}
		errs = append(errs, l.sweepShard(ctx, v, dead, now, confirm))
	}
	return errors.Join(append(errs, l.crowd.Bury(ctx))...)
}

// confirmation says whether the tag of d shows m. It is asked for several at once.
type confirmation func(ctx context.Context, d stages.Digest, m digest.Digest) (bool, error)

// sweepers bounds how many entries of a shard are swept at once. What they remove
// shares a request.
const sweepers = 32

func (l *Ledger) sweepShard(ctx context.Context, v view, dead map[string]bool, now time.Time, confirm confirmation) error {
	found, err := v.entries()
	var all errgroup.Group
	all.SetLimit(sweepers)
	failed := make(chan error, len(found)+1)
	failed <- err
	for d, e := range found {
		all.Go(func() error {
			if err := l.sweepEntry(ctx, v, d, e, dead, now, confirm); err != nil && !errors.Is(err, lock.ErrConflict) {
				failed <- entryError("sweep", d, err)
			}
			return nil // the others are swept all the same
		})
	}
	_ = all.Wait()
	close(failed)
	var errs []error
	for err := range failed {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func (l *Ledger) sweepEntry(ctx context.Context, v view, d stages.Digest, e Entry, dead map[string]bool, now time.Time, confirm confirmation) error {
	switch {
	case e.State == Published || e.State == Deleted:
		return l.sweepOld(ctx, v, d, e, now, confirm)
	case e.idle() && dead[e.Session]:
		return l.release(ctx, v, d, e)
	case e.State == Publishing && dead[e.Session]:
		return l.settle(ctx, v, d, e, now, confirm)
	}
	return nil
}

// settle makes an entry published whose owner died between the tag and its last
// word. Who owns the entry stays as it is: nothing is sent under it any more but
// what the owner has sent, which names the same manifest, so an owner that lives
// after all only finds that it has no more to do. From now on, by the store's
// clock, Δ counts.
func (l *Ledger) settle(ctx context.Context, v view, d stages.Digest, e Entry, now time.Time, confirm confirmation) error {
	if ok, err := confirm(ctx, d, e.Manifest); err != nil || !ok {
		return err
	}
	was := v.snap.Data[entryKey(d)]
	e.State, e.At = Published, stamp(now)
	text, err := e.encode()
	if err != nil {
		return err
	}
	_, err = l.client.Apply(ctx, v.shard, v.test(), lock.Replace(entryKey(d), was, text))
	return err
}

// deadOwners returns the dead among the sessions whose entries a sweep may change.
func (l *Ledger) deadOwners(ctx context.Context, views map[string]view) (map[string]bool, error) {
	var owners []string
	for _, v := range views {
		found, _ := v.entries() // nonsense is reported when its shard is swept
		for _, e := range found {
			if e.idle() || e.State == Publishing {
				owners = append(owners, e.Session)
			}
		}
	}
	if len(owners) == 0 {
		return nil, nil
	}
	return l.crowd.Look(ctx, owners...)
}

// sweepOld drops an entry whose Δ has passed. The second more is for the times,
// which are of whole seconds.
func (l *Ledger) sweepOld(ctx context.Context, v view, d stages.Digest, e Entry, now time.Time, confirm confirmation) error {
	if now.Sub(e.At) < l.delta+time.Second {
		return nil
	}
	if e.State == Published {
		if ok, err := confirm(ctx, d, e.Manifest); err != nil || !ok {
			return err
		}
	}
	_, err := l.client.Apply(ctx, v.shard, v.test(), lock.Remove(entryKey(d), v.snap.Data[entryKey(d)]))
	return err
}

// Drain waits until every stage that was being built when it began has been
// decided or given up, for a cleaner that has marked what it will delete: builds
// that began before the marks may refer to it, later ones see the marks. What a
// dead session was building it takes away, so that its owner, should it live, can
// decide nothing. Tell is that of [Session.Wait].
func (s *Session) Drain(ctx context.Context, tell func(Holder)) error {
	all, err := s.ledger.List(ctx)
	if err != nil {
		return opError(err, "drain")
	}
	seen := map[stages.Digest]Entry{}
	for d, e := range all {
		if e.State == Building && e.Session != s.ID() {
			seen[d] = e
		}
	}
	for len(seen) > 0 {
		if err := s.drainOnce(ctx, seen, tell); err != nil {
			return opError(err, "drain")
		}
	}
	return nil
}

// drainOnce drops from seen what has ended, and waits for one more to end.
func (s *Session) drainOnce(ctx context.Context, seen map[stages.Digest]Entry, tell func(Holder)) error {
	ds := slices.Collect(maps.Keys(seen))
	groups, shards := s.ledger.byShard(ds)
	views, err := s.openViews(ctx, shards)
	if err != nil {
		return err
	}
	dead, err := s.deadOwners(ctx, views, groups)
	if err != nil {
		return err
	}
	for _, d := range ds {
		v := views[shardOf(s.ledger.project, d)]
		e, _, err := v.entry(d)
		if err != nil {
			return err
		}
		if e == seen[d] {
			if !dead[e.Session] {
				continue
			}
			if err := s.ledger.release(ctx, v, d, e); err != nil && !errors.Is(err, lock.ErrConflict) {
				return err // a conflict says that the entry has changed, so it has ended too
			}
		}
		delete(seen, d)
	}
	if len(seen) == 0 {
		return nil
	}
	return s.waitUntil(ctx, slices.Collect(maps.Keys(seen)), tell, func(d stages.Digest, e Entry) bool {
		return e != seen[d]
	})
}
