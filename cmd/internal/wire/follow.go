package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"

	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/kubernetes"
)

// maxHops bounds how often a run is sent on to another place.
const maxHops = 8

// followed is what settings say beside addresses that came from a ledger's record.
type followed struct {
	// uid is that of the ledger that the record means.
	uid string
	// before are storages into which misses look, until the grace is over.
	before []string
	// local: results that were not published wait in the stages of this host.
	local bool
}

// left returns the storages into which misses look after another hop, the last one
// first: from a storage, which counts while its own grace lasts, to the next one.
func (f followed) left(from, to string, grace bool) []string {
	before := f.before
	if grace {
		before = append([]string{from}, before...)
	}
	return slices.DeleteFunc(slices.Clone(before), func(storage string) bool { return storage == to })
}

// MovedError says that the project's stages, and their ledger, are elsewhere now.
type MovedError struct {
	Move synchronization.Move
	// Grace: misses look into the storage that was left.
	Grace bool
	// Err is what a build met that had begun before; it may be nil.
	Err error
}

// Error implements error.
func (e *MovedError) Error() string {
	text := fmt.Sprintf("the stages have moved from %s to %s, with the ledger %s", e.Move.From.Storage, e.Move.To.Storage, e.Move.To.Ledger)
	if e.Move.To.Host != "" {
		text += " on " + e.Move.To.Host
	}
	if e.Err != nil {
		text += fmt.Sprintf(" (%v)", e.Err)
	}
	return text
}

// Unwrap returns what the build met.
func (e *MovedError) Unwrap() error { return e.Err }

// Hint says what to do.
func (e *MovedError) Hint() string {
	return fmt.Sprintf("set CAIRN_STAGES_STORAGE=%s and CAIRN_SYNCHRONIZATION=%s (or --stages-storage and --synchronization); with --follow-switch, runs follow by themselves; docs/switching.md tells more",
		e.Move.To.Storage, e.Move.To.Ledger)
}

// OtherLedgerError says that an address means another ledger here than in the
// record of a switch.
type OtherLedgerError struct {
	Address string
	// Host is where the one that was meant is, where that is known.
	Host string
}

// Error implements error.
func (e *OtherLedgerError) Error() string {
	if e.Host != "" {
		return fmt.Sprintf("the switch leads to the ledger %s on %s, and the one here is another", e.Address, e.Host)
	}
	return fmt.Sprintf("the switch leads to a ledger %s that is not the one found here", e.Address)
}

// Hint says what to do.
func (*OtherLedgerError) Hint() string {
	return "a ledger of one host serves runs of that host that have the same --state-dir; switch to one in a cluster (kubernetes://NAMESPACE), take the switch back on this host too, or point KUBECONFIG at the cluster that is meant"
}

// follow returns the settings that a move leads to. A record is written by whoever
// may write the ledger, so of the address of a cluster only the namespace counts:
// how it is reached is this host's affair.
func (s Settings) follow(m synchronization.Move, grace bool) (Settings, error) {
	next := s
	next.Storage, next.Synchronization = m.To.Storage, plainLedger(m.To.Ledger)
	next.followed = followed{
		uid: m.To.UID, local: s.Storage == Local || s.followed.local, before: s.followed.left(s.Storage, m.To.Storage, grace),
	}
	if err := next.Check(); err != nil {
		return s, fmt.Errorf("follow the switch to %s: %w", m.To.Storage, err)
	}
	return next, nil
}

// plainLedger returns a ledger's address without what depends on the host.
func plainLedger(address string) string {
	a, err := kubernetes.ParseAddress(address)
	if err != nil {
		return address
	}
	a.Kubeconfig, a.Context = "", ""
	return a.String()
}

// Followed returns the settings of where the project's stages are now: these, or
// those that the records of switches lead to. Tell is told of each.
func (s Settings) Followed(ctx context.Context, h Host, project string, tell func(synchronization.Move)) (Settings, error) {
	for range maxHops {
		moved, err := s.movedTo(ctx, h, project)
		if err != nil || moved == nil {
			return s, err
		}
		if s, err = s.follow(moved.Move, moved.Grace); err != nil {
			return s, err
		}
		tell(moved.Move)
	}
	return s, errEndless
}

// errEndless ends the way along switches that lead to each other.
var errEndless = errors.New("the records of switches lead from ledger to ledger without end")

// movedTo returns where the stages have moved from the settings' ledger, nil for
// nowhere. It makes no ledger.
func (s Settings) movedTo(ctx context.Context, h Host, project string) (moved *MovedError, err error) {
	l, err := s.findLedger(ctx, h, project)
	if errors.Is(err, synchronization.ErrNone) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, l.close()) }()
	m := l.First().Gone()
	if m == nil {
		return nil, nil
	}
	return movedError(ctx, l.Ledger, *m)
}

