package transfer

import (
	"context"
	"sync"
	"time"

	"github.com/cairnbuild/cairn/storage"
)

// Bounds of what [free] does with listings.
const (
	// listFirst is how many names are asked for one by one before a listing may
	// take their place: for fewer it would cost more than it spares.
	listFirst = 8
	// listPage is how many names of a listing cost as much as the question for one.
	listPage = 1000
	// listLimit is how long a listing may take. A longer one would spend most of
	// the time that it is good for.
	listLimit = lookEvery / 4
)

// free knows of names that nothing at the target has them, by a listing of the
// target that was begun [lookEvery] ago at most. Where many names are put in that
// time it spares a question for each.
//
// A registry may leave names out of a listing, or be late with them. So a listing
// counts only if it shows every name that was put before it began: one that does
// not, fails, or takes too long is the last.
type free struct {
	target storage.Lister
	now    func() time.Time

	mu sync.Mutex
	// put are the names that were put, in that order.
	put []string
	// since is when the names began to be counted that were asked for: now.
	since time.Time
	asked int
	// listed are the names of the last listing, which began at began.
	listed  map[string]bool
	began   time.Time
	listing bool // one is under way
	useless bool // no listing counts any more
}

// has reports whether nothing has the name tag: false where that is not known, so
// that it has to be asked for.
func (f *free) has(ctx context.Context, tag string) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	now := f.now()
	if f.listed != nil && now.Sub(f.began) < lookEvery {
		return !f.listed[tag]
	}
	if f.useless || f.listing || !f.worth(now) {
		return false
	}
	f.list(ctx, now)
	return f.listed != nil && !f.listed[tag]
}

// worth counts a name that is asked for and reports whether there are so many of
// them that a listing is worth its cost. The caller holds mu.
func (f *free) worth(now time.Time) bool {
	if now.Sub(f.since) >= lookEvery {
		f.since, f.asked = now, 0
	}
	f.asked++
	return f.asked > listFirst+len(f.listed)/listPage
}

// list lists the target. Who comes while it does asks for single names. The caller holds mu.
func (f *free) list(ctx context.Context, now time.Time) {
	before := len(f.put)
	f.listing, f.listed = true, nil
	f.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, listLimit)
	tags, err := tagsOf(ctx, f.target)
	cancel()
	listed := make(map[string]bool, len(tags))
	for _, t := range tags {
		listed[t] = true
	}
	f.mu.Lock()
	f.listing = false
	f.useless = err != nil
	for _, t := range f.put[:before] {
		f.useless = f.useless || !listed[t]
	}
	if !f.useless {
		f.listed, f.began = listed, now
	}
	f.since, f.asked = now, 0
}

// given notes that a name was put.
func (f *free) given(tag string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.put = append(f.put, tag)
}
