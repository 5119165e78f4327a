package transfer_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/storagetest"
	"github.com/cairnbuild/cairn/storage/transfer"
)

const project = "shop"

// site is a storage that counts what is asked of it.
type site struct {
	*mem.Storage
	mu     sync.Mutex
	pushed map[digest.Digest]int
	asked  map[string]int
	broken error                       // what pushing a blob returns
	raw    map[string]storage.Manifest // what tags name instead
	fails  map[string]error            // what reading a manifest returns
}

func newSite(address string) *site {
	return &site{Storage: mem.New(mem.Options{Address: address}), pushed: map[digest.Digest]int{}, asked: map[string]int{}, raw: map[string]storage.Manifest{}}
}

func (s *site) count(what string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.asked[what]++
}

func (s *site) Manifest(ctx context.Context, ref string) (storage.Manifest, error) {
	s.count("manifest")
	if err := s.fails[ref]; err != nil {
		return storage.Manifest{}, err
	}
	if m, ok := s.raw[ref]; ok {
		return m, nil
	}
	return s.Storage.Manifest(ctx, ref)
}

func (s *site) Resolve(ctx context.Context, ref string) (ocispec.Descriptor, error) {
	s.count("resolve")
	return s.Storage.Resolve(ctx, ref)
}

func (s *site) PushBlob(ctx context.Context, d ocispec.Descriptor, c storage.Content) error {
	if s.broken != nil {
		return s.broken
	}
	err := s.Storage.PushBlob(ctx, d, c)
	if err == nil {
		s.mu.Lock()
		s.pushed[d.Digest]++
		s.mu.Unlock()
	}
	return err
}

// stage publishes an image of these layers as the stage of a name.
func (s *site) stage(t *testing.T, name string, layers ...string) storage.Manifest {
	t.Helper()
	m := s.image(t, name, nil, layers...)
	check(t, s.Publish(t.Context(), stageTag(name), m))
	return m
}

func stageTag(name string) string { return storage.StageTag(stages.DigestOf([]byte(name))) }

func (s *site) blob(t *testing.T, mediaType, content string) ocispec.Descriptor {
	t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromString(content), Size: int64(len(content))}
	check(t, s.Storage.PushBlob(t.Context(), d, storagetest.Content([]byte(content))))
	return d
}

func (s *site) image(t *testing.T, name string, subject *ocispec.Descriptor, layers ...string) storage.Manifest {
	t.Helper()
	v := ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: s.blob(t, ocispec.MediaTypeImageConfig, "{\"of\":\""+name+"\"}"), Subject: subject,
	}
	for _, l := range layers {
		v.Layers = append(v.Layers, s.blob(t, ocispec.MediaTypeImageLayer, l))
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	check(t, err)
	return m
}

// build publishes the index of a build of these final stages, by image.
func (s *site) build(t *testing.T, root string, finals map[string]string) string {
	t.Helper()
	v := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
	for _, image := range slices.Sorted(maps.Keys(finals)) {
		d := stages.DigestOf([]byte(finals[image]))
		desc, err := s.Storage.Resolve(t.Context(), storage.StageTag(d))
		check(t, err)
		desc.Annotations = map[string]string{storage.AnnotationImage: image, storage.AnnotationStage: d.String()}
		v.Manifests = append(v.Manifests, desc)
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, v)
	check(t, err)
	tag := storage.BuildTag(stages.DigestOf([]byte(root)))
	check(t, s.Publish(t.Context(), tag, m))
	return tag
}

// copyAll copies what is selected and returns plan and result.
func copyAll(t *testing.T, from, to *site, o transfer.LookOptions, sel transfer.Selection) (*transfer.Plan, *transfer.Result, error) {
	t.Helper()
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	v, err := transfer.Look(t.Context(), from, to, o)
	check(t, err)
	p, err := transfer.NewPlan(v, sel)
	check(t, err)
	r, err := transfer.Copy(t.Context(), to, from, p, transfer.Options{Namer: transfer.NewDirect(to, project, false, time.Now)})
	return p, r, err
}

