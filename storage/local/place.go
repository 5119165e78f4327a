package local

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
)

// placePrefix begins the name of an empty file whose name tells this layout from every
// other of the same address.
const placePrefix = "place-"

// Place names this layout among those of all hosts, which have one address: for who
// would take one for another. It stays for as long as the layout, wherever that is
// moved. The layout gets its name when it is asked for first.
func (s *Storage) Place(ctx context.Context) (string, error) {
	name, err := s.placed()
	if err == nil && name == "" {
		name, err = s.givePlace(ctx)
	}
	if err != nil {
		return "", s.fail("name", s.dir, err)
	}
	return fmt.Sprintf("%s (layout %s)", Address, strings.TrimPrefix(name, placePrefix)), nil
}

// placed returns the name of the file, "" where there is none.
func (s *Storage) placed() (string, error) {
	found, err := filepath.Glob(filepath.Join(s.dir, placePrefix+"*"))
	if err != nil || len(found) == 0 {
		return "", err
	}
	return filepath.Base(found[0]), nil
}

func (s *Storage) givePlace(ctx context.Context) (string, error) {
	l, err := s.lock(ctx, lockFile, alone)
	if err != nil {
		return "", err
	}
	defer l.unlock()
	if name, err := s.placed(); err != nil || name != "" {
		return name, err
	}
	f, err := os.CreateTemp(s.dir, placePrefix+"*")
	if err != nil {
		return "", err
	}
	if err := f.Close(); err != nil {
		return "", err
	}
	return filepath.Base(f.Name()), syncDir(s.dir)
}
