package transfer

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// maxAttachedDepth bounds chains of what is attached to what is attached.
const maxAttachedDepth = 4

// attached reads what is attached to the manifests that are to be copied, and to
// that in turn. Storages that keep an account are asked for each manifest; of
// others the listing has said already whether there is anything.
func (l *looker) attached(ctx context.Context) error {
	if err := l.indexed(ctx); err != nil {
		return err
	}
	var subjects []digest.Digest
	for _, n := range l.view.Names {
		if (n.There == "" || l.o.Attached && n.Same()) && n.Err == nil && n.Kind != KindAttached {
			subjects = append(subjects, n.Manifest.Descriptor.Digest)
		}
	}
	for depth := 0; depth < maxAttachedDepth && len(subjects) > 0; depth++ {
		next, err := l.referrers(ctx, subjects)
		if err != nil {
			return err
		}
		subjects = next
	}
	return l.accounts(ctx)
}

// accountTries is for how many manifests a target is asked that gives no answer
// that can be read.
const accountTries = 3

// accounts asks whether the target keeps an account, where there is something for
// it. Where no answer can be read, that is noted, and the target gets the tags of
// the specification's schema: they do no harm beside an account.
func (l *looker) accounts(ctx context.Context) error {
	var unread error
	var of digest.Digest
	for i, d := range sortedKeys(l.view.Attached) {
		if i == accountTries {
			break
		}
		found, err := referrers(ctx, l.target, d)
		if !unreadable(err) {
			l.view.Accounts = found != nil && err == nil
			return err
		}
		if unread == nil {
			unread, of = err, d
		}
	}
	if unread != nil {
		l.view.Unlisted[of] = unread
	}
	return nil
}

// referrers returns what a storage says is attached to d, nil where it keeps no account.
func referrers(ctx context.Context, s any, d digest.Digest) ([]ocispec.Descriptor, error) {
	a, ok := s.(storage.Attacher)
	if !ok {
		return nil, nil
	}
	found, err := a.Referrers(ctx, d)
	if errors.Is(err, storage.ErrUnsupported) {
		return nil, nil
	}
	if err == nil && found == nil {
		found = []ocispec.Descriptor{}
	}
	return found, err
}

// referrers asks what is attached to each of the subjects, reads it, and returns it.
func (l *looker) referrers(ctx context.Context, subjects []digest.Digest) ([]digest.Digest, error) {
	first, err := l.referrersOf(ctx, subjects[0])
	if err != nil || first == nil {
		return nil, err
	}
	found := make([][]ocispec.Descriptor, len(subjects))
	err = l.each(ctx, len(subjects), func(ctx context.Context, i int) (err error) {
		if i == 0 {
			found[0] = first
			return nil
		}
		found[i], err = l.referrersOf(ctx, subjects[i])
		return err
	})
	if err != nil {
		return nil, err
	}
	links := map[digest.Digest][]ocispec.Descriptor{}
	for i, ds := range found {
		links[subjects[i]] = ds
	}
	return l.attach(ctx, links)
}

// referrersOf returns what the source says is attached to a subject, nothing where
// that cannot be read.
func (l *looker) referrersOf(ctx context.Context, subject digest.Digest) ([]ocispec.Descriptor, error) {
	found, err := referrers(ctx, l.source, subject)
	if unreadable(err) {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.view.Unlisted[subject] = err
		return []ocispec.Descriptor{}, nil
	}
	return found, err
}

// attach reads manifests that refer to subjects, and returns those that were not
// known to do so.
func (l *looker) attach(ctx context.Context, links map[digest.Digest][]ocispec.Descriptor) ([]digest.Digest, error) {
	v := l.view
	var unread []ocispec.Descriptor
	asked := map[digest.Digest]bool{}
	for _, ds := range links {
		for _, d := range ds {
			if _, ok := v.Parts[d.Digest]; !ok && v.Lost[d.Digest] == nil && !asked[d.Digest] {
				asked[d.Digest] = true
				unread = append(unread, d)
			}
		}
	}
	if err := l.readParts(ctx, unread); err != nil {
		return nil, err
	}
	var added []digest.Digest
	for subject, ds := range links {
		for _, d := range ds {
			if lists(v.Attached[subject], d.Digest) {
				continue
			}
			v.Attached[subject] = append(v.Attached[subject], d)
			if v.Lost[d.Digest] == nil {
				added = append(added, d.Digest)
			}
		}
	}
	return added, nil
}

// lists reports whether one of the descriptors is that of d.
func lists(ds []ocispec.Descriptor, d digest.Digest) bool {
	return slices.ContainsFunc(ds, func(x ocispec.Descriptor) bool { return x.Digest == d })
}

// indexed takes what tags of the specification's schema list as attached, on both
// sides. Such an index grows: its tag is no name like that of a stage.
func (l *looker) indexed(ctx context.Context) error {
	var rest []Name
	for _, n := range l.view.Names {
		subject, _ := subjectOf(n.Tag)
		if n.Kind != KindAttached || n.Tag != storage.ReferrersTag(subject) {
			rest = append(rest, n)
			continue
		}
		if n.Err != nil {
			l.view.Unlisted[subject] = n.Err
		}
		if n.Same() || n.Err != nil {
			continue
		}
		if err := l.index(ctx, subject, n); err != nil {
			return err
		}
	}
	l.view.Names = rest
	return nil
}

// index takes what one such tag lists. One that is gone meanwhile lists nothing.
func (l *looker) index(ctx context.Context, subject digest.Digest, n Name) error {
	ours, err := n.Manifest, error(nil)
	if ours.Bytes == nil { // the target has another: it was only compared
		ours, err = l.source.Manifest(ctx, n.Tag)
	}
	list, err := listed(ours, err)
	if err == nil {
		_, err = l.attach(ctx, map[digest.Digest][]ocispec.Descriptor{subject: list})
	}
	if err == nil && n.There != "" {
		l.view.Indexed[subject], err = listed(l.target.Manifest(ctx, n.Tag))
	}
	if unreadable(err) { // nothing that could be taken over, or added to
		l.view.Unlisted[subject] = err
		delete(l.view.Attached, subject)
		return nil
	}
	return err
}

// listed returns what an index lists, and nothing for one that is not there.
func listed(m storage.Manifest, err error) ([]ocispec.Descriptor, error) {
	switch {
	case errors.Is(err, storage.ErrNotFound):
		return nil, nil
	case err != nil:
		return nil, err
	case !m.IsIndex():
		return nil, fmt.Errorf("%w: what lists attached manifests is no index but %q", storage.ErrCorrupt, m.Descriptor.MediaType)
	}
	idx, err := m.Index()
	return idx.Manifests, err
}