func tagsIn(t *testing.T, s *site) []string {
	t.Helper()
	var tags []string
	for tag, err := range s.Tags(t.Context()) {
		check(t, err)
		if tag != storage.ProjectTag {
			tags = append(tags, tag)
		}
	}
	slices.Sort(tags)
	return tags
}

func sameTags(t *testing.T, s *site, want ...string) {
	t.Helper()
	slices.Sort(want)
	if got := tagsIn(t, s); !slices.Equal(got, want) {
		t.Errorf("%s has the tags %q, want %q", s.Address(), got, want)
	}
}

func TestEverythingArrivesOnceAndIndexesLast(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "base", "one")
	from.stage(t, "backend", "one", "two")
	from.stage(t, "site", "one", "three")
	root := from.build(t, "root", map[string]string{"backend": "backend", "site": "site"})
	check(t, from.Publish(t.Context(), "latest", from.image(t, "other", nil, "four")))

	p, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	sameTags(t, to, stageTag("base"), stageTag("backend"), stageTag("site"), root)
	if last := p.Units[len(p.Units)-1]; last.Tag != root {
		t.Errorf("the last unit is %s, want the index of the build", last.Tag)
	}
	for d, n := range to.pushed {
		if n != 1 {
			t.Errorf("blob %s was sent %d times", d, n)
		}
	}
	if len(r.Named) != 4 || len(r.Skips) != 0 || r.Blobs[storage.Copied] != 6 {
		t.Errorf("named %d, skipped %v, moved %v", len(r.Named), r.Skips, r.Blobs)
	}
	owner, err := transfer.CheckOwner(t.Context(), to, project)
	if check(t, err); owner.Ledger != "" || owner.Project != project {
		t.Errorf("the target's marker is %+v", owner)
	}
}

func TestWhatBothSidesAreKnownToHaveIsNotAskedFor(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "backend", "one")
	from.build(t, "root", map[string]string{"backend": "backend"})
	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	from.asked, to.asked = map[string]int{}, map[string]int{}

	p, _, err := copyAll(t, from, to, transfer.LookOptions{Known: r.Named}, transfer.Selection{})
	check(t, err)
	if len(p.Units) != 0 || len(p.Same) != 2 || len(from.asked) != 0 || to.asked["manifest"] != 1 || to.asked["resolve"] != 0 {
		t.Errorf("%d units, %d the same; the source was asked %v and the target %v", len(p.Units), len(p.Same), from.asked, to.asked)
	}
	p, _, err = copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	if len(p.Units) != 0 || from.asked["resolve"] != 2 || from.asked["manifest"] != 0 {
		t.Errorf("without a record: %d units, the source was asked %v", len(p.Units), from.asked)
	}
}

func TestAnotherStageUnderTheSameTagStaysAndKeepsItsBuildBack(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "backend", "one")
	from.stage(t, "site", "two")
	both := from.build(t, "root", map[string]string{"backend": "backend", "site": "site"})
	theirs := to.stage(t, "backend", "another")

	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	sameTags(t, to, stageTag("backend"), stageTag("site"))
	if d, err := to.Storage.Resolve(t.Context(), stageTag("backend")); err != nil || d.Digest != theirs.Descriptor.Digest {
		t.Errorf("the target's stage was changed to %s (%v)", d.Digest, err)
	}
	reasons := map[string]transfer.Reason{}
	for _, s := range r.Skips {
		reasons[s.Tag] = s.Reason
	}
	want := map[string]transfer.Reason{stageTag("backend"): transfer.ReasonDifferent, both: transfer.ReasonNeeds}
	if !maps.Equal(reasons, want) {
		t.Errorf("skipped %v, want %v", reasons, want)
	}
}

