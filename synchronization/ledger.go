package synchronization

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"regexp"
	"slices"
	"sync"
	"time"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
)

// Defaults of [Options].
const (
	DefaultDelta = 15 * time.Minute
	DefaultGuard = 30 * time.Second
)

// Backend is a store that a ledger can live in.
type Backend interface {
	lock.Store
	// Address names the store for people: "kubernetes://NAMESPACE" or ":local".
	Address() string
	// Close gives up what the backend holds. The sessions of its process end.
	Close() error
}

// Options of a ledger. Now and Rand are required.
type Options struct {
	// Now is this process's clock, with a monotonic reading.
	Now func() time.Time
	// Rand gives ids, nonces and jitter.
	Rand io.Reader
	// Logger is told of losses and repairs; nil is silent.
	Logger *zap.Logger
	// Holder says for people who this runner is: a host and a job, say.
	Holder string
	// TTL is after how long without renewal others may take a session for dead; 0
	// means [lock.DefaultTTL].
	TTL time.Duration
	// Delta is Δ: for how long entries are kept after what was sent under them; 0
	// means [DefaultDelta]. It must be far above Guard and Request.
	Delta time.Duration
	// Guard is for how long a write to the storage may be under way after its
	// entry was checked; 0 means [DefaultGuard].
	Guard time.Duration
	// LookEvery is how often a waiting session looks whether those it waits for
	// are alive; 0 means a tenth of TTL.
	LookEvery time.Duration
	// Request and Budget are those of [lock.Options].
	Request, Budget time.Duration
	// Outage is that of [lock.Options].
	Outage func(lock.Outage)
}

// Ledger is a project's coordination state, as one process sees it. It is safe
// for concurrent use. Its user closes it.
type Ledger struct {
	backend Backend
	client  *lock.Client
	crowd   *lock.Observer
	project string
	record  string
	holder  string
	log     *zap.Logger
	ttl     time.Duration
	delta   time.Duration
	guard   time.Duration
	look    time.Duration
	now     func() time.Time
	watches *watches

	making sync.Mutex // held while the ledger's objects are made

	mu     sync.Mutex
	first  Stance // what the record said when it was known first
	uid    string
	uids   map[string]string // UIDs of the shards, by name
	losses []Loss
}

