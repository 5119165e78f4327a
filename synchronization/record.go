package synchronization

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// Format is the version of the ledger's format that this package reads and writes.
const Format = "1"

// Shards is the number of shards of a ledger. It never changes, since a stage's
// shard follows from its digest.
//
// What a write costs an API server grows with the size of the object and with the
// square of the writers that it has at the same time. 64 shards hold a few entries
// each and have about one writer where 50 runners publish: half the server's work
// of 16 shards, though the changes of one runner share a write more rarely.
const Shards = 64

// makingAtOnce bounds how many shards are made at the same time.
const makingAtOnce = 8

// Keys of the project's record, and of the sentinel that every shard has too.
const (
	keyFormat   = "format"
	keySentinel = "ledger"
	keyStorage  = "storage"
	keyShards   = "shards"
	keyLost     = "lost"
)

// sentinel is what every write tests. Changing it fences all writers of a shard.
type sentinel struct {
	Format string `json:"format"`
	// Ledger is the UID of the project's record; empty in the record itself.
	Ledger string `json:"ledger,omitempty"`
	Epoch  int    `json:"epoch"`
	Open   bool   `json:"open"`
}

func (s sentinel) encode() (string, error) {
	b, err := json.Marshal(s)
	return string(b), err
}

// turns counts how often the ledger was shut and opened until this sentinel: it
// never goes back.
func (s sentinel) turns() int {
	if s.Open {
		return 2 * s.Epoch
	}
	return 2*s.Epoch + 1
}

// of returns the sentinel as the shards of the ledger with that UID have it.
func (s sentinel) of(ledger string) sentinel {
	s.Ledger = ledger
	return s
}

func (l *Ledger) decodeSentinel(shard string, snap lock.Snapshot) (sentinel, error) {
	var s sentinel
	text, ok := snap.Data[keySentinel]
	if !ok {
		return s, errMissing
	}
	err := json.Unmarshal([]byte(text), &s)
	if err == nil {
		var canonical string
		if canonical, err = s.encode(); err == nil && (canonical != text || s.Epoch < 1) {
			err = errors.New("not a sentinel of this format")
		}
	}
	if err != nil {
		return sentinel{}, &BadKeyError{Object: shard, Key: keySentinel, Loses: true, Delta: l.delta, Err: err}
	}
	return s, nil
}

// errMissing: a shard or its sentinel is not there, or is another incarnation.
var errMissing = errors.New("a part of the ledger is missing")

// Loss is a part of the ledger that was lost, and made anew.
type Loss struct {
	// Objects are the record or shards that were lost.
	Objects []string `json:"objects"`
	// At is when this was noticed, by the store's clock.
	At time.Time `json:"at"`
}

// names of the record, which is also the group of its sessions, and of a shard.
func recordName(project string) string               { return "cairn-" + project }
func shardName(project string, n int) string         { return recordName(project) + "." + strconv.Itoa(n) }
func shardOf(project string, d stages.Digest) string { return shardName(project, int(d[0])%Shards) }

func allShards(project string) []string {
	names := make([]string, Shards)
	for n := range names {
		names[n] = shardName(project, n)
	}
	return names
}

// maxRounds bounds how often the making of a ledger begins again because others
// are making it too.
const maxRounds = 20

// adopt takes the ledger from its record when that is complete.
func (l *Ledger) adopt(ctx context.Context) (bool, error) {
	found, err := l.client.Read(ctx, l.record)
	if err != nil {
		return false, err
	}
	rec, ok := found[l.record]
	if !ok {
		return false, nil
	}
	if f := rec.Data[keyFormat]; f != Format {
		return false, &FormatError{Project: l.project, Found: f, Known: Format}
	}
	if _, ok := rec.Data[keyShards]; !ok {
		return false, nil
	}
	return true, l.know(ctx, rec)
}

