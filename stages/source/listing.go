package source

import (
	"bufio"
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
)

const (
	// maxFiles bounds the files of a tree.
	maxFiles = 5_000_000
	// maxEntry bounds one line of git's listing, and so a path, in bytes.
	maxEntry = 64 << 10
)

// Mode is what kind of file git holds. Git knows no other permissions than
// whether a file is executable.
type Mode uint8

// The modes of files in a git tree.
const (
	ModeRegular    Mode = iota + 1 // 100644
	ModeExecutable                 // 100755
	ModeSymlink                    // 120000; the target is the content
	ModeSubmodule                  // 160000; the object is a commit of another repository
)

// String returns the mode as git writes it, six octal digits.
func (m Mode) String() string {
	switch m {
	case ModeRegular:
		return "100644"
	case ModeExecutable:
		return "100755"
	case ModeSymlink:
		return "120000"
	case ModeSubmodule:
		return "160000"
	default:
		return "000000"
	}
}

// parseMode reads git's six octal digits, 0 for what is no mode of a file.
func parseMode(s string) Mode {
	for m := ModeRegular; m <= ModeSubmodule; m++ {
		if m.String() == s {
			return m
		}
	}
	return 0
}

// listing is a sorted list of files. Paths and ids lie in one piece of memory
// each: 50,000 files take about 4 MiB.
type listing struct {
	arena string   // all paths
	ends  []uint32 // path i ends here and begins where i-1 ends
	modes []Mode
	ids   []byte // idLen bytes each
	idLen int
	// lfs are the files that attributes give to Git LFS; nil for none.
	lfs bitset
	// origins are the repositories that the files come from, and from says which
	// one a file does; nil where all come from the first.
	origins []*origin
	from    []uint32
	// absent has the reason for each submodule whose files are not listed.
	absent map[int]error
}

func (l *listing) len() int { return len(l.modes) }

// path returns the path of file i below the project's directory.
func (l *listing) path(i int) string {
	begin := uint32(0)
	if i > 0 {
		begin = l.ends[i-1]
	}
	return l.arena[begin:l.ends[i]]
}

// hexID returns the object id of file i in hexadecimal digits.
func (l *listing) hexID(i int) string { return hex.EncodeToString(l.id(i)) }

// isLFS reports whether file i belongs to Git LFS, as far as attributes say.
func (l *listing) isLFS(i int) bool { return l.lfs != nil && l.lfs.has(i) }

// origin returns where file i comes from; nil in a listing that has no contents.
func (l *listing) origin(i int) *origin {
	switch {
	case len(l.origins) == 0:
		return nil
	case l.from == nil:
		return l.origins[0]
	default:
		return l.origins[l.from[i]]
	}
}

// entry returns file i, to be known by path.
func (l *listing) entry(i int, path string) File {
	f := File{Path: path, Mode: l.modes[i], Object: l.hexID(i), LFS: l.isLFS(i), name: l.path(i), from: l.origin(i)}
	if f.Mode == ModeSubmodule {
		f.Absent = l.why(i)
	}
	return f
}

func (l *listing) id(i int) []byte { return l.ids[i*l.idLen : (i+1)*l.idLen] }

// builder makes a listing from files that come in order.
type builder struct {
	listing
	paths strings.Builder
	last  string
}

func newBuilder(idLen int) *builder { return &builder{listing: listing{idLen: idLen}} }

// add appends a file; id is not kept.
func (b *builder) add(path string, mode Mode, id []byte) error {
	if err := checkPath(path); err != nil {
		return err
	}
	if b.len() > 0 && path <= b.last {
		return fmt.Errorf("path %q is out of order", path)
	}
	if b.len() >= maxFiles || b.paths.Len()+len(path) > math.MaxUint32 {
		return &Error{Op: "list", Class: ErrTooLarge, Err: fmt.Errorf("more than %d files", maxFiles)}
	}
	b.paths.WriteString(path)
	b.last = b.paths.String()[b.paths.Len()-len(path):]
	b.ends = append(b.ends, uint32(b.paths.Len()))
	b.modes = append(b.modes, mode)
	b.ids = append(b.ids, id...)
	return nil
}

func (b *builder) finish() *listing {
	b.arena = b.paths.String()
	return &b.listing
}

