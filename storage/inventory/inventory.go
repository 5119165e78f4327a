package inventory

import (
	"iter"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
)

// Kind says what a name is for.
type Kind string

// The kinds of names.
const (
	// KindStage names the manifest of a stage.
	KindStage Kind = "stage"
	// KindBuild names the index of all images of a build.
	KindBuild Kind = "build"
	// KindPlatforms names the index of one image for several platforms. Where that
	// is the only image of the project, it is the index of the build as well.
	KindPlatforms Kind = "platforms"
	// KindMarker names the marker of the storage's project.
	KindMarker Kind = "marker"
	// KindForeign is a name that this project did not give. What it names is not read.
	KindForeign Kind = "foreign"
)

// Kinds returns all kinds.
func Kinds() []Kind { return []Kind{KindStage, KindBuild, KindPlatforms, KindMarker, KindForeign} }

// KindOf returns the kind that a tag's form tells: [KindBuild] for both kinds of indexes.
func KindOf(tag string) Kind {
	if tag == storage.ProjectTag {
		return KindMarker
	}
	if storage.IsBuildTag(tag) {
		return KindBuild
	}
	if _, err := stages.ParseDigest(tag); err == nil {
		return KindStage
	}
	return KindForeign
}

// Name is a tag and what is known of it.
type Name struct {
	Tag  string
	Kind Kind
	// Manifest is what it names; nil for foreign names and where Broken says why.
	Manifest *Manifest
	// Broken is why the manifest could not be read, or is not what the name promises.
	Broken error
	// Seen is when this host first saw the name with this manifest: it is at least
	// that old. Zero where no reading ever told the time.
	Seen time.Time
	// Modified is when the storage says that it got the manifest; zero where it
	// does not say.
	Modified time.Time
	// Used is when it was last used; zero where the storage does not know, as
	// registries do not.
	Used time.Time
	// Asked reports whether the storage was asked what the name leads to, now and not in
	// an earlier reading.
	Asked bool
}

// Stage returns the digest of the stage that a name of [KindStage] is for.
func (n Name) Stage() (stages.Digest, bool) {
	if n.Kind != KindStage {
		return stages.Digest{}, false
	}
	d, err := stages.ParseDigest(n.Tag)
	return d, err == nil
}

// Since is the earliest time at which the name is known to have been there; zero
// where nothing is known. Clocks of other machines are believed.
func (n Name) Since() time.Time {
	if n.Modified.IsZero() || !n.Seen.IsZero() && n.Seen.Before(n.Modified) {
		return n.Seen
	}
	return n.Modified
}

// Blob is content that manifests refer to.
type Blob struct {
	Digest digest.Digest
	// Size in bytes, as the manifest says.
	Size int64
}

// Member is an entry of an index.
type Member struct {
	Digest digest.Digest
	// Image and Stage are what the index of a build says of it: the image's name and
	// its final stage. Zero where it says nothing.
	Image string
	Stage stages.Digest
	// Platform is as in "linux/arm64"; empty where the index does not say.
	Platform string
}

// Manifest is what is known of an image manifest or an index.
type Manifest struct {
	Digest digest.Digest
	// Size of the manifest itself, in bytes.
	Size int64
	// Index reports whether it is an index, which has Members; else it is an image.
	Index   bool
	Members []Member
	Config  Blob
	// Layers stand lowest first, each once.
	Layers []Blob
}

// blobs yields what an image needs beside its manifest, each once.
func (m *Manifest) blobs() iter.Seq[Blob] {
	return func(yield func(Blob) bool) {
		if m.Index || !yield(m.Config) {
			return
		}
		for _, l := range m.Layers {
			if l.Digest != m.Config.Digest && !yield(l) {
				return
			}
		}
	}
}

// Descriptors returns the config and the layers of an image, each once.
func (m *Manifest) Descriptors() []ocispec.Descriptor {
	var out []ocispec.Descriptor
	for b := range m.blobs() {
		out = append(out, ocispec.Descriptor{Digest: b.Digest, Size: b.Size})
	}
	return out
}

// Inventory is what a storage held when it was read. It is not changed after that
// and may be shared.
type Inventory struct {
	// Address is the storage's.
	Address string
	// Names are all tags, sorted.
	Names []Name
	// Manifests are all that names lead to, directly or through indexes.
	Manifests map[digest.Digest]*Manifest
	// Broken are the members of indexes that could not be read.
	Broken map[digest.Digest]error
	// Marker is the marker's manifest; its Bytes are nil where there is none.
	Marker storage.Manifest
	// Fetched counts the manifests that had to be read.
	Fetched int
	// IndexError is why the index on disk was thrown away, or could not be written.
	// The inventory is complete all the same.
	IndexError error

	uses map[digest.Digest]use
}

// use is how much a blob takes and how many manifests need it.
type use struct {
	size      int64
	manifests int
}

// Sizes are bytes in the storage.
type Sizes struct {
	// Total is all that there is, shared content included once.
	Total int64
	// Own is what nothing else in the storage needs.
	Own int64
}

// Sizes returns how much the manifests take together. An index counts for itself,
// without its members. Unknown digests take nothing.
func (inv *Inventory) Sizes(of ...digest.Digest) Sizes {
	var s Sizes
	counted := make(map[digest.Digest]bool, len(of))
	users := map[digest.Digest]int{}
	for _, d := range of {
		m := inv.Manifests[d]
		if m == nil || counted[d] {
			continue
		}
		counted[d] = true
		s.Total += m.Size
		s.Own += m.Size
		for b := range m.blobs() {
			users[b.Digest]++
			u := inv.uses[b.Digest]
			if users[b.Digest] == 1 {
				s.Total += u.size
			}
			if users[b.Digest] == u.manifests {
				s.Own += u.size
			}
		}
	}
	return s
}

// count fills in uses.
func (inv *Inventory) count() {
	inv.uses = map[digest.Digest]use{}
	for _, m := range inv.Manifests {
		for b := range m.blobs() {
			u := inv.uses[b.Digest]
			u.size, u.manifests = max(u.size, b.Size), u.manifests+1
			inv.uses[b.Digest] = u
		}
	}
}

// Name returns the name of a tag.
func (inv *Inventory) Name(tag string) (Name, bool) {
	i, ok := slices.BinarySearchFunc(inv.Names, tag, func(n Name, tag string) int { return strings.Compare(n.Tag, tag) })
	if !ok {
		return Name{}, false
	}
	return inv.Names[i], true
}

// Tags returns the tags that lead to each manifest: those that name it, and those
// of the indexes that it is a member of. Broken members are among them.
func (inv *Inventory) Tags() map[digest.Digest][]string {
	out := make(map[digest.Digest][]string, len(inv.Manifests))
	for _, n := range inv.Names {
		if n.Manifest != nil {
			inv.follow(n.Manifest.Digest, func(d digest.Digest) { out[d] = append(out[d], n.Tag) })
		}
	}
	return out
}

// follow calls visit for a manifest and all that it leads to, each once.
func (inv *Inventory) follow(d digest.Digest, visit func(digest.Digest)) {
	seen := map[digest.Digest]bool{d: true}
	for open := []digest.Digest{d}; len(open) > 0; open = open[1:] {
		visit(open[0])
		m := inv.Manifests[open[0]]
		if m == nil {
			continue
		}
		for _, member := range m.Members {
			if !seen[member.Digest] {
				seen[member.Digest] = true
				open = append(open, member.Digest)
			}
		}
	}
}