// plainProject is what a project may be called: no dot, so that a record's name
// is never that of another project's shard.
var plainProject = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,98}[a-z0-9])?$`)

// Open returns the project's ledger in the backend, and makes it where there is
// none. It costs one request where there is one. It fails with [*FormatError] for
// a ledger of another format.
func Open(ctx context.Context, b Backend, project string, o Options) (*Ledger, error) {
	return open(ctx, b, project, o, (*Ledger).establish)
}

// Find is Open that makes no ledger where there is none: it fails with [ErrNone].
func Find(ctx context.Context, b Backend, project string, o Options) (*Ledger, error) {
	return open(ctx, b, project, o, func(*Ledger, context.Context) error { return ErrNone })
}

// open takes the ledger from its record. What to do where that is not there, or was
// left incomplete, incomplete says.
func open(ctx context.Context, b Backend, project string, o Options, incomplete func(*Ledger, context.Context) error) (*Ledger, error) {
	if !plainProject.MatchString(project) {
		return nil, fmt.Errorf("open the ledger: %q cannot be the name of a project", project)
	}
	l := newLedger(ctx, b, project, o)
	complete, err := l.adopt(ctx)
	if err == nil && !complete {
		err = incomplete(l, ctx)
	}
	if err != nil {
		l.Close()
		return nil, opError(err, "open the ledger of %s in %s", project, b.Address())
	}
	return l, nil
}

func newLedger(ctx context.Context, b Backend, project string, o Options) *Ledger {
	l := &Ledger{
		backend: b,
		client:  lock.NewClient(ctx, b, lock.Options{Now: o.Now, Rand: o.Rand, Request: o.Request, Budget: o.Budget, Outage: o.Outage}),
		project: project,
		record:  recordName(project),
		holder:  o.Holder,
		log:     o.Logger,
		ttl:     cmp.Or(o.TTL, lock.DefaultTTL),
		delta:   cmp.Or(o.Delta, DefaultDelta),
		guard:   cmp.Or(o.Guard, DefaultGuard),
		now:     o.Now,
		uids:    map[string]string{},
	}
	l.look = cmp.Or(o.LookEvery, l.ttl/10)
	if l.log == nil {
		l.log = zap.NewNop()
	}
	l.crowd = l.client.Observe(l.record)
	l.watches = &watches{cells: b, jitter: l.client.Jitter, log: l.log, open: map[string]*watch{}}
	return l
}

// Close ends the ledger's requests and waits for them. It leaves the backend
// open, and sessions must have been closed before.
func (l *Ledger) Close() { l.client.Close() }

// Address names the ledger for people: the backend's address.
func (l *Ledger) Address() string { return l.backend.Address() }

// Project returns the project's name.
func (l *Ledger) Project() string { return l.project }

// UID returns what tells this ledger from any other, also from one that was made
// anew under the same name. The marker of a stages storage holds it.
func (l *Ledger) UID(ctx context.Context) (string, error) {
	if err := ctx.Err(); err != nil {
		return "", context.Cause(ctx)
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uid, nil
}

// Losses returns what is known to have been lost of the ledger during the last
// Δ. Until Δ has passed since, the guarantee of one manifest per stage is
// suspended, and the user is to be told.
func (l *Ledger) Losses() []Loss {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.losses)
}

// report notes a loss, once.
func (l *Ledger) report(loss Loss) {
	l.mu.Lock()
	known := slices.ContainsFunc(l.losses, func(k Loss) bool {
		return k.At.Equal(loss.At) && slices.Equal(k.Objects, loss.Objects)
	})
	if !known {
		l.losses = append(l.losses, loss)
	}
	l.mu.Unlock()
	if !known {
		l.log.Warn("parts of the ledger were lost; until Δ has passed two runners may publish the same stage differently",
			zap.Strings("objects", loss.Objects), zap.Time("noticed", loss.At), zap.Duration("delta", l.delta))
	}
}

// Bind ties the ledger to a stages storage, by its address. The first publisher
// does so; for a ledger bound to another storage it returns [*BoundElsewhereError].
func (l *Ledger) Bind(ctx context.Context, storage string) error {
	for {
		rec, err := l.readRecord(ctx)
		if err != nil {
			return opError(err, "bind the ledger to %s", storage)
		}
		if bound, ok := rec.Data[keyStorage]; ok {
			if bound != storage {
				return &BoundElsewhereError{Project: l.project, Bound: bound, Wanted: storage}
			}
			return nil
		}
		seal := rec.Data[keySentinel]
		_, err = l.client.Apply(ctx, l.record, lock.Test(keySentinel, seal), lock.Add(keyStorage, storage))
		if err == nil {
			return nil
		}
		if !errors.Is(err, lock.ErrConflict) {
			return opError(err, "bind the ledger to %s", storage)
		}
	}
}

// readRecord returns the project's record, made where it has been lost.
func (l *Ledger) readRecord(ctx context.Context) (lock.Snapshot, error) {
	for range maxRounds {
		found, err := l.client.Read(ctx, l.record)
		if err != nil {
			return lock.Snapshot{}, err
		}
		if rec, ok := found[l.record]; ok && rec.UID == l.knownUID() {
			return rec, nil
		}
		if err := l.establish(ctx); err != nil {
			return lock.Snapshot{}, err
		}
	}
	return lock.Snapshot{}, fmt.Errorf("%w: %s does not stay", errMissing, l.record)
}

func (l *Ledger) knownUID() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uid
}

// view is a shard that was found to be what it should, with its sentinel.
type view struct {
	shard string
	snap  lock.Snapshot
	seal  sentinel
}

// views reads shards, quorum reads, after making those anew that were lost.
func (l *Ledger) views(ctx context.Context, shards []string) (map[string]view, error) {
	for range maxRounds {
		found, err := l.client.Read(ctx, shards...)
		if err != nil {
			return nil, err
		}
		all, err := l.inspectAll(shards, found)
		if !errors.Is(err, errMissing) {
			return all, err
		}
		if err := l.establish(ctx); err != nil {
			return nil, err
		}
	}
	return nil, fmt.Errorf("%w: the shards of %s do not stay", errMissing, l.record)
}

func (l *Ledger) inspectAll(shards []string, found map[string]lock.Snapshot) (map[string]view, error) {
	all := make(map[string]view, len(shards))
	for _, shard := range shards {
		v, err := l.inspect(shard, found[shard])
		if err != nil {
			return nil, err
		}
		all[shard] = v
	}
	return all, nil
}

// inspect checks that a snapshot is that of the shard as it is known. It returns
// errMissing for one that was lost.
func (l *Ledger) inspect(shard string, snap lock.Snapshot) (view, error) {
	seal, err := l.decodeSentinel(shard, snap)
	if err != nil {
		return view{}, err
	}
	l.mu.Lock()
	known := l.uids[shard] == snap.UID && l.uid == seal.Ledger
	l.mu.Unlock()
	if !known {
		return view{}, errMissing
	}
	return view{shard: shard, snap: snap, seal: seal}, nil
}

// knows reports whether a snapshot is of the shard's incarnation that is known.
func (l *Ledger) knows(shard string, snap lock.Snapshot) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.uids[shard] == snap.UID
}

// open returns [ErrClosed] unless entries of the shard may be changed.
func (v view) open() error {
	if !v.seal.Open {
		return fmt.Errorf("%w: %s, epoch %d", ErrClosed, v.shard, v.seal.Epoch)
	}
	return nil
}

// test returns the change that every write has: the sentinel as it was seen.
func (v view) test() lock.Change { return lock.Test(keySentinel, v.snap.Data[keySentinel]) }

// entry returns the entry of a stage and its text, zero where there is none.
func (v view) entry(d stages.Digest) (Entry, string, error) {
	text, ok := v.snap.Data[entryKey(d)]
	if !ok {
		return Entry{}, "", nil
	}
	e, err := DecodeEntry(entryKey(d), text)
	if err != nil {
		err = &BadEntryError{Object: v.shard, Key: entryKey(d), Digest: d, Err: err}
	}
	return e, text, err
}

// byShard groups stages by the shard that their entries are in.
func (l *Ledger) byShard(ds []stages.Digest) (map[string][]stages.Digest, []string) {
	groups := map[string][]stages.Digest{}
	var names []string
	for _, d := range ds {
		name := shardOf(l.project, d)
		if groups[name] == nil {
			names = append(names, name)
		}
		if !slices.Contains(groups[name], d) {
			groups[name] = append(groups[name], d)
		}
	}
	slices.Sort(names)
	return groups, names
}

// Recent reports whether a published or deleted entry is younger than Δ by the store's
// own clock: a read of what it is about may lag behind it.
func (l *Ledger) Recent(ctx context.Context, e Entry) (bool, error) {
	now, err := l.client.Now(ctx)
	if err != nil {
		return false, opError(err, "read the clock of the ledger of %s", l.project)
	}
	return now.Sub(e.At) < l.delta+time.Second, nil
}

// List returns all entries, also those of a closed ledger. Keys that hold
// nonsense are named by the error, which comes beside the others.
func (l *Ledger) List(ctx context.Context) (map[stages.Digest]Entry, error) {
	views, err := l.views(ctx, allShards(l.project))
	if err != nil {
		return nil, opError(err, "list the ledger of %s", l.project)
	}
	all := map[stages.Digest]Entry{}
	var errs []error
	for _, v := range views {
		found, err := v.entries()
		errs = append(errs, err)
		for d, e := range found {
			all[d] = e
		}
	}
	return all, errors.Join(errs...)
}

// entries returns all entries of the shard that can be read.
func (v view) entries() (map[stages.Digest]Entry, error) {
	all := map[stages.Digest]Entry{}
	var errs []error
	for key := range v.snap.Data {
		d, ok, err := entryDigest(key)
		if ok && err == nil {
			if all[d], _, err = v.entry(d); err != nil {
				delete(all, d)
			}
		}
		errs = append(errs, err)
	}
	return all, errors.Join(errs...)
}

// Break removes the entry of a stage whatever it holds, nonsense included, and in
// a closed ledger too. It is for a person who knows that nobody works on the
// stage: it ends the protection of a generation early. It returns false where the
// stage has no entry.
func (l *Ledger) Break(ctx context.Context, d stages.Digest) (bool, error) {
	for {
		views, err := l.views(ctx, []string{shardOf(l.project, d)})
		if err != nil {
			return false, entryError("break", d, err)
		}
		v := views[shardOf(l.project, d)]
		text, ok := v.snap.Data[entryKey(d)]
		if !ok {
			return false, nil
		}
		_, err = l.client.Apply(ctx, v.shard, v.test(), lock.Remove(entryKey(d), text))
		if err == nil {
			return true, nil
		}
		if !errors.Is(err, lock.ErrConflict) {
			return false, entryError("break", d, err)
		}
	}
}
