package engine

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
)

// PlatformError says that an engine cannot run commands of a platform.
type PlatformError struct {
	// Engine is the engine's address.
	Engine string
	Want   stages.Platform
	// Runs are the platforms whose commands it runs.
	Runs []stages.Platform
}

// Error implements error.
func (e *PlatformError) Error() string {
	runs := make([]string, len(e.Runs))
	for i, p := range e.Runs {
		runs[i] = string(p)
	}
	return fmt.Sprintf("the engine %s runs no commands of %s, only of %s", e.Engine, e.Want, strings.Join(runs, ", "))
}

// known is what an engine has said about its platforms.
type known struct {
	mu    sync.Mutex
	specs []ocispec.Platform
}

// Check returns a [*PlatformError] where the engine cannot run commands of the
// platform, neither itself nor by an emulator that its system has for it (binfmt).
func (e *Engine) Check(ctx context.Context, p stages.Platform) error {
	specs, err := e.platforms(ctx)
	if err != nil {
		return err
	}
	want := ocispec.Platform{OS: p.OS(), Architecture: p.Architecture(), Variant: p.Variant()}
	if slices.ContainsFunc(specs, func(s ocispec.Platform) bool { return platforms.OnlyStrict(s).Match(want) }) {
		return nil
	}
	out := &PlatformError{Engine: e.address, Want: p}
	for _, s := range specs {
		out.Runs = append(out.Runs, stages.Platform(platforms.Format(s)))
	}
	return out
}

// platforms asks the engine once: it tries all emulators to answer.
func (e *Engine) platforms(ctx context.Context) ([]ocispec.Platform, error) {
	e.known.mu.Lock()
	defer e.known.mu.Unlock()
	if e.known.specs != nil {
		return e.known.specs, nil
	}
	workers, err := e.client.ListWorkers(ctx)
	if err != nil {
		return nil, fmt.Errorf("engine %s: its platforms: %w", e.address, classify(err))
	}
	if len(workers) == 0 {
		return nil, fmt.Errorf("engine %s has no worker: %w", e.address, ErrEngineGone)
	}
	// The first worker is the one that BuildKit gives all work to.
	e.known.specs = workers[0].Platforms
	return e.known.specs, nil
}
