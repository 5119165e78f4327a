package wire

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/cairnbuild/cairn/lock"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
)

// Locks are a project's ledger as people look at it.
type Locks struct {
	ledger  *ledger // nil where there is no ledger yet
	client  *lock.Client
	address string
	dir     string // of a local ledger, else ""
	now     func() time.Time
	group   string
}

// Lock is an entry with what is known of its holder's time.
type Lock struct {
	synchronization.Lock
	// Since is the moment at which the entry's state was reached, or else the
	// beginning of the holder's session, zero where unknown.
	Since time.Time
	// Silent is for how long the holder's session has not been renewed; nil where
	// there is none any more or nobody has observed it. Both moments are of the
	// ledger's own clock.
	Silent *time.Duration
	// Alive: it is known without renewals that the holder's process runs.
	Alive bool
}

// dated is a backend that knows when sessions were there, by the clock that its
// Now reads.
type dated interface {
	Times(ctx context.Context, group string) (map[string]kubernetes.Times, error)
	Now(ctx context.Context) (time.Time, error)
}

// warner is a backend in which people find what was done to it.
type warner interface {
	Warn(ctx context.Context, shard, reason, message string) error
}

// Locks opens a project's ledger to look at it. It makes none where there is none.
func (s Settings) Locks(ctx context.Context, h Host, project string) (*Locks, error) {
	k := &Locks{address: s.LedgerAddress(h), now: h.Now, group: "cairn-" + project}
	if k.address == Local {
		var err error
		if k.dir, err = s.ledgerDir(h, project); err != nil {
			return nil, err
		}
	}
	b, o, err := s.openBackend(ctx, h, project)
	if err != nil {
		return nil, err
	}
	o.Budget, o.Request = s.SynchronizationTimeout, min(s.SynchronizationTimeout, lock.DefaultRequest)
	l, err := synchronization.Find(ctx, b, project, o)
	if errors.Is(err, synchronization.ErrNone) {
		return k, b.Close()
	}
	if err != nil {
		return nil, errors.Join(k.away(err), b.Close())
	}
	k.ledger = &ledger{l, b}
	k.client = lock.NewClient(ctx, b, lock.Options{Now: o.Now, Rand: o.Rand, Budget: o.Budget, Request: o.Request})
	return k, nil
}

// AwayError says that a ledger that somebody wants to look at does not answer.
type AwayError struct {
	Address string
	Err     error
}

// Error implements error.
func (e *AwayError) Error() string { return fmt.Sprintf("%s does not answer: %v", e.Address, e.Err) }

// Unwrap returns the cause.
func (e *AwayError) Unwrap() error { return e.Err }

// Hint says what to do.
func (*AwayError) Hint() string {
	return "check the address and the network, or wait longer for an answer with --synchronization-timeout"
}

// away returns err, as an [*AwayError] where it says that the ledger does not answer.
func (k *Locks) away(err error) error {
	if errors.Is(err, synchronization.ErrUnavailable) {
		return &AwayError{Address: k.address, Err: err}
	}
	return err
}

// None reports whether the project has no ledger there.
func (k *Locks) None() bool { return k.ledger == nil }

// Close closes the ledger.
func (k *Locks) Close() error {
	if k.None() {
		return nil
	}
	k.client.Close()
	return k.ledger.close()
}

// List returns the locks, and names keys that hold nonsense by the error beside them.
func (k *Locks) List(ctx context.Context) ([]Lock, error) {
	if k.None() {
		return nil, nil
	}
	found, nonsense := k.ledger.Locks(ctx)
	if found == nil && nonsense != nil {
		return nil, k.away(nonsense)
	}
	all := make([]Lock, len(found))
	for i, l := range found {
		all[i] = Lock{Lock: l, Since: l.Entry.At}
	}
	if err := k.date(ctx, all); err != nil {
		return nil, k.away(err)
	}
	return all, nonsense
}

// date fills in what the ledger's store knows of the holders.
func (k *Locks) date(ctx context.Context, all []Lock) error {
	d, ok := k.ledger.backend.(dated)
	if !ok { // a store of this host, which sees whether a process runs
		for i := range all {
			all[i].Alive = !all[i].Dead
		}
		return nil
	}
	var times map[string]kubernetes.Times
	var now time.Time
	err := k.client.Retry(ctx, func(ctx context.Context) (err error) {
		if times, err = d.Times(ctx, k.group); err == nil {
			now, err = d.Now(ctx)
		}
		return err
	})
	for i := range all {
		t := times[all[i].Session]
		if all[i].Since.IsZero() {
			all[i].Since = t.Began
		}
		if !t.Renewed.IsZero() {
			silent := max(now.Sub(t.Renewed), 0)
			all[i].Silent = &silent
		}
	}
	return err
}

// breakLog is where a local ledger's directory tells of locks that were broken.
const breakLog = "broken.log"

// AdoptLedger has the project's storage accept the settings' ledger in place of the
// one that its marker names, which is returned: "" where the storage has no marker.
func (s Settings) AdoptLedger(ctx context.Context, h Host, st *Storages, project, reason string) (was string, err error) {
	stages, err := st.Stages(ctx, project)
	if err != nil {
		return "", err
	}
	l, err := s.openLedger(ctx, h, project, new(atomic.Int64), nil)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	return build.AdoptLedger(ctx, stages, l.Ledger, reason)
}

// Break breaks the lock of a stage and notes who did so and why. It returns where,
// "" where there was no lock to break.
func (k *Locks) Break(ctx context.Context, d stages.Digest, reason string) (noted string, err error) {
	if k.None() {
		return "", nil
	}
	if was, err := k.ledger.Break(ctx, d); err != nil || !was {
		return "", k.away(err)
	}
	shard := k.ledger.ShardOf(d)
	message := fmt.Sprintf("stage %s, by %s: %s", d, holder(), reason)
	if w, ok := k.ledger.backend.(warner); ok {
		err := k.client.Retry(ctx, func(ctx context.Context) error { return w.Warn(ctx, shard, "LockBroken", message) })
		return "events of configmap " + shard, k.away(err)
	}
	path := filepath.Join(k.dir, breakLog)
	return path, appendLine(path, breakNote{At: k.now().UTC().Truncate(time.Second), Digest: d.String(), By: holder(), Reason: reason})
}

// breakNote is a line of the break log.
type breakNote struct {
	At     time.Time `json:"at"`
	Digest string    `json:"digest"`
	By     string    `json:"by"`
	Reason string    `json:"reason"`
}

func appendLine(path string, v any) error {
	line, err := json.Marshal(v)
	if err != nil {
		return err
	}
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(append(line, '\n'))
	return errors.Join(err, f.Close())
}
