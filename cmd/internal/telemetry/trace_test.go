package telemetry

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	otlp "go.opentelemetry.io/proto/otlp/trace/v1"
	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"
	"google.golang.org/protobuf/proto"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/engine"
	"github.com/cairnbuild/cairn/storage"
)

// receiver takes spans over OTLP.
type receiver struct {
	*httptest.Server
	mu      sync.Mutex
	spans   []*otlp.Span
	headers http.Header
	service string
}

func newReceiver(t *testing.T) *receiver {
	t.Helper()
	r := &receiver{}
	r.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, q *http.Request) {
		body, err := io.ReadAll(q.Body)
		var m collector.ExportTraceServiceRequest
		if err == nil {
			err = proto.Unmarshal(body, &m)
		}
		if err != nil || q.URL.Path != "/v1/traces" {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		r.mu.Lock()
		defer r.mu.Unlock()
		r.headers = q.Header
		for _, rs := range m.ResourceSpans {
			for _, a := range rs.Resource.Attributes {
				if a.Key == "service.name" {
					r.service = a.Value.GetStringValue()
				}
			}
			for _, ss := range rs.ScopeSpans {
				r.spans = append(r.spans, ss.Spans...)
			}
		}
	}))
	t.Cleanup(r.Close)
	return r
}

// tree returns "parent/name" of each span, in the order of their beginnings.
func (r *receiver) tree() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	all := slices.Clone(r.spans)
	slices.SortStableFunc(all, func(a, b *otlp.Span) int {
		if a.StartTimeUnixNano != b.StartTimeUnixNano {
			return int(a.StartTimeUnixNano) - int(b.StartTimeUnixNano)
		}
		if bytes.Equal(a.ParentSpanId, b.SpanId) {
			return 1 // what is below begins later, if by nothing
		}
		return -1
	})
	names := map[string]string{}
	var out []string
	for _, s := range all {
		names[string(s.SpanId)] = s.Name
	}
	for _, s := range all {
		out = append(out, names[string(s.ParentSpanId)]+"/"+s.Name)
	}
	return out
}

func (r *receiver) span(t *testing.T, name string) (*otlp.Span, map[string]string) {
	t.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, s := range r.spans {
		if s.Name == name {
			attrs := map[string]string{}
			for _, a := range s.Attributes {
				attrs[a.Key] = a.Value.GetStringValue()
			}
			return s, attrs
		}
	}
	t.Fatalf("there is no span %q", name)
	return nil, nil
}

// clock advances by a second with each look.
func clock() func() time.Time {
	var mu sync.Mutex
	at := time.Unix(1_000_000, 0)
	return func() time.Time {
		mu.Lock()
		defer mu.Unlock()
		at = at.Add(time.Second)
		return at
	}
}

// start begins a trace in an environment that the exporter sees as well.
func start(t *testing.T, env map[string]string, log *zap.Logger) (*Trace, func() time.Time) {
	t.Helper()
	for k, v := range env {
		t.Setenv(k, v)
	}
	now := clock()
	return StartTrace(t.Context(), TraceOptions{
		Getenv: func(name string) string { return env[name] }, Version: "v1", Began: now(), Now: now, Log: log,
	}), now
}

func stage(kind stages.Kind) *stages.Stage {
	return &stages.Stage{Recipe: stages.Recipe{Kind: kind, Platform: "linux/amd64"}, Digest: stages.DigestOf([]byte(kind))}
}

