package storagetest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

func manifestChecks() []Check {
	return []Check{
		{Name: "manifest-by-digest-only", Why: "a manifest is pushed and read back before it gets its name", Run: manifestByDigest},
		{Name: "manifest-that-is-absent", Why: "a miss must be told from a failure", Run: manifestAbsent},
		{Name: "manifest-bit-exact", Why: "a storage that encodes anew changes the digest", Run: manifestBitExact},
		{Name: "manifest-media-types", Why: "base images may have Docker's media types", Run: manifestMediaTypes},
		{Name: "manifest-with-wrong-digest", Why: "a manifest under a false name would be adopted by everybody", Run: manifestWrongDigest},
		{Name: "manifest-with-missing-parts", Why: "tells whether the storage itself protects from torn images", Optional: true, Run: manifestMissingParts},
		{Name: "manifest-large", Why: "tables of intermediate stages are annotations", Optional: true, Run: manifestLarge},
		{Name: "index-of-images", Why: "multi-platform images and builds are indexes", Run: indexOfImages},
	}
}

func manifestByDigest(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	for range 2 {
		if err := s.PushManifest(ctx, m); err != nil {
			return fmt.Errorf("push a manifest by digest: %w", err)
		}
	}
	return sameManifest(ctx, s, m.Descriptor.Digest.String(), m)
}

func manifestAbsent(ctx context.Context, s storage.Storage, w *Workspace) error {
	for _, ref := range []string{w.Tag(), digest.FromBytes(w.Bytes(32)).String()} {
		_, err := s.Resolve(ctx, ref)
		if err := wantClass("resolve the absent "+ref, err, storage.ErrNotFound); err != nil {
			return err
		}
		_, err = s.Manifest(ctx, ref)
		if err := wantClass("fetch the absent "+ref, err, storage.ErrNotFound); err != nil {
			return err
		}
	}
	return nil
}

func manifestBitExact(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, map[string]string{
		"org.example.odd":  "tab\t quote\" <html> & \u2028 é 漢字 😀 \\ /",
		"org.example.none": "",
	})
	if err != nil {
		return err
	}
	v, err := m.Image()
	if err != nil {
		return err
	}
	if v.Config.Data, err = storage.ReadBlob(ctx, s, v.Config, storage.MaxConfig); err != nil {
		return err
	}
	v.Layers[0].Annotations = map[string]string{"org.example.layer": "1"}
	plain, err := json.Marshal(v)
	if err != nil {
		return err
	}
	// Unusual white space and escapes are as good as any.
	var odd bytes.Buffer
	if err := json.Indent(&odd, plain, "", "   "); err != nil {
		return err
	}
	raw := append(odd.Bytes(), "\n\n"...)
	m = storage.Manifest{
		Descriptor: ocispec.Descriptor{MediaType: v.MediaType, Digest: digest.FromBytes(raw), Size: int64(len(raw))},
		Bytes:      raw,
	}
	w.Remove(m.Descriptor.Digest)
	tag := w.Tag()
	if err := s.Publish(ctx, tag, m); err != nil {
		return fmt.Errorf("publish a manifest with odd spacing: %w", err)
	}
	return sameManifest(ctx, s, tag, m)
}

func manifestMediaTypes(ctx context.Context, s storage.Storage, w *Workspace) error {
	oci, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	v, err := oci.Image()
	if err != nil {
		return err
	}
	v.MediaType = storage.MediaTypeDockerManifest
	v.Config.MediaType = "application/vnd.docker.container.image.v1+json"
	v.Layers[0].MediaType = "application/vnd.docker.image.rootfs.diff.tar.gzip"
	docker, err := w.Manifest(storage.MediaTypeDockerManifest, v)
	if err != nil {
		return err
	}
	tag := w.Tag()
	if err := s.Publish(ctx, tag, docker); err != nil {
		return fmt.Errorf("publish a Docker manifest: %w", err)
	}
	if err := sameManifest(ctx, s, tag, docker); err != nil {
		return err
	}
	return sameManifest(ctx, s, docker.Descriptor.Digest.String(), docker)
}

func manifestWrongDigest(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	wrong := m
	wrong.Descriptor.Digest = digest.FromBytes(w.Bytes(32))
	if err := s.PushManifest(ctx, wrong); err == nil {
		return errors.New("a manifest with another digest was taken")
	}
	_, err = s.Resolve(ctx, wrong.Descriptor.Digest.String())
	return wantClass("resolve the refused manifest", err, storage.ErrNotFound)
}

func manifestMissingParts(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	v, err := m.Image()
	if err != nil {
		return err
	}
	v.Layers = append(v.Layers, Layer(w.Bytes(500)))
	if m, err = w.Manifest(ocispec.MediaTypeImageManifest, v); err != nil {
		return err
	}
	err = s.PushManifest(ctx, m)
	if err == nil {
		w.Note("manifests with missing layers are taken")
		return sameManifest(ctx, s, m.Descriptor.Digest.String(), m)
	}
	if errors.Is(err, storage.ErrTransient) {
		return fmt.Errorf("a manifest with a missing layer counts as a passing failure: %w", err)
	}
	w.Note("manifests with missing layers are refused")
	return nil
}

func manifestLarge(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, map[string]string{"org.example.large": strings.Repeat("0123456789abcdef", 1<<16)})
	if err != nil {
		return err
	}
	tag := w.Tag()
	if err := s.Publish(ctx, tag, m); err != nil {
		if errors.Is(err, storage.ErrTransient) {
			return err
		}
		return fmt.Errorf("%w: a manifest of %d bytes: %w", storage.ErrUnsupported, len(m.Bytes), err)
	}
	return sameManifest(ctx, s, tag, m)
}

func indexOfImages(ctx context.Context, s storage.Storage, w *Workspace) error {
	index := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, arch := range []string{"amd64", "arm64"} {
		m, err := w.Image(ctx, s, nil)
		if err != nil {
			return err
		}
		if err := s.PushManifest(ctx, m); err != nil {
			return fmt.Errorf("push a member of the index: %w", err)
		}
		d := m.Descriptor
		d.Platform = &ocispec.Platform{OS: "linux", Architecture: arch}
		d.Annotations = map[string]string{"org.example.arch": arch}
		index.Manifests = append(index.Manifests, d)
	}
	m, err := w.Manifest(ocispec.MediaTypeImageIndex, index)
	if err != nil {
		return err
	}
	tag := w.Tag()
	if err := s.Publish(ctx, tag, m); err != nil {
		return fmt.Errorf("publish an index: %w", err)
	}
	if err := sameManifest(ctx, s, tag, m); err != nil {
		return err
	}
	return sameManifest(ctx, s, m.Descriptor.Digest.String(), m)
}
