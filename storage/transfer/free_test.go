package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
)

// lister is a site whose listings are as said.
type lister struct {
	*site
	tags func(all []string) ([]string, error)
}

func (l *lister) Tags(ctx context.Context) iter.Seq2[string, error] {
	l.count("list")
	var all []string
	for tag, err := range l.Storage.Tags(ctx) {
		if err != nil {
			return func(yield func(string, error) bool) { yield("", err) }
		}
		all = append(all, tag)
	}
	tags, err := l.tags(all)
	return func(yield func(string, error) bool) {
		for _, tag := range tags {
			if !yield(tag, nil) {
				return
			}
		}
		if err != nil {
			yield("", err)
		}
	}
}

func whole(all []string) ([]string, error) { return all, nil }

// clock is a time that tests move.
type clock struct{ now time.Time }

func (c *clock) tell() time.Time { return c.now }

// naming returns a function that names a stage in a storage of the project, and the clock of it.
func naming(t *testing.T, to *lister) (name func(string) error, at *clock) {
	t.Helper()
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	at = &clock{time.Now()}
	direct := transfer.NewDirect(to, project, false, at.tell)
	to.asked = map[string]int{}
	return func(name string) error {
		return direct.Name(t.Context(), stageTag(name), to.image(t, name, nil, name))
	}, at
}

func TestManyNamesAreLookedForByListings(t *testing.T) {
	to := &lister{newSite("to"), whole}
	name, at := naming(t, to)
	theirs := to.stage(t, "another's", "something else")
	for window := range 3 {
		for i := range 200 {
			check(t, name(fmt.Sprint(window, " ", i)))
		}
		at.now = at.now.Add(2 * time.Second)
	}
	if lists, asked := to.asked["list"], to.asked["resolve"]; lists != 3 || asked > 30 {
		t.Errorf("600 names took %d listings and %d questions", lists, asked)
	}
	var other *transfer.DifferentError
	if err := name("another's"); !errors.As(err, &other) || other.Theirs != theirs.Descriptor.Digest {
		t.Errorf("the name of another: %v", err)
	}
}

func TestANameThatAnotherPutsIsSeenByTheNextListing(t *testing.T) {
	to := &lister{newSite("to"), whole}
	name, at := naming(t, to)
	for i := range 50 {
		check(t, name(fmt.Sprint(i)))
	}
	theirs := to.stage(t, "second", "something else")
	at.now = at.now.Add(2 * time.Second)
	for i := range 50 {
		check(t, name(fmt.Sprint("more ", i)))
	}
	if to.asked["list"] != 2 {
		t.Fatalf("it was listed %d times", to.asked["list"])
	}
	if err := name("second"); !errors.As(err, new(*transfer.DifferentError)) {
		t.Errorf("it is %v", err)
	}
	if d, err := to.Storage.Resolve(t.Context(), stageTag("second")); err != nil || d.Digest != theirs.Descriptor.Digest {
		t.Errorf("the target's stage was changed to %s (%v)", d.Digest, err)
	}
}

func TestFewNamesAreAskedForOneByOne(t *testing.T) {
	to := &lister{newSite("to"), whole}
	name, at := naming(t, to)
	for i := range 100 {
		check(t, name(fmt.Sprint(i)))
		at.now = at.now.Add(time.Second)
	}
	if to.asked["list"] > 0 {
		t.Errorf("it was listed %d times", to.asked["list"])
	}
}

func TestAListingThatDoesNotShowWhatWasPutIsNotBelieved(t *testing.T) {
	for _, test := range []struct {
		name string
		tags func([]string) ([]string, error)
	}{
		{"it leaves out names", func(all []string) ([]string, error) { return all[:len(all)/2], nil }},
		{"it shows what was there long ago", func([]string) ([]string, error) { return nil, nil }},
		{"it fails", func(all []string) ([]string, error) { return all, storage.ErrUnsupported }},
	} {
		t.Run(test.name, func(t *testing.T) {
			to := &lister{newSite("to"), test.tags}
			name, at := naming(t, to)
			for i := range 20 {
				check(t, name(fmt.Sprint(i)))
			}
			to.stage(t, "another's", "something else")
			at.now = at.now.Add(2 * time.Second)
			for i := range 20 {
				check(t, name(fmt.Sprint("more ", i)))
			}
			if err := name("another's"); !errors.As(err, new(*transfer.DifferentError)) {
				t.Errorf("the name of another: %v", err)
			}
			if lists, asked := to.asked["list"], to.asked["resolve"]; lists != 1 || asked < 41 {
				t.Errorf("it was listed %d times and asked for %d of 41 names", lists, asked)
			}
		})
	}
}

func TestWhatWasWithdrawnAndMadeAnewIsFoundBeforeABuildThatNamesItIsCopied(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "backend", "one")
	from.stage(t, "site", "two")
	root := from.build(t, "root", map[string]string{"backend": "backend"})
	first, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	known := transfer.Record{}
	for tag, d := range r.Named {
		known[tag] = d
	}
	check(t, to.DeleteTag(t.Context(), root))
	theirs := to.image(t, "anew", nil, "another")
	check(t, to.Publish(t.Context(), stageTag("backend"), theirs))
	clear(to.asked)
	p, r, err := copyAll(t, from, to, transfer.LookOptions{Known: known}, transfer.Selection{})
	check(t, err)
	reasons := map[string]transfer.Reason{}
	for _, s := range r.Skips {
		reasons[s.Tag] = s.Reason
	}
	if reasons[stageTag("backend")] != transfer.ReasonDifferent || reasons[root] != transfer.ReasonNeeds || len(reasons) != 2 {
		t.Errorf("skipped %v", reasons)
	}
	if len(first.Units) != 3 || p.Same[stageTag("site")] == "" || to.asked["resolve"] != 1 {
		t.Errorf("the other stage was compared: %d questions", to.asked["resolve"])
	}
}

func TestWhatIsNotListedAnyMoreIsForgotten(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "backend", "one")
	from.stage(t, "site", "two")
	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	known := transfer.Record(r.Named)
	check(t, to.DeleteTag(t.Context(), stageTag("backend")))
	for _, test := range []struct {
		name string
		only []string
	}{
		{"by a look at everything", nil},
		{"by a look at other names", []string{stageTag("site")}},
	} {
		t.Run(test.name, func(t *testing.T) {
			v, err := transfer.Look(t.Context(), from, to, transfer.LookOptions{Known: known, Only: test.only})
			check(t, err)
			rec := v.Record(known, &transfer.Result{})
			if len(rec) != 1 || rec[stageTag("site")] != r.Named[stageTag("site")] {
				t.Errorf("it remembers %v", rec)
			}
		})
	}
}
