package verify

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
)

// Target is the storage that is verified.
type Target interface {
	storage.Resolver
	storage.Fetcher
	// HasBlob is that of [storage.Pusher].
	HasBlob(ctx context.Context, d ocispec.Descriptor) (bool, error)
}

// Options are the choices of [Check]; the zero value is good.
type Options struct {
	// Deep reads every manifest and every blob, each once, and checks its digest.
	// Otherwise a HEAD asks whether it is there.
	Deep bool
	// Concurrency bounds the requests in flight, 8 where it is 0. A blob that is read
	// takes as much memory as a connection.
	Concurrency int
	// Progress, where set, is told how far it is; by one goroutine at a time.
	Progress func(Progress)
}

const defaultConcurrency = 8

// maxUnanswered is after how many questions without an answer a storage is taken
// to be away: each of them has been tried again for minutes.
const maxUnanswered = 8

// Progress says how far a check is.
type Progress struct {
	// Done of Total manifests and blobs have been looked at.
	Done, Total int
	// Bytes of TotalBytes have been read; without [Options].Deep both stay 0.
	Bytes, TotalBytes int64
}

// Problem is content that is not as it should be, and what cannot be used for it.
type Problem struct {
	// Digest is that of the content; empty where a name's manifest is not known.
	Digest digest.Digest
	// Size in bytes; 0 where it is not known.
	Size int64
	// Blob tells a config or layer from a manifest.
	Blob bool
	// Err says what is wrong. It wraps [storage.ErrNotFound] or [storage.ErrCorrupt]
	// for what is surely broken; else the storage could not answer, and nothing is
	// known.
	Err error
	// Tags are the names that lead to it, sorted.
	Tags []string
}

// Broken reports whether the content is surely missing or damaged.
func (p Problem) Broken() bool {
	return errors.Is(p.Err, storage.ErrNotFound) || errors.Is(p.Err, storage.ErrCorrupt)
}

// Result is what a check has found.
type Result struct {
	// Problems stand in the order of their digests.
	Problems []Problem
	// Manifests, Blobs and Bytes are what was looked at, each once; Bytes those read.
	Manifests, Blobs int
	Bytes            int64
}

// Check verifies what an inventory lists. It goes on after problems, and fails
// only where the storage refuses to answer at all.
func Check(ctx context.Context, t Target, inv *inventory.Inventory, o Options) (Result, error) {
	c := newChecker(t, inv, o)
	c.names()
	if err := c.all(ctx); err != nil {
		return Result{}, fmt.Errorf("verify %s: %w", inv.Address, err)
	}
	c.attribute()
	slices.SortFunc(c.result.Problems, func(a, b Problem) int {
		return cmp.Or(cmp.Compare(a.Digest, b.Digest), slices.Compare(a.Tags, b.Tags))
	})
	return c.result, nil
}

type checker struct {
	target Target
	inv    *inventory.Inventory
	o      Options
	// blobs are those of all manifests.
	blobs map[digest.Digest]ocispec.Descriptor

	mu         sync.Mutex
	progress   Progress
	result     Result
	unanswered int
}

func newChecker(t Target, inv *inventory.Inventory, o Options) *checker {
	if o.Concurrency <= 0 {
		o.Concurrency = defaultConcurrency
	}
	if o.Progress == nil {
		o.Progress = func(Progress) {}
	}
	c := &checker{target: t, inv: inv, o: o, blobs: map[digest.Digest]ocispec.Descriptor{}}
	for _, m := range inv.Manifests {
		if o.Deep {
			c.progress.TotalBytes += m.Size
		}
		for _, d := range m.Descriptors() {
			if _, known := c.blobs[d.Digest]; !known {
				c.blobs[d.Digest] = d
				if o.Deep {
					c.progress.TotalBytes += d.Size
				}
			}
		}
	}
	c.progress.Total = len(inv.Manifests) + len(c.blobs)
	return c
}

// names takes over what the inventory could not read.
func (c *checker) names() {
	for _, n := range c.inv.Names {
		if n.Broken != nil {
			c.result.Problems = append(c.result.Problems, Problem{Err: n.Broken, Tags: []string{n.Tag}})
		}
	}
	for d, err := range c.inv.Broken {
		c.result.Problems = append(c.result.Problems, Problem{Digest: d, Err: err})
	}
}