// know notes what the record says: the ledger's UID, its shards', and a loss
// that is not Δ old.
func (l *Ledger) know(ctx context.Context, rec lock.Snapshot) error {
	uids, err := l.shardsOf(rec)
	if err != nil {
		return err
	}
	stance, err := l.stanceOf(rec)
	if err != nil {
		return err
	}
	l.mu.Lock()
	if l.uid == "" {
		l.first = stance
	}
	l.uid = rec.UID
	for n, uid := range uids {
		l.uids[shardName(l.project, n)] = uid
	}
	l.mu.Unlock()
	lost, err := l.lossOf(rec)
	if err != nil || len(lost.Objects) == 0 {
		return err
	}
	now, err := l.client.Now(ctx)
	if err == nil && now.Sub(lost.At) < l.delta {
		l.report(lost)
	}
	return err
}

// shardsOf returns the UIDs of the shards that the record names, none where it does
// not say.
func (l *Ledger) shardsOf(rec lock.Snapshot) ([]string, error) {
	text, ok := rec.Data[keyShards]
	if !ok {
		return nil, nil
	}
	var uids []string
	err := json.Unmarshal([]byte(text), &uids)
	if err == nil && len(uids) != Shards {
		err = fmt.Errorf("it names %d shards and not %d", len(uids), Shards)
	}
	if err != nil {
		return nil, &BadKeyError{Object: l.record, Key: keyShards, Delta: l.delta, Err: err}
	}
	return uids, nil
}

// lossOf returns the last loss that the record tells of, zero for none.
func (l *Ledger) lossOf(rec lock.Snapshot) (Loss, error) {
	var lost Loss
	text, ok := rec.Data[keyLost]
	if !ok {
		return lost, nil
	}
	if err := json.Unmarshal([]byte(text), &lost); err != nil {
		return lost, &BadKeyError{Object: l.record, Key: keyLost, Delta: l.delta, Err: err}
	}
	return lost, nil
}

// establish makes whatever of the ledger is missing, and notes in the record
// what had been there before. Several runners may do so at once; each begins
// again when another was faster.
func (l *Ledger) establish(ctx context.Context) error {
	l.making.Lock()
	defer l.making.Unlock()
	for range maxRounds {
		err := l.establishOnce(ctx)
		if !errors.Is(err, lock.ErrConflict) {
			return err
		}
	}
	return fmt.Errorf("make the ledger of %s: too many others do: %w", l.project, ErrUnavailable)
}

func (l *Ledger) establishOnce(ctx context.Context) error {
	names := allShards(l.project)
	found, err := l.client.Read(ctx, append([]string{l.record}, names...)...)
	if err != nil {
		return err
	}
	rec, lost, err := l.makeRecord(ctx, found)
	if err != nil {
		return err
	}
	seal, err := l.decodeSentinel(l.record, rec)
	if err != nil {
		return err
	}
	uids, err := l.makeShards(ctx, names, found, seal.of(rec.UID))
	if err != nil {
		return err
	}
	more, err := l.missed(rec, names, uids, found)
	if err != nil {
		return err
	}
	lost = append(lost, more...)
	slices.Sort(lost)
	return l.makeKnown(ctx, rec, uids, slices.Compact(lost))
}

// missed returns which objects are not those that were there: by what the record
// says, by what this process knew before, which is all that is left when everything
// was lost, and by what a shard does not hold any more. What this process knew is
// no news where the record tells of that loss already.
func (l *Ledger) missed(rec lock.Snapshot, names, uids []string, found map[string]lock.Snapshot) ([]string, error) {
	known, err := l.shardsOf(rec)
	if err != nil {
		return nil, err
	}
	told, err := l.lossOf(rec)
	if err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	replaced := func(name, was, is string) bool {
		return was != "" && was != is && !slices.Contains(told.Objects, name)
	}
	var lost []string
	if replaced(l.record, l.uid, rec.UID) {
		lost = append(lost, l.record)
	}
	for n, name := range names {
		if replaced(name, l.uids[name], uids[n]) || wasEmptied(found[name]) || len(known) > 0 && known[n] != uids[n] {
			lost = append(lost, name)
		}
	}
	return lost, nil
}

