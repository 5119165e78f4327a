package sweep

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/synchronization"
)

// chain identifies layers in their order.
type chain [sha256.Size]byte

// with returns the chain with one layer more on top.
func (c chain) with(layer digest.Digest) chain {
	return sha256.Sum256(append(c[:], layer...))
}

func chainOf(layers []digest.Digest) chain {
	var c chain
	for _, l := range layers {
		c = c.with(l)
	}
	return c
}

// condemned finds marked items by what a newcomer says of what it stands on.
type condemned struct {
	byManifest map[digest.Digest][]*item
	byChain    map[chain][]*item
}

func newCondemned(items []*item) condemned {
	c := condemned{byManifest: map[digest.Digest][]*item{}, byChain: map[chain][]*item{}}
	for _, it := range items {
		if it.Kind == Index {
			continue // nothing stands on an index
		}
		c.byManifest[it.Manifest] = append(c.byManifest[it.Manifest], it)
		if len(it.Layers) > 0 {
			ch := chainOf(it.Layers)
			c.byChain[ch] = append(c.byChain[ch], it)
		}
	}
	return c
}

// under returns the items that a manifest lists or stands on. A stage stands on
// those whose layers its own begin with: more than its recipe says, perhaps, which
// keeps a little too much until the next inventory knows better.
func (c condemned) under(m storage.Manifest) ([]*item, error) {
	if m.IsIndex() {
		idx, err := m.Index()
		var found []*item
		for _, d := range idx.Manifests {
			found = append(found, c.byManifest[d.Digest]...)
		}
		return found, err
	}
	img, err := m.Image()
	found := slices.Clone(c.byManifest[m.Descriptor.Digest])
	var ch chain
	for _, l := range img.Layers {
		ch = ch.with(l.Digest)
		found = append(found, c.byChain[ch]...)
	}
	return found, err
}

// lookAgain keeps, of what is marked, all that was taken up since the plan's
// inventory by builds that could not see the marks. They are through: what they
// published is in the ledger still, or has its tag. The ledger is asked first, so
// that what moves on in between is seen by one or the other.
func (s *sweeper) lookAgain(ctx context.Context, marked []*item) error {
	if len(marked) == 0 {
		return nil
	}
	all := newCondemned(marked)
	if err := s.lookInLedger(ctx, all, marked); err != nil {
		return err
	}
	for tag, err := range s.Storage.Tags(ctx) {
		if err != nil {
			return err
		}
		if s.known(tag) {
			continue
		}
		if err := s.consider(ctx, all, tag, tag); err != nil && !errors.Is(err, storage.ErrNotFound) {
			return err
		}
	}
	return nil
}

// lookInLedger considers what was decided lately, or is.
func (s *sweeper) lookInLedger(ctx context.Context, all condemned, marked []*item) error {
	entries, err := s.Ledger.List(ctx)
	if err != nil {
		return err
	}
	for d, e := range entries {
		decided := e.State == synchronization.Publishing || e.State == synchronization.Published ||
			e.State == synchronization.Deleting && e.Session != s.Session.ID()
		if !decided {
			continue
		}
		if e.State == synchronization.Publishing {
			// Its owner is about to end it, or dead: the manifest may not be there yet.
			if err := s.Session.Wait(ctx, []stages.Digest{d}, s.Waiting); err != nil {
				return err
			}
		}
		err := s.consider(ctx, all, e.Manifest.String(), d.Short())
		if err == nil {
			continue
		}
		if !errors.Is(err, storage.ErrNotFound) {
			return err
		}
		why, err := s.unread(ctx, d, e)
		if err != nil {
			return err
		}
		if why != "" {
			s.keepAll(marked, why)
			return nil
		}
	}
	return nil
}

// unread says why all must stay for an entry whose manifest cannot be read, "" where
// nothing must.
func (s *sweeper) unread(ctx context.Context, d stages.Digest, e synchronization.Entry) (string, error) {
	switch e.State {
	case synchronization.Publishing:
		return fmt.Sprintf("%s was decided to be manifest %s, which cannot be read; it may stand on this. A build of it ends that", d.Short(), e.Manifest), nil
	case synchronization.Published:
		recent, err := s.Ledger.Recent(ctx, e)
		if err != nil || !recent {
			return "", err
		}
		return fmt.Sprintf("%s was published lately as manifest %s, which cannot be read yet; it may stand on this", d.Short(), e.Manifest), nil
	}
	return "", nil
}

func (s *sweeper) keepAll(items []*item, why string) {
	for _, it := range items {
		s.keep(it, why)
	}
}

// consider keeps what the manifest that ref names stands on.
func (s *sweeper) consider(ctx context.Context, all condemned, ref, who string) error {
	m, err := s.Storage.Manifest(ctx, ref)
	if err != nil {
		return err
	}
	needed, err := all.under(m)
	if err != nil {
		return err
	}
	for _, it := range needed {
		s.keep(it, fmt.Sprintf("%s is new, and stands on it or lists it", who))
	}
	return nil
}

// Known returns [Plan].Known for an inventory of tags.
func Known(tags []string) func(tag string) bool {
	all := make(map[string]struct{}, len(tags))
	for _, t := range tags {
		all[t] = struct{}{}
	}
	return func(tag string) bool { _, ok := all[tag]; return ok }
}
