package transfer_test

import (
	"context"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/transfer"
)

// attach pushes a manifest that refers to a subject.
func (s *site) attach(t *testing.T, name string, subject ocispec.Descriptor) storage.Manifest {
	t.Helper()
	m := s.image(t, name, &subject, name)
	check(t, s.PushManifest(t.Context(), m))
	return m
}

// list publishes what is attached to a subject, as the specification's schema has it.
func (s *site) list(t *testing.T, subject digest.Digest, ds ...ocispec.Descriptor) {
	t.Helper()
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: ds,
	})
	check(t, err)
	check(t, s.Publish(t.Context(), storage.ReferrersTag(subject), m))
}

func (s *site) descriptor(t *testing.T, tag string) ocispec.Descriptor {
	t.Helper()
	d, err := s.Storage.Resolve(t.Context(), tag)
	check(t, err)
	return d
}

// ordered is a storage that remembers in which order manifests came.
type ordered struct {
	*site
	mu   sync.Mutex
	came []digest.Digest
}

func (o *ordered) note(m storage.Manifest) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.came = append(o.came, m.Descriptor.Digest)
}

func (o *ordered) PushManifest(ctx context.Context, m storage.Manifest) error {
	o.note(m)
	return o.site.PushManifest(ctx, m)
}

func (o *ordered) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	o.note(m)
	return o.site.Publish(ctx, tag, m)
}

func TestWhatIsAttachedComesBeforeItsSubjectHasItsName(t *testing.T) {
	from, to := newSite("from"), &ordered{site: newSite("to")}
	from.stage(t, "backend", "one")
	from.stage(t, "again", "one")
	subjects := []ocispec.Descriptor{
		from.descriptor(t, stageTag("backend")),
		from.descriptor(t, from.build(t, "root", map[string]string{"backend": "backend"})),
	}
	var want [][2]digest.Digest // before, after
	for i, subject := range subjects {
		bill := from.attach(t, []string{"bill", "plan"}[i], subject)
		scan := from.attach(t, []string{"scan", "look"}[i], bill.Descriptor)
		from.list(t, subject.Digest, bill.Descriptor)
		from.list(t, bill.Descriptor.Digest, scan.Descriptor)
		want = append(want, [2]digest.Digest{bill.Descriptor.Digest, subject.Digest}, [2]digest.Digest{scan.Descriptor.Digest, bill.Descriptor.Digest})
	}
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	v, err := transfer.Look(t.Context(), from, to, transfer.LookOptions{})
	check(t, err)
	p, err := transfer.NewPlan(v, transfer.Selection{})
	check(t, err)
	r, err := transfer.Copy(t.Context(), to, from, p, transfer.Options{Namer: transfer.NewDirect(to, project, false, time.Now)})
	if check(t, err); len(r.Skips) != 0 {
		t.Errorf("skipped %v", r.Skips)
	}
	sameTags(t, to.site, tagsIn(t, from)...)
	for _, w := range want {
		before, after := slices.Index(to.came, w[0]), slices.Index(to.came, w[1])
		if before < 0 || after < 0 || before > after {
			t.Errorf("the attached %s came as number %d, what it is attached to as number %d", w[0], before, after)
		}
	}
}

func TestWhatIsAttachedAndLostIsToldAndKeepsNothingBack(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	m := from.stage(t, "backend", "one")
	root := from.build(t, "root", map[string]string{"backend": "backend"})
	bill := from.attach(t, "bill", m.Descriptor)
	from.list(t, m.Descriptor.Digest, bill.Descriptor)
	from.CorruptBlob(digest.FromString("bill"))

	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	sameTags(t, to, stageTag("backend"), root)
	told := map[string]transfer.Skip{}
	for _, s := range r.Skips {
		told[s.Tag] = s
	}
	s := told[bill.Descriptor.Digest.String()]
	if s.Kind != transfer.KindAttached || s.Reason != transfer.ReasonCorrupt || s.Subject != m.Descriptor.Digest {
		t.Errorf("skipped %+v, want the attached manifest", r.Skips)
	}
}

// publishRaw publishes bytes as a manifest, whatever they are.
func (s *site) publishRaw(t *testing.T, tag, mediaType, content string) {
	t.Helper()
	s.raw[tag] = storage.Manifest{Descriptor: ocispec.Descriptor{
		MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content)),
	}, Bytes: []byte(content)}
	check(t, s.Publish(t.Context(), tag, s.image(t, tag, nil)))
}

func TestOneBadManifestKeepsBackWhatNeedsItAndNothingElse(t *testing.T) {
	bad := storage.BuildTag(stages.DigestOf([]byte("bad")))
	large := digest.FromString("too large")
	for _, test := range []struct{ name, content string }{
		{"an index whose list is none", `{"manifests":{}}`},
		{"an index of what has no digest", `{"manifests":[{"digest":"sha256:../../etc"}]}`},
		{"an index of what is too large", `{"manifests":[{"digest":"` + large.String() + `"}]}`},
		{"an index of what is lost", `{"manifests":[{"digest":"` + digest.FromString("lost").String() + `"}]}`},
	} {
		t.Run(test.name, func(t *testing.T) {
			from, to := newSite("from"), newSite("to")
			from.stage(t, "backend", "one")
			from.fails = map[string]error{large.String(): storage.ErrTooLarge}
			from.publishRaw(t, bad, ocispec.MediaTypeImageIndex, test.content)
			_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
			check(t, err)
			sameTags(t, to, stageTag("backend"))
			if len(r.Skips) != 1 || r.Skips[0].Tag != bad || r.Skips[0].Reason != transfer.ReasonCorrupt {
				t.Errorf("skipped %v", r.Skips)
			}
		})
	}
}

func TestWhatIsWrongWithAttachedManifestsIsToldAndNamesTheirSubject(t *testing.T) {
	for _, test := range []struct {
		name  string
		spoil func(t *testing.T, from *site, list string, bill digest.Digest)
		tells bool
	}{
		{"the attached manifest is lost", func(_ *testing.T, from *site, _ string, bill digest.Digest) {
			from.fails = map[string]error{bill.String(): storage.ErrNotFound}
		}, true},
		{"the list is corrupt", func(_ *testing.T, from *site, list string, _ digest.Digest) {
			from.fails = map[string]error{list: storage.ErrCorrupt}
		}, true},
		{"the list is none", func(t *testing.T, from *site, list string, _ digest.Digest) {
			from.publishRaw(t, list, ocispec.MediaTypeImageIndex, `{"manifests":7}`)
		}, true},
		{"the list is deleted meanwhile", func(_ *testing.T, from *site, list string, _ digest.Digest) {
			from.fails = map[string]error{list: storage.ErrNotFound}
		}, false},
	} {
		for _, there := range []string{"", " and the target has one"} {
			t.Run(test.name+there, func(t *testing.T) {
				from, to := newSite("from"), newSite("to")
				m := from.stage(t, "backend", "one")
				bill := from.attach(t, "bill", m.Descriptor)
				from.list(t, m.Descriptor.Digest, bill.Descriptor)
				if there != "" {
					to.list(t, m.Descriptor.Digest)
				}
				test.spoil(t, from, storage.ReferrersTag(m.Descriptor.Digest), bill.Descriptor.Digest)
				_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
				check(t, err)
				if !slices.Contains(tagsIn(t, to), stageTag("backend")) {
					t.Error("the stage did not come")
				}
				if told := len(r.Skips) == 1 && r.Skips[0].Kind == transfer.KindAttached && r.Skips[0].Subject == m.Descriptor.Digest; told != test.tells {
					t.Errorf("skipped %+v", r.Skips)
				}
			})
		}
	}
}
