package verify

import (
	"context"
	"errors"
	"fmt"
	"io"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Damaged is a storage that content is brought back to.
type Damaged interface {
	Target
	storage.Pusher
}

// Source is a storage that content may come from, with its name for people.
type Source struct {
	storage.Fetcher
	Name string
}

// ErrNowhere says that no source has the content.
var ErrNowhere = errors.New("neither this host nor another storage that is known has it")

// Repair brings back the content of a problem from the first source that has it,
// and reads it once more where it is not just missing. It returns the source's name.
// What no source has gives [ErrNowhere]. A source that cannot be read may have it:
// the next one is asked, and where none has it, what kept from reading is returned
// and the content is not to be taken for lost. Damaged content that the storage keeps in
// spite of a push gives [storage.ErrCorrupt].
//
// Content is pushed under its digest and no name changes, so that needs no lock:
// it is what the name has promised all along.
func Repair(ctx context.Context, to Damaged, p Problem, from []Source) (string, error) {
	if p.Digest == "" {
		return "", fmt.Errorf("%w: its digest is not known", ErrNowhere)
	}
	var unread []error
	for _, s := range from {
		err := restore(ctx, to, p, s)
		if err == nil {
			return s.Name, confirm(ctx, to, p)
		}
		if ctx.Err() != nil {
			return "", context.Cause(ctx)
		}
		if !errors.Is(err, storage.ErrNotFound) && !errors.Is(err, storage.ErrCorrupt) {
			unread = append(unread, fmt.Errorf("bring %s back from %s: %w", p.Digest, s.Name, err))
		}
	}
	if len(unread) > 0 {
		return "", errors.Join(unread...)
	}
	return "", ErrNowhere
}

func restore(ctx context.Context, to Damaged, p Problem, from Source) error {
	if !p.Blob {
		m, err := from.Manifest(ctx, p.Digest.String())
		if err != nil {
			return err
		}
		return to.PushManifest(ctx, m)
	}
	d := ocispec.Descriptor{MediaType: "application/octet-stream", Digest: p.Digest, Size: p.Size}
	// A source that has it not, or damaged, must not be found out in the middle of
	// a push: that would look like an error of the target.
	r, err := from.Blob(ctx, d)
	if err != nil {
		return err
	}
	if err := errors.Join(drain(storage.VerifyReader(r, d)), r.Close()); err != nil {
		return err
	}
	return to.PushBlob(ctx, d, storage.ContentFunc(func() (io.ReadCloser, error) { return from.Blob(ctx, d) }))
}

func drain(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

// confirm looks whether what was pushed has arrived: storages take content that
// they have under its digest for whole.
func confirm(ctx context.Context, to Damaged, p Problem) error {
	if !p.Blob {
		_, err := to.Manifest(ctx, p.Digest.String())
		return err
	}
	d := ocispec.Descriptor{Digest: p.Digest, Size: p.Size}
	if errors.Is(p.Err, storage.ErrCorrupt) {
		r, err := to.Blob(ctx, d)
		if err != nil {
			return err
		}
		return errors.Join(drain(storage.VerifyReader(r, d)), r.Close())
	}
	ok, err := to.HasBlob(ctx, d)
	if err == nil && !ok {
		err = fmt.Errorf("blob %s after its push: %w", p.Digest, storage.ErrNotFound)
	}
	return err
}
