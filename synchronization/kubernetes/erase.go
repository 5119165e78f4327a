package kubernetes

import (
	"context"
	"errors"
	"net/url"
)

// MayErase asks the server, without changing anything, whether this account may
// delete a shard. It fails with [*DeniedError] where not. Runners need no such right.
func (b *Backend) MayErase(ctx context.Context, shard string) error {
	c := configMaps("delete", shard)
	c.query = url.Values{"dryRun": {"All"}}
	return unlessMissing(b.do(ctx, c, nil))
}

// Erase deletes a shard, whatever is in it. That it is not there is no error.
func (b *Backend) Erase(ctx context.Context, shard string) error {
	return unlessMissing(b.do(ctx, configMaps("delete", shard), nil))
}

func unlessMissing(err error) error {
	if errors.Is(err, errNotFound) {
		return nil
	}
	return err
}