func TestABuildIsATreeOfSpans(t *testing.T) {
	r := newReceiver(t)
	const parent = "0af7651916cd43dd8448eb211c80319c"
	trace, now := start(t, map[string]string{
		"OTEL_EXPORTER_OTLP_ENDPOINT": r.URL, "OTEL_EXPORTER_OTLP_HEADERS": "x-tenant=shop",
		"TRACEPARENT": "00-" + parent + "-b7ad6b7169203331-01",
	}, zap.NewNop())
	if trace.ID() != parent {
		t.Errorf("the trace is %s, want that of TRACEPARENT", trace.ID())
	}
	from, install, setup := stage(stages.KindFrom), stage(stages.KindInstall), stage(stages.KindSetup)
	tell := func(s *stages.Stage, p build.Phase, more build.Event) {
		more.Time, more.Image, more.Stage, more.Phase = now(), "backend", s, p
		trace.Observe(more)
	}
	trace.Begin("plan")
	trace.Begin("look up")
	tell(install, build.PhaseLooking, build.Event{})
	tell(install, build.PhaseWaiting, build.Event{Detail: "held by ci-7"})
	tell(install, build.PhaseWaiting, build.Event{Detail: "held by ci-8"})
	tell(install, build.PhaseQueued, build.Event{})
	tell(install, build.PhaseRunning, build.Event{})
	tell(install, "", build.Event{Line: []byte("password=s3cret")})
	tell(from, build.PhaseDone, build.Event{Result: build.ResultCached})
	tell(install, build.PhasePushing, build.Event{})
	tell(install, build.PhasePublishing, build.Event{})
	tell(install, build.PhaseDone, build.Event{Result: build.ResultBuilt})
	tell(setup, build.PhaseRunning, build.Event{})
	failed := &engine.ExitError{Code: 3, Output: []string{"s3cret"}}
	tell(setup, build.PhaseFailed, build.Event{Err: failed})
	trace.Close(t.Context(), &build.Report{Project: "shop", Images: []build.ImageReport{{Stages: []build.StageReport{{Result: build.ResultBuilt}}}}}, 5, failed)

	want := []string{
		"/build", "build/plan", "build/look up", "build/stage install", "stage install/look up", "stage install/wait", "stage install/queue",
		"stage install/run", "stage install/push", "stage install/publish", "build/stage setup", "stage setup/run",
	}
	if got := r.tree(); !slices.Equal(got, want) {
		t.Errorf("the spans are\n%q, want\n%q", got, want)
	}
	s, attrs := r.span(t, "stage install")
	if attrs["cairn.digest"] != install.Digest.String() || attrs["cairn.result"] != "built" || attrs["cairn.image"] != "backend" || s.EndTimeUnixNano <= s.StartTimeUnixNano {
		t.Errorf("the stage has %v, from %d to %d", attrs, s.StartTimeUnixNano, s.EndTimeUnixNano)
	}
	if _, attrs := r.span(t, "wait"); attrs["cairn.waits_for"] != "held by ci-7" {
		t.Errorf("the wait has %v", attrs)
	}
	if s, _ := r.span(t, "stage setup"); s.Status.GetMessage() != "a command ended with exit code 3" {
		t.Errorf("the failed stage has %v", s.Status)
	}
	if _, attrs := r.span(t, "build"); attrs["cairn.project"] != "shop" {
		t.Errorf("the build has %v", attrs)
	}
	for _, s := range r.spans {
		if text := s.String(); strings.Contains(text, "s3cret") {
			t.Errorf("a span holds what a command wrote: %s", text)
		}
	}
	if r.headers.Get("X-Tenant") != "shop" || r.service != "cairn" {
		t.Errorf("the headers are %v, the service %q", r.headers, r.service)
	}
}

func TestTracesAreOffUnlessWanted(t *testing.T) {
	for name, tt := range map[string]struct {
		env  map[string]string
		on   bool
		says bool
	}{
		"by default":                   {nil, false, false},
		"with an endpoint":             {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, true, false},
		"with one for traces":          {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://127.0.0.1:1/x"}, true, false},
		"with an exporter":             {map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, true, false},
		"over gRPC":                    {map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}, true, false},
		"with none":                    {map[string]string{"OTEL_TRACES_EXPORTER": "none", "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:1"}, false, false},
		"when all is disabled":         {map[string]string{"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp"}, false, false},
		"with an unknown exporter":     {map[string]string{"OTEL_TRACES_EXPORTER": "zipkin"}, false, true},
		"with an unknown protocol":     {map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"}, false, true},
		"with an unusable TRACEPARENT": {map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "TRACEPARENT": "x"}, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			core, said := observer.New(zap.WarnLevel)
			trace, _ := start(t, tt.env, zap.New(core))
			if (trace != nil) != tt.on || (said.Len() > 0) != tt.says {
				t.Errorf("on is %v, and it says %v", trace != nil, said.All())
			}
			if trace != nil {
				ctx, cancel := context.WithCancel(t.Context())
				cancel()
				_ = trace.provider.Shutdown(ctx)
			}
		})
	}
}

