package source

import "sort"

// view is a part of a listing as a mapping sees it: the files below one
// directory, or one file, with paths relative to that directory (for a file, to
// the one it is in).
type view struct {
	*listing
	lo, hi int
	// strip is how many bytes of a path stand before the relative one.
	strip int
	// file has the view be the one file lo.
	file bool
}

func (v view) size() int { return v.hi - v.lo }

// rel returns the relative path of the view's file i, counted from 0.
func (v view) rel(i int) string { return v.path(v.lo + i)[v.strip:] }

// target returns the path of file i below the place where the view goes: "" for
// a view of one file.
func (v view) target(i int) string {
	if v.file {
		return ""
	}
	return v.rel(i)
}

// search returns the first file at or after from whose relative path is not
// below key. It looks near from first, since callers often ask in order.
func (v view) search(from int, key string) int {
	step, n := 1, v.size()
	lo := from
	for lo+step <= n && v.rel(lo+step-1) < key {
		lo += step
		step *= 2
	}
	hi := min(lo+step, n)
	return lo + sort.Search(hi-lo, func(i int) bool { return v.rel(lo+i) >= key })
}

// find returns the file with that relative path.
func (v view) find(path string) (int, bool) {
	i := v.search(0, path)
	return i, i < v.size() && v.rel(i) == path
}

// below returns the files in directory dir, at or after from.
func (v view) below(from int, dir string) (int, int) {
	// '0' follows '/': every path below dir is between the two.
	lo := v.search(from, dir+"/")
	return lo, v.search(lo, dir+"0")
}
