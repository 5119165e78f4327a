package transfer

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// Source is what is needed of the storage that is copied from: nothing that writes.
type Source interface {
	storage.Resolver
	storage.Fetcher
	storage.Lister
	// Address names the storage, for mounting from it.
	Address() string
}

// Target is what is needed of the storage that is copied to.
type Target interface {
	Source
	storage.Pusher
	storage.Publisher
}

// Kind says what a name stands for.
type Kind string

// The kinds of names that are copied.
const (
	// KindStage is a stage.
	KindStage Kind = "stage"
	// KindIndex is the index of a build or of an image for several platforms.
	KindIndex Kind = "index"
	// KindAttached is what is attached to one of them: a signature, say.
	KindAttached Kind = "attached"
)

// Name is a name of the source as it was found on both sides.
type Name struct {
	Tag  string
	Kind Kind
	// Manifest is what the source names. Its bytes are missing where both sides
	// were found to name the same.
	Manifest storage.Manifest
	// There is what the target names under the tag, "" where it has no such tag.
	There digest.Digest
	// Err is why the source's manifest could not be read: it is corrupt or lost.
	Err error
}

// Same reports whether both sides name the same manifest.
func (n Name) Same() bool { return n.Err == nil && n.There == n.Manifest.Descriptor.Digest }

// View is what two storages were found to hold. It is all that a plan is made of.
type View struct {
	// Names are those of stages, indexes and what is attached to them, in the
	// order of their tags.
	Names []Name
	// Others is how many names of the source are none of those. They stay.
	Others int
	// Missing are asked for tags that the source does not have.
	Missing []string
	// Parts are manifests of the source without a name that an index or a
	// subject needs, by digest.
	Parts map[digest.Digest]storage.Manifest
	// Lost is why others that are needed could not be read: they are corrupt or lost.
	Lost map[digest.Digest]error
	// Attached are the manifests among Parts and Lost that refer to a subject, by
	// the subject.
	Attached map[digest.Digest][]ocispec.Descriptor
	// Unlisted is why it could not be read what refers to a subject.
	Unlisted map[digest.Digest]error
	// Indexed are the manifests that the target lists as referring to a subject,
	// where it does so by a tag.
	Indexed map[digest.Digest][]ocispec.Descriptor
	// Accounts is set where the target keeps an account of what refers to a
	// manifest, so that no tag has to.
	Accounts bool

	there map[string]bool // all tags of the target
}

// LookOptions are the choices of [Look]; the zero value is good.
type LookOptions struct {
	// Concurrency is how many requests are under way at once, 16 when it is 0.
	Concurrency int
	// Only are the tags to look at; the source is not listed then. nil means all.
	Only []string
	// Contents has also manifests read of which both sides have the same name, for
	// selections that depend on what is in them.
	Contents bool
	// Attached has it also asked what is attached to manifests that both sides name.
	Attached bool
	// Known is what both sides named in an earlier run, so that it need not be
	// compared again unless an index that is to be copied names it. It may be nil.
	Known Record
	// Progress, where set, counts what is read.
	Progress *Progress
}

// concurrency is how many requests are under way where the caller does not say.
// Storages have bounds of their own; this one keeps two of them busy.
const concurrency = 16

// Look lists both sides and reads what has to be known to plan a copy: one
// listing of each, the manifests that the target does not name, and two
// questions for each name that both have and that Known does not know about.
func Look(ctx context.Context, source, target Source, o LookOptions) (*View, error) {
	l := &looker{source: source, target: target, o: o, view: &View{
		Parts: map[digest.Digest]storage.Manifest{}, Attached: map[digest.Digest][]ocispec.Descriptor{},
		Indexed: map[digest.Digest][]ocispec.Descriptor{}, Lost: map[digest.Digest]error{}, Unlisted: map[digest.Digest]error{},
	}}
	l.o.Concurrency = cmp.Or(o.Concurrency, concurrency)
	if err := l.list(ctx); err != nil {
		return nil, err
	}
	if err := l.each(ctx, len(l.view.Names), l.name); err != nil {
		return nil, err
	}
	if err := l.doubt(ctx); err != nil {
		return nil, err
	}
	l.drop()
	if err := l.parts(ctx); err != nil {
		return nil, err
	}
	if err := l.attached(ctx); err != nil {
		return nil, err
	}
	return l.view, nil
}

