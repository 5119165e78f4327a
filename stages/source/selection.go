package source

import (
	"crypto/sha256"
	"encoding/binary"
	"path"
	"strings"

	"github.com/cairnbuild/cairn/stages"
)

// identityHeader begins what an identity is the digest of, so that no other
// kind of digest can be taken for one.
const identityHeader = "cairn files 1\n"

// lfsMark cannot be taken for the length of an id.
const lfsMark = 'L'

// partition is a mapping's files split by the stage that places them.
type partition struct {
	view view
	// declared are the files of the command stages, rest are all others.
	declared map[stages.Kind]*part
	rest     *part
}

// part is the files that one stage places.
type part struct {
	set   bitset
	files int
	id    stages.Digest
}

// selected returns the files of sel; a nil part is an empty one.
func (t *Tree) selected(sel stages.Selection) (view, *part, error) {
	deps := declarations(sel)
	later := overlapping(sel)
	key := partitionKey(sel.Mapping, deps, later)
	if sel.Absent {
		key += "absent"
	}
	p, err := t.partitions.get(key, func() (*partition, error) { return t.partition(sel, deps, later) })
	if err != nil {
		return view{}, nil, err
	}
	if sel.Whole || sel.Kind == stages.KindSource {
		return p.view, p.rest, nil
	}
	return p.view, p.declared[sel.Kind], nil
}

// declaration is what a command stage needs of a mapping.
type declaration struct {
	kind  stages.Kind
	globs []string
}

// declarations returns what decides which stage places a file, in order.
func declarations(sel stages.Selection) []declaration {
	if sel.Whole {
		return nil
	}
	var out []declaration
	for _, k := range sel.Stages {
		if globs := sel.Mapping.StageDependencies[k]; len(globs) > 0 {
			out = append(out, declaration{k, globs})
		}
	}
	return out
}

// overlapping returns the later mappings that can give a target path of sel's:
// one of the two targets lies at or below the other.
func overlapping(sel stages.Selection) []*stages.Mapping {
	var out []*stages.Mapping
	for _, l := range sel.Later {
		if _, ok := relativeTo(l.To, sel.Mapping.To); ok {
			out = append(out, l)
		} else if _, ok := relativeTo(sel.Mapping.To, l.To); ok {
			out = append(out, l)
		}
	}
	return out
}

// relativeTo returns target relative to dir, "" for dir itself; not ok when it
// lies elsewhere.
func relativeTo(target, dir string) (string, bool) {
	rest, ok := strings.CutPrefix(target, strings.TrimSuffix(dir, "/"))
	switch {
	case !ok:
		return "", false
	case rest == "" || rest == "/":
		return "", true
	default:
		return rest[1:], rest[0] == '/'
	}
}

// partitionKey is equal exactly for selections that share a partition. To is
// part of it only where it matters.
func partitionKey(m *stages.Mapping, deps []declaration, later []*stages.Mapping) string {
	b := appendFilter(make([]byte, 0, 128), m)
	b = binary.AppendUvarint(b, uint64(len(deps)))
	for _, d := range deps {
		b = appendStrings(appendString(b, string(d.kind)), d.globs)
	}
	if len(later) > 0 {
		b = appendString(b, m.To)
	}
	for _, l := range later {
		b = appendFilter(appendString(b, l.To), l)
	}
	return string(b)
}

// appendFilter appends what decides which files a mapping has.
func appendFilter(b []byte, m *stages.Mapping) []byte {
	b = appendString(appendString(b, m.Remote.URL), m.Remote.Ref)
	return appendStrings(appendStrings(appendString(b, m.Add), m.IncludePaths), m.ExcludePaths)
}

func appendStrings(b []byte, list []string) []byte {
	b = binary.AppendUvarint(b, uint64(len(list)))
	for _, s := range list {
		b = appendString(b, s)
	}
	return b
}

func appendString(b []byte, s string) []byte {
	return append(binary.AppendUvarint(b, uint64(len(s))), s...)
}

