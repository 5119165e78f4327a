package build

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
)

// LostBlobError says that the storage has lost a layer of a published stage, and
// that neither this host nor the base image has it.
type LostBlobError struct {
	// Stage is the lowest stage that has the layer; it has to be withdrawn and made
	// again.
	Stage *stages.Stage
	Blob  digest.Digest
	// Err is what the storage said.
	Err error
}

// Error implements error.
func (e *LostBlobError) Error() string {
	return fmt.Sprintf("the storage has lost layer %s of stage %s (%s): %v", e.Blob, e.Stage.Name(), e.Stage.Digest, e.Err)
}

// Unwrap returns what the storage said.
func (e *LostBlobError) Unwrap() error { return e.Err }

// restore brings back those layers of a candidate that the storage does not
// have, after it refused the manifest. Without any such layer the refusal stands.
func (r *run) restore(ctx context.Context, n *node, c *candidate, refusal error) error {
	missing := 0
	for _, d := range c.image.Layers() {
		ok, err := r.Storage.HasBlob(ctx, d)
		if err != nil {
			return err
		}
		if ok {
			continue
		}
		missing++
		_, err = storage.CopyBlob(ctx, r.Storage, r.elsewhere(n.stage), d, "")
		if errors.Is(err, storage.ErrNotFound) {
			return &LostBlobError{Stage: r.owner(ctx, n.stage, d.Digest), Blob: d.Digest, Err: refusal}
		}
		if err != nil {
			return err
		}
	}
	if missing == 0 {
		return refusal
	}
	return nil
}

// owner returns the lowest stage that has a layer, s itself where none below has.
func (r *run) owner(ctx context.Context, s *stages.Stage, blob digest.Digest) *stages.Stage {
	for p := s.Below(); p != nil; p = p.Below() {
		m, err := r.Storage.Manifest(ctx, storage.StageTag(p.Digest))
		if err != nil {
			break // only the message becomes less exact
		}
		v, err := m.Image()
		if err != nil || !slices.ContainsFunc(v.Layers, func(d ocispec.Descriptor) bool { return d.Digest == blob }) {
			break
		}
		s = p
	}
	return s
}

// blobsOf reads the layers of a stage wherever they are: in the local cache, in
// the storage, or in the base that it begins from, when the stage is not
// published or the storage has lost one. One that is nowhere is a [*LostBlobError].
func (r *run) blobsOf(s *stages.Stage) engine.Blobs {
	return stageBlobs{r, s, blobChain{r.inPad, r.Storage.Blob, r.inBase(s)}}
}

type stageBlobs struct {
	run   *run
	stage *stages.Stage
	chain blobChain
}

// Blob implements [engine.Blobs].
func (b stageBlobs) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	rc, err := b.chain.Blob(ctx, d)
	if errors.Is(err, storage.ErrNotFound) {
		return nil, &LostBlobError{Stage: b.run.owner(ctx, b.stage, d.Digest), Blob: d.Digest, Err: err}
	}
	return rc, err
}

func (r *run) elsewhere(s *stages.Stage) storage.Fetcher {
	// The storage itself as well: it may be read from places that have more than it has.
	return blobFetcher{r.Storage, blobChain{r.inPad, r.inBase(s), r.Storage.Blob}}
}

// blobFetcher is a storage whose blobs come from elsewhere.
type blobFetcher struct {
	storage.Fetcher
	blobs blobChain
}

// Blob implements [storage.Fetcher].
func (f blobFetcher) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	return f.blobs.Blob(ctx, d)
}

// opener opens a blob or returns [storage.ErrNotFound].
type opener func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error)

// blobChain asks one after the other.
type blobChain []opener

// Blob implements [engine.Blobs].
func (c blobChain) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	for _, open := range c {
		rc, err := open(ctx, d)
		if !errors.Is(err, storage.ErrNotFound) {
			return rc, err
		}
	}
	return nil, fmt.Errorf("layer %s: %w", d.Digest, storage.ErrNotFound)
}

func (r *run) inPad(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	if ok, err := r.pad.HasBlob(ctx, d); err != nil || !ok {
		return nil, storage.ErrNotFound // a damaged cache is as good as none
	}
	return r.pad.Blob(ctx, d)
}

// inBase opens layers of the base image that a stage begins from.
func (r *run) inBase(s *stages.Stage) opener {
	for below := s.Below(); below != nil; below = s.Below() {
		s = below
	}
	return func(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
		if s.BaseRef == nil {
			return nil, storage.ErrNotFound
		}
		repo, err := r.Base(ctx, s.BaseRef.Name)
		if err != nil {
			return nil, fmt.Errorf("base %s: %w", s.BaseRef.Name, err)
		}
		return repo.Blob(ctx, d)
	}
}
