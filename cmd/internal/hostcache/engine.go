package hostcache

import (
	"context"
	"fmt"
	"time"

	"github.com/moby/buildkit/client"

	"github.com/cairnbuild/cairn/cleanup/host"
)

// Records is what is used of BuildKit's control API.
type Records interface {
	DiskUsage(ctx context.Context, opts ...client.DiskUsageOption) ([]*client.UsageInfo, error)
	Prune(ctx context.Context, ch chan client.UsageInfo, opts ...client.PruneOption) error
}

// engineTime is how long the engine may take for one answer. One that hangs must not
// hold the lock of the volume, which keeps others from making room.
const engineTime = 3 * time.Minute

// errEngineHangs is the cause with which such a call ends.
var errEngineHangs = fmt.Errorf("the engine has not answered for %s", engineTime)

// Engine returns the store of an engine's records.
func Engine(r Records) host.Store { return engine{r} }

type engine struct{ records Records }

// Name implements [host.Store].
func (engine) Name() string { return "engine" }

// Items implements [host.Store]. The engine itself says which of its records a
// build has in use; it counts what children share with parents once.
func (e engine) Items(ctx context.Context) ([]host.Item, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, engineTime, errEngineHangs)
	defer cancel()
	all, err := e.records.DiskUsage(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the engine's records: %w", because(ctx, err))
	}
	items := make([]host.Item, 0, len(all))
	for _, u := range all {
		it := host.Item{ID: u.ID, Used: used(u), On: u.Parents, Parts: []host.Part{{ID: u.ID, Size: u.Size}}}
		if u.InUse {
			it.Held = heldByRun
		}
		items = append(items, it)
	}
	return items, nil
}

func used(u *client.UsageInfo) time.Time {
	if u.LastUsedAt != nil {
		return *u.LastUsedAt
	}
	return u.CreatedAt
}

// Evict implements [host.Store]. Records are pruned by their ids, because the
// engine's own order is not that of their use.
func (e engine) Evict(ctx context.Context, ids []string) error {
	filters := make([]string, len(ids))
	for i, id := range ids {
		filters[i] = "id==" + id
	}
	ctx, cancel := context.WithTimeoutCause(ctx, engineTime, errEngineHangs)
	defer cancel()
	// The engine sends what it removed, and waits for who reads that.
	gone := make(chan client.UsageInfo)
	read := make(chan struct{})
	go func() {
		defer close(read)
		for range gone {
		}
	}()
	err := e.records.Prune(ctx, gone, client.PruneAll, client.WithFilter(filters))
	close(gone)
	<-read
	if err != nil {
		return fmt.Errorf("prune the engine's records: %w", because(ctx, err))
	}
	return nil
}

// because returns err, or why ctx had ended: a call's own error does not tell.
func because(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}
