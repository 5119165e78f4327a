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

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/synchronization"
)

// Locks are a project's ledger as people look at it.
type Locks struct {
	ledger *ledger // nil where there is no ledger yet
	dir    string  // of a local ledger, else ""
	now    func() time.Time
	group  string
}

// Lock is an entry with since when its holder is there: the moment its state was
// reached, or else the beginning of the holder's session, zero where unknown.
type Lock struct {
	synchronization.Lock
	Since time.Time
}

// dated is a backend that knows since when sessions are there.
type dated interface {
	Began(ctx context.Context, group string) (map[string]time.Time, error)
}

// warner is a backend in which people find what was done to it.
type warner interface {
	Warn(ctx context.Context, shard, reason, message string) error
}

// Locks opens a project's ledger to look at it. It makes none where there is none.
func (s Settings) Locks(ctx context.Context, h Host, project string) (*Locks, error) {
	k := &Locks{now: h.Now, group: "cairn-" + project}
	b, _, err := s.openBackend(ctx, h, project)
	if err != nil {
		return nil, err
	}
	found, err := b.Read(ctx, k.group)
	if err = errors.Join(err, b.Close()); err != nil {
		return nil, fmt.Errorf("look at the ledger in %s: %w", s.LedgerAddress(h), err)
	}
	if len(found) == 0 {
		return k, nil
	}
	if s.LedgerAddress(h) == Local {
		if k.dir, err = s.ledgerDir(h, project); err != nil {
			return nil, err
		}
	}
	k.ledger, err = s.openLedger(ctx, h, project, new(atomic.Int64), nil)
	return k, err
}

// Close closes the ledger.
func (k *Locks) Close() error {
	if k.ledger == nil {
		return nil
	}
	return k.ledger.close()
}

// List returns the locks, and names keys that hold nonsense by the error beside them.
func (k *Locks) List(ctx context.Context) ([]Lock, error) {
	if k.ledger == nil {
		return nil, nil
	}
	found, nonsense := k.ledger.Locks(ctx)
	if found == nil && nonsense != nil {
		return nil, nonsense
	}
	began := map[string]time.Time{}
	if d, ok := k.ledger.backend.(dated); ok {
		var err error
		if began, err = d.Began(ctx, k.group); err != nil {
			return nil, err
		}
	}
	all := make([]Lock, len(found))
	for i, l := range found {
		all[i] = Lock{Lock: l, Since: l.Entry.At}
		if l.Entry.At.IsZero() {
			all[i].Since = began[l.Session]
		}
	}
	return all, nonsense
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
	if err := l.Bind(ctx, stages.Address()); err != nil {
		return "", err
	}
	return build.AdoptLedger(ctx, stages, l.Ledger, reason)
}

// Break breaks the lock of a stage and notes who did so and why. It returns where.
func (k *Locks) Break(ctx context.Context, d stages.Digest, reason string) (noted string, err error) {
	if k.ledger == nil {
		return "", nil
	}
	if err := k.ledger.Break(ctx, d); err != nil {
		return "", err
	}
	shard := k.ledger.ShardOf(d)
	message := fmt.Sprintf("stage %s, by %s: %s", d, holder(), reason)
	if w, ok := k.ledger.backend.(warner); ok {
		return "events of configmap " + shard, w.Warn(ctx, shard, "LockBroken", message)
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
