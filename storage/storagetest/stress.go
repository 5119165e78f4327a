package storagetest

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// runners is how many do the same thing at once.
const runners = 12

func stressChecks() []Check {
	return []Check{
		{Name: "concurrent-pushes-of-one-blob", Why: "many runners push the same layer at once", Run: concurrentBlob},
		{Name: "concurrent-publications-of-one-manifest", Why: "a tag is sent again while the first request is still under way", Run: concurrentSame},
		{Name: "concurrent-publications-of-different-manifests", Why: "a tag must show one of them and nothing in between", Run: concurrentDifferent},
		{Name: "cancelled-before", Why: "an interrupted run asks nothing more", Run: cancelledBefore},
		{Name: "cancelled-while-pushing", Why: "an interrupted run ends at once and stores no half of a layer", Run: cancelledPushing},
		{Name: "cancelled-while-fetching", Why: "an interrupted run ends at once", Run: cancelledFetching},
	}
}

// together runs f for 0 to runners-1 at once and returns the first error.
func together(ctx context.Context, f func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	for i := range runners {
		g.Go(func() error { return f(ctx, i) })
	}
	return g.Wait()
}

func concurrentBlob(ctx context.Context, s storage.Storage, w *Workspace) error {
	b := w.Bytes(300_000)
	d := Layer(b)
	return together(ctx, func(ctx context.Context, _ int) error {
		if _, err := w.Push(ctx, s, b); err != nil {
			return err
		}
		return sameBlob(ctx, s, d, b)
	})
}

func concurrentSame(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	return together(ctx, func(ctx context.Context, _ int) error {
		if err := s.Publish(ctx, tag, m); err != nil {
			return err
		}
		return sameManifest(ctx, s, tag, m)
	})
}

func concurrentDifferent(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	var all [runners]storage.Manifest
	for i := range all {
		m, err := w.Image(ctx, s, nil)
		if err != nil {
			return err
		}
		all[i] = m
	}
	oneOf := func(ctx context.Context) error {
		got, err := s.Manifest(ctx, tag)
		if err != nil {
			return fmt.Errorf("fetch while it is published: %w", err)
		}
		for _, m := range all {
			if m.Descriptor.Digest == got.Descriptor.Digest {
				return nil
			}
		}
		return fmt.Errorf("the tag shows %s, which nobody published", got.Descriptor.Digest)
	}
	err := together(ctx, func(ctx context.Context, i int) error {
		err := s.Publish(ctx, tag, all[i])
		if err != nil && !errors.Is(err, storage.ErrExists) {
			return fmt.Errorf("publish beside others: %w", err)
		}
		return oneOf(ctx)
	})
	if err != nil {
		return err
	}
	return oneOf(ctx)
}

func cancelledBefore(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	m, err := published(ctx, s, w, tag)
	if err != nil {
		return err
	}
	v, err := m.Image()
	if err != nil {
		return err
	}
	layer, fresh := v.Layers[0], w.Bytes(50)
	gone, cancel := context.WithCancel(ctx)
	cancel()
	for what, err := range map[string]error{
		"resolve":         second(s.Resolve(gone, tag)),
		"fetch":           second(s.Manifest(gone, tag)),
		"open a blob":     second(s.Blob(gone, layer)),
		"look for a blob": second(s.HasBlob(gone, layer)),
		"push a blob":     s.PushBlob(gone, Layer(fresh), Content(fresh)),
		"push a manifest": s.PushManifest(gone, m),
		"publish":         s.Publish(gone, w.Tag(), m),
		"list tags":       listError(gone, s),
		"delete a tag":    s.DeleteTag(gone, tag),
	} {
		if errors.Is(err, storage.ErrUnsupported) {
			continue
		}
		if err := wantClass(what+" after the end of its context", err, context.Canceled); err != nil {
			return err
		}
	}
	return sameManifest(ctx, s, tag, m)
}

func second[V any](_ V, err error) error { return err }

func listError(ctx context.Context, s storage.Lister) error {
	for _, err := range s.Tags(ctx) {
		if err != nil {
			return err
		}
	}
	return nil
}

// endless is content of which more comes than anybody may want after the cancel.
type endless struct {
	cancel context.CancelFunc
	reads  int
	after  int64
}

const (
	cancelAfterReads = 4
	// afterCancel is how many bytes may still be taken: what is on its way in buffers.
	afterCancel = 32 << 20
)

func (e *endless) Read(p []byte) (int, error) {
	if e.reads++; e.reads == cancelAfterReads {
		e.cancel()
	}
	if e.reads > cancelAfterReads {
		e.after += int64(len(p))
	}
	if e.after > afterCancel {
		return 0, errBroken
	}
	return len(p), nil
}

func cancelledPushing(ctx context.Context, s storage.Storage, w *Workspace) error {
	ctx2, cancel := context.WithCancel(ctx)
	defer cancel()
	d := Layer(w.Bytes(64))
	d.Size = 1 << 30
	content := storage.ContentFunc(func() (io.ReadCloser, error) {
		return io.NopCloser(&endless{cancel: cancel}), nil
	})
	err := s.PushBlob(ctx2, d, content)
	if errors.Is(err, errBroken) {
		return fmt.Errorf("the push went on for more than %d bytes after the end of its context", int64(afterCancel))
	}
	if err := wantClass("push under a context that ends", err, context.Canceled); err != nil {
		return err
	}
	ok, err := s.HasBlob(ctx, d)
	if err != nil {
		return err
	}
	if ok {
		return errors.New("half a blob was stored")
	}
	return nil
}

func cancelledFetching(ctx context.Context, s storage.Storage, w *Workspace) error {
	b := w.Bytes(16 << 20)
	d, err := w.Push(ctx, s, b)
	if err != nil {
		return err
	}
	return fetchCancelled(ctx, s, d)
}

func fetchCancelled(ctx context.Context, s storage.Fetcher, d ocispec.Descriptor) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	r, err := s.Blob(ctx, d)
	if err != nil {
		return err
	}
	defer r.Close()
	if _, err := io.CopyN(io.Discard, r, 1000); err != nil {
		return fmt.Errorf("read the beginning of a blob: %w", err)
	}
	cancel()
	_, err = io.Copy(io.Discard, r)
	return wantClass("read on after the end of the context", err, context.Canceled)
}
