package storagetest

import (
	"context"
	"errors"
	"fmt"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
)

func deleteChecks() []Check {
	return []Check{
		{Name: "delete-tag", Why: "the cleanup takes a name and leaves what other names need", Optional: true, Run: deleteTag},
		{Name: "delete-manifest", Why: "the cleanup removes what no name needs", Optional: true, Run: deleteManifest},
		{Name: "delete-what-is-absent", Why: "two cleanups meet", Optional: true, Run: deleteAbsent},
		{Name: "publish-after-delete", Why: "a stage that was cleaned up is built and published anew", Optional: true, Run: publishAfterDelete},
	}
}

func deleteTag(ctx context.Context, s storage.Storage, w *Workspace) error {
	gone, kept := w.Tag(), w.Tag()
	m, err := published(ctx, s, w, gone)
	if err != nil {
		return err
	}
	if err := s.Publish(ctx, kept, m); err != nil {
		return fmt.Errorf("publish under a second tag: %w", err)
	}
	if err := s.DeleteTag(ctx, gone); err != nil {
		return fmt.Errorf("delete a tag: %w", err)
	}
	_, err = s.Resolve(ctx, gone)
	if err := wantClass("resolve the deleted tag", err, storage.ErrNotFound); err != nil {
		return err
	}
	if err := sameManifest(ctx, s, kept, m); err != nil {
		return fmt.Errorf("another tag of the manifest: %w", err)
	}
	return sameManifest(ctx, s, m.Descriptor.Digest.String(), m)
}

func deleteManifest(ctx context.Context, s storage.Storage, w *Workspace) error {
	tags := []string{w.Tag(), w.Tag()}
	m, err := published(ctx, s, w, tags[0])
	if err != nil {
		return err
	}
	if err := s.Publish(ctx, tags[1], m); err != nil {
		return fmt.Errorf("publish under a second tag: %w", err)
	}
	other := w.Tag()
	survivor, err := published(ctx, s, w, other)
	if err != nil {
		return err
	}
	if err := s.DeleteManifest(ctx, m.Descriptor.Digest); err != nil {
		return fmt.Errorf("delete a manifest: %w", err)
	}
	for _, ref := range append(tags, m.Descriptor.Digest.String()) {
		_, err := s.Resolve(ctx, ref)
		if err := wantClass("resolve what was deleted", err, storage.ErrNotFound); err != nil {
			return err
		}
	}
	for tag, err := range s.Tags(ctx) {
		if err != nil {
			return fmt.Errorf("list tags: %w", err)
		}
		if tag == tags[0] || tag == tags[1] {
			return errors.New("a tag of the deleted manifest is still listed")
		}
	}
	return sameManifest(ctx, s, other, survivor)
}

func deleteAbsent(ctx context.Context, s storage.Storage, w *Workspace) error {
	err := s.DeleteManifest(ctx, digest.FromBytes(w.Bytes(32)))
	if !errors.Is(err, storage.ErrUnsupported) {
		if err := wantClass("delete an absent manifest", err, storage.ErrNotFound); err != nil {
			return err
		}
	}
	err = s.DeleteTag(ctx, w.Tag())
	if errors.Is(err, storage.ErrUnsupported) {
		return err
	}
	return wantClass("delete an absent tag", err, storage.ErrNotFound)
}

func publishAfterDelete(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	m, err := published(ctx, s, w, tag)
	if err != nil {
		return err
	}
	for range 2 {
		if err := s.DeleteManifest(ctx, m.Descriptor.Digest); err != nil {
			return fmt.Errorf("delete a manifest: %w", err)
		}
		if err := s.Publish(ctx, tag, m); err != nil {
			return fmt.Errorf("publish it again: %w", err)
		}
		if err := sameManifest(ctx, s, tag, m); err != nil {
			return err
		}
	}
	return nil
}
