package storage

import (
	"bytes"
	"context"
	"io"
	"strconv"

	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// MarkerFormat is the version of what tags and annotations mean.
const MarkerFormat = 1

const (
	markerType    = "application/vnd.cairn.project"
	markerProject = "dev.cairn.project"
	markerFormat  = "dev.cairn.format"
	markerLedger  = "dev.cairn.ledger"
	markerReason  = "dev.cairn.reason"
)

// Marker says whose a storage is. It is the manifest under [ProjectTag].
type Marker struct {
	Project string
	// Format is the version of what tags and annotations mean, as the storage says it.
	Format string
	// Ledger is the identity of the ledger that decides what is published there, ""
	// for a storage into which stages have only been copied.
	Ledger string
	// Reason is why the ledger is another one than before; mostly "".
	Reason string
}

// ReadMarker returns the marker of a storage. It fails with [ErrNotFound] where
// there is none.
func ReadMarker(ctx context.Context, f Fetcher) (Marker, error) {
	m, err := f.Manifest(ctx, ProjectTag)
	if err != nil {
		return Marker{}, err
	}
	return ParseMarker(m)
}

// ParseMarker reads a marker from its manifest, or fails with [ErrCorrupt].
func ParseMarker(m Manifest) (Marker, error) {
	img, err := m.Image()
	if err != nil {
		return Marker{}, err
	}
	a := img.Annotations
	return Marker{Project: a[markerProject], Format: a[markerFormat], Ledger: a[markerLedger], Reason: a[markerReason]}, nil
}

// MarkerWriter is what a marker is put with.
type MarkerWriter interface {
	Pusher
	Publisher
}

// WriteMarker puts the marker, in place of one that is there.
func WriteMarker(ctx context.Context, s MarkerWriter, m Marker) error {
	empty := ocispec.DescriptorEmptyJSON
	content := empty.Data
	empty.Data = nil
	err := s.PushBlob(ctx, empty, ContentFunc(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(content)), nil
	}))
	if err != nil {
		return err
	}
	man, err := NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned:    specs.Versioned{SchemaVersion: 2},
		MediaType:    ocispec.MediaTypeImageManifest,
		ArtifactType: markerType,
		Config:       empty,
		Layers:       []ocispec.Descriptor{empty},
		Annotations:  m.annotations(),
	})
	if err != nil {
		return err
	}
	return s.Publish(ctx, ProjectTag, man)
}

func (m Marker) annotations() map[string]string {
	a := map[string]string{markerProject: m.Project, markerFormat: strconv.Itoa(MarkerFormat)}
	if m.Ledger != "" {
		a[markerLedger] = m.Ledger
	}
	if m.Reason != "" {
		a[markerReason] = m.Reason
	}
	return a
}
