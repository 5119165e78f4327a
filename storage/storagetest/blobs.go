package storagetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Corrupter is implemented by storages whose contents a test can damage.
type Corrupter interface {
	// CorruptBlob changes a byte of the stored blob and reports whether it was there.
	CorruptBlob(d digest.Digest) bool
}

func blobChecks() []Check {
	return []Check{
		{Name: "blob-of-one-byte", Why: "the smallest content comes back as it was", Run: blobOf(1)},
		{Name: "blob-empty", Why: "an empty file is content too", Run: blobOf(0)},
		{Name: "blob-at-chunk-boundaries", Why: "uploads in pieces lose or repeat bytes first at the edges of pieces",
			Run: blobOf(4095, 4096, 4097, 65535, 65536, 65537, 1<<20-1, 1<<20, 1<<20+1)},
		{Name: "blob-of-several-megabytes", Why: "layers are large", Run: blobOf(8 << 20)},
		{Name: "blob-pushed-twice", Why: "two runners push the same layer", Run: blobPushedTwice},
		{Name: "blob-that-is-absent", Why: "a miss must be told from a failure", Run: blobAbsent},
		{Name: "blob-with-wrong-digest", Why: "content under a false name would be adopted by everybody", Run: blobWrongDigest},
		{Name: "blob-with-wrong-size", Why: "a truncated upload must not become a layer", Run: blobWrongSize},
		{Name: "blob-content-reopened", Why: "an upload that broke off is begun anew from the start", Run: blobReopened},
		{Name: "blob-mounted-from-nowhere", Why: "a mount that is not possible must lead to a copy", Optional: true, Run: blobMount},
		{Name: "blob-corrupt", Why: "a bad disk must not become a bad image", Optional: true, Run: blobCorrupt},
	}
}

func blobOf(sizes ...int) func(context.Context, storage.Storage, *Workspace) error {
	return func(ctx context.Context, s storage.Storage, w *Workspace) error {
		for _, n := range sizes {
			b := w.Bytes(n)
			d, err := w.Push(ctx, s, b)
			if err != nil {
				return err
			}
			ok, err := s.HasBlob(ctx, d)
			if err != nil {
				return fmt.Errorf("look for the blob of %d bytes: %w", n, err)
			}
			if !ok {
				return fmt.Errorf("the blob of %d bytes was pushed and is not there", n)
			}
			if err := sameBlob(ctx, s, d, b); err != nil {
				return err
			}
		}
		return nil
	}
}

func blobPushedTwice(ctx context.Context, s storage.Storage, w *Workspace) error {
	b := w.Bytes(5000)
	for range 2 {
		if _, err := w.Push(ctx, s, b); err != nil {
			return err
		}
	}
	return sameBlob(ctx, s, Layer(b), b)
}

func blobAbsent(ctx context.Context, s storage.Storage, w *Workspace) error {
	d := Layer(w.Bytes(100))
	ok, err := s.HasBlob(ctx, d)
	if err != nil {
		return fmt.Errorf("look for an absent blob: %w", err)
	}
	if ok {
		return errors.New("a blob is there that nobody pushed")
	}
	r, err := s.Blob(ctx, d)
	if err == nil {
		r.Close() // only its existence matters
	}
	return wantClass("fetch an absent blob", err, storage.ErrNotFound)
}

func blobWrongDigest(ctx context.Context, s storage.Storage, w *Workspace) error {
	b := w.Bytes(3000)
	return refusedBlob(ctx, s, Layer(w.Bytes(3000)), b)
}

func blobWrongSize(ctx context.Context, s storage.Storage, w *Workspace) error {
	for _, off := range []int64{-1, 1} {
		b := w.Bytes(3000)
		d := Layer(b)
		d.Size += off
		if err := s.PushBlob(ctx, d, Content(b)); err == nil {
			return fmt.Errorf("3000 bytes were taken as a blob of %d", d.Size)
		}
		// Some storages only find out when all is there; then it must be right.
		right := Layer(b)
		ok, err := s.HasBlob(ctx, right)
		if err != nil {
			return err
		}
		if ok {
			if err := sameBlob(ctx, s, right, b); err != nil {
				return err
			}
		}
	}
	return nil
}

// refusedBlob returns an error when b can be read as d after a push.
func refusedBlob(ctx context.Context, s storage.Storage, d ocispec.Descriptor, b []byte) error {
	if err := s.PushBlob(ctx, d, Content(b)); err == nil {
		return errors.New("content with another digest was taken")
	}
	ok, err := s.HasBlob(ctx, d)
	if err != nil {
		return err
	}
	if ok {
		return errors.New("content with another digest was refused but stored")
	}
	return nil
}

// brokenOnce is content whose first reader fails half-way.
type brokenOnce struct {
	b              []byte
	opened, closed atomic.Int32
}

var errBroken = errors.New("the content broke off")

func (c *brokenOnce) Open() (io.ReadCloser, error) {
	r := io.Reader(bytes.NewReader(c.b))
	if c.opened.Add(1) == 1 {
		r = io.MultiReader(bytes.NewReader(c.b[:len(c.b)/2]), failing{})
	}
	return closer{r, func() { c.closed.Add(1) }}, nil
}

type failing struct{}

func (failing) Read([]byte) (int, error) { return 0, errBroken }

type closer struct {
	io.Reader
	close func()
}

func (c closer) Close() error { c.close(); return nil }

func blobReopened(ctx context.Context, s storage.Storage, w *Workspace) error {
	c := &brokenOnce{b: w.Bytes(200_000)}
	d := Layer(c.b)
	if err := s.PushBlob(ctx, d, c); err != nil {
		if err := s.PushBlob(ctx, d, c); err != nil {
			return fmt.Errorf("push content again after it broke off once: %w", err)
		}
	}
	if n := c.opened.Load(); n < 2 {
		return fmt.Errorf("the content was opened %d times, although the first reader failed", n)
	}
	if o, n := c.opened.Load(), c.closed.Load(); o != n {
		return fmt.Errorf("the content was opened %d times and closed %d times", o, n)
	}
	return sameBlob(ctx, s, d, c.b)
}

func blobMount(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, ok := s.(storage.Mounter)
	if !ok {
		return fmt.Errorf("mounting: %w", storage.ErrUnsupported)
	}
	d := Layer(w.Bytes(100))
	ok, err := m.MountBlob(ctx, d, s.Address())
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return fmt.Errorf("mount an absent blob: %w", err)
	}
	if ok {
		return errors.New("an absent blob was mounted")
	}
	return nil
}

func blobCorrupt(ctx context.Context, s storage.Storage, w *Workspace) error {
	c, ok := s.(Corrupter)
	if !ok {
		return fmt.Errorf("damaging contents on purpose: %w", storage.ErrUnsupported)
	}
	b := w.Bytes(100_000)
	d, err := w.Push(ctx, s, b)
	if err != nil {
		return err
	}
	if !c.CorruptBlob(d.Digest) {
		return errors.New("the blob to damage is not there")
	}
	return wantClass("read a damaged blob", sameBlob(ctx, s, d, b), storage.ErrCorrupt)
}
