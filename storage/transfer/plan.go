package transfer

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// Selection says which names are copied. The zero value is all of them.
type Selection struct {
	// Tags, where not nil, are the only stages and indexes to be copied.
	Tags map[string]bool
	// Images, where not nil, are the names of the only images to be copied: their
	// final stages as indexes of builds name them, the stages below those, and
	// indexes of nothing else.
	Images []string
}

// Unit is a manifest that is copied.
type Unit struct {
	// Tag is what it is named, "" where it is stored by its digest alone.
	Tag      string
	Kind     Kind
	Manifest storage.Manifest
	// Blobs are what it needs, layers before the config.
	Blobs []ocispec.Descriptor
	// After are the units that have to have arrived before.
	After []*Unit
	// First are units that come before it, so that a copy that is killed leaves no
	// name without what is attached to it. It comes without those that fail, too.
	First []*Unit
	// Subject is what it is attached to, directly or by way of others: a manifest
	// with a name. It is "" for what is not attached.
	Subject digest.Digest
	// Grows is set for the index of what is attached to a manifest, whose tag may
	// be moved to a longer one.
	Grows bool
}

// Reason says why a name is not copied.
type Reason string

// The reasons for which a name is not copied though it was to be.
const (
	// ReasonDifferent: the target has another manifest under the same tag.
	ReasonDifferent Reason = "different"
	// ReasonCorrupt: the source's manifest, or something that it needs, is corrupt or lost.
	ReasonCorrupt Reason = "corrupt"
	// ReasonNeeds: something that it stands on is not at the target.
	ReasonNeeds Reason = "needs"
	// ReasonRefused: the target refuses this one.
	ReasonRefused Reason = "refused"
	// ReasonBusy: a runner of the target is building the stage.
	ReasonBusy Reason = "busy"
)

// Skip is a name, or an attached manifest, that is not copied though it was to be.
type Skip struct {
	// Tag is the name, or the digest of what is attached without one.
	Tag    string
	Kind   Kind
	Reason Reason
	// Err says more; never nil.
	Err error
	// Subject is what it is attached to, "" for what is no attached manifest.
	Subject digest.Digest
}

// DifferentError says that the target has another manifest under a tag. What is
// there is never overwritten.
type DifferentError struct {
	Tag string
	// Ours is what the source names, Theirs what the target does.
	Ours, Theirs digest.Digest
}

// Error implements error.
func (e *DifferentError) Error() string {
	return fmt.Sprintf("tag %s names %s at the target and %s at the source", e.Tag, e.Theirs, e.Ours)
}

// Plan is what is to be copied, and why the rest is not.
type Plan struct {
	// Units stand in an order in which each follows what it needs; indexes of
	// builds come last.
	Units []*Unit
	// Same are the names that the target has already, with the manifest that both name.
	Same map[string]digest.Digest
	// Skips are in the order of their tags.
	Skips []Skip
	// Blobs counts the different blobs that the units need, and Bytes their sizes:
	// what the target has of them is found out while copying.
	Blobs int
	Bytes int64
}

// NewPlan decides what to copy of what was seen.
func NewPlan(v *View, sel Selection) (*Plan, error) {
	p := &planner{
		view: v, plan: &Plan{Same: map[string]digest.Digest{}},
		named: map[string]*Name{}, units: map[digest.Digest][]*Unit{}, same: map[digest.Digest]bool{},
	}
	for i := range v.Names {
		p.named[v.Names[i].Tag] = &v.Names[i]
	}
	wanted := sel.choose(v)
	for _, kind := range []Kind{KindStage, KindIndex} {
		for i := range v.Names {
			if n := &v.Names[i]; n.Kind == kind && wanted(n) {
				p.add(n)
			}
		}
	}
	if err := p.attachAll(); err != nil {
		return nil, err
	}
	p.sort()
	p.count()
	return p.plan, nil
}

type planner struct {
	view  *View
	plan  *Plan
	named map[string]*Name
	// units are those of a manifest: one for each of its names, or one without.
	units map[digest.Digest][]*Unit
	// same are manifests that the target has under the name of the source.
	same map[digest.Digest]bool
}

func (p *planner) skip(n *Name, r Reason, err error) {
	p.plan.Skips = append(p.plan.Skips, Skip{Tag: n.Tag, Kind: n.Kind, Reason: r, Err: err, Subject: p.subject(n)})
}

// subject returns what a name says it is attached to, "" for others.
func (p *planner) subject(n *Name) digest.Digest {
	if n.Kind != KindAttached {
		return ""
	}
	d, _ := subjectOf(n.Tag)
	return p.root(d)
}

