package hostcache

import (
	"context"
	"errors"
	"time"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/stages/source"
)

// commits are the commits of other repositories that were fetched.
type commits struct {
	dir  string
	used map[string]time.Time // as Items found it last
}

// Name implements [host.Store].
func (*commits) Name() string { return GitDir }

// Items implements [host.Store].
func (c *commits) Items(ctx context.Context) ([]host.Item, error) {
	var items []host.Item
	c.used = make(map[string]time.Time)
	for at, err := range source.CachedCommits(ctx, c.dir) {
		if err != nil {
			return nil, err
		}
		it := host.Item{ID: at.ID, Used: at.Used, Parts: []host.Part{{ID: at.ID, Size: at.Size}}}
		if at.Held {
			it.Held = heldByRun
		}
		items = append(items, it)
		c.used[at.ID] = at.Used
	}
	return items, nil
}

// Evict implements [host.Store].
func (c *commits) Evict(_ context.Context, ids []string) error {
	var errs []error
	for _, id := range ids {
		errs = append(errs, source.EvictCommit(c.dir, id, c.used[id]))
	}
	return errors.Join(errs...)
}
