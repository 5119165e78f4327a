package storage

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"
)

// Bounds of one copied image, against indexes made to exhaust their reader.
const (
	maxCopyDepth     = 8
	maxCopyManifests = 4096
)

// copyConcurrency is how many blobs move at once where the caller does not say.
const copyConcurrency = 4

// Movement is how a blob came to its destination.
type Movement string

// The ways a blob can come.
const (
	// Present: it was there already.
	Present Movement = "present"
	// Mounted: taken from a neighbour, no bytes moved.
	Mounted Movement = "mounted"
	// Copied: its bytes were read and written.
	Copied Movement = "copied"
)

// CopyOptions are the choices of [CopyImage]; the zero value is good.
type CopyOptions struct {
	// Concurrency is how many blobs move at once, 4 when it is 0.
	Concurrency int
	// Moved, where set, is told of each blob as it has arrived. It is called
	// from several goroutines.
	Moved func(d ocispec.Descriptor, how Movement)
}

// CopyImage brings everything that m consists of from src to dst: blobs first
// (mounted where dst can take them from the storage with address from, which may
// be ""), then manifests by digest, those that an index names before the index.
// Nothing is named in dst: publishing is the caller's decision.
func CopyImage(ctx context.Context, dst Pusher, src Fetcher, m Manifest, from string, opts CopyOptions) error {
	w := walk{src: src, seen: map[digest.Digest]bool{}}
	if err := w.visit(ctx, m, 0); err != nil {
		return fmt.Errorf("copy %s: %w", m.Descriptor.Digest, err)
	}
	if err := copyBlobs(ctx, dst, src, w.blobs, from, opts); err != nil {
		return fmt.Errorf("copy %s: %w", m.Descriptor.Digest, err)
	}
	for _, m := range w.manifests {
		if err := dst.PushManifest(ctx, m); err != nil {
			return fmt.Errorf("copy %s: %w", m.Descriptor.Digest, err)
		}
	}
	return nil
}

// walk collects what an image consists of.
type walk struct {
	src  Fetcher
	seen map[digest.Digest]bool
	// manifests stand in the order in which they can be pushed.
	manifests []Manifest
	blobs     []ocispec.Descriptor
}

func (w *walk) visit(ctx context.Context, m Manifest, depth int) error {
	if depth > maxCopyDepth || len(w.seen) > maxCopyManifests {
		return fmt.Errorf("%w: index of more than %d levels or %d manifests", ErrTooLarge, maxCopyDepth, maxCopyManifests)
	}
	children, blobs, err := m.References()
	if err != nil {
		return err
	}
	for _, d := range children {
		if w.seen[d.Digest] {
			continue
		}
		w.seen[d.Digest] = true
		child, err := w.src.Manifest(ctx, d.Digest.String())
		if err != nil {
			return err
		}
		if err := w.visit(ctx, child, depth+1); err != nil {
			return err
		}
	}
	w.blobs = append(w.blobs, blobs...)
	w.manifests = append(w.manifests, m)
	return nil
}

func copyBlobs(ctx context.Context, dst Pusher, src Fetcher, blobs []ocispec.Descriptor, from string, opts CopyOptions) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(copyConcurrency)
	if opts.Concurrency > 0 {
		g.SetLimit(opts.Concurrency)
	}
	for _, d := range unique(blobs) {
		g.Go(func() error {
			how, err := CopyBlob(ctx, dst, src, d, from)
			if err == nil && opts.Moved != nil {
				opts.Moved(d, how)
			}
			return err
		})
	}
	return g.Wait()
}

// CopyBlob brings one blob from src to dst in the cheapest way there is. It
// fails with [ErrCorrupt] when what src yields is not d.
func CopyBlob(ctx context.Context, dst Pusher, src Fetcher, d ocispec.Descriptor, from string) (Movement, error) {
	ok, err := dst.HasBlob(ctx, d)
	if err != nil {
		return "", err
	}
	if ok {
		return Present, nil
	}
	ok, err = Mount(ctx, dst, d, from)
	if err != nil {
		return "", err
	}
	if ok {
		return Mounted, nil
	}
	content := ContentFunc(func() (io.ReadCloser, error) { return src.Blob(ctx, d) })
	if err := dst.PushBlob(ctx, d, content); err != nil {
		return "", err
	}
	return Copied, nil
}

// Mount asks p, where it is a [Mounter], to take a blob from the storage with
// address from. It returns false where that cannot be: p is none, from is "", or
// the neighbour is one that p has no access to and a copy has to do.
func Mount(ctx context.Context, p Pusher, d ocispec.Descriptor, from string) (bool, error) {
	m, ok := p.(Mounter)
	if !ok || from == "" {
		return false, nil
	}
	ok, err := m.MountBlob(ctx, d, from)
	if errors.Is(err, ErrDenied) || errors.Is(err, ErrUnsupported) || errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return ok, err
}
