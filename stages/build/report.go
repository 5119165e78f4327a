package build

import (
	"slices"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
)

// Report is the public, stable account of a build; docs/report.schema.json is
// its schema.
type Report struct {
	Project string        `json:"project"`
	Root    stages.Digest `json:"root"`
	// Images are those that were asked for, Needed the others that they begin or
	// import from.
	Images []ImageReport `json:"images"`
	Needed []ImageReport `json:"needed,omitempty"`
	// Indexes are the images of Images that are for several platforms.
	Indexes []IndexReport `json:"indexes,omitempty"`
	// Requests are those that were sent, retries included, authentication apart.
	Requests      Requests `json:"requests"`
	EngineStarted bool     `json:"engineStarted"`
	// BytesPulled and BytesPushed count manifest and blob bytes between Cairn and
	// the storages. The engine itself speaks to none.
	BytesPulled int64 `json:"bytesPulled"`
	BytesPushed int64 `json:"bytesPushed"`
	// Reused is what was read from places nearer than the storage; nil for nothing.
	Reused  *Reused `json:"reused,omitempty"`
	Seconds float64 `json:"seconds"`
	// Kept are stages that were made but could not be published: they lie in the
	// local cache, and the next run publishes them.
	Kept []stages.Digest `json:"kept,omitempty"`
	// Losses are parts of the ledger that were lost during the last Δ. Until Δ has
	// passed since, two runners may publish a stage differently.
	Losses []synchronization.Loss `json:"losses,omitempty"`
	// Unlisted says why the build has no index although all of its images were found:
	// the next one looks for each image again, and a cleanup does not see that it is used.
	Unlisted string `json:"unlisted,omitempty"`
}

// All returns Images and then Needed.
func (r *Report) All() []ImageReport { return slices.Concat(r.Images, r.Needed) }

// Reused counts blobs that the storage did not have to be asked for.
type Reused struct {
	// Blobs came from the cache of this host, and have Bytes together.
	Blobs int64 `json:"blobs"`
	Bytes int64 `json:"bytes"`
	// Mirrored are those of them that the cache storage had and this host had not.
	Mirrored int64 `json:"mirrored"`
}

// Requests counts what went over the wire.
type Requests struct {
	Registry int64 `json:"registry"`
	Ledger   int64 `json:"ledger"`
}

// ImageReport is one image for one platform.
type ImageReport struct {
	Name     string          `json:"name"`
	Platform stages.Platform `json:"platform"`
	// Ref is the reference by digest, REPOSITORY@sha256:…; "" for an image that is
	// not published after a run that failed or kept its results local, and for a
	// needed one that nobody had to look at.
	Ref    string        `json:"ref"`
	Stages []StageReport `json:"stages"`
}

// IndexReport is an image for several platforms as one: who pulls it gets the
// image for the platform at hand.
type IndexReport struct {
	Name string `json:"name"`
	// Platforms in the order of the configuration.
	Platforms []stages.Platform `json:"platforms"`
	// Ref is the reference by digest; "" where not all platforms are published.
	Ref string `json:"ref"`
}

// StageReport is one stage of an image.
type StageReport struct {
	Name   string        `json:"name"`
	Digest stages.Digest `json:"digest"`
	// Manifest is null for a stage that was not looked up.
	Manifest *digest.Digest `json:"manifest"`
	// Result is "" for a stage that a failed run did not come to the end of.
	Result Result `json:"result"`
	// Seconds that this run spent on making and publishing it.
	Seconds     float64 `json:"seconds"`
	BytesPushed int64   `json:"bytesPushed"`
}

// Counts are taken by whoever sends the requests.
type Counts struct {
	RegistryRequests, LedgerRequests int64
	BytesPulled, BytesPushed         int64
	Reused                           Reused
}

// report says how the run stands: complete after success, as far as it came
// after a failure.
func (r *run) report(root stages.Digest) *Report {
	c := r.Counts()
	out := &Report{
		Project: r.Plan.Project, Root: root,
		Requests:      Requests{Registry: c.RegistryRequests, Ledger: c.LedgerRequests},
		EngineStarted: r.engines.started(),
		BytesPulled:   c.BytesPulled, BytesPushed: c.BytesPushed,
		Seconds: r.Now().Sub(r.Began).Seconds(),
		Kept:    r.keptStages(), Losses: r.ledger.losses(),
	}
	if c.Reused.Blobs > 0 {
		out.Reused = &c.Reused
	}
	below := r.belowPublished()
	for _, img := range r.Plan.Images {
		out.Images = append(out.Images, r.imageReport(img, below))
	}
	for _, images := range severalPlatforms(r.Plan.Images) {
		out.Indexes = append(out.Indexes, r.indexReport(images))
	}
	for _, img := range r.Plan.Others {
		out.Needed = append(out.Needed, r.imageReport(img, below))
	}
	return out
}

func (r *run) imageReport(img *stages.Image, below map[stages.Digest]bool) ImageReport {
	out := ImageReport{Name: img.Name, Platform: img.Platform}
	for _, s := range img.Stages {
		rep := r.node(s).report()
		if rep.Result == "" && below[s.Digest] {
			rep.Result = ResultCached
		}
		out.Stages = append(out.Stages, rep)
	}
	if m := out.Stages[len(out.Stages)-1].Manifest; m != nil {
		out.Ref = r.Storage.Address() + "@" + m.String()
	}
	return out
}

// indexReport names the index of an image. Its digest follows from those of the
// images that it lists, so it is not asked for.
func (r *run) indexReport(images []*stages.Image) IndexReport {
	out := IndexReport{Name: images[0].Name}
	complete := true
	for _, img := range images {
		out.Platforms = append(out.Platforms, img.Platform)
		complete = complete && r.node(img.Final()).publishedDigest() != ""
	}
	if m, err := r.indexOf(images, r.marks[images[0].Name]); complete && err == nil { // a list of descriptors always has an encoding
		out.Ref = r.Storage.Address() + "@" + m.Descriptor.Digest.String()
	}
	return out
}

// belowPublished returns the stages that a published one was made from. Nobody
// had to look at those: they need not even be there any more.
func (r *run) belowPublished() map[stages.Digest]bool {
	out := make(map[stages.Digest]bool)
	var add func(s *stages.Stage)
	add = func(s *stages.Stage) {
		for _, need := range s.Needs() {
			if !out[need.Digest] {
				out[need.Digest] = true
				add(need)
			}
		}
	}
	for _, d := range r.order {
		if n := r.at(d); n.publishedDigest() != "" {
			add(n.stage)
		}
	}
	return out
}
