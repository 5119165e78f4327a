package build_test

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"sync"
	"sync/atomic"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
)

// fakeEngine is an engine of which nothing is certain: no two runs of the same
// commands give the same layer. What goes wrong besides is up to its hooks.
type fakeEngine struct {
	// before is called when a job begins, with how often it was begun; its error ends the job.
	before func(ctx context.Context, job *engine.Job, n int) error
	// below changes what the engine says it has below a job.
	below func(job *engine.Job, n int, below []digest.Digest) []digest.Digest
	// same has equal commands give equal layers.
	same bool
	// lacks is a platform whose commands it cannot run.
	lacks stages.Platform

	salt  string
	mu    sync.Mutex
	begun map[string]int
	runs  map[string]int // jobs that were finished, by stage digest
	alive *liveEngine
}

// salts tells engines apart.
var salts atomic.Int64

func newFakeEngine() *fakeEngine {
	return &fakeEngine{salt: fmt.Sprint(salts.Add(1)), begun: map[string]int{}, runs: map[string]int{}}
}

// next starts an engine, which knows nothing of the one before.
func (e *fakeEngine) next() build.Engine {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.alive = &liveEngine{fakeEngine: e, done: map[*engine.Job]engine.Result{}}
	return e.alive
}

// count returns how often jobs were finished, in all.
func (e *fakeEngine) count() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	sum := 0
	for _, n := range e.runs {
		sum += n
	}
	return sum
}

type liveEngine struct {
	*fakeEngine
	done map[*engine.Job]engine.Result
}

// Check implements build.Engine: its platforms are all but those in lacks.
func (e *liveEngine) Check(_ context.Context, p stages.Platform) error {
	if e.lacks == p {
		return &engine.PlatformError{Engine: "fake", Want: p, Runs: []stages.Platform{stages.DefaultPlatform}}
	}
	return nil
}

func (e *liveEngine) Run(ctx context.Context, job *engine.Job, layer func(context.Context, io.Reader) error, p engine.Progress) (engine.Result, error) {
	e.mu.Lock()
	e.begun[job.Key]++
	n := e.begun[job.Key]
	e.mu.Unlock()
	if e.before != nil {
		if err := e.before(ctx, job, n); err != nil {
			return engine.Result{}, err
		}
	}
	if err := ctx.Err(); err != nil {
		return engine.Result{}, context.Cause(ctx)
	}
	res, err := e.result(ctx, job, n)
	if err != nil {
		return res, err
	}
	p(engine.Event{Kind: engine.Log, Stream: 1, Line: []byte("running " + job.Name)})
	content := job.Key
	if !e.same {
		content += fmt.Sprintf(" %s %d", e.salt, n)
	}
	raw, err := tarOf("made/"+job.Key[7:19], content)
	if err != nil {
		return res, err
	}
	res.Layer = engine.Layer{Raw: digest.FromBytes(raw), Size: int64(len(raw))}
	if err := layer(ctx, bytes.NewReader(raw)); err != nil {
		return res, err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.runs[job.Key]++
	e.done[job] = res
	return res, nil
}

// Build makes one layer, as commands upon the target's base would.
func (e *liveEngine) Build(ctx context.Context, job *engine.Job, layer func(context.Context, int, io.Reader) error, p engine.Progress) (engine.Built, error) {
	d := job.Dockerfile
	if d.Source.Root >= 0 {
		job.Parent = d.Bases[d.Source.Root].Image
	}
	res, err := e.Run(ctx, job, func(ctx context.Context, raw io.Reader) error { return layer(ctx, 0, raw) }, p)
	return engine.Built{Layers: []engine.Layer{res.Layer}, Below: res.Below, Config: []byte(`{"os":"linux","architecture":"amd64","config":{"Env":["FROM=dockerfile"]}}`)}, err
}

// result says what is below a job, after a look at all that it stands on.
func (e *liveEngine) result(ctx context.Context, job *engine.Job, n int) (engine.Result, error) {
	var res engine.Result
	switch {
	case job.After != nil:
		e.mu.Lock()
		before, ok := e.done[job.After]
		e.mu.Unlock()
		if !ok {
			return res, fmt.Errorf("%s: continues a job that this engine did not run", job.Name)
		}
		res.Below = append(append(res.Below, before.Below...), before.Layer.Raw)
	case job.Parent != nil:
		diffs, err := readImage(ctx, job.Parent)
		if err != nil {
			return res, err
		}
		res.Below = diffs
	}
	for _, c := range job.Copies {
		if c.From == nil {
			continue
		}
		if _, err := readImage(ctx, c.From); err != nil {
			return res, err
		}
	}
	if job.Files != nil {
		res.Below = append(res.Below, digest.FromString("files of "+job.Key))
	}
	if e.below != nil {
		res.Below = e.below(job, n, res.Below)
	}
	return res, nil
}

// readImage reads all layers of an image, as an engine without any of them does.
func readImage(ctx context.Context, img *engine.Image) ([]digest.Digest, error) {
	var m ocispec.Manifest
	if err := json.Unmarshal(img.Bytes, &m); err != nil {
		return nil, err
	}
	for _, d := range m.Layers {
		rc, err := img.Blobs.Blob(ctx, d)
		if err != nil {
			return nil, err
		}
		_, err = io.Copy(io.Discard, rc)
		if err != nil {
			return nil, err
		}
		if err := rc.Close(); err != nil {
			return nil, err
		}
	}
	var cfg ocispec.Image
	err := json.Unmarshal(img.Config, &cfg)
	return cfg.RootFS.DiffIDs, err
}
