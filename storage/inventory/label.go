package inventory

import (
	"cmp"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Label is what a name is in a project's images.
type Label struct {
	// Image is empty for a nameless image.
	Image string
	// Stage is the stage's name; empty where it is not known, as of earlier commits.
	Stage string
	// Platform is as in "linux/arm64"; empty where it is not known.
	Platform string
	// Final says that it is the whole image.
	Final bool
	// Current says that the plan has it.
	Current bool
}

// Labels says, for each tag, what it is in the project's images: exactly for what
// is in the plan p, which may be nil; by the annotations of builds for the final
// stages of earlier commits; and by their layers for what lies below those, of
// which only the image is known. What nothing tells about has no label.
func (inv *Inventory) Labels(p *stages.Plan) map[string][]Label {
	l := labels{}
	if p != nil {
		l.plan(p)
	}
	for _, n := range inv.Names {
		if n.Manifest == nil || !n.Manifest.Index {
			continue
		}
		for _, m := range n.Manifest.Members {
			if m.Stage.IsZero() {
				continue
			}
			label := Label{Image: m.Image, Platform: m.Platform, Final: true}
			l.add(storage.StageTag(m.Stage), label)
			label.Current = l.current(n.Tag)
			l.add(n.Tag, label)
		}
	}
	l.below(inv)
	for _, all := range l {
		slices.SortFunc(all, func(a, b Label) int {
			return cmp.Or(cmp.Compare(a.Image, b.Image), cmp.Compare(a.Platform, b.Platform), cmp.Compare(a.Stage, b.Stage))
		})
	}
	return l
}

type labels map[string][]Label

// add adds a label unless the tag has one for that image, which then tells more.
func (l labels) add(tag string, label Label) {
	for _, known := range l[tag] {
		if known.Image == label.Image && known.Platform == label.Platform && (label.Stage == "" || label.Stage == known.Stage) {
			return
		}
	}
	l[tag] = append(l[tag], label)
}

func (l labels) current(tag string) bool {
	return slices.ContainsFunc(l[tag], func(known Label) bool { return known.Current })
}

// plan labels what a plan has: each image the stages that it adds itself.
func (l labels) plan(p *stages.Plan) {
	for _, img := range p.All() {
		from := min(len(img.Stages)-img.Own, len(img.Stages)-1)
		for _, s := range img.Stages[from:] {
			l.add(storage.StageTag(s.Digest), Label{
				Image: img.Name, Stage: s.Name(), Platform: string(img.Platform), Final: s == img.Final(), Current: true,
			})
		}
	}
	root, err := p.Root()
	if err != nil {
		return // a plan that has no root names no build
	}
	for _, img := range p.Images {
		l.add(storage.BuildTag(root), Label{Image: img.Name, Platform: string(img.Platform), Final: true, Current: true})
	}
}

// below gives what has no label those of the images that stand on it.
func (l labels) below(inv *Inventory) {
	below := inv.Below()
	tags := map[digest.Digest][]string{}
	for _, n := range inv.Names {
		if n.Kind == KindStage && n.Manifest != nil {
			tags[n.Manifest.Digest] = append(tags[n.Manifest.Digest], n.Tag)
		}
	}
	found := labels{}
	for _, n := range inv.Names {
		if n.Kind != KindStage || n.Manifest == nil {
			continue
		}
		for d := below[n.Manifest.Digest]; d != ""; d = below[d] {
			for _, tag := range tags[d] {
				for _, label := range l[n.Tag] {
					if len(l[tag]) == 0 {
						found.add(tag, Label{Image: label.Image, Platform: label.Platform})
					}
				}
			}
		}
	}
	for tag, all := range found {
		l[tag] = all
	}
}
