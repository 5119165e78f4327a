package local

import (
	"context"
	"os"

	lru "github.com/hashicorp/golang-lru/v2"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// Memory remembers what manifests refer to, so that one who takes inventories
// again and again reads and checks each manifest once. What a digest names never
// changes; whether it is there is looked at each time. It may be shared by several
// layouts and goroutines.
type Memory struct {
	known *lru.Cache[digest.Digest, references]
}

// references are what a manifest leads to.
type references struct {
	manifest       ocispec.Descriptor
	members, blobs []ocispec.Descriptor
}

// NewMemory returns a memory of at most so many manifests, of which those that
// were not met for longest are forgotten first. One takes about 2 kB.
func NewMemory(manifests int) (*Memory, error) {
	known, err := lru.New[digest.Digest, references](manifests)
	if err != nil {
		return nil, err
	}
	return &Memory{known}, nil
}

// references returns what the manifest d refers to; a memory that is nil reads it.
func (m *Memory) references(ctx context.Context, s *Storage, d digest.Digest) (references, error) {
	if m != nil {
		if r, ok := m.known.Get(d); ok {
			info, err := os.Stat(s.Path(d))
			if err != nil {
				return references{}, err
			}
			if info.Size() == r.manifest.Size {
				return r, nil
			}
		}
	}
	read, err := s.readManifest(ctx, d)
	if err != nil {
		return references{}, err
	}
	r := references{manifest: read.Descriptor}
	if r.members, r.blobs, err = read.References(); err != nil {
		return references{}, err
	}
	if m != nil {
		m.known.Add(d, r)
	}
	return r, nil
}