// add plans one name.
func (p *planner) add(n *Name) {
	d := n.Manifest.Descriptor.Digest
	switch {
	case n.Err != nil:
		p.skip(n, ReasonCorrupt, n.Err)
	case n.Same():
		p.plan.Same[n.Tag], p.same[d] = d, true
	case n.There != "":
		p.skip(n, ReasonDifferent, &DifferentError{Tag: n.Tag, Ours: d, Theirs: n.There})
	default:
		u, err := p.unit(n.Manifest)
		if err == nil && n.Manifest.IsIndex() {
			u.After, err = p.members(n.Manifest)
		}
		switch {
		case errors.Is(err, errNeeds):
			p.skip(n, ReasonNeeds, err)
		case err != nil:
			p.skip(n, ReasonCorrupt, err)
		default:
			u.Tag, u.Kind, u.Subject = n.Tag, n.Kind, p.subject(n)
			p.put(u)
		}
	}
}

// put adds a unit. Two stages of equal outcome share a manifest; each has a unit.
func (p *planner) put(u *Unit) {
	p.plan.Units = append(p.plan.Units, u)
	d := u.Manifest.Descriptor.Digest
	p.units[d] = append(p.units[d], u)
}

func (p *planner) unit(m storage.Manifest) (*Unit, error) {
	_, blobs, err := m.References()
	if err != nil {
		return nil, err
	}
	if len(blobs) > 1 { // the config is the first
		blobs = append(slices.Clone(blobs[1:]), blobs[0])
	}
	return &Unit{Manifest: m, Blobs: blobs}, nil
}

// errNeeds: something that an index needs does not come to the target.
var errNeeds = errors.New("it stands on what does not come to the target")

// members returns the units of what an index names, of which the target has the
// others. Where it says whose final stage a manifest is, that stage has to be
// the same manifest at the target: two names for one stage must not disagree.
func (p *planner) members(m storage.Manifest) ([]*Unit, error) {
	idx, err := m.Index()
	if err != nil {
		return nil, err
	}
	var after []*Unit
	for _, d := range idx.Manifests {
		u, err := p.member(d)
		if err != nil {
			return nil, err
		}
		if u != nil {
			after = append(after, u)
		}
	}
	return after, nil
}

func (p *planner) member(d ocispec.Descriptor) (*Unit, error) {
	if err := p.checkStage(d); err != nil {
		return nil, err
	}
	if p.same[d.Digest] {
		return nil, nil
	}
	if us := p.units[d.Digest]; us != nil {
		return us[len(us)-1], nil
	}
	if err := p.view.Lost[d.Digest]; err != nil {
		return nil, needsError("manifest "+d.Digest.String(), err)
	}
	part, ok := p.view.Parts[d.Digest]
	if !ok {
		return nil, fmt.Errorf("%w: manifest %s", errNeeds, d.Digest)
	}
	u, err := p.unit(part)
	if err != nil {
		return nil, err
	}
	u.Kind = KindIndex
	p.put(u)
	return u, nil
}

// checkStage makes sure that the stage whose manifest an index says to be d comes
// to the target as d, or is there as such.
func (p *planner) checkStage(d ocispec.Descriptor) error {
	stage := d.Annotations[storage.AnnotationStage]
	if stage == "" {
		return nil
	}
	_, hex, _ := strings.Cut(stage, ":")
	n := p.named[hex]
	if n == nil || n.Manifest.Descriptor.Digest != d.Digest || n.There != "" && !n.Same() || n.Err != nil {
		return fmt.Errorf("%w: stage %s is not manifest %s there", errNeeds, stage, d.Digest)
	}
	if !p.same[d.Digest] && p.units[d.Digest] == nil {
		return fmt.Errorf("%w: stage %s is left out", errNeeds, stage)
	}
	return nil
}

// attachAll plans what is attached to what is copied or was so before.
func (p *planner) attachAll() error {
	subjects := sortedKeys(p.view.Attached)
	for len(subjects) > 0 {
		later := subjects[:0:0]
		for _, subject := range subjects {
			if p.units[subject] == nil && !p.same[subject] {
				later = append(later, subject) // perhaps it is itself attached to something
				continue
			}
			if err := p.attach(subject); err != nil {
				return err
			}
		}
		if len(later) == len(subjects) {
			break
		}
		subjects = later
	}
	for _, subject := range sortedKeys(p.view.Unlisted) {
		if p.units[subject] != nil || p.same[subject] {
			p.skipAttached(subject, storage.ReferrersTag(subject), p.view.Unlisted[subject])
		}
	}
	for i := range p.view.Names {
		n := &p.view.Names[i]
		subject, _ := subjectOf(n.Tag)
		if n.Kind == KindAttached && (p.units[subject] != nil || p.same[subject]) {
			p.add(n)
		}
	}
	return nil
}

