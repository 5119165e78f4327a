package wire

import (
	"cmp"
	"context"
	"errors"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
)

// usedSince returns the names of the source that were used or published since a
// moment, as far as that is known, with what they name and stand on.
func (w *syncing) usedSince(ctx context.Context, at time.Time) (map[string]bool, error) {
	var inv *inventory.Inventory
	var err error
	switch {
	case w.from.archive != nil:
		return nil, &SettingError{"--since", errors.New("an archive does not tell when a stage was used"), "select with --image or --only-current-build, or copy all of it"}
	case w.from.layout != nil: // read as it is: what is held counts as used
		inv, err = inventory.Read(ctx, w.from.layout, inventory.Options{Now: w.host.Now()})
	default:
		inv, err = w.storages.Inventory(ctx, w.done.Project, w.from.Storage, false, nil)
	}
	if err != nil {
		return nil, err
	}
	return recent(inv, at), nil
}

// recent returns the names that were used since a moment. Where nobody knows of a
// use it is the moment at which the name is known to have been there, and a name of
// which nothing is known counts as recent. What indexes among them name comes along,
// and what any of all these stands on.
func recent(inv *inventory.Inventory, at time.Time) map[string]bool {
	tags := map[digest.Digest][]string{}
	for _, n := range inv.Names {
		if n.Kind == inventory.KindStage && n.Manifest != nil {
			tags[n.Manifest.Digest] = append(tags[n.Manifest.Digest], n.Tag)
		}
	}
	names, below := map[string]bool{}, inv.Below()
	stack := func(d digest.Digest) {
		for d = below[d]; d != ""; d = below[d] {
			for _, tag := range tags[d] {
				names[tag] = true
			}
		}
	}
	for _, n := range inv.Names {
		since := cmp.Or(n.Used, n.Since())
		if n.Kind == inventory.KindForeign || !since.IsZero() && since.Before(at) {
			continue
		}
		names[n.Tag] = true
		if n.Manifest == nil {
			continue
		}
		stack(n.Manifest.Digest)
		for _, m := range n.Manifest.Members {
			names[storage.StageTag(m.Stage)] = true
			stack(m.Digest)
		}
	}
	return names
}
