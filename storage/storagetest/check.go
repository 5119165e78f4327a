// Package storagetest says in checks what a [storage.Storage] has to do. The
// checks are values and know nothing of package testing, so that they run as a
// test on each implementation ([Run]) and as a command on a registry that a user
// wants to try ([CheckAll]).
package storagetest

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"time"

	"github.com/cairnbuild/cairn/storage"
)

// Check is one thing that a storage has to do.
type Check struct {
	// Name is unique, in lower-case words with hyphens.
	Name string
	// Why says in a sentence what goes wrong without it.
	Why string
	// Optional has an answer of [storage.ErrUnsupported] count as such and not as
	// a failure.
	Optional bool
	// Run returns nil when s does it. What it makes it makes through w, which
	// cleans up.
	Run func(ctx context.Context, s storage.Storage, w *Workspace) error
}

// Outcome is how a check ended.
type Outcome string

// The outcomes.
const (
	Passed      Outcome = "passed"
	Failed      Outcome = "failed"
	Unsupported Outcome = "unsupported"
)

// Result is what a check found.
type Result struct {
	Name, Why string
	Outcome   Outcome
	// Err says what is wrong, or unsupported; nil when the check passed.
	Err error
	// Notes are choices of the storage that are allowed but good to know, such as
	// "tags can be moved".
	Notes []string
	// Leftovers are tags and digests that could not be removed again.
	Leftovers []string
	Duration  time.Duration
}

// Options of [CheckAll].
type Options struct {
	// Run tells this run's tags and contents from those of all others; letters
	// and digits, at most 40. Two runs of one name do not see what is new.
	Run string
	// Now is the clock that durations are measured with.
	Now func() time.Time
	// Timeout bounds each check, 5 minutes when it is 0.
	Timeout time.Duration
	// Select, where set, chooses the checks to run.
	Select func(Check) bool
}

const (
	checkTimeout   = 5 * time.Minute
	cleanupTimeout = time.Minute
)

// Checks returns all checks, cheap ones first.
func Checks() []Check {
	var all []Check
	for _, group := range [][]Check{blobChecks(), manifestChecks(), nameChecks(), deleteChecks(), stressChecks()} {
		all = append(all, group...)
	}
	return all
}

// CheckAll runs the checks on s one after the other and yields each result as it
// is there. It ends early when ctx does. Tags that it makes begin with
// "cairn-check-"; blobs that it leaves untagged are for the storage's own
// collector.
func CheckAll(ctx context.Context, s storage.Storage, opts Options) iter.Seq[Result] {
	return func(yield func(Result) bool) {
		for _, c := range Checks() {
			if ctx.Err() != nil {
				return
			}
			if opts.Select != nil && !opts.Select(c) {
				continue
			}
			if !yield(c.do(ctx, s, opts)) {
				return
			}
		}
	}
}

func (c Check) do(ctx context.Context, s storage.Storage, opts Options) Result {
	w := newWorkspace(opts.Run, c.Name)
	start := opts.Now()
	timeout := opts.Timeout
	if timeout == 0 {
		timeout = checkTimeout
	}
	limited, cancel := context.WithTimeout(ctx, timeout)
	err := c.Run(limited, s, w)
	cancel()
	// What was made must go also when the check ran out of time.
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), cleanupTimeout)
	leftovers := w.cleanUp(clean, s)
	cancel()
	r := Result{
		Name: c.Name, Why: c.Why, Outcome: Passed, Err: err,
		Notes: w.notes, Leftovers: leftovers, Duration: opts.Now().Sub(start),
	}
	switch {
	case err != nil && c.Optional && errors.Is(err, storage.ErrUnsupported):
		r.Outcome = Unsupported
	case err != nil:
		r.Outcome = Failed
	}
	return r
}

// T is what [Run] needs of a *testing.T, written down here to keep package
// testing out of programs.
type T[Self any] interface {
	Helper()
	Context() context.Context
	Name() string
	Errorf(format string, args ...any)
	Logf(format string, args ...any)
	Run(name string, f func(Self)) bool
}

// Run runs each check as a subtest of t on a storage that open makes for it.
func Run[Self T[Self]](t Self, open func(t Self) storage.Storage) {
	t.Helper()
	for _, c := range Checks() {
		t.Run(c.Name, func(t Self) {
			r := c.do(t.Context(), open(t), Options{Run: "test", Now: func() time.Time { return time.Time{} }})
			for _, n := range r.Notes {
				t.Logf("note: %s", n)
			}
			switch r.Outcome {
			case Failed:
				t.Errorf("%s\n(%s)", r.Err, r.Why)
			case Unsupported:
				t.Logf("unsupported: %s", r.Err)
			}
			if len(r.Leftovers) > 0 {
				t.Logf("left behind: %q", r.Leftovers)
			}
		})
	}
}

// wantClass returns an error unless err is of the class.
func wantClass(what string, err, class error) error {
	if errors.Is(err, class) {
		return nil
	}
	if err == nil {
		return fmt.Errorf("%s: it succeeded instead of failing as %q", what, class.Error())
	}
	return fmt.Errorf("%s: want an error that is classified as %q, got: %w", what, class.Error(), err)
}