// partition splits a mapping's files among the stages: the first one that
// declares a file places it.
func (t *Tree) partition(sel stages.Selection, deps []declaration, later []*stages.Mapping) (*partition, error) {
	m := sel.Mapping
	from, err := t.of(m)
	if err != nil {
		return nil, err
	}
	v, left, err := from.filtered(m)
	if err != nil {
		return nil, err
	}
	left = left.clone()
	for _, l := range later {
		if err := t.hide(v, left, m, l); err != nil {
			return nil, err
		}
	}
	for _, i := range from.submodules {
		if !sel.Absent && i >= v.lo && i < v.hi && left.has(i-v.lo) {
			return nil, v.unavailable(i)
		}
	}
	p := &partition{view: v, declared: make(map[stages.Kind]*part, len(deps))}
	for _, d := range deps {
		set, err := from.union(v, d.globs)
		if err != nil {
			return nil, err
		}
		set.keep(left)
		left.remove(set)
		p.declared[d.kind] = newPart(v, set)
	}
	p.rest = newPart(v, left)
	return p, nil
}

func newPart(v view, set bitset) *part {
	p := &part{files: set.count()}
	if p.files > 0 {
		p.set = set
		p.id = identify(v, set)
		return p
	}
	return nil
}

// identify returns the sha256 over, for each file, the length of its path in
// four bytes, the path, the mode's six digits, the length of the object id in
// one byte and the id. Where attributes give the file to Git LFS, lfsMark stands
// before the length: the same blob is the content there and a pointer elsewhere.
func identify(v view, set bitset) stages.Digest {
	h := sha256.New()
	buf := make([]byte, 0, 32<<10)
	buf = append(buf, identityHeader...)
	for i := range set.all {
		if len(buf) > 24<<10 {
			h.Write(buf)
			buf = buf[:0]
		}
		name := v.target(i)
		buf = binary.BigEndian.AppendUint32(buf, uint32(len(name)))
		buf = append(buf, name...)
		buf = append(buf, v.modes[v.lo+i].String()...)
		if v.isLFS(v.lo + i) {
			buf = append(buf, lfsMark)
		}
		buf = append(buf, byte(v.idLen))
		buf = append(buf, v.id(v.lo+i)...)
	}
	h.Write(buf)
	return stages.Digest(h.Sum(nil))
}

// filtered returns what a mapping adds and which files of it IncludePaths and
// ExcludePaths leave. The set is shared: do not change it.
func (t *Tree) filtered(m *stages.Mapping) (view, bitset, error) {
	v, err := t.view(m)
	if err != nil {
		return v, nil, err
	}
	set, err := t.filters.get(string(appendFilter(nil, m)), func() (bitset, error) {
		return t.filter(v, m.IncludePaths, m.ExcludePaths)
	})
	return v, set, err
}

// filter returns the files that include matches, all when it is empty, without
// those that exclude matches.
func (t *Tree) filter(v view, include, exclude []string) (bitset, error) {
	if len(include) == 0 {
		include = []string{"."}
	}
	set, err := t.union(v, include)
	if err != nil {
		return nil, err
	}
	out, err := t.union(v, exclude)
	if err != nil {
		return nil, err
	}
	set.remove(out)
	return set, nil
}

// union returns the files that one of the globs matches.
func (t *Tree) union(v view, globs []string) (bitset, error) {
	out := newBitset(v.size())
	for _, g := range globs {
		set, err := t.matching(v, g)
		if err != nil {
			return nil, err
		}
		out.add(set)
	}
	return out, nil
}

// matchKey names a glob on a view.
type matchKey struct {
	lo, hi, strip int
	glob          string
}

// matching returns the files that a glob matches. The set is shared.
func (t *Tree) matching(v view, glob string) (bitset, error) {
	return t.matches.get(matchKey{v.lo, v.hi, v.strip, glob}, func() (bitset, error) {
		m, err := compileGlob(glob)
		if err != nil {
			return nil, err
		}
		return m.matchAll(v), nil
	})
}

// matchAll is match for all files of a view. What is not below base is not looked at.
func (m matcher) matchAll(v view) bitset {
	set := newBitset(v.size())
	lo, hi, strip := 0, v.size(), 0
	if m.base != "" {
		i, ok := v.find(m.base)
		if ok && m.form == formLiteral {
			set.set(i)
		}
		lo, hi = v.below(i, m.base)
		strip = len(m.base) + 1
	}
	if m.form == formLiteral || m.form == formBelow {
		set.setRange(lo, hi)
		return set
	}
	for i := lo; i < hi; i++ {
		if m.matchRest(v.rel(i)[strip:]) {
			set.set(i)
		}
	}
	return set
}