type looker struct {
	source, target Source
	o              LookOptions
	view           *View
	there          map[string]bool // tags of the target
	// known is [LookOptions].Known without what has to be compared after all.
	known Record

	mu    sync.Mutex
	asked map[string]bool // tags that the source lacks
}

// each does what is to be done with each of n things, several at once.
func (l *looker) each(ctx context.Context, n int, do func(ctx context.Context, i int) error) error {
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(l.o.Concurrency)
	for i := range n {
		g.Go(func() error { return do(ctx, i) })
	}
	return g.Wait()
}

// list lists both sides at once.
func (l *looker) list(ctx context.Context) error {
	var tags []string
	g, gctx := errgroup.WithContext(ctx)
	g.Go(func() (err error) {
		if tags = l.o.Only; tags == nil {
			tags, err = tagsOf(gctx, l.source)
		}
		return err
	})
	g.Go(func() error {
		there, err := tagsOf(gctx, l.target)
		l.there = make(map[string]bool, len(there))
		for _, t := range there {
			l.there[t] = true
		}
		return err
	})
	if err := g.Wait(); err != nil {
		return err
	}
	slices.Sort(tags)
	for _, tag := range slices.Compact(tags) {
		kind := kindOf(tag)
		switch {
		case kind != "":
			l.view.Names = append(l.view.Names, Name{Tag: tag, Kind: kind})
		case tag != storage.ProjectTag:
			l.view.Others++
		}
	}
	l.asked, l.known, l.view.there = map[string]bool{}, maps.Clone(l.o.Known), l.there
	l.o.Progress.found(len(l.view.Names))
	return nil
}

func tagsOf(ctx context.Context, s storage.Lister) ([]string, error) {
	tags := []string{}
	for t, err := range s.Tags(ctx) {
		if err != nil {
			return nil, err
		}
		tags = append(tags, t)
	}
	return tags, nil
}

// kindOf returns what a tag stands for, "" for what is none of a stages storage's.
func kindOf(tag string) Kind {
	switch _, attached := subjectOf(tag); {
	case storage.IsStageTag(tag):
		return KindStage
	case storage.IsBuildTag(tag):
		return KindIndex
	case attached:
		return KindAttached
	}
	return ""
}

// subjectOf returns the manifest that a tag says something is attached to: that of
// the specification's schema, or one with an ending, as signing tools have them.
func subjectOf(tag string) (digest.Digest, bool) {
	algorithm, rest, ok := strings.Cut(tag, "-")
	hex, _, _ := strings.Cut(rest, ".")
	d := digest.NewDigestFromEncoded(digest.Algorithm(algorithm), hex)
	return d, ok && d.Validate() == nil
}

// name finds out about one name.
func (l *looker) name(ctx context.Context, i int) error {
	defer l.o.Progress.looked()
	return l.find(ctx, &l.view.Names[i])
}

// find is name without the account of it.
func (l *looker) find(ctx context.Context, n *Name) error {
	if l.there[n.Tag] {
		if err := l.compare(ctx, n); err != nil || n.Same() && !l.o.Contents || n.Manifest.Bytes != nil {
			return l.sourceSide(n, err)
		}
	}
	m, err := l.source.Manifest(ctx, n.Tag)
	n.Manifest = m
	return l.sourceSide(n, err)
}

// compare finds out what both sides name, without reading it.
func (l *looker) compare(ctx context.Context, n *Name) error {
	if d, ok := l.known[n.Tag]; ok && n.Kind != KindAttached {
		n.There, n.Manifest.Descriptor.Digest = d, d
		return nil
	}
	theirs, err := l.target.Resolve(ctx, n.Tag)
	switch {
	case errors.Is(err, storage.ErrNotFound): // it is gone again
	case err != nil:
		return &sideError{err}
	default:
		n.There = theirs.Digest
	}
	ours, err := l.source.Resolve(ctx, n.Tag)
	n.Manifest.Descriptor = ours
	return err
}

