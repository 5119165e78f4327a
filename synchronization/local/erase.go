package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
)

// MayErase always succeeds: who opened the directory may write in it.
func (b *Backend) MayErase(context.Context, string) error { return nil }

// Erase removes a shard, whatever is in it. That it is not there is no error. The file
// of its lock stays: another process may be about to take it.
func (b *Backend) Erase(ctx context.Context, shard string) (err error) {
	unlock, err := b.guard(ctx, shard, true)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := os.Remove(b.path(shard, ".json")); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove shard %s: %w", shard, err)
	}
	return nil
}