// hide takes from set the files of v, which mapping m places, that mapping l
// gives as well: the same path, or one that is a directory on one side and a
// file on the other.
func (t *Tree) hide(v view, set bitset, m, l *stages.Mapping) error {
	from, err := t.of(l)
	if err != nil {
		return err
	}
	lv, lset, err := from.filtered(l)
	if err != nil {
		return err
	}
	if v.listing == lv.listing && aligned(m, l) {
		hideSame(v, set, lv, lset)
		return nil
	}
	if sub, ok := relativeTo(m.To, l.To); ok && sub != "" {
		hideUnder(v, set, sub, lv, lset)
		return nil
	}
	sub, _ := relativeTo(l.To, m.To)
	hideAt(v, set, sub, lv, lset, 0, lv.size(), 0)
	return nil
}

// aligned reports whether two mappings of one tree, of which one adds what the
// other does or something below that, give every file of both the same target.
func aligned(a, b *stages.Mapping) bool {
	if b.Add == "." || a.Add != "." && len(b.Add) < len(a.Add) {
		a, b = b, a
	}
	sub, ok := b.Add, true // path.Join takes "." for nothing
	if a.Add != "." {
		sub, ok = relativeTo(b.Add, a.Add)
	}
	return ok && b.To == path.Join(a.To, sub)
}

// hideSame is hide where a file of both has one target: in one tree no path is
// both a directory and a file.
func hideSame(v view, set bitset, lv view, lset bitset) {
	if v.lo == lv.lo && v.size() == lv.size() {
		set.remove(lset)
		return
	}
	for i := range lset.all {
		if at := lv.lo + i; at >= v.lo && at < v.hi {
			set.clear(at - v.lo)
		}
	}
}

// hideUnder is hide where v goes to sub below the target of lv.
func hideUnder(v view, set bitset, sub string, lv view, lset bitset) {
	if lv.file {
		if lset.count() > 0 {
			set.clearRange(0, v.size())
		}
		return
	}
	for dir := sub; dir != ""; dir = parent(dir) {
		if i, ok := lv.find(dir); ok && lset.has(i) {
			set.clearRange(0, v.size())
			return
		}
	}
	lo, hi := lv.below(0, sub)
	hideAt(v, set, "", lv, lset, lo, hi, len(sub)+1)
}

// hideAt is hide for the files [lo, hi) of lv, less strip bytes of their paths,
// that go to sub below the target of v.
func hideAt(v view, set bitset, sub string, lv view, lset bitset, lo, hi, strip int) {
	if sub != "" && !lv.file {
		sub += "/"
	}
	pos, lastDir := 0, ""
	for i := range lset.all {
		if i < lo {
			continue
		}
		if i >= hi {
			return
		}
		target := sub
		if !lv.file {
			target += lv.rel(i)[strip:]
		}
		if v.file || target == "" {
			// One is a file at the place where the other has this file or its directory.
			set.clearRange(0, v.size())
			return
		}
		pos = hideOne(v, set, pos, target)
		if dir := parent(target); dir != lastDir {
			// What is above the last one as well was looked at for that.
			for up := dir; up != "" && !isAbove(up, lastDir); up = parent(up) {
				if i, ok := v.find(up); ok {
					set.clear(i)
				}
			}
			lastDir = dir
		}
	}
}

// hideOne hides the file at target and what is below it. Targets come in order:
// pos is where the search for this one begins, the result where that for the next does.
func hideOne(v view, set bitset, pos int, target string) int {
	pos = v.search(pos, target)
	if pos == v.size() || !strings.HasPrefix(v.rel(pos), target) {
		return pos
	}
	if v.rel(pos) == target { // then nothing is below it
		set.clear(pos)
		return pos
	}
	lo, hi := v.below(pos, target)
	set.clearRange(lo, hi)
	return pos
}

// isAbove reports whether dir is path or a directory above it.
func isAbove(dir, path string) bool {
	return strings.HasPrefix(path, dir) && (len(path) == len(dir) || path[len(dir)] == '/')
}

// parent returns the directory of a relative path, "" for one without.
func parent(path string) string { return path[:max(strings.LastIndexByte(path, '/'), 0)] }
