package telemetry

import (
	"context"
	"sync"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
)

// flushTime bounds what is spent at the end of a build on spans that are not
// delivered yet.
const flushTime = 2 * time.Second

// TraceOptions are what a [Trace] needs.
type TraceOptions struct {
	// Getenv looks up a variable, "" where it is not set.
	Getenv func(string) string
	// Version of cairn.
	Version string
	// Began is when the build began, Now the clock.
	Began time.Time
	Now   func() time.Time
	Log   *zap.Logger
}

// Trace is the trace of one build: a span "build" with one each for its steps
// and stages below, and below a stage one for each phase. A nil Trace records
// nothing. It is safe for concurrent use.
type Trace struct {
	o        TraceOptions
	provider *sdk.TracerProvider
	tracer   trace.Tracer
	ctx      context.Context // of the span "build", below which all others are
	root     trace.Span

	mu     sync.Mutex
	step   trace.Span // the one that is under way, or nil
	stages map[stages.Digest]*stageSpan
}

// stageSpan is a stage under way.
type stageSpan struct {
	ctx   context.Context // of the span below which the phases are
	span  trace.Span
	phase trace.Span // nil before the first
	is    build.Phase
}

// StartTrace begins the trace of a build where the environment asks for one, and
// returns nil elsewhere. It belongs to the trace that TRACEPARENT names, if any.
// A configuration that cannot be used is told to the log, and there is no trace.
func StartTrace(ctx context.Context, o TraceOptions) *Trace {
	on, err := wanted(o.Getenv)
	if err == nil && !on {
		return nil
	}
	t := &Trace{o: o, stages: map[stages.Digest]*stageSpan{}}
	if err == nil {
		t.provider, err = provider(ctx, o)
	}
	if err != nil {
		o.Log.Warn("the build is not traced", zap.Error(err))
		return nil
	}
	t.tracer = t.provider.Tracer("github.com/cairnbuild/cairn", trace.WithInstrumentationVersion(o.Version))
	parent := propagation.TraceContext{}.Extract(context.WithoutCancel(ctx), propagation.MapCarrier{
		"traceparent": o.Getenv("TRACEPARENT"), "tracestate": o.Getenv("TRACESTATE"),
	})
	t.ctx, t.root = t.tracer.Start(parent, "build", trace.WithTimestamp(o.Began))
	return t
}

// ID returns the trace's id in hexadecimal, "" for a nil Trace.
func (t *Trace) ID() string {
	if t == nil {
		return ""
	}
	return t.root.SpanContext().TraceID().String()
}

// Begin ends the step that is under way, and begins the one with this name.
// The first event of a stage ends a step as well.
func (t *Trace) Begin(step string) {
	if t == nil {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	now := t.o.Now()
	t.endStep(now)
	_, t.step = t.tracer.Start(t.ctx, step, trace.WithTimestamp(now))
}

func (t *Trace) endStep(at time.Time) {
	if t.step != nil {
		t.step.End(trace.WithTimestamp(at))
		t.step = nil
	}
}

// Observe implements [build.Observer].
func (t *Trace) Observe(e build.Event) {
	if t == nil || e.Phase == "" {
		return
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endStep(e.Time)
	s := t.stages[e.Stage.Digest]
	ends := e.Phase == build.PhaseDone || e.Phase == build.PhaseFailed
	switch {
	case s == nil && ends:
		// Nobody had to look at it: it is there with what stands on it.
	case ends:
		s.end(e)
		delete(t.stages, e.Stage.Digest)
	case s == nil:
		s = t.startStage(e)
		t.stages[e.Stage.Digest] = s
		s.begin(t.tracer, e)
	case s.is != e.Phase:
		s.begin(t.tracer, e)
	}
}

func (t *Trace) startStage(e build.Event) *stageSpan {
	s := &stageSpan{}
	s.ctx, s.span = t.tracer.Start(t.ctx, "stage "+e.Stage.Name(), trace.WithTimestamp(e.Time), trace.WithAttributes(
		attribute.String("cairn.image", e.Image),
		attribute.String("cairn.stage", e.Stage.Name()),
		attribute.String("cairn.platform", string(e.Stage.Recipe.Platform)),
		attribute.String("cairn.digest", e.Stage.Digest.String()),
	))
	return s
}

// begin has the phase of e follow the one before.
func (s *stageSpan) begin(tracer trace.Tracer, e build.Event) {
	s.endPhase(e.Time)
	_, s.phase = tracer.Start(s.ctx, phaseName(e.Phase), trace.WithTimestamp(e.Time))
	s.is = e.Phase
	if e.Phase == build.PhaseWaiting {
		s.phase.SetAttributes(attribute.String("cairn.waits_for", e.Detail))
	}
}

func (s *stageSpan) endPhase(at time.Time) {
	if s.phase != nil {
		s.phase.End(trace.WithTimestamp(at))
		s.phase = nil
	}
}

func (s *stageSpan) end(e build.Event) {
	if e.Phase == build.PhaseFailed {
		if s.phase != nil {
			s.phase.SetStatus(codes.Error, failureClass(e.Err))
		}
		s.span.SetStatus(codes.Error, failureClass(e.Err))
	} else {
		s.span.SetAttributes(attribute.String("cairn.result", string(e.Result)))
	}
	s.endPhase(e.Time)
	s.span.End(trace.WithTimestamp(e.Time))
}

// phaseName is what the span of a phase is called.
func phaseName(p build.Phase) string {
	switch p {
	case build.PhaseLooking:
		return "look up"
	case build.PhaseWaiting:
		return "wait"
	case build.PhaseQueued:
		return "queue"
	case build.PhaseRunning:
		return "run"
	case build.PhasePushing:
		return "push"
	case build.PhasePublishing:
		return "publish"
	default:
		return string(p)
	}
}

// Close ends the trace and delivers what is left of it, within [flushTime]. rep
// may be nil. exit is the exit code, and err the error that it stands for.
func (t *Trace) Close(ctx context.Context, rep *build.Report, exit int, err error) {
	if t == nil {
		return
	}
	t.mu.Lock()
	now := t.o.Now()
	t.endStep(now)
	for _, s := range t.stages { // cancelled for the sake of another one
		s.endPhase(now)
		s.span.End(trace.WithTimestamp(now))
	}
	t.root.SetAttributes(reportAttributes(rep)...)
	t.root.SetAttributes(attribute.Int("cairn.exit_code", exit))
	if err != nil {
		t.root.SetStatus(codes.Error, failureClass(err))
	}
	t.root.End(trace.WithTimestamp(now))
	t.mu.Unlock()
	// Also for a build that was interrupted.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	if err := t.provider.Shutdown(ctx); err != nil {
		t.o.Log.Warn("the trace of the build was not delivered completely")
	}
}

func reportAttributes(rep *build.Report) []attribute.KeyValue {
	if rep == nil {
		return nil
	}
	out := []attribute.KeyValue{
		attribute.String("cairn.project", rep.Project),
		attribute.String("cairn.root", rep.Root.String()),
		attribute.Int("cairn.images", len(rep.Images)),
		attribute.Bool("cairn.engine_started", rep.EngineStarted),
		attribute.Int64("cairn.requests.registry", rep.Requests.Registry),
		attribute.Int64("cairn.requests.ledger", rep.Requests.Ledger),
		attribute.Int64("cairn.bytes.pulled", rep.BytesPulled),
		attribute.Int64("cairn.bytes.pushed", rep.BytesPushed),
	}
	for result, n := range stageResults(rep) {
		out = append(out, attribute.Int("cairn.stages."+result, n))
	}
	return out
}
