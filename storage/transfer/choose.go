package transfer

import (
	"cmp"
	"maps"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// choose returns which names of the view are selected.
func (s Selection) choose(v *View) func(*Name) bool {
	if s.Images == nil {
		return func(n *Name) bool { return s.Tags == nil || s.Tags[n.Tag] }
	}
	of := s.ofImages(v)
	return func(n *Name) bool { return of[n.Tag] && (s.Tags == nil || s.Tags[n.Tag]) }
}

// ofImages returns the tags of the selected images: what indexes of builds call
// their final stages, stages whose layers those begin with, and indexes of none
// but them.
func (s Selection) ofImages(v *View) map[string]bool {
	of := map[string]bool{}
	for i := range v.Names {
		n := &v.Names[i]
		if n.Kind != KindIndex || n.Manifest.Bytes == nil {
			continue
		}
		idx, err := n.Manifest.Index()
		if err != nil {
			continue // it is corrupt, which the plan tells where it is selected
		}
		alone := len(idx.Manifests) > 0
		for _, d := range idx.Manifests {
			if !slices.Contains(s.Images, d.Annotations[storage.AnnotationImage]) {
				alone = false
				continue
			}
			_, hex, _ := strings.Cut(d.Annotations[storage.AnnotationStage], ":")
			of[hex] = true
		}
		if alone {
			of[n.Tag] = true
		}
	}
	below(v, of)
	return of
}

// below adds the stages that those in of were built upon: a stage's layers begin
// with those of the stage below it.
func below(v *View, of map[string]bool) {
	prefixes := map[digest.Digest]bool{}
	layers := make([][]ocispec.Descriptor, len(v.Names))
	for i := range v.Names {
		n := &v.Names[i]
		if n.Kind != KindStage || n.Manifest.Bytes == nil || n.Manifest.IsIndex() {
			continue
		}
		img, err := n.Manifest.Image()
		if err != nil {
			continue // corrupt: nothing can be known of it
		}
		if layers[i] = img.Layers; of[n.Tag] {
			walkPrefixes(img.Layers, func(d digest.Digest) { prefixes[d] = true })
		}
	}
	for i := range v.Names {
		var whole digest.Digest
		walkPrefixes(layers[i], func(d digest.Digest) { whole = d })
		if whole != "" && prefixes[whole] {
			of[v.Names[i].Tag] = true
		}
	}
}

// walkPrefixes calls do with what identifies each beginning of a list of layers.
func walkPrefixes(layers []ocispec.Descriptor, do func(digest.Digest)) {
	at := digest.Digest("")
	for _, l := range layers {
		at = digest.FromString(at.String() + " " + l.Digest.String())
		do(at)
	}
}

func sortedKeys[K cmp.Ordered, V any](m map[K]V) []K { return slices.Sorted(maps.Keys(m)) }
