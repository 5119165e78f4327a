package switchover

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
	"github.com/cairnbuild/cairn/synchronization"
)

// tellEvery is how often the ledger is told how many names have been given.
const tellEvery = 5 * time.Second

// finish gives what was decided in the old ledger its tag: the owners cannot go
// on, and some of them may just have been about to.
func (s *switcher) finish(ctx context.Context) error {
	decided, nonsense := s.From.Ledger.Remnants(ctx, s.epoch)
	if decided == nil && nonsense != nil {
		return nonsense
	}
	for _, r := range decided {
		err := s.finishOne(ctx, r)
		if errors.Is(err, storage.ErrNotFound) || errors.Is(err, synchronization.ErrTaken) {
			continue // the storage has lost it, and nobody has adopted it; or somebody broke the entry
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (s *switcher) finishOne(ctx context.Context, r *synchronization.Remnant) error {
	m, err := s.From.Storage.Manifest(ctx, r.Entry().Manifest.String())
	if err != nil {
		return err
	}
	return putTag(ctx, s.From.Storage, r, tagOf(r.Digest(), m), m)
}

// tagOf returns the tag that an entry is about, which does not say whether it is that
// of a stage or of a build's index.
func tagOf(d stages.Digest, m storage.Manifest) string {
	if m.IsIndex() {
		return storage.BuildTag(d)
	}
	return storage.StageTag(d)
}

// guard is an entry that decides for a manifest: a claim, or what is left of one in a
// ledger that was closed.
type guard interface {
	// Guard reads the entry directly before a write to the storage, which uses the
	// context that it returns.
	Guard(ctx context.Context) (context.Context, context.CancelFunc, error)
}

// putTag gives a decided manifest its tag, where that does not show it, and sees it there.
func putTag(ctx context.Context, st storage.Storage, g guard, tag string, m storage.Manifest) error {
	shown, err := shows(ctx, st, tag, m.Descriptor.Digest)
	if err != nil || shown {
		return err
	}
	if err := putGuarded(ctx, st, g, tag, m); err != nil {
		return err
	}
	shown, err = shows(ctx, st, tag, m.Descriptor.Digest)
	if err == nil && !shown {
		err = fmt.Errorf("tag %s was put and does not show: %w", tag, storage.ErrTransient)
	}
	return err
}

func putGuarded(ctx context.Context, st storage.Publisher, g guard, tag string, m storage.Manifest) error {
	guarded, cancel, err := g.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	return st.Publish(guarded, tag, m)
}

// shows reports whether a tag shows a manifest: false when it shows nothing.
func shows(ctx context.Context, st storage.Resolver, tag string, m digest.Digest) (bool, error) {
	found, err := st.Resolve(ctx, tag)
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return false, nil
	case err != nil:
		return false, err
	case found.Digest != m:
		return false, &transfer.DifferentError{Tag: tag, Ours: m, Theirs: found.Digest}
	}
	return true, nil
}

// name brings the rest, and gives the names under entries of the new ledger.
func (s *switcher) name(ctx context.Context) (err error) {
	n := &naming{switcher: s}
	if n.session, err = s.joinNew(ctx); err != nil {
		return err
	}
	defer func() {
		end, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaving)
		defer cancel()
		err = errors.Join(err, n.session.Close(end))
	}()
	if n.ended, err = s.endedStages(ctx); err != nil {
		return err
	}
	n.told = s.Now()
	left, err := s.Copier.Names(ctx, n.found, n.give)
	s.report.Named, s.report.Left = n.given(), left
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.tellProgress(ctx)
}

func (s *switcher) joinNew(ctx context.Context) (*synchronization.Session, error) {
	if s.move.Epoch == 0 {
		return s.To.Ledger.Join(ctx)
	}
	return s.To.Ledger.JoinShut(ctx, s.move.Epoch)
}

// endedStages are those of the old ledger whose generation ends or has just ended:
// their tags, if they still show, do not move.
func (s *switcher) endedStages(ctx context.Context) (map[stages.Digest]bool, error) {
	all, nonsense := s.From.Ledger.List(ctx)
	if all == nil && nonsense != nil {
		return nil, nonsense
	}
	ended := map[stages.Digest]bool{}
	for d, e := range all {
		ended[d] = e.State == synchronization.Deleting || e.State == synchronization.Deleted
	}
	return ended, nil
}

// naming gives names, several at once.
type naming struct {
	*switcher
	session *synchronization.Session // in the new ledger
	ended   map[stages.Digest]bool

	mu          sync.Mutex // also held while the move is noted
	told        time.Time
	done, total int
}

func (n *naming) given() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.done
}

// found is told how many names there are to give.
func (n *naming) found(total int) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.total = total
}

// tellProgress notes how many names have been given. It is called under mu.
func (n *naming) tellProgress(ctx context.Context) error {
	next := n.move
	next.Done, next.Total = n.done, max(n.done, n.total)
	return n.note(ctx, next)
}

// give is the [Namer] of a switch.
func (n *naming) give(ctx context.Context, tag string, m storage.Manifest) error {
	err := n.giveOne(ctx, tag, m)
	if err != nil {
		return err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.done++
	if now := n.Now(); now.Sub(n.told) >= tellEvery {
		n.told = now
		return n.tellProgress(ctx)
	}
	return nil
}
