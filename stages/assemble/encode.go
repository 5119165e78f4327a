package assemble

import (
	"bytes"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"slices"
	"strings"

	"github.com/klauspost/compress/flate"
)

// The encoding of tables is a version, a colon, and unpadded base64 of the
// deflated form of
//
//	tables   = accounts accounts directory      users, groups, root
//	accounts = absent | unreadable | names count { string id }
//	directory = { kindDir string directory | kindLink string string } 0
//
// where count, id and the length in front of each string are unsigned varints,
// and names stand in byte order. Preorder writes the names of a directory once,
// so that nothing of a path repeats.
const tablesVersion = "1:"

const (
	accountsAbsent = iota
	accountsNames
	accountsUnreadable
)

// Limits of encoded tables in bytes. Manifests are small things that are read
// often; an image whose tables are larger goes without, and its layers are read
// when the tables are needed.
const (
	maxEncoded = 256 << 10
	maxTables  = 4 << 20
)

// ErrTables is returned for an annotation that holds no tables which this
// version can read.
var ErrTables = errors.New("unreadable tables")

// Encode returns the tables as text, or false where that would be too large to
// be carried in a manifest. Equal tables have equal encodings.
func (t *Tables) Encode() (string, bool) {
	raw := t.raw()
	if len(raw) > maxTables {
		return "", false
	}
	var b strings.Builder
	b.WriteString(tablesVersion)
	to := base64.NewEncoder(base64.RawStdEncoding, &b)
	z, err := flate.NewWriter(to, flate.BestCompression)
	if err != nil {
		return "", false // the level is a constant that exists
	}
	// Writing to memory does not fail.
	_, werr := z.Write(raw)
	if errors.Join(werr, z.Close(), to.Close()) != nil || b.Len() > maxEncoded {
		return "", false
	}
	return b.String(), true
}

func (t *Tables) raw() []byte {
	b := t.users.append(nil)
	b = t.groups.append(b)
	return appendDir(b, t.root)
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

func (a *accounts) append(b []byte) []byte {
	switch {
	case a == nil:
		return append(b, accountsAbsent)
	case a.unreadable:
		return append(b, accountsUnreadable)
	}
	b = binary.AppendUvarint(append(b, accountsNames), uint64(len(a.ids)))
	for _, name := range slices.Sorted(maps.Keys(a.ids)) {
		b = binary.AppendUvarint(appendString(b, name), uint64(a.ids[name]))
	}
	return b
}

// appendDir gives up beyond the limit: the result is then too large to be used.
func appendDir(b []byte, dir *node) []byte {
	for _, name := range slices.Sorted(maps.Keys(dir.below)) {
		if len(b) > maxTables {
			return b
		}
		n := dir.below[name]
		b = appendString(append(b, byte(n.kind)), name)
		if n.kind == kindLink {
			b = appendString(b, n.target)
			continue
		}
		b = appendDir(b, n)
	}
	return append(b, 0)
}

// DecodeTables reads what [Tables.Encode] wrote. It is strict and bounded, and
// returns an error that wraps [ErrTables] for anything else.
func DecodeTables(s string) (*Tables, error) {
	text, ok := strings.CutPrefix(s, tablesVersion)
	if !ok {
		return nil, fmt.Errorf("%w: another version", ErrTables)
	}
	if len(s) > maxEncoded {
		return nil, fmt.Errorf("%w: larger than %d bytes", ErrTables, maxEncoded)
	}
	packed, err := base64.RawStdEncoding.Strict().DecodeString(text)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrTables, err)
	}
	from := bytes.NewReader(packed)
	raw, err := io.ReadAll(io.LimitReader(flate.NewReader(from), maxTables+1))
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrTables, err)
	case len(raw) > maxTables:
		return nil, fmt.Errorf("%w: they unpack to more than %d bytes", ErrTables, maxTables)
	case from.Len() > 0:
		return nil, fmt.Errorf("%w: something follows them", ErrTables)
	}
	return decodeRaw(raw)
}

func decodeRaw(raw []byte) (*Tables, error) {
	d := decoder{b: raw}
	t := &Tables{users: d.accounts(), groups: d.accounts(), root: d.dir(maxPath + 1)}
	if d.err == nil && len(d.b) > 0 {
		d.fail("something follows them")
	}
	if d.err != nil {
		return nil, d.err
	}
	return t, nil
}

// decoder reads the raw form and keeps the first error; what it returns after
// that is worthless.
type decoder struct {
	b   []byte
	err error
}

func (d *decoder) fail(why string) {
	if d.err == nil {
		d.err = fmt.Errorf("%w: %s", ErrTables, why)
	}
	d.b = nil
}

func (d *decoder) byte() byte {
	if len(d.b) == 0 {
		d.fail("they end early")
		return 0
	}
	c := d.b[0]
	d.b = d.b[1:]
	return c
}

func (d *decoder) uvarint(most uint64) uint64 {
	v, n := binary.Uvarint(d.b)
	if n <= 0 || v > most || n > 1 && d.b[n-1] == 0 {
		d.fail("a number is malformed")
		return 0
	}
	d.b = d.b[n:]
	return v
}

func (d *decoder) string(most int) string {
	n := d.uvarint(uint64(most))
	if n > uint64(len(d.b)) {
		d.fail("they end early")
		return ""
	}
	s := string(d.b[:n])
	d.b = d.b[n:]
	return s
}

func (d *decoder) accounts() *accounts {
	switch d.byte() {
	case accountsAbsent:
		return nil
	case accountsUnreadable:
		return &accounts{unreadable: true}
	case accountsNames:
	default:
		d.fail("an unknown kind of names")
		return nil
	}
	a := &accounts{ids: make(map[string]uint32)}
	last := ""
	for range d.uvarint(maxAccounts) {
		name := d.string(maxName)
		if d.err == nil && (name <= last || !validAccount(name)) {
			d.fail("a name is out of order or malformed")
		}
		if d.err != nil {
			return nil
		}
		a.ids[name] = uint32(d.uvarint(math.MaxUint32 - 1))
		last = name
	}
	return a
}

// dir reads a directory; room is what its path leaves for the names in it.
func (d *decoder) dir(room int) *node {
	out := newDir()
	last := ""
	for {
		kind := nodeKind(d.byte())
		if kind == 0 {
			return out
		}
		name := d.string(maxName)
		if d.err == nil && (name <= last || !validName(name) || len(name) >= room) {
			d.fail("a file name is out of order or malformed")
		}
		if d.err != nil {
			return out
		}
		if out.below == nil {
			out.below = make(map[string]*node)
		}
		switch kind {
		case kindDir:
			out.below[name] = d.dir(room - len(name) - 1)
		case kindLink:
			out.below[name] = &node{kind: kindLink, target: d.string(maxPath)}
		default:
			d.fail("an unknown kind of entry")
		}
		last = name
	}
}

func validName(s string) bool {
	return s != "" && s != "." && s != ".." && !strings.ContainsAny(s, "/\x00")
}