func TestACorruptBlobKeepsBackWhatNeedsItAndNothingElse(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "backend", "shared", "bad")
	from.stage(t, "worker", "bad")
	from.stage(t, "site", "shared")
	bad := from.build(t, "bad", map[string]string{"backend": "backend"})
	good := from.build(t, "good", map[string]string{"site": "site"})
	from.CorruptBlob(digest.FromString("bad"))

	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	sameTags(t, to, stageTag("site"), good)
	reasons := map[string]transfer.Reason{}
	for _, s := range r.Skips {
		reasons[s.Tag] = s.Reason
		if s.Reason == transfer.ReasonCorrupt && !errors.Is(s.Err, storage.ErrCorrupt) {
			t.Errorf("%s: %v", s.Tag, s.Err)
		}
	}
	want := map[string]transfer.Reason{
		stageTag("backend"): transfer.ReasonCorrupt, stageTag("worker"): transfer.ReasonCorrupt, bad: transfer.ReasonNeeds,
	}
	if !maps.Equal(reasons, want) {
		t.Errorf("skipped %v, want %v", reasons, want)
	}
}

func TestATargetThatTakesNothingEndsTheCopy(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	for i := range 200 {
		from.stage(t, fmt.Sprint(i), fmt.Sprint("layer ", i))
	}
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	to.broken = &storage.Error{Op: "push blob", Storage: "to", Class: storage.ErrDenied}
	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	if !errors.Is(err, storage.ErrDenied) || len(r.Named) != 0 {
		t.Errorf("it ended with %v and %d names", err, len(r.Named))
	}
	sameTags(t, to)
}

func TestTheStorageOfAnotherProjectIsRefused(t *testing.T) {
	to := newSite("to")
	check(t, storage.WriteMarker(t.Context(), to, storage.Marker{Project: "blog"}))
	_, err := transfer.CheckOwner(t.Context(), to, project)
	var owner *transfer.OwnerError
	if !errors.As(err, &owner) || owner.Project != "blog" || owner.Ours != project {
		t.Errorf("it is %v", err)
	}
}

func TestNamesAreNotPutIntoAStorageThatBuildsHaveTakenIntoUse(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	m := from.stage(t, "backend", "one")
	check(t, storage.WriteMarker(t.Context(), to, storage.Marker{Project: project, Ledger: "uid"}))
	err := transfer.NewDirect(to, project, false, time.Now).Name(t.Context(), stageTag("backend"), m)
	var used *transfer.InUseError
	if !errors.As(err, &used) {
		t.Errorf("it is %v", err)
	}
	sameTags(t, to)
}

func TestANameThatAnotherHasPutMeanwhileStays(t *testing.T) {
	to := newSite("to")
	first, second := to.image(t, "first", nil, "one"), to.image(t, "second", nil, "two")
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	began := time.Now()
	direct := transfer.NewDirect(to, project, false, func() time.Time { return began })
	check(t, direct.Name(t.Context(), stageTag("first"), first))
	theirs := to.stage(t, "second", "another")

	err = direct.Name(t.Context(), stageTag("second"), second)
	var other *transfer.DifferentError
	if !errors.As(err, &other) || other.Theirs != theirs.Descriptor.Digest {
		t.Errorf("it is %v", err)
	}
	if d, err := to.Storage.Resolve(t.Context(), stageTag("second")); err != nil || d.Digest != theirs.Descriptor.Digest {
		t.Errorf("the target's stage was changed to %s (%v)", d.Digest, err)
	}
}

func TestALedgerThatIsTakenIntoUseMeanwhileStopsTheNames(t *testing.T) {
	to := newSite("to")
	first, second := to.image(t, "first", nil, "one"), to.image(t, "second", nil, "two")
	_, err := transfer.CheckOwner(t.Context(), to, project)
	check(t, err)
	now := time.Now()
	direct := transfer.NewDirect(to, project, false, func() time.Time { return now })
	check(t, direct.Name(t.Context(), stageTag("first"), first))
	check(t, storage.WriteMarker(t.Context(), to, storage.Marker{Project: project, Ledger: "uid"}))
	now = now.Add(2 * time.Second)
	var used *transfer.InUseError
	if err := direct.Name(t.Context(), stageTag("second"), second); !errors.As(err, &used) {
		t.Errorf("it is %v", err)
	}
}