// doubt compares, after all, stages that are only known to be the same, and that
// an index names which is to be copied. A stage may have been withdrawn at one side
// and made anew since; what was built on it was withdrawn with it, so that the
// target lacks an index that the source has.
func (l *looker) doubt(ctx context.Context) error {
	doubted := map[string]bool{}
	for _, n := range l.view.Names {
		if n.Kind != KindIndex || n.There != "" || n.Err != nil || n.Manifest.Bytes == nil {
			continue
		}
		idx, err := n.Manifest.Index()
		if err != nil {
			continue // the plan finds it corrupt
		}
		for _, d := range idx.Manifests {
			_, hex, _ := strings.Cut(d.Annotations[storage.AnnotationStage], ":")
			if _, known := l.known[hex]; known && l.there[hex] {
				doubted[hex] = true
				delete(l.known, hex)
			}
		}
	}
	if len(doubted) == 0 {
		return nil
	}
	return l.each(ctx, len(l.view.Names), func(ctx context.Context, i int) error {
		n := &l.view.Names[i]
		if !doubted[n.Tag] {
			return nil
		}
		*n = Name{Tag: n.Tag, Kind: n.Kind}
		return l.find(ctx, n)
	})
}

// sideError is an error of the target while the source is looked at.
type sideError struct{ error }

func (e *sideError) Unwrap() error { return e.error }

// sourceSide takes what is wrong with a single manifest of the source as a finding.
func (l *looker) sourceSide(n *Name, err error) error {
	switch {
	case err == nil, errors.As(err, new(*sideError)):
		return err
	case errors.Is(err, storage.ErrNotFound):
		l.mu.Lock()
		l.asked[n.Tag] = true
		l.mu.Unlock()
		return nil
	case unreadable(err):
		n.Err = err
		return nil
	}
	return err
}

// unreadable reports whether an error is one of a single thing of the source, which
// is not as it should be, and not one of the source.
func unreadable(err error) bool {
	return errors.Is(err, storage.ErrCorrupt) || errors.Is(err, storage.ErrTooLarge) || errors.Is(err, storage.ErrInvalid)
}

// drop removes names that were not found when they were read: a cleanup may be at
// work. Those that were asked for are noted.
func (l *looker) drop() {
	v := l.view
	v.Names = slices.DeleteFunc(v.Names, func(n Name) bool { return l.asked[n.Tag] })
	for tag := range l.asked {
		if l.o.Only != nil {
			v.Missing = append(v.Missing, tag)
		}
	}
	slices.Sort(v.Missing)
}

// parts reads manifests without a name that indexes to be copied need.
func (l *looker) parts(ctx context.Context) error {
	named := map[digest.Digest]bool{}
	for _, n := range l.view.Names {
		named[n.Manifest.Descriptor.Digest] = true
	}
	var needed []ocispec.Descriptor
	for _, n := range l.view.Names {
		if n.Kind == KindStage || n.Same() || n.Err != nil || !n.Manifest.IsIndex() {
			continue
		}
		children, _, err := n.Manifest.References()
		if err != nil {
			continue // the plan finds it corrupt
		}
		for _, c := range children {
			if !named[c.Digest] {
				named[c.Digest] = true
				needed = append(needed, c)
			}
		}
	}
	return l.readParts(ctx, needed)
}

// readParts reads manifests of the source by digest. Of one that is corrupt or
// missing it notes why: what needs it finds out.
func (l *looker) readParts(ctx context.Context, ds []ocispec.Descriptor) error {
	return l.each(ctx, len(ds), func(ctx context.Context, i int) error {
		d := ds[i].Digest
		m, err := l.part(ctx, d)
		l.mu.Lock()
		defer l.mu.Unlock()
		switch {
		case err == nil:
			l.view.Parts[d] = m
		case errors.Is(err, storage.ErrNotFound), unreadable(err):
			l.view.Lost[d] = err
		default:
			return err
		}
		return nil
	})
}

func (l *looker) part(ctx context.Context, d digest.Digest) (storage.Manifest, error) {
	if err := d.Validate(); err != nil { // it is somebody else's text
		return storage.Manifest{}, fmt.Errorf("%w: %q is no digest", storage.ErrCorrupt, d)
	}
	return l.source.Manifest(ctx, d.String())
}