// all looks at all manifests and blobs, the small ones first.
func (c *checker) all(ctx context.Context) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(c.o.Concurrency)
	for _, d := range slices.Sorted(maps.Keys(c.inv.Manifests)) {
		m := c.inv.Manifests[d]
		g.Go(func() error { return c.manifest(ctx, m) })
	}
	for _, d := range slices.Sorted(maps.Keys(c.blobs)) {
		blob := c.blobs[d]
		g.Go(func() error { return c.blob(ctx, blob) })
	}
	return g.Wait()
}

func (c *checker) manifest(ctx context.Context, m *inventory.Manifest) error {
	var err error
	if c.o.Deep {
		_, err = c.target.Manifest(ctx, m.Digest.String())
	} else {
		_, err = c.target.Resolve(ctx, m.Digest.String())
	}
	return c.seen(ctx, Problem{Digest: m.Digest, Size: m.Size, Err: err}, m.Size)
}

func (c *checker) blob(ctx context.Context, d ocispec.Descriptor) error {
	var err error
	if c.o.Deep {
		err = c.read(ctx, d)
	} else {
		var ok bool
		if ok, err = c.target.HasBlob(ctx, d); err == nil && !ok {
			err = fmt.Errorf("blob %s: %w", d.Digest, storage.ErrNotFound)
		}
	}
	return c.seen(ctx, Problem{Digest: d.Digest, Size: d.Size, Blob: true, Err: err}, 0)
}

// read reads a blob to its end; the storage checks its digest.
func (c *checker) read(ctx context.Context, d ocispec.Descriptor) error {
	r, err := c.target.Blob(ctx, d)
	if err != nil {
		return err
	}
	_, err = io.Copy(tally{c}, storage.VerifyReader(r, d))
	return cmp.Or(err, r.Close())
}

// tally counts the bytes of blobs as they come.
type tally struct{ c *checker }

func (t tally) Write(b []byte) (int, error) {
	t.c.mu.Lock()
	defer t.c.mu.Unlock()
	t.c.count(int64(len(b)))
	return len(b), nil
}

// count is called under mu.
func (c *checker) count(n int64) {
	if c.o.Deep {
		c.result.Bytes += n
		c.progress.Bytes += n
		c.o.Progress(c.progress)
	}
}

// seen notes what was looked at, and its problem where its error is not nil. It
// returns the error that ends the check.
func (c *checker) seen(ctx context.Context, p Problem, bytes int64) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.progress.Done++
	if p.Blob {
		c.result.Blobs++
	} else {
		c.result.Manifests++
	}
	c.count(bytes)
	if !c.o.Deep {
		c.o.Progress(c.progress)
	}
	if p.Err == nil {
		c.unanswered = 0
		return nil
	}
	c.result.Problems = append(c.result.Problems, p)
	if p.Broken() {
		c.unanswered = 0
		return nil
	}
	if c.unanswered++; c.unanswered > maxUnanswered || errors.Is(p.Err, storage.ErrUnauthorized) || errors.Is(p.Err, storage.ErrDenied) {
		return p.Err
	}
	return nil
}

// attribute says which names the problems concern.
func (c *checker) attribute() {
	users := c.inv.Tags()
	blobs := map[digest.Digest]*Problem{}
	for i := range c.result.Problems {
		p := &c.result.Problems[i]
		switch {
		case p.Blob:
			blobs[p.Digest] = p
		case p.Digest != "":
			p.Tags = users[p.Digest]
		}
	}
	if len(blobs) > 0 {
		for d, m := range c.inv.Manifests {
			for _, b := range m.Descriptors() {
				if p := blobs[b.Digest]; p != nil {
					p.Tags = append(p.Tags, users[d]...)
				}
			}
		}
	}
	for i := range c.result.Problems {
		p := &c.result.Problems[i]
		slices.Sort(p.Tags)
		p.Tags = slices.Compact(p.Tags)
	}
}
