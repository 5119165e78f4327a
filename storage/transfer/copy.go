package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Namer gives stages and indexes their names at the target. All that they need is
// there when it is called, and nothing of it has a name.
type Namer interface {
	// Name has tag name m, which is stored with it where needed. It never moves a
	// tag that names something else but fails with [*DifferentError], with
	// [ErrBusy] where somebody else is about to decide, and with [ErrRefused] for
	// another reason that concerns this name alone. Every other error ends the copy.
	Name(ctx context.Context, tag string, m storage.Manifest) error
}

// ErrBusy says that a runner of the target is making the stage that is to be named.
var ErrBusy = errors.New("it is being built at the target")

// ErrRefused says that this name cannot be given, and others can.
var ErrRefused = errors.New("refused")

// Options are the choices of [Copy].
type Options struct {
	// Namer gives the names; required.
	Namer Namer
	// Concurrency is how many blobs and manifests are under way at once, 16 when
	// it is 0. With 1, the order is that of the plan.
	Concurrency int
	// Progress, where set, counts what is done.
	Progress *Progress
}

// Result is what a copy has done.
type Result struct {
	// Named are the names that were given, with their manifests.
	Named map[string]digest.Digest
	// Skips are the plan's and those that were found on the way, in the order of
	// their tags.
	Skips []Skip
	// Blobs and Bytes count by what became of the blobs.
	Blobs map[storage.Movement]int
	Bytes map[storage.Movement]int64
}

// Copy brings the units of a plan from source to target: blobs first, each once
// and mounted where the target can, then manifests by digest and names. A unit
// whose content is corrupt or lost at the source is skipped, with all that needs
// it, and the rest goes on; the result tells. What concerns the target as a whole
// ends the copy with an error, beside which the result says how far it came.
//
// What has arrived before is asked for and not sent again, so that a copy that was
// killed goes on where it was.
func Copy(ctx context.Context, target Target, source Source, p *Plan, o Options) (*Result, error) {
	o.Concurrency = cmp.Or(o.Concurrency, concurrency)
	o.Progress.begin(p)
	c := &copier{target: target, source: source, o: o, result: &Result{
		Named: map[string]digest.Digest{}, Skips: slices.Clone(p.Skips),
		Blobs: map[storage.Movement]int{}, Bytes: map[storage.Movement]int64{},
	}}
	done := map[*Unit]*task{}
	var err error
	for units := p.Units; len(units) > 0 && err == nil; {
		n := 1
		for n < len(units) && units[n].turn() == units[0].turn() {
			n++
		}
		err = c.run(ctx, units[:n], done)
		units = units[n:]
	}
	slices.SortStableFunc(c.result.Skips, func(a, b Skip) int { return cmp.Compare(a.Tag, b.Tag) })
	return c.result, err
}

// copier does the single steps; [work] says in which order.
type copier struct {
	target Target
	source Source
	o      Options
	result *Result // under the work's mutex
}

// sourceError says that what was to be copied cannot be read.
type sourceError struct{ err error }

func (e *sourceError) Error() string { return e.err.Error() }
func (e *sourceError) Unwrap() error { return e.err }

// blob brings a blob to the target. A mount costs as much as the question whether
// the blob is there, so it comes first.
func (c *copier) blob(ctx context.Context, d ocispec.Descriptor) (storage.Movement, error) {
	ok, err := storage.Mount(ctx, c.target, d, c.source.Address())
	if err != nil {
		return "", err
	}
	if ok {
		c.o.Progress.arrived(d.Size)
		return storage.Mounted, nil
	}
	ok, err = c.target.HasBlob(ctx, d)
	if err != nil {
		return "", err
	}
	if ok {
		c.o.Progress.arrived(d.Size)
		return storage.Present, nil
	}
	content := &content{ctx: ctx, source: c.source, d: d, progress: c.o.Progress}
	err = c.target.PushBlob(ctx, d, content)
	sent := content.sent.Load()
	if err != nil {
		c.o.Progress.sent(-sent)
		if failed := content.failed.Load(); failed != nil {
			err = &sourceError{*failed}
		}
		return "", err
	}
	c.o.Progress.arrived(d.Size - sent)
	return storage.Copied, nil
}

// content is a blob of the source as content for the target. It remembers why it
// could not be read: the target's error need not tell.
type content struct {
	ctx      context.Context // of the push that reads it
	source   storage.Fetcher
	d        ocispec.Descriptor
	progress *Progress
	sent     atomic.Int64
	failed   atomic.Pointer[error]
}

// Open implements [storage.Content].
func (c *content) Open() (io.ReadCloser, error) {
	c.progress.sent(-c.sent.Swap(0)) // it is sent again
	c.failed.Store(nil)
	r, err := c.source.Blob(c.ctx, c.d)
	if err != nil {
		c.failed.Store(&err)
		return nil, err
	}
	return &contentReader{ReadCloser: r, c: c}, nil
}

type contentReader struct {
	io.ReadCloser
	c *content
}

// Verifies implements [storage.Verifying].
func (r *contentReader) Verifies(d ocispec.Descriptor) bool { return storage.Verifies(r.ReadCloser, d) }

// Read implements [io.Reader].
func (r *contentReader) Read(p []byte) (int, error) {
	n, err := r.ReadCloser.Read(p)
	r.c.sent.Add(int64(n))
	r.c.progress.sent(int64(n))
	if err != nil && !errors.Is(err, io.EOF) {
		r.c.failed.Store(&err)
	}
	return n, err
}

// unit stores a manifest, and names it.
func (c *copier) unit(ctx context.Context, u *Unit) error {
	switch {
	case u.Grows:
		return c.target.Publish(ctx, u.Tag, u.Manifest)
	case u.Tag != "":
		return c.o.Namer.Name(ctx, u.Tag, u.Manifest)
	}
	return c.target.PushManifest(ctx, u.Manifest)
}

// reasonOf returns why a unit is skipped after err, "" for an error that ends the copy.
func reasonOf(err error) Reason {
	var foreign *sourceError
	fromSource := errors.As(err, &foreign)
	is := func(classes ...error) bool {
		return slices.ContainsFunc(classes, func(c error) bool { return errors.Is(err, c) })
	}
	switch {
	case fromSource && is(storage.ErrCorrupt, storage.ErrNotFound, storage.ErrTooLarge, storage.ErrInvalid):
		return ReasonCorrupt
	case fromSource:
		return ""
	case errors.As(err, new(*DifferentError)), is(storage.ErrExists):
		return ReasonDifferent
	case is(ErrBusy):
		return ReasonBusy
	case is(ErrRefused, storage.ErrTooLarge, storage.ErrInvalid, storage.ErrCorrupt):
		return ReasonRefused
	}
	return ""
}

// skip notes a unit that does not come, unless it is a part of what has a name.
func (c *copier) skip(u *Unit, r Reason, err error) {
	if u.Tag != "" || u.Subject != "" {
		c.result.Skips = append(c.result.Skips, Skip{Tag: u.label(), Kind: u.Kind, Reason: r, Err: err, Subject: u.Subject})
	}
}

// needsError says which part of something does not come.
func needsError(what string, err error) error { return fmt.Errorf("%s: %w", what, err) }
