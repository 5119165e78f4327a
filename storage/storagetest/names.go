package storagetest

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// manyTags is more than the page of any registry that is known to send short ones.
const manyTags = 120

func nameChecks() []Check {
	return []Check{
		{Name: "tags-of-an-unknown-repository", Why: "the first run finds nothing and must not fail", Run: tagsUnknown},
		{Name: "tag-published", Why: "a stage is found by its tag", Run: tagPublished},
		{Name: "tag-published-twice", Why: "a publication whose answer was lost is sent again", Run: tagTwice},
		{Name: "tag-moved", Why: "tells whether a tag can be given to another manifest", Run: tagMoved},
		{Name: "tag-of-128-characters", Why: "tags may be that long, and differ by case", Run: tagLong},
		{Name: "tag-malformed", Why: "a name must not become a path", Run: tagMalformed},
		{Name: "tags-over-several-pages", Why: "a list that ends after the first page hides stages from the cleanup", Run: tagsPaged},
		{Name: "read-after-write", Why: "the decision about a stage is checked by reading its tag", Run: readAfterWrite},
	}
}

func tagsUnknown(ctx context.Context, s storage.Storage, w *Workspace) error {
	for _, err := range s.Tags(ctx) {
		if errors.Is(err, storage.ErrNotFound) {
			w.Note("listing a repository without content is answered with not found")
			return nil
		}
		if err != nil {
			return fmt.Errorf("list tags: %w", err)
		}
	}
	return nil
}

// published returns a new image that tag names.
func published(ctx context.Context, s storage.Storage, w *Workspace, tag string) (storage.Manifest, error) {
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return m, err
	}
	if err := s.Publish(ctx, tag, m); err != nil {
		return m, fmt.Errorf("publish: %w", err)
	}
	return m, nil
}

func tagPublished(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	m, err := published(ctx, s, w, tag)
	if err != nil {
		return err
	}
	if err := sameManifest(ctx, s, tag, m); err != nil {
		return err
	}
	return sameManifest(ctx, s, m.Descriptor.Digest.String(), m)
}

func tagTwice(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	m, err := published(ctx, s, w, tag)
	if err != nil {
		return err
	}
	if err := s.Publish(ctx, tag, m); err != nil {
		return fmt.Errorf("publish the same again: %w", err)
	}
	return sameManifest(ctx, s, tag, m)
}

func tagMoved(ctx context.Context, s storage.Storage, w *Workspace) error {
	tag := w.Tag()
	first, err := published(ctx, s, w, tag)
	if err != nil {
		return err
	}
	second, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	err = s.Publish(ctx, tag, second)
	if errors.Is(err, storage.ErrExists) {
		w.Note("tags are immutable")
		return sameManifest(ctx, s, tag, first)
	}
	if err != nil {
		return fmt.Errorf("move a tag: want success or an error that is classified as %q, got: %w", storage.ErrExists.Error(), err)
	}
	w.Note("tags can be moved: the last write wins")
	if err := sameManifest(ctx, s, tag, second); err != nil {
		return err
	}
	return sameManifest(ctx, s, first.Descriptor.Digest.String(), first)
}

func tagLong(ctx context.Context, s storage.Storage, w *Workspace) error {
	short := w.TagNamed("")
	fill := 128 - len(short) - len("-999") // the next number may be longer
	for _, letter := range []string{"x", "X"} {
		tag := w.TagNamed(strings.Repeat(letter, fill))
		m, err := published(ctx, s, w, tag)
		if err != nil {
			return fmt.Errorf("tag of %d characters: %w", len(tag), err)
		}
		if err := sameManifest(ctx, s, tag, m); err != nil {
			return err
		}
		_, err = s.Resolve(ctx, swapCase(tag))
		if err := wantClass("resolve a tag in the other case", err, storage.ErrNotFound); err != nil {
			return err
		}
	}
	return nil
}

// swapCase exchanges the filling letter of a long tag and keeps the rest.
func swapCase(tag string) string {
	return strings.Map(func(r rune) rune {
		switch r {
		case 'x':
			return 'X'
		case 'X':
			return 'x'
		}
		return r
	}, tag)
}

func tagMalformed(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	for _, tag := range []string{"", ".", "..", "../escape", "a/b", "a b", "-a", strings.Repeat("a", 129)} {
		if err := s.Publish(ctx, tag, m); err == nil {
			return fmt.Errorf("%q was taken as a tag", tag)
		}
		if _, err := s.Resolve(ctx, tag); err == nil {
			return fmt.Errorf("%q was resolved", tag)
		}
	}
	return nil
}

func tagsPaged(ctx context.Context, s storage.Storage, w *Workspace) error {
	m, err := w.Image(ctx, s, nil)
	if err != nil {
		return err
	}
	want := map[string]bool{}
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(8)
	for range manyTags {
		tag := w.Tag()
		want[tag] = true
		g.Go(func() error { return s.Publish(gctx, tag, m) })
	}
	if err := g.Wait(); err != nil {
		return fmt.Errorf("publish %d tags: %w", manyTags, err)
	}
	seen := map[string]bool{}
	for tag, err := range s.Tags(ctx) {
		if err != nil {
			return fmt.Errorf("list tags: %w", err)
		}
		if seen[tag] {
			return fmt.Errorf("tag %s is listed twice", tag)
		}
		seen[tag] = true
		delete(want, tag)
	}
	if len(want) > 0 {
		return fmt.Errorf("%d of %d new tags are not listed", len(want), manyTags)
	}
	for _, err := range s.Tags(ctx) {
		return err // a caller who stops early must not hang or fail
	}
	return errors.New("no tag is listed any more")
}

func readAfterWrite(ctx context.Context, s storage.Storage, w *Workspace) error {
	const rounds = 15
	for i := range rounds {
		tag := w.Tag()
		if _, err := s.Resolve(ctx, tag); !errors.Is(err, storage.ErrNotFound) {
			return wantClass("resolve a tag before it is published", err, storage.ErrNotFound)
		}
		m, err := published(ctx, s, w, tag)
		if err != nil {
			return err
		}
		if err := sameManifest(ctx, s, tag, m); err != nil {
			return fmt.Errorf("right after write %d of %d: %w", i+1, rounds, err)
		}
	}
	return nil
}
