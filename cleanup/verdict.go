package cleanup

import (
	"errors"
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage/inventory"
)

// Code says what kind of reason a verdict has.
type Code string

// The codes that keep, the strongest first, and then those that remove.
const (
	// Marker: it names the project of the storage.
	Marker Code = "marker"
	// Foreign: this project did not make the tag.
	Foreign Code = "foreign"
	// InUse: a cluster uses it.
	InUse Code = "in-use"
	// KeepList: the keep list names it.
	KeepList Code = "keep-list"
	// Tagged: a tag that is not the project's names the same manifest.
	Tagged Code = "tagged"
	// Planned: a kept commit plans it.
	Planned Code = "planned"
	// Member: a kept index lists it.
	Member Code = "member"
	// Parent: a kept stage stands on it.
	Parent Code = "parent"
	// InFlight: the ledger tells of it.
	InFlight Code = "in-flight"
	// Young: it is not known to be older than what is kept for its age.
	Young Code = "young"
	// Unplannable: it may be of a kept commit that cannot be planned.
	Unplannable Code = "unplannable"
	// Unread: it is not known whether it is in use.
	Unread Code = "unread"
	// Broken: it cannot be read.
	Broken Code = "broken"
	// Unreferenced: nothing keeps the index.
	Unreferenced Code = "unreferenced"
	// DeadBuilds: only indexes that go lead to the stage.
	DeadBuilds Code = "dead-builds"
	// NoBuild: no index leads to the stage, and nothing keeps it.
	NoBuild Code = "no-build"
)

// Keeping returns the codes that keep, the strongest first.
func Keeping() []Code {
	return []Code{Marker, Foreign, InUse, KeepList, Tagged, Planned, Member, Parent, InFlight, Young, Unplannable, Unread, Broken}
}

// Removing returns the codes that remove.
func Removing() []Code { return []Code{Unreferenced, DeadBuilds, NoBuild} }

// maxReasons bounds the reasons of one verdict; one is enough to keep.
const maxReasons = 8

// Reason is why something stays or goes.
type Reason struct {
	Code Code `json:"code"`
	// Text says it for people.
	Text string `json:"text"`
}

// Verdict is what is to become of a tag.
type Verdict struct {
	Tag  string         `json:"tag"`
	Kind inventory.Kind `json:"kind"`
	Keep bool           `json:"keep"`
	// Reasons are never empty; the strongest comes first.
	Reasons []Reason `json:"reasons"`
	// Manifest is what the tag names; "" where that is not known.
	Manifest digest.Digest `json:"manifest,omitempty"`
	// Bytes is what nothing else in the storage needs.
	Bytes int64 `json:"bytes"`
}

// Total counts tags of one reason.
type Total struct {
	Code Code `json:"code"`
	Keep bool `json:"keep"`
	Tags int  `json:"tags"`
	// Bytes is what only they hold.
	Bytes int64 `json:"bytes"`
}

// Decision is a plan of a cleanup.
type Decision struct {
	// Verdicts are about all tags, in their order.
	Verdicts []Verdict
	// Totals count the tags by their strongest reason, what stays first.
	Totals []Total
	// Foreign are the tags that are not the project's.
	Foreign []string
	// Missing are mentions of what is not in the storage although they name it.
	Missing []Mention
	// Freed is what goes in all, in bytes.
	Freed int64
	// Remove is what goes, by its tags' order.
	Remove []Removal
}

// Removal is a name that goes.
type Removal struct {
	Kind     inventory.Kind
	Digest   stages.Digest
	Manifest digest.Digest
	// On are the stages that it lists or, as far as layers tell, stands on, of those
	// that go.
	On []stages.Digest
	// Layers are those of a stage, the lowest first.
	Layers []digest.Digest
}

// ErrKeepsNothing says that all stages and builds would be removed.
var ErrKeepsNothing = errors.New("nothing that is kept is in the storage: everything would be removed")

// add adds a reason to those of a tag, the strongest first, each code and text once.
func add(all []Reason, r Reason) []Reason {
	if slices.Contains(all, r) {
		return all
	}
	order := Keeping()
	at := 0
	for at < len(all) && slices.Index(order, all[at].Code) <= slices.Index(order, r.Code) {
		at++
	}
	if at >= maxReasons {
		return all
	}
	all = slices.Insert(all, at, r)
	return all[:min(len(all), maxReasons)]
}
