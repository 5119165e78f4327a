package engine

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"

	"github.com/moby/buildkit/client"
	"github.com/moby/buildkit/client/llb"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/session"
	solvererrdefs "github.com/moby/buildkit/solver/errdefs"
	"github.com/moby/buildkit/util/entitlements"
	"github.com/opencontainers/go-digest"
	"github.com/tonistiigi/fsutil"
)

// Run runs the job and hands the layer that it makes to layer, as an
// uncompressed archive and while it comes from the engine. The layer has the
// times at which things happened; to give it others is the caller's business.
// What layer has read is right only if Run returns no error. When nothing was
// changed, layer is not called.
//
// layer must not wait for another Run: the engine sends only a few layers at a time.
//
// Errors: an [*ExitError] when commands fail, a [*MissingPathError] when a source
// lacks what is to be copied, one that wraps [ErrEngineGone] when
// the engine is lost, what [Secrets] said about a secret that could not be read, the cause of ctx when that ends, the error of layer as it is,
// and one that wraps what the [Tree] or the [Blobs] of an image said when a file or a layer could not be read.
func (e *Engine) Run(ctx context.Context, job *Job, layer func(ctx context.Context, raw io.Reader) error, p Progress) (Result, error) {
	b, ctx, done, err := e.begin(ctx, job)
	if err != nil {
		return Result{}, err
	}
	defer done()
	st, err := b.job(job)
	if err != nil {
		return Result{}, err
	}
	var empty bool
	store := newExportStore(-1, func(_ int, raw io.Reader) (err error) {
		empty, err = filterLayer(job, raw, func(r io.Reader) error { return layer(ctx, r) })
		return err
	})
	m := newMonitor(job, b.steps, p, &e.secrets.masks)
	if err := e.make(ctx, st, job, store, m); err != nil {
		return Result{}, err
	}
	made, below, err := store.result()
	if err != nil {
		return Result{}, fmt.Errorf("%s: %w", job.Name, err)
	}
	return Result{Layer: made[0], Below: below, Empty: empty, Cached: m.cached()}, nil
}

// begin checks a job and returns what builds its graph. done ends the context.
func (e *Engine) begin(ctx context.Context, job *Job) (*builder, context.Context, context.CancelFunc, error) {
	if err := job.visit(map[*Job]bool{}, (*Job).check); err != nil {
		return nil, nil, nil, fmt.Errorf("%s: %w", job.Name, err)
	}
	select {
	case <-e.gone:
		return nil, nil, nil, fmt.Errorf("%s: %w", job.Name, ErrEngineGone)
	default:
	}
	ctx, done := e.whileServing(ctx)
	return &builder{
		ctx: ctx, own: job, session: e.session.ID(), proxy: e.proxy, images: e.images, trees: e.trees,
		steps: map[string]*Job{}, configs: map[*Job][]byte{}, unchanged: map[*Job]bool{},
	}, ctx, done, nil
}

// make has the engine make the result of a job and export it to store.
func (e *Engine) make(ctx context.Context, st llb.State, job *Job, store *exportStore, m *monitor) error {
	def, err := st.Marshal(ctx, platform(job.Platform))
	if err != nil {
		return fmt.Errorf("%s: %w", job.Name, err)
	}
	if err := e.solve(ctx, def, job, store, m); err != nil {
		return e.failure(ctx, job, m, store, err)
	}
	return nil
}

// solve has the engine make def, with a session for what it exports. When it
// returns, nothing of the run goes on.
func (e *Engine) solve(ctx context.Context, def *llb.Definition, job *Job, store *exportStore, m *monitor) error {
	s, err := session.NewSession(ctx, "")
	if err != nil {
		return err
	}
	s.Allow(attachment{store})
	e.attach(s, job)
	status := make(chan *client.SolveStatus)
	var parts sync.WaitGroup
	parts.Go(func() { m.watch(status) })
	// A session that does not come about is found missing by the engine.
	parts.Go(func() { _ = s.Run(context.WithoutCancel(ctx), e.client.Dialer()) })
	o := solveOptions(job, store)
	o.SharedSession, o.SessionPreInitialized = s, true
	_, err = e.client.Solve(ctx, def, o, status)
	err = errors.Join(err, s.Close())
	parts.Wait()
	store.close()
	return err
}

// whileServing returns a context that also ends when the engine's session does.
func (e *Engine) whileServing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-e.gone:
			cancel(ErrEngineGone)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil) }
}

func solveOptions(job *Job, store *exportStore) client.SolveOpt {
	o := client.SolveOpt{
		Exports: []client.ExportEntry{{
			Type:        client.ExporterOCI,
			Attrs:       map[string]string{"tar": "false", "compression": "uncompressed", "oci-mediatypes": "true"},
			OutputStore: store,
		}},
		LocalMounts: map[string]fsutil.FS{},
		// No entry in the engine's history of builds, and no provenance for it.
		Internal: true,
	}
	// The function given here never fails.
	_ = job.visit(map[*Job]bool{}, func(j *Job) error {
		if j.Files != nil {
			o.LocalMounts[treeName(j)] = noFiles{}
		}
		if j.Dockerfile != nil {
			o.LocalMounts[contextName(j)] = noFiles{}
		}
		if j.hostNetwork() && o.AllowedEntitlements == nil {
			o.AllowedEntitlements = []string{entitlements.EntitlementNetworkHost.String()}
		}
		return nil
	})
	return o
}

// failure finds out what an error of the engine means.
func (e *Engine) failure(ctx context.Context, job *Job, m *monitor, store *exportStore, err error) error {
	if own := store.failure(); own != nil {
		return own
	}
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", job.Name, context.Cause(ctx))
	}
	var exit *gwpb.ExitError
	file, line, text := dockerfilePlace(err)
	if !errors.As(err, &exit) {
		if unread := e.trees.failure(job); unread != nil {
			return unread
		}
		err = classify(err)
		if file != "" {
			err = fmt.Errorf("%s:%d: %w", file, line, err)
		}
		if unread := e.images.failure(job); unread != nil && !errors.Is(err, ErrEngineGone) {
			err = unread
		} else if unread := e.secrets.failure(job); unread != nil {
			return unread
		} else if missing := missingPath(job, err); missing != nil {
			return missing
		}
		return fmt.Errorf("%s: %w", job.Name, err)
	}
	out := &ExitError{Job: job, Code: int(exit.ExitCode), File: file, Line: line, Command: text}
	var vertex *solvererrdefs.VertexError
	if errors.As(err, &vertex) {
		if st := m.steps[digest.Digest(vertex.Digest)]; st != nil {
			out.Job, out.Output = st.job, st.tail.lines()
		}
	}
	if c := out.Job.Commands; c != nil && len(c.Script) == 1 {
		out.Command = c.Script[0]
	}
	return out
}
