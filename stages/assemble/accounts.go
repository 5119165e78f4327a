package assemble

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"
)

// Where an image keeps the names of its users and groups.
const (
	passwdPath = "etc/passwd"
	groupPath  = "etc/group"
)

// maxAccounts bounds the size of a user or group file, in bytes.
const maxAccounts = 1 << 20

// accounts is what a passwd or group file says. It is never changed.
type accounts struct {
	// unreadable is set when there is something at the file's path that headers
	// and a bounded read do not tell: a link, or a very large file.
	unreadable bool
	ids        map[string]uint32
}

// readAccounts reads an entry of an archive at the path of a user or group file.
func readAccounts(r io.Reader, size int64) (*accounts, error) {
	if size > maxAccounts {
		return &accounts{unreadable: true}, nil
	}
	b, err := io.ReadAll(io.LimitReader(r, maxAccounts))
	if err != nil {
		return nil, err
	}
	return parseAccounts(b), nil
}

// parseAccounts reads the file format that passwd(5) and group(5) share as far
// as this goes: name, password and number, separated by colons. Of two lines of
// the same name the first one counts, as for getpwnam(3); lines that the C
// library would not understand are passed over.
func parseAccounts(b []byte) *accounts {
	a := &accounts{ids: make(map[string]uint32)}
	for line := range bytes.Lines(b) {
		fields := strings.SplitN(strings.TrimRight(string(line), "\r\n"), ":", 4)
		if len(fields) < 3 || !validAccount(fields[0]) {
			continue
		}
		id, err := parseID(fields[2])
		if err != nil {
			continue
		}
		if _, ok := a.ids[fields[0]]; !ok {
			a.ids[fields[0]] = id
		}
	}
	return a
}

// validAccount leaves out comments, NIS markers and what could not be told
// apart in an error message.
func validAccount(name string) bool {
	if name == "" || len(name) > maxName || strings.ContainsAny(name[:1], "#+-") {
		return false
	}
	return utf8.ValidString(name) && !strings.ContainsFunc(name, func(r rune) bool {
		return r == ':' || unicode.IsSpace(r) || !unicode.IsGraphic(r)
	})
}

// parseID reads a user or group number. The largest one means "unchanged" to
// the kernel and is nobody's.
func parseID(s string) (uint32, error) {
	id, err := strconv.ParseUint(s, 10, 32)
	if err != nil || id == math.MaxUint32 {
		return 0, fmt.Errorf("%q is no user or group number", s)
	}
	return uint32(id), nil
}

// lookup returns the number that a configured owner or group stands for: a
// number itself, or a name of the file at path; empty means 0.
func (a *accounts) lookup(name, path string) (int, error) {
	if name == "" {
		return 0, nil
	}
	if strings.Trim(name, "0123456789") == "" {
		id, err := parseID(name)
		return int(id), err
	}
	switch {
	case a == nil:
		return 0, fmt.Errorf("%w %q: the image below has no /%s; use a number", ErrUnknownName, name, path)
	case a.unreadable:
		return 0, fmt.Errorf("%w %q: /%s of the image below is a link or too large; use a number", ErrUnknownName, name, path)
	}
	id, ok := a.ids[name]
	if !ok {
		return 0, fmt.Errorf("%w %q: /%s of the image below has %s", ErrUnknownName, name, path, a.some())
	}
	return int(id), nil
}

// some lists the names in the order of their numbers, for people: not all of
// them when there are many.
func (a *accounts) some() string {
	const most = 12
	names := slices.SortedFunc(maps.Keys(a.ids), func(x, y string) int {
		if c := int64(a.ids[x]) - int64(a.ids[y]); c != 0 {
			return int(c)
		}
		return strings.Compare(x, y)
	})
	switch {
	case len(names) == 0:
		return "no names"
	case len(names) > most:
		return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
	}
	return strings.Join(names, ", ")
}
