package inventory

import (
	"crypto/sha256"
	"maps"
	"slices"

	"github.com/opencontainers/go-digest"
)

// stack is a hash over layers, lowest first.
type stack [sha256.Size]byte

func (s stack) with(layer digest.Digest) stack {
	return sha256.Sum256(append(s[:], layer...))
}

// Below returns, for each image, the one that it stands on: the one with most
// layers of those whose layers its own begin with, and that has fewer. Manifests do
// not say what they were built on, so this is as much as they tell: a stage without
// a layer of its own is found neither above nor below its neighbours, and where
// several images have the same layers it is the one with the smallest digest.
func (inv *Inventory) Below() map[digest.Digest]digest.Digest {
	whole := make(map[stack]digest.Digest, len(inv.Manifests))
	for _, d := range slices.Sorted(maps.Keys(inv.Manifests)) {
		m := inv.Manifests[d]
		if m.Index || len(m.Layers) == 0 {
			continue
		}
		if s := layersOf(m); whole[s] == "" {
			whole[s] = d
		}
	}
	out := make(map[digest.Digest]digest.Digest, len(whole))
	for d, m := range inv.Manifests {
		var s stack
		for i := 0; i+1 < len(m.Layers); i++ {
			s = s.with(m.Layers[i].Digest)
			if below, ok := whole[s]; ok {
				out[d] = below
			}
		}
	}
	return out
}

// Above returns the images whose layers begin with all of d's, d itself apart, in
// the order of their digests: all that can have been built on it, and what else has
// the same layers. Nothing is known to stand on an image without layers.
func (inv *Inventory) Above(d digest.Digest) []digest.Digest {
	m := inv.Manifests[d]
	if m == nil || len(m.Layers) == 0 {
		return nil
	}
	var out []digest.Digest
	for _, other := range inv.Manifests {
		if other != m && len(other.Layers) >= len(m.Layers) && slices.EqualFunc(other.Layers[:len(m.Layers)], m.Layers, sameBlob) {
			out = append(out, other.Digest)
		}
	}
	slices.Sort(out)
	return out
}

func sameBlob(a, b Blob) bool { return a.Digest == b.Digest }

func layersOf(m *Manifest) stack {
	var s stack
	for _, l := range m.Layers {
		s = s.with(l.Digest)
	}
	return s
}
