package wire

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/archive"
)

// SameStorageError says that the two addresses of a copy are those of one storage.
type SameStorageError struct{ From, To string }

// Error implements error.
func (e *SameStorageError) Error() string {
	return fmt.Sprintf("%s and %s are the same storage", e.From, e.To)
}

// Hint says what to do.
func (*SameStorageError) Hint() string {
	return "give --from and --to addresses of two storages; names that were missing at the target are there again"
}

// CheckRemoval refuses a source from which no name can be removed.
func (st *Storages) CheckRemoval(from string) error {
	if strings.HasPrefix(from, archive.Scheme) {
		return &SettingError{"--remove-source", errors.New("an archive is only read"), "copy without it, and remove the file"}
	}
	return nil
}

// remove removes from the source what both were just seen to name alike: indexes
// first, so that none is left without what it names. What is attached to something
// and did not come keeps that.
func (w *syncing) remove(ctx context.Context) error {
	names := map[string]digest.Digest{}
	for _, from := range []map[string]digest.Digest{w.done.Plan.Same, w.done.Result.Named} {
		for tag, d := range from {
			names[tag] = d
		}
	}
	for _, s := range w.done.Result.Skips {
		for tag, d := range names {
			if s.Subject != "" && d == s.Subject {
				delete(names, tag)
			}
		}
	}
	for _, indexes := range []bool{true, false} {
		for tag, d := range names {
			if storage.IsStageTag(tag) == indexes {
				continue
			}
			if err := w.removeOne(ctx, tag, d); err != nil {
				return err
			}
		}
	}
	slices.Sort(w.done.Removed)
	return nil
}

// removeOne removes a name that both sides have as d. With the first one it shows
// whether they are one storage under two addresses.
func (w *syncing) removeOne(ctx context.Context, tag string, d digest.Digest) error {
	for _, side := range []*end{w.to, w.from} {
		alike, err := side.names(ctx, tag, d)
		if err != nil || !alike {
			return err
		}
	}
	if len(w.done.Removed) > 0 {
		return w.removeName(ctx, tag)
	}
	m, err := w.to.Manifest(ctx, tag)
	if err != nil {
		return err
	}
	if err := w.removeName(ctx, tag); err != nil {
		return err
	}
	there, err := w.to.names(ctx, tag, d)
	if err != nil || there {
		return err
	}
	w.done.Removed = nil
	err = w.to.Publish(context.WithoutCancel(ctx), tag, m)
	return errors.Join(&SameStorageError{From: w.From, To: w.To}, err)
}

func (w *syncing) removeName(ctx context.Context, tag string) error {
	err := w.from.DeleteTag(ctx, tag)
	if err != nil && !errors.Is(err, storage.ErrNotFound) {
		return err
	}
	w.done.Removed = append(w.done.Removed, tag)
	return nil
}

// names reports whether a tag names d.
func (e *end) names(ctx context.Context, tag string, d digest.Digest) (bool, error) {
	found, err := e.Resolve(ctx, tag)
	if errors.Is(err, storage.ErrNotFound) {
		return false, nil
	}
	return found.Digest == d, err
}