func TestSelectedImagesComeWithTheStagesBelowAndTheirOwnIndexes(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	from.stage(t, "from", "one")
	from.stage(t, "backend", "one", "two")
	from.stage(t, "site-below", "one", "three")
	from.stage(t, "site", "one", "three", "four")
	from.build(t, "both", map[string]string{"backend": "backend", "site": "site"})
	own := from.build(t, "own", map[string]string{"site": "site"})
	_, _, err := copyAll(t, from, to, transfer.LookOptions{Contents: true}, transfer.Selection{Images: []string{"site"}})
	check(t, err)
	sameTags(t, to, stageTag("from"), stageTag("site-below"), stageTag("site"), own)
}

func TestThousandsOfStagesWithOneSharedLayerComeToAnEnd(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	const n = 5000
	finals := map[string]string{}
	for i := range n {
		name := fmt.Sprint(i)
		from.stage(t, name, "shared", "layer "+name)
		finals[name] = name
	}
	from.build(t, "root", finals)
	_, r, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	if check(t, err); len(r.Named) != n+1 {
		t.Errorf("%d names were given", len(r.Named))
	}
}

func TestWhatIsAttachedTravelsAlong(t *testing.T) {
	from, to := newSite("from"), newSite("to")
	m := from.stage(t, "backend", "one")
	attach := func(s *site, name string, subject storage.Manifest) storage.Manifest {
		a := s.image(t, name, &subject.Descriptor, name)
		check(t, s.PushManifest(t.Context(), a))
		return a
	}
	list := func(s *site, subject digest.Digest, ms ...storage.Manifest) {
		v := ocispec.Index{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex}
		for _, m := range ms {
			v.Manifests = append(v.Manifests, m.Descriptor)
		}
		idx, err := storage.NewManifest(ocispec.MediaTypeImageIndex, v)
		check(t, err)
		check(t, s.Publish(t.Context(), storage.ReferrersTag(subject), idx))
	}
	listed := func() (out []digest.Digest) {
		got, err := to.Storage.Manifest(t.Context(), storage.ReferrersTag(m.Descriptor.Digest))
		check(t, err)
		idx, err := got.Index()
		check(t, err)
		for _, d := range idx.Manifests {
			out = append(out, d.Digest)
			_, err := to.Storage.Manifest(t.Context(), d.Digest.String())
			check(t, err)
		}
		slices.Sort(out)
		return out
	}
	bill := attach(from, "bill of materials", m)
	list(from, m.Descriptor.Digest, bill)
	check(t, from.Publish(t.Context(), storage.ReferrersTag(m.Descriptor.Digest)+".sig", from.image(t, "signature", nil, "s")))

	_, _, err := copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	sameTags(t, to, tagsIn(t, from)...)
	if got := listed(); !slices.Equal(got, []digest.Digest{bill.Descriptor.Digest}) {
		t.Errorf("attached at the target is %v", got)
	}
	// What was attached there meanwhile stays, and what is new here comes.
	there := attach(to, "scan", m)
	list(to, m.Descriptor.Digest, bill, there)
	later := attach(from, "licences", m)
	list(from, m.Descriptor.Digest, bill, later)
	_, _, err = copyAll(t, from, to, transfer.LookOptions{}, transfer.Selection{})
	check(t, err)
	want := []digest.Digest{bill.Descriptor.Digest, there.Descriptor.Digest, later.Descriptor.Digest}
	slices.Sort(want)
	if got := listed(); !slices.Equal(got, want) {
		t.Errorf("attached at the target is %v, want %v", got, want)
	}
}
