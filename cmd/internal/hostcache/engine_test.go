package hostcache

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"

	"github.com/moby/buildkit/client"
)

// hung is an engine that never answers.
type hung struct{}

func (hung) DiskUsage(ctx context.Context, _ ...client.DiskUsageOption) ([]*client.UsageInfo, error) {
	<-ctx.Done()
	return nil, ctx.Err()
}

func (hung) Prune(ctx context.Context, _ chan client.UsageInfo, _ ...client.PruneOption) error {
	<-ctx.Done()
	return ctx.Err()
}

func TestAnEngineThatHangsIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if _, err := Engine(hung{}).Items(t.Context()); !errors.Is(err, errEngineHangs) {
			t.Errorf("listing ends with %v", err)
		}
		if err := Engine(hung{}).Evict(t.Context(), []string{"a"}); !errors.Is(err, errEngineHangs) {
			t.Errorf("pruning ends with %v", err)
		}
	})
}