// makeShards makes what is missing of the shards and returns the UIDs of all.
func (l *Ledger) makeShards(ctx context.Context, names []string, found map[string]lock.Snapshot, seal sentinel) ([]string, error) {
	uids := make([]string, len(names))
	tasks, ctx := errgroup.WithContext(ctx)
	tasks.SetLimit(makingAtOnce)
	for n, name := range names {
		tasks.Go(func() error {
			snap, err := l.makeShard(ctx, name, found[name], seal)
			uids[n] = snap.UID
			return err
		})
	}
	return uids, tasks.Wait()
}

// wasEmptied reports whether the object is there, but not what it held.
func wasEmptied(snap lock.Snapshot) bool {
	_, ok := snap.Data[keySentinel]
	return snap.UID != "" && !ok
}

// makeRecord makes the project's record where it is missing. Shards that name a
// record then tell that one was lost, and which epoch it had.
func (l *Ledger) makeRecord(ctx context.Context, found map[string]lock.Snapshot) (lock.Snapshot, []string, error) {
	if rec, ok := found[l.record]; ok {
		if f := rec.Data[keyFormat]; f != Format {
			return rec, nil, &FormatError{Project: l.project, Found: f, Known: Format}
		}
		if _, ok := rec.Data[keySentinel]; ok {
			return rec, nil, nil
		}
	}
	seal := sentinel{Format: Format, Epoch: 1, Open: true}
	var named []string // the records that shards name
	for _, name := range allShards(l.project) {
		old, err := l.decodeSentinel(name, found[name])
		if errors.Is(err, errMissing) {
			continue
		}
		if err != nil {
			return lock.Snapshot{}, nil, err
		}
		named = append(named, old.Ledger)
		if old.Epoch >= seal.Epoch {
			seal = old.of("")
		}
	}
	text, err := seal.encode()
	if err != nil {
		return lock.Snapshot{}, nil, err
	}
	changes := []lock.Change{lock.Add(keySentinel, text)}
	if _, ok := found[l.record]; !ok {
		changes = append(changes, lock.Add(keyFormat, Format))
	}
	rec, err := l.client.Apply(ctx, l.record, changes...)
	if err != nil {
		return rec, nil, err
	}
	// It may be another's, who made it, and the shards, while they were being read.
	other := slices.ContainsFunc(named, func(uid string) bool { return uid != rec.UID })
	if other || len(named) > 0 && wasEmptied(found[l.record]) {
		return rec, []string{l.record}, nil
	}
	return rec, nil, nil
}

// makeShard gives a shard the sentinel where it has none or another ledger's.
func (l *Ledger) makeShard(ctx context.Context, name string, snap lock.Snapshot, seal sentinel) (lock.Snapshot, error) {
	old, err := l.decodeSentinel(name, snap)
	if err == nil && old.Ledger == seal.Ledger {
		return snap, nil
	}
	if err != nil && !errors.Is(err, errMissing) {
		return snap, err
	}
	text, err := seal.encode()
	if err != nil {
		return snap, err
	}
	change := lock.Add(keySentinel, text)
	if had, ok := snap.Data[keySentinel]; ok {
		change = lock.Replace(keySentinel, had, text)
	}
	return l.client.Apply(ctx, name, change)
}

// makeKnown writes the UIDs of the shards, and what was lost, into the record.
func (l *Ledger) makeKnown(ctx context.Context, rec lock.Snapshot, uids, lost []string) error {
	text, err := json.Marshal(uids)
	if err != nil {
		return err
	}
	changes := set(nil, rec, keyShards, string(text))
	if len(lost) > 0 {
		now, err := l.client.Now(ctx)
		if err != nil {
			return err
		}
		text, err := json.Marshal(Loss{Objects: lost, At: stamp(now)})
		if err != nil {
			return err
		}
		changes = set(changes, rec, keyLost, string(text))
	}
	rec, err = l.client.Apply(ctx, l.record, changes...)
	if err != nil {
		return err
	}
	return l.know(ctx, rec)
}

// set appends the change that brings a key of a shard to a value.
func set(changes []lock.Change, snap lock.Snapshot, key, value string) []lock.Change {
	if old, ok := snap.Data[key]; ok {
		return append(changes, lock.Replace(key, old, value))
	}
	return append(changes, lock.Add(key, value))
}