func TestNoTraceRecordsNothing(t *testing.T) {
	var trace *Trace
	trace.Begin("plan")
	trace.Observe(build.Event{Phase: build.PhaseDone, Stage: stage(stages.KindFrom)})
	trace.Close(t.Context(), nil, 0, nil)
	if trace.ID() != "" {
		t.Error("it has an id")
	}
}

func TestAReceiverThatIsAwayOrSlowDelaysABuildLittle(t *testing.T) {
	stuck := make(chan struct{})
	slow := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		select {
		case <-stuck:
		case <-r.Context().Done():
		}
	}))
	t.Cleanup(slow.Close)
	t.Cleanup(func() { close(stuck) })
	for name, endpoint := range map[string]string{"away": "http://127.0.0.1:1", "slow": slow.URL} {
		t.Run(name, func(t *testing.T) {
			core, said := observer.New(zap.WarnLevel)
			trace, now := start(t, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": endpoint}, zap.New(core))
			trace.Observe(build.Event{Time: now(), Stage: stage(stages.KindFrom), Phase: build.PhaseRunning})
			began := time.Now()
			trace.Close(t.Context(), nil, 1, errors.New("s3cret"))
			if took := time.Since(began); took > flushTime+5*time.Second {
				t.Errorf("the end took %v", took)
			}
			if said.Len() == 0 {
				t.Error("nobody was told")
			}
		})
	}
}

func TestFailuresHaveClassesOfOurOwnWords(t *testing.T) {
	hidden := errors.New("s3cret")
	for want, err := range map[string]error{
		"a command ended with exit code 7":  &engine.ExitError{Code: 7, Output: []string{"s3cret"}},
		"fetch manifest: denied":            &storage.Error{Op: "fetch manifest", Class: storage.ErrDenied, Err: hidden},
		"stages are kept and not published": &build.KeptError{Err: hidden},
		"cancelled":                         context.Canceled,
		"failed":                            hidden,
	} {
		if got := failureClass(err); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}

func TestWaitsAreAddedUp(t *testing.T) {
	var w Waits
	at := time.Unix(0, 0)
	a, b := stage(stages.KindInstall), stage(stages.KindSetup)
	for _, e := range []struct {
		second int
		stage  *stages.Stage
		phase  build.Phase
	}{
		{0, a, build.PhaseLooking}, {1, a, build.PhaseWaiting}, {2, b, build.PhaseWaiting}, {3, a, build.PhaseWaiting}, {4, a, ""},
		{5, a, build.PhaseDone}, {6, b, build.PhaseRunning}, {9, b, build.PhaseDone},
	} {
		w.Observe(build.Event{Time: at.Add(time.Duration(e.second) * time.Second), Stage: e.stage, Phase: e.phase})
	}
	if w.Sum() != 8*time.Second {
		t.Errorf("the sum is %v, want 4 s of one and 4 s of the other", w.Sum())
	}
}

func TestAStageOfSeveralImagesIsCountedOnce(t *testing.T) {
	shared := build.StageReport{Name: "from", Digest: stages.DigestOf([]byte("a")), Result: build.ResultAssembled, Seconds: 2}
	own := build.StageReport{Name: "install", Digest: stages.DigestOf([]byte("b"))}
	rep := &build.Report{
		Images: []build.ImageReport{{Stages: []build.StageReport{shared, own}}}, Needed: []build.ImageReport{{Stages: []build.StageReport{shared}}},
		BytesPulled: 1, BytesPushed: 2, Requests: build.Requests{Registry: 3, Ledger: 4},
	}
	s := Summarize(rep, "failed", time.Second, time.Minute)
	if s.Stages["assembled"] != 1 || s.Stages[Unfinished] != 1 || len(s.Made) != 1 || s.Made[0].Seconds != 2 || s.Seconds != 1 || s.WaitSeconds != 60 || s.LedgerRequests != 4 {
		t.Errorf("got %+v", s)
	}
}
