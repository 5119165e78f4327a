package local

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/cairnbuild/cairn/lock"
)

// sessionFile is a session's record as it is stored.
type sessionFile struct {
	Holder string        `json:"holder"`
	Seq    uint64        `json:"seq"`
	TTL    time.Duration `json:"ttl"` // nanoseconds
}

// The records of a group are the files GROUP.sessions/ID.json, each with the file
// ID.alive that its process keeps locked. Both are changed under the group's
// lock. They are not synced: a host that lost its power has no sessions.
const (
	recordSuffix = ".json"
	aliveSuffix  = ".alive"
)

func (b *Backend) sessions(group string) string { return filepath.Join(b.dir, group+".sessions") }

// Renew implements [lock.Sessions].
func (b *Backend) Renew(ctx context.Context, group string, r lock.Record) (err error) {
	if !plainName.MatchString(r.Session) {
		return fmt.Errorf("%q cannot be a session", r.Session)
	}
	unlock, err := b.guard(ctx, group+".sessions", true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	path := filepath.Join(b.sessions(group), r.Session)
	if r.Seq == 1 {
		if err := b.live(path); err != nil {
			return fmt.Errorf("make session %s: %w", r.Session, err)
		}
	} else if _, err := os.Stat(path + recordSuffix); errors.Is(err, fs.ErrNotExist) {
		return errors.Join(fmt.Errorf("renew %s: %w", r.Session, lock.ErrNoSession), b.die(path))
	}
	raw, err := json.Marshal(sessionFile{Holder: r.Holder, Seq: r.Seq, TTL: r.TTL})
	if err != nil {
		return fmt.Errorf("renew %s: %w", r.Session, err)
	}
	if err := replace(path+recordSuffix, raw, false); err != nil {
		return fmt.Errorf("renew %s: %w", r.Session, err)
	}
	return nil
}

// live makes and locks the session's lock file, before its record is seen.
func (b *Backend) live(path string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.alive[path] != nil {
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return err
	}
	f, err := os.OpenFile(path+aliveSuffix, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	ok, err := tryLock(f, true)
	if err == nil && !ok {
		err = errors.New("another process has this session")
	}
	if err != nil {
		return errors.Join(err, f.Close())
	}
	b.alive[path] = f
	return nil
}

// die gives up the lock of a session of this process.
func (b *Backend) die(path string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	f := b.alive[path]
	if f == nil {
		return nil
	}
	delete(b.alive, path)
	return f.Close()
}

// Records implements [lock.Sessions].
func (b *Backend) Records(ctx context.Context, group string) (all []lock.Record, err error) {
	unlock, err := b.guard(ctx, group+".sessions", true)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	entries, err := os.ReadDir(b.sessions(group))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list sessions: %w", err)
	}
	for _, e := range entries {
		id, ok := strings.CutSuffix(e.Name(), recordSuffix)
		if !ok {
			continue
		}
		r, err := b.record(group, id)
		if err != nil {
			return nil, err
		}
		all = append(all, r)
	}
	return all, nil
}

// record reads one record. One that is damaged belongs to nobody who could
// renew it, so it is as good as dead.
func (b *Backend) record(group, id string) (lock.Record, error) {
	path := filepath.Join(b.sessions(group), id)
	raw, err := os.ReadFile(path + recordSuffix)
	if err != nil {
		return lock.Record{}, fmt.Errorf("read session %s: %w", id, err)
	}
	var f sessionFile
	if json.Unmarshal(raw, &f) != nil {
		return lock.Record{Session: id, Gone: true}, nil
	}
	gone, err := b.gone(path)
	return lock.Record{Session: id, Holder: f.Holder, Seq: f.Seq, TTL: f.TTL, Gone: gone}, err
}

// gone reports whether no process holds the session's lock file.
func (b *Backend) gone(path string) (bool, error) {
	f, err := os.OpenFile(path+aliveSuffix, os.O_RDWR, 0o600)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look at session: %w", err)
	}
	free, err := tryLock(f, true)
	return free, errors.Join(err, f.Close())
}

// Remove implements [lock.Sessions].
func (b *Backend) Remove(ctx context.Context, group, session string, seq uint64) (err error) {
	if !plainName.MatchString(session) {
		return fmt.Errorf("%q cannot be a session", session)
	}
	unlock, err := b.guard(ctx, group+".sessions", true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	path := filepath.Join(b.sessions(group), session)
	if _, err := os.Stat(path + recordSuffix); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	r, err := b.record(group, session)
	if err != nil {
		return err
	}
	if seq != 0 && r.Seq != seq {
		return lock.ErrConflict
	}
	if err := os.Remove(path + recordSuffix); err != nil {
		return fmt.Errorf("remove session %s: %w", session, err)
	}
	// An owner that was only taken for dead still has the file open, which some
	// systems do not let anybody remove; without a record it means nothing.
	return errors.Join(b.die(path), ignoreBusy(os.Remove(path+aliveSuffix)))
}
