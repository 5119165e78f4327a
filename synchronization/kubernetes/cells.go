package kubernetes

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"strings"

	"github.com/cairnbuild/cairn/lock"
)

// Limits of the API server, in bytes.
const (
	maxData    = 1 << 20        // of a ConfigMap's keys and values
	maxRequest = 3<<20 - 64<<10 // of a request, a little less than it takes
)

// reserve is what new cells leave free of a shard, in bytes: an entry grows on its
// way, and what was acquired shall not fail for want of room when it is decided.
const reserve = 64 << 10

// maxRounds bounds how often a write begins again because the shard is made or
// lost at the same time.
const maxRounds = 5

func configMaps(verb, name string) call {
	return call{verb: verb, group: groupCore, resource: "configmaps", name: name}
}

// Read implements [lock.Cells]. Several shards are one LIST by label; what that
// does not show is asked for by its name, so nothing depends on labels, which
// people and tools can change.
func (b *Backend) Read(ctx context.Context, shards ...string) (map[string]lock.Snapshot, error) {
	found := make(map[string]lock.Snapshot, len(shards))
	if len(shards) > 1 {
		if err := b.list(ctx, shards, found); err != nil {
			return nil, err
		}
	}
	for _, shard := range shards {
		if _, ok := found[shard]; ok {
			continue
		}
		s, err := b.get(ctx, shard)
		if errors.Is(err, errNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found[shard] = s
	}
	return found, nil
}

func (b *Backend) get(ctx context.Context, shard string) (lock.Snapshot, error) {
	var o object
	if err := b.do(ctx, configMaps("get", shard), &o); err != nil {
		return lock.Snapshot{}, err
	}
	return b.snapshot(o)
}

// list adds to found those of the shards that their labels name.
func (b *Backend) list(ctx context.Context, shards []string, found map[string]lock.Snapshot) error {
	wanted := make(map[string]bool, len(shards))
	values := make([]string, len(shards))
	for i, shard := range shards {
		wanted[shard], values[i] = true, labelValue(shard)
	}
	c := configMaps("list", "")
	c.query = url.Values{"labelSelector": {labelShard + " in (" + strings.Join(values, ",") + ")"}}
	var all list
	if err := b.do(ctx, c, &all); err != nil {
		return err
	}
	for _, o := range all.Items {
		if !wanted[o.Metadata.Name] {
			continue
		}
		s, err := b.snapshot(o)
		if err != nil {
			return err
		}
		found[o.Metadata.Name] = s
	}
	return nil
}

// Swap implements [lock.Cells]. It fails with [*FullError] when the changes do
// not fit into the shard, and with [*DeniedError] when they are not allowed.
func (b *Backend) Swap(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	if err := b.fits(ctx, shard, changes); err != nil {
		return lock.Snapshot{}, err
	}
	for range maxRounds {
		s, err := b.patch(ctx, shard, changes)
		if !errors.Is(err, errNotFound) {
			return s, err
		}
		s, err = b.makeShard(ctx, shard, changes)
		if !errors.Is(err, errExists) {
			return s, err
		}
	}
	return lock.Snapshot{}, fmt.Errorf("%w: shard %s does not stay", lock.ErrUnavailable, shard)
}

// patch changes a shard that exists. A test that failed is a conflict, and who
// asked reads the shard to learn more.
func (b *Backend) patch(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	body, err := encodePatch(changes, b.sight(shard))
	if err != nil {
		return lock.Snapshot{}, err
	}
	if len(body) > maxRequest {
		return lock.Snapshot{}, &FullError{Shard: shard, Size: len(body), Limit: maxRequest}
	}
	c := configMaps("patch", shard)
	c.typ, c.body = typeJSONPatch, body
	var o object
	err = b.do(ctx, c, &o)
	if errors.Is(err, errTest) {
		return lock.Snapshot{}, fmt.Errorf("%w: %w", lock.ErrConflict, err)
	}
	if err != nil {
		return lock.Snapshot{}, err
	}
	return b.snapshot(o)
}

// makeShard makes a shard that has the changes' new values, unless they expect an
// old one.
func (b *Backend) makeShard(ctx context.Context, shard string, changes []lock.Change) (lock.Snapshot, error) {
	data := map[string]string{keyAbout: about}
	for _, change := range changes {
		if change.Old != nil {
			return lock.Snapshot{}, fmt.Errorf("%w: there is no %s", lock.ErrConflict, shard)
		}
		if change.New != nil {
			data[change.Key] = *change.New
		}
	}
	body, err := encode(object{Kind: "ConfigMap", APIVersion: "v1", Metadata: metadata{
		Name:   shard,
		Labels: map[string]string{labelManager: manager, labelShard: labelValue(shard)},
	}, Data: data})
	if err != nil {
		return lock.Snapshot{}, err
	}
	c := configMaps("create", shard)
	c.typ, c.body = typeJSON, body
	var o object
	if err := b.create(ctx, c, &o); err != nil {
		return lock.Snapshot{}, err
	}
	return b.snapshot(o)
}

func (b *Backend) sight(shard string) sight {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.seen[shard]
}

// fits returns a [*FullError] for changes that would make the shard larger than
// the server takes. What was seen last may be old, so before it refuses it reads.
func (b *Backend) fits(ctx context.Context, shard string, changes []lock.Change) error {
	more, most := growth(changes), maxData
	if adds(changes) {
		most -= reserve
	}
	if more <= 0 || b.sight(shard).size+more <= most {
		return nil
	}
	if _, err := b.get(ctx, shard); err != nil && !errors.Is(err, errNotFound) {
		return err
	}
	if size := b.sight(shard).size + more; size > most {
		return &FullError{Shard: shard, Size: size, Limit: most}
	}
	return nil
}
