package build

import (
	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
)

// Report is the public, stable account of a build; docs/report.schema.json is
// its schema.
type Report struct {
	Project string        `json:"project"`
	Root    stages.Digest `json:"root"`
	Images  []ImageReport `json:"images"`
	// Requests are those that were sent, retries included, authentication apart.
	Requests      Requests `json:"requests"`
	EngineStarted bool     `json:"engineStarted"`
	// BytesPulled and BytesPushed count manifest and blob bytes between Cairn and
	// the storages. The engine itself speaks to none.
	BytesPulled int64   `json:"bytesPulled"`
	BytesPushed int64   `json:"bytesPushed"`
	Seconds     float64 `json:"seconds"`
	// Kept are stages that were made but could not be published: they lie in the
	// local cache, and the next run publishes them.
	Kept []stages.Digest `json:"kept,omitempty"`
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
	// not published after a run that failed or kept its results local.
	Ref    string        `json:"ref"`
	Stages []StageReport `json:"stages"`
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
}

// report says how the run stands: complete after success, as far as it came
// after a failure.
func (r *run) report(root stages.Digest) *Report {
	c := r.Counts()
	out := &Report{
		Project: r.Plan.Project, Root: root,
		Requests:      Requests{Registry: c.RegistryRequests, Ledger: c.LedgerRequests},
		EngineStarted: r.engine.started(),
		BytesPulled:   c.BytesPulled, BytesPushed: c.BytesPushed,
		Seconds: r.Now().Sub(r.Began).Seconds(),
		Kept:    r.keptStages(),
	}
	for _, img := range r.Plan.Images {
		ir := ImageReport{Name: img.Name, Platform: img.Platform, Stages: r.stageReports(img)}
		if m := ir.Stages[len(ir.Stages)-1].Manifest; m != nil {
			ir.Ref = r.Storage.Address() + "@" + m.String()
		}
		out.Images = append(out.Images, ir)
	}
	return out
}

// stageReports is about the stages of an image. Where a stage is published,
// nobody had to look at those below it: they need not even be there any more.
func (r *run) stageReports(img *stages.Image) []StageReport {
	out := make([]StageReport, len(img.Stages))
	published := false
	for i := len(out) - 1; i >= 0; i-- {
		out[i] = r.node(img.Stages[i]).report()
		if out[i].Result == "" && published {
			out[i].Result = ResultCached
		}
		published = published || out[i].Manifest != nil
	}
	return out
}
