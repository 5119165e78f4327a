package storage_test

import (
	"context"
	"errors"
	"testing"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/faulty"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/memo"
	"github.com/cairnbuild/cairn/storage/near"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/storage/secondary"
)

// pushOnly is a storage that deletes nothing, and knows it.
type pushOnly struct{ *mem.Storage }

func (pushOnly) ProbeDeletion(context.Context) error { return storage.ErrDenied }

func TestWhatWrapsAStorageTellsWhetherItDeletes(t *testing.T) {
	for name, wrap := range map[string]func(s storage.Storage) storage.Storage{
		"no wrapping": func(s storage.Storage) storage.Storage { return s },
		"faulty":      func(s storage.Storage) storage.Storage { return faulty.New(s, nil) },
		"observed":    func(s storage.Storage) storage.Storage { return observed.New(s, &observed.Totals{}) },
		"near":        func(s storage.Storage) storage.Storage { return near.New(near.Options{}).Over(s) },
		"secondary":   func(s storage.Storage) storage.Storage { return secondary.New(s, s, storage.CopyOptions{}) },
		"memo": func(s storage.Storage) storage.Storage {
			m, err := memo.New(s, memo.Limits{})
			if err != nil {
				t.Fatal(err)
			}
			return m
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := mem.New(mem.Options{})
			if err := storage.ProbeDeletion(t.Context(), wrap(s)); err != nil {
				t.Errorf("of a storage that always deletes: %v", err)
			}
			if err := storage.ProbeDeletion(t.Context(), wrap(pushOnly{s})); !errors.Is(err, storage.ErrDenied) {
				t.Errorf("of a storage that does not: %v", err)
			}
		})
	}
}
