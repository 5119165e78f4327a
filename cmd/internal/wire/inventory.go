package wire

import (
	"context"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
)

// Inventory reads all that a storage of the project holds, through this host's
// index of manifests. With fresh it asks for every name: see [inventory.Options].
// A layout on this host is asked for every name anyway, which costs no request:
// evicted stages are made anew there.
func (st *Storages) Inventory(ctx context.Context, project string, s storage.Storage, fresh bool, progress func(done, total int)) (*inventory.Inventory, error) {
	index, err := st.settings.inventoryIndex(st.host, project, s.Address())
	if err != nil {
		return nil, err
	}
	return inventory.Read(ctx, s, inventory.Options{
		Index: index, Now: st.host.Now().UTC(), Fresh: fresh || s.Address() == Local, Progress: progress,
	})
}
