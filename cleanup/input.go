package cleanup

import (
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/synchronization"
)

// Input is everything that verdicts follow from.
type Input struct {
	Inventory *inventory.Inventory
	// Named maps tags that are not this project's to the manifests that they name.
	Named map[string]digest.Digest
	// Commits are those that are kept.
	Commits []Commit
	// Open are the reasons for which builds of commits that are not here may be kept:
	// a shallow history, a remote that does not answer.
	Open []string
	// InUse and Listed are what clusters and the keep list name.
	InUse, Listed []Mention
	// Unread are the reasons for which it is not known what is in use somewhere.
	Unread []string
	// Entries are those of the ledger.
	Entries map[stages.Digest]synchronization.Entry
	// KeepBuiltWithin keeps what is not known to be older; 0 for nothing.
	KeepBuiltWithin time.Duration
	Now             time.Time
	// AllowEmptyKeep allows that nothing of all that is there is kept.
	AllowEmptyKeep bool
}

// Commit is a kept commit with what planning it gave.
type Commit struct {
	ID string
	// Why says for people what keeps it: "tip of branch main".
	Why string
	// Images are those that could be planned.
	Images []Image
	// Unplanned are the images that could not be; one without a name stands for any
	// image.
	Unplanned []Unplanned
	// Bare is set where the commit has no configuration anywhere: it has built nothing.
	Bare bool
}

// Image is an image of a commit for one platform.
type Image struct {
	Name     string
	Platform stages.Platform
	// Stages from the first to the final one.
	Stages []stages.Digest
}

// Unplanned is an image whose stages cannot be computed.
type Unplanned struct {
	// Any is set where not even the names of the images are known.
	Any bool
	// Name is the image's; empty for a nameless one.
	Name string
	// Why says for people what hinders planning.
	Why string
}

// Mention is something that names content of the storage: a pod, a line of a file.
type Mention struct {
	// Digest is a manifest's digest, a stage's, or the root of a build. Zero where Tag
	// is given.
	Digest stages.Digest
	// Tag is a tag of the storage.
	Tag string
	// Where says for people what mentions it.
	Where string
}

// Explanation is whether planning a commit tells of an index.
type Explanation int

// The explanations.
const (
	// ExplainsNot: the index is not of this commit.
	ExplainsNot Explanation = iota
	// MayExplain: nothing that is known of the commit contradicts.
	MayExplain
	// Explains: all images of the index are this commit's.
	Explains
)

// Explain tells whether an index holds images of the commit and nothing else.
// Members that do not say which image they are explain nothing.
func (c *Commit) Explain(index *inventory.Manifest) Explanation {
	out := Explains
	for _, m := range index.Members {
		switch {
		case m.Stage.IsZero():
			return ExplainsNot
		case c.plans(m):
		case c.mayPlan(m.Image):
			out = MayExplain
		default:
			return ExplainsNot
		}
	}
	if len(index.Members) == 0 {
		return ExplainsNot
	}
	return out
}

func (c *Commit) plans(m inventory.Member) bool {
	for _, img := range c.Images {
		if img.Name == m.Image && len(img.Stages) > 0 && img.Stages[len(img.Stages)-1] == m.Stage {
			return true
		}
	}
	return false
}

func (c *Commit) mayPlan(image string) bool {
	for _, u := range c.Unplanned {
		if u.Any || u.Name == image {
			return true
		}
	}
	return false
}