// merge returns l with what was found out about its submodules.
func merge(l *listing, subs []submodule) (*listing, error) {
	m := &merger{newBuilder(l.idLen)}
	size, lfs := l.len(), l.lfs != nil
	for _, s := range subs {
		if s.files != nil {
			size += s.files.len()
			lfs = lfs || s.files.lfs != nil
		}
	}
	m.origins = append(m.origins, l.origins...)
	m.from = make([]uint32, 0, size)
	m.absent = make(map[int]error)
	if lfs {
		m.lfs = newBitset(size)
	}
	// "sub/x" does not stand where "sub" does: "sub-x" is between the two.
	slices.SortFunc(subs, func(a, b submodule) int { return strings.Compare(l.path(a.index)+"/", l.path(b.index)+"/") })
	links := make(map[int]*submodule, len(subs))
	for i := range subs {
		links[subs[i].index] = &subs[i]
	}
	for i := range l.len() {
		for len(subs) > 0 && l.path(subs[0].index)+"/" < l.path(i) {
			if err := m.addBelow(l.path(subs[0].index), subs[0].files); err != nil {
				return nil, err
			}
			subs = subs[1:]
		}
		if s := links[i]; s != nil && s.files != nil {
			continue
		} else if s != nil {
			m.absent[m.len()] = s.why
		}
		if err := m.addFile(l.path(i), l, i, 0); err != nil {
			return nil, err
		}
	}
	for _, s := range subs {
		if err := m.addBelow(l.path(s.index), s.files); err != nil {
			return nil, err
		}
	}
	return m.finish(), nil
}

// merger makes one listing of several.
type merger struct{ *builder }

// addBelow appends the files of a submodule at path; nil adds nothing.
func (m *merger) addBelow(path string, l *listing) error {
	if l == nil {
		return nil
	}
	base := uint32(len(m.origins))
	m.origins = append(m.origins, l.origins...)
	for i := range l.len() {
		if why, ok := l.absent[i]; ok {
			m.absent[m.len()] = why
		}
		if err := m.addFile(path+"/"+l.path(i), l, i, base); err != nil {
			return err
		}
	}
	return nil
}

// addFile appends file i of l, whose origins begin at base.
func (m *merger) addFile(path string, l *listing, i int, base uint32) error {
	if l.isLFS(i) {
		m.lfs.set(m.len())
	}
	if l.from != nil {
		base += l.from[i]
	}
	m.from = append(m.from, base)
	return m.add(path, l.modes[i], l.id(i))
}

// checkPath refuses what git itself never writes into a tree, but a crafted
// object can hold: it would leave the directory that it is placed in.
func checkPath(path string) error {
	for rest, more := path, true; more; {
		var part string
		part, rest, more = strings.Cut(rest, "/")
		if part == "" || part == "." || part == ".." {
			return fmt.Errorf("path %q has an empty, . or .. component", path)
		}
	}
	return nil
}

// parseTree reads the output of "git ls-tree -r -z --full-tree": for each file
// "<mode> <type> <id>\t<path>\x00", in the byte order of paths.
func parseTree(r io.Reader, idLen int) (*listing, error) {
	b := newBuilder(idLen)
	id := make([]byte, idLen)
	err := eachRecord(r, func(rec []byte) error {
		mode, path, err := parseTreeEntry(rec, id)
		if err != nil {
			return err
		}
		return b.add(path, mode, id)
	})
	if err != nil {
		return nil, corrupt("list tree", "", err)
	}
	return b.finish(), nil
}

// parseTreeEntry reads one file of a listing; its id goes to id.
func parseTreeEntry(rec, id []byte) (Mode, string, error) {
	head, path, ok := bytes.Cut(rec, []byte{'\t'})
	mode, rest, ok1 := bytes.Cut(head, []byte{' '})
	kind, hexID, ok2 := bytes.Cut(rest, []byte{' '})
	if !ok || !ok1 || !ok2 {
		return 0, "", fmt.Errorf("%q is no entry of a tree", rec)
	}
	m := parseMode(string(mode))
	if m == 0 || (string(kind) == "commit") != (m == ModeSubmodule) || m != ModeSubmodule && string(kind) != "blob" {
		return 0, "", fmt.Errorf("mode %q and type %q of %q do not fit", mode, kind, path)
	}
	if err := decodeID(id, hexID); err != nil {
		return 0, "", err
	}
	return m, string(path), nil
}

func decodeID(id, hexID []byte) error {
	if len(hexID) != 2*len(id) {
		return fmt.Errorf("%q is no object id", hexID)
	}
	if _, err := hex.Decode(id, hexID); err != nil {
		return fmt.Errorf("%q is no object id", hexID)
	}
	return nil
}

// eachRecord calls fn with each of the NUL-terminated records of r.
func eachRecord(r io.Reader, fn func([]byte) error) error {
	br := bufio.NewReaderSize(r, maxEntry)
	for {
		rec, err := br.ReadSlice(0)
		switch {
		case err == io.EOF && len(rec) == 0:
			return nil
		case err == io.EOF:
			return io.ErrUnexpectedEOF
		case errors.Is(err, bufio.ErrBufferFull):
			return fmt.Errorf("an entry is longer than %d bytes", maxEntry)
		case err != nil:
			return err
		}
		if err := fn(rec[:len(rec)-1]); err != nil {
			return err
		}
	}
}

// corrupt gives err the class [ErrCorrupt] unless it has one.
func corrupt(op, subject string, err error) error {
	var e *Error
	if errors.As(err, &e) {
		return err
	}
	return &Error{Op: op, Subject: subject, Class: ErrCorrupt, Err: err}
}