func movedError(ctx context.Context, l *synchronization.Ledger, m synchronization.Move) (*MovedError, error) {
	now, err := l.Now(ctx)
	if err != nil {
		return nil, err
	}
	return &MovedError{Move: m, Grace: now.Before(m.Until)}, nil
}

// calm waits until builds may begin in a ledger, and fails with [*MovedError] when
// its stages are elsewhere. A ledger that was open when it was opened costs nothing.
func (o *opened) calm(ctx context.Context, l *synchronization.Ledger) error {
	if l.First().Free() {
		return nil
	}
	m, err := awaitCalm(ctx, l, o.builder)
	if err != nil || m == nil {
		return err
	}
	return m
}

// awaitCalm returns where the stages have moved, nil when builds go on in the ledger.
func awaitCalm(ctx context.Context, l *synchronization.Ledger, b *Builder) (*MovedError, error) {
	patience := b.Patience
	if patience == 0 {
		patience = build.DefaultPatience
	}
	bound, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var last synchronization.Awaited
	m, err := l.Calm(bound, func(a synchronization.Awaited) {
		last = a
		if b.Waiting != nil {
			b.Waiting(a)
		}
	})
	if err != nil && bound.Err() != nil && ctx.Err() == nil {
		return nil, &SwitchingError{Awaited: last}
	}
	if err != nil || m == nil {
		return nil, err
	}
	return movedError(ctx, l, *m)
}

// SwitchingError says that a switch did not come to its end for as long as a build
// waits.
type SwitchingError struct{ Awaited synchronization.Awaited }

// Error implements error.
func (e *SwitchingError) Error() string {
	return fmt.Sprintf("the project's storage is being switched by %s, and that does not come to its end", e.Awaited.By)
}

// Unwrap returns the class: nothing can be decided in the ledger.
func (*SwitchingError) Unwrap() error { return synchronization.ErrClosed }

// Hint says what to do.
func (e *SwitchingError) Hint() string {
	return "\"cairn stages switch-from-local --status\" tells how far it is; run the switch again, or \"cairn stages switch-back\""
}

// sentOn returns where a build that ended with err has to go on: the same place
// when its ledger is open again, another when its stages have moved. It returns
// nil for an error that has nothing to do with that.
func (b *Builder) sentOn(ctx context.Context, project string, err error) (*MovedError, bool, error) {
	var moved *MovedError
	switch {
	case errors.As(err, &moved):
		return moved, true, err
	case ctx.Err() != nil || !errors.Is(err, synchronization.ErrClosed) || errors.As(err, new(*SwitchingError)):
		return nil, false, err
	}
	l, failed := b.Settings.openLedger(ctx, b.Host, project, new(atomic.Int64), b.Outage)
	if failed != nil {
		return nil, false, errors.Join(err, failed)
	}
	defer func() { b.warn("close the ledger", l.close()) }()
	moved, failed = awaitCalm(ctx, l.Ledger, b)
	if failed != nil {
		return nil, false, errors.Join(failed, err)
	}
	if moved == nil {
		return nil, true, err
	}
	moved.Err = err
	return moved, true, moved
}

// follow has the build go on where a switch leads.
func (b *Builder) follow(moved *MovedError) error {
	next, err := b.Settings.follow(moved.Move, moved.Grace)
	if err != nil {
		return err
	}
	b.Settings = next
	b.Storages.Follow(next)
	if b.Host.Log != nil {
		b.Host.Log.Info("follow a switch", zap.String("storage", next.Storage), zap.String("ledger", next.Synchronization))
	}
	if b.Moved != nil {
		b.Moved(moved.Move)
	}
	return nil
}

// Follow has what is opened from now on be where a switch leads.
func (st *Storages) Follow(s Settings) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.settings = s
}

// seconds are several secondary storages, asked one after the other.
type seconds struct {
	all []build.Second

	mu   sync.Mutex
	from map[string]build.Second // by digest: where it was found
}

// Find implements build.Second.
func (s *seconds) Find(ctx context.Context, ref string) (storage.Manifest, error) {
	for _, one := range s.all {
		m, err := one.Find(ctx, ref)
		if err == nil {
			s.mu.Lock()
			s.from[m.Descriptor.Digest.String()] = one
			s.mu.Unlock()
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return m, err
		}
	}
	return storage.Manifest{}, storage.ErrNotFound
}

// Adopt implements build.Second.
func (s *seconds) Adopt(ctx context.Context, m storage.Manifest) error {
	s.mu.Lock()
	one := s.from[m.Descriptor.Digest.String()]
	s.mu.Unlock()
	if one == nil {
		return storage.ErrNotFound
	}
	return one.Adopt(ctx, m)
}
