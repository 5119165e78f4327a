package daemonctl

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"time"
)

// BuildsPath has the daemon count, with POST and a [BuildSummary], a build in its metrics.
const BuildsPath = "/builds"

// tellTime bounds what a build spends on telling the daemon about itself.
const tellTime = 500 * time.Millisecond

// Outcome says how a build ended.
type Outcome string

// Outcomes of builds.
const (
	OutcomeSucceeded   Outcome = "succeeded"
	OutcomeFailed      Outcome = "failed"
	OutcomeKept        Outcome = "kept" // made, and not published
	OutcomeInterrupted Outcome = "interrupted"
)

// Outcomes returns all there are.
func Outcomes() []Outcome {
	return []Outcome{OutcomeSucceeded, OutcomeFailed, OutcomeKept, OutcomeInterrupted}
}

// BuildSummary are the sums of one build.
type BuildSummary struct {
	Outcome Outcome `json:"outcome"`
	// Seconds that the build took, WaitSeconds that its stages waited for other
	// runners, added up.
	Seconds     float64 `json:"seconds"`
	WaitSeconds float64 `json:"waitSeconds"`
	// Stages are how many there were by result.
	Stages map[string]int `json:"stages,omitempty"`
	// Made are the stages that this build made.
	Made []StageSummary `json:"made,omitempty"`

	BytesPulled      int64 `json:"bytesPulled"`
	BytesPushed      int64 `json:"bytesPushed"`
	RegistryRequests int64 `json:"registryRequests"`
	LedgerRequests   int64 `json:"ledgerRequests"`
}

// StageSummary is a stage that a build made.
type StageSummary struct {
	// Stage is its kind, such as install.
	Stage   string  `json:"stage"`
	Seconds float64 `json:"seconds"`
}

// Tell has the daemon at p, where one runs, count a build. It starts none, and
// gives up soon: nothing depends on it. Without a daemon it returns an error that
// wraps [ErrNotRunning].
func Tell(ctx context.Context, p Paths, s BuildSummary) error {
	body, err := json.Marshal(s)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, tellTime)
	defer cancel()
	res, err := send(ctx, p, http.MethodPost, BuildsPath, bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusNoContent {
		return fmt.Errorf("build daemon: POST %s: %s", BuildsPath, res.Status)
	}
	return nil
}
