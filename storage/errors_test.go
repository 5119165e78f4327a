package storage_test

import (
	"errors"
	"fmt"
	"testing"

	"github.com/cairnbuild/cairn/storage"
)

func TestErrorsSayTheirClassOnce(t *testing.T) {
	for want, err := range map[string]*storage.Error{
		"push blob :local: not found":           {Op: "push blob", Storage: ":local", Class: storage.ErrNotFound},
		"push blob :local x: not found":         {Op: "push blob", Storage: ":local", Subject: "x", Class: storage.ErrNotFound, Err: storage.ErrNotFound},
		"push blob :local x: not found: really": {Op: "push blob", Storage: ":local", Subject: "x", Class: storage.ErrNotFound, Err: fmt.Errorf("%w: really", storage.ErrNotFound)},
		"push blob :local x: not found: gone":   {Op: "push blob", Storage: ":local", Subject: "x", Class: storage.ErrNotFound, Err: errors.New("gone")},
	} {
		if err.Error() != want {
			t.Errorf("got  %s\nwant %s", err, want)
		}
		if !errors.Is(err, storage.ErrNotFound) {
			t.Errorf("%s is not of its class", err)
		}
	}
}