// attach plans what is attached to a subject, by digest, and the index of it where
// the target keeps no account. Both come before the subject has its name.
func (p *planner) attach(subject digest.Digest) error {
	list := slices.Clone(p.view.Indexed[subject])
	var after []*Unit
	for _, d := range p.view.Attached[subject] {
		us := p.units[d.Digest]
		if us == nil {
			u, err := p.attachedUnit(d.Digest)
			if err != nil {
				p.skipAttached(subject, d.Digest.String(), err)
				continue
			}
			u.Kind, u.Subject = KindAttached, p.root(subject)
			p.before(subject, u)
			p.put(u)
			us = []*Unit{u}
		}
		after = append(after, us[len(us)-1])
		if !lists(list, d.Digest) {
			list = append(list, d)
		}
	}
	if p.view.Accounts || len(list) == len(p.view.Indexed[subject]) {
		return nil
	}
	return p.listAttached(subject, list, after)
}

func (p *planner) attachedUnit(d digest.Digest) (*Unit, error) {
	if err := p.view.Lost[d]; err != nil {
		return nil, err
	}
	return p.unit(p.view.Parts[d])
}

// before has a unit come before those of its subject. It is new, so that nothing
// comes to wait for itself.
func (p *planner) before(subject digest.Digest, u *Unit) {
	for _, s := range p.units[subject] {
		s.First = append(s.First, u)
	}
}

// root returns the manifest with a name that a subject is, or is attached to.
func (p *planner) root(subject digest.Digest) digest.Digest {
	for _, u := range p.units[subject] {
		if u.Subject != "" {
			return u.Subject
		}
	}
	return subject
}

// skipAttached notes something attached that does not come; what has no name is
// told by its digest.
func (p *planner) skipAttached(subject digest.Digest, what string, err error) {
	p.plan.Skips = append(p.plan.Skips, Skip{
		Tag: what, Kind: KindAttached, Reason: ReasonCorrupt, Err: err, Subject: p.root(subject),
	})
}

// listAttached plans the index by which the target knows what is attached to a
// subject. What it lists already stays listed.
func (p *planner) listAttached(subject digest.Digest, list []ocispec.Descriptor, after []*Unit) error {
	slices.SortFunc(list, func(a, b ocispec.Descriptor) int { return cmp.Compare(a.Digest, b.Digest) })
	m, err := storage.NewManifest(ocispec.MediaTypeImageIndex, ocispec.Index{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageIndex, Manifests: list,
	})
	if err != nil {
		return err
	}
	p.plan.Units = append(p.plan.Units, &Unit{
		Tag: storage.ReferrersTag(subject), Kind: KindAttached, Manifest: m, After: after, Grows: true, Subject: p.root(subject),
	})
	return nil
}

// sort puts indexes of builds last, each unit behind what it follows, and skips in order.
func (p *planner) sort() {
	byTurn := slices.Clone(p.plan.Units)
	slices.SortStableFunc(byTurn, func(a, b *Unit) int { return cmp.Compare(a.turn(), b.turn()) })
	seen := map[*Unit]bool{}
	p.plan.Units = p.plan.Units[:0]
	var put func(units []*Unit)
	put = func(units []*Unit) {
		for _, u := range units {
			if seen[u] {
				continue
			}
			seen[u] = true
			put(u.First)
			put(u.After)
			p.plan.Units = append(p.plan.Units, u)
		}
	}
	put(byTurn)
	slices.SortFunc(p.plan.Skips, func(a, b Skip) int { return cmp.Compare(a.Tag, b.Tag) })
}

// turn is when a unit has its turn: indexes of builds tell that all is there.
func (u *Unit) turn() int {
	if u.Kind == KindIndex && u.Tag != "" {
		return 1
	}
	return 0
}

func (p *planner) count() {
	seen := map[digest.Digest]bool{}
	for _, u := range p.plan.Units {
		for _, d := range u.Blobs {
			if !seen[d.Digest] {
				seen[d.Digest] = true
				p.plan.Blobs++
				p.plan.Bytes += d.Size
			}
		}
	}
}
