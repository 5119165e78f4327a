package e2e

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	collector "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"
)

// spans is a receiver of traces.
type spans struct {
	*httptest.Server
	mu    sync.Mutex
	names map[string]int
	raw   strings.Builder
}

func newSpans(t *testing.T) *spans {
	t.Helper()
	s := &spans{names: map[string]int{}}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		var m collector.ExportTraceServiceRequest
		if err != nil || proto.Unmarshal(body, &m) != nil {
			w.WriteHeader(http.StatusBadRequest)
			return
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		s.raw.Write(body)
		for _, rs := range m.ResourceSpans {
			for _, ss := range rs.ScopeSpans {
				for _, span := range ss.Spans {
					s.names[span.Name]++
				}
			}
		}
	}))
	t.Cleanup(s.Close)
	return s
}

// metrics asks the host's own daemon.
func (h *host) metrics(t *testing.T) string {
	t.Helper()
	socket := filepath.Join(h.state, "run", "cairnd.http.sock")
	c := &http.Client{Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", socket)
	}}}
	res, err := c.Get("http://cairnd/metrics")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

func TestABuildIsTracedCountedAndReported(t *testing.T) {
	t.Parallel()
	receiver := newSpans(t)
	h := newHost(t, ownDaemon)
	p, storage := newProject(t, faultyProject, shared.registry), storageOf(t, shared.registry, "")
	file := filepath.Join(h.dir, "report.json")
	h.env = []string{"OTEL_EXPORTER_OTLP_ENDPOINT=" + receiver.URL, "CAIRN_REPORT_FILE=" + file, "CAIRN_LOG_LEVEL=debug", "CAIRN_LOG_FORMAT=json"}
	built := h.startBuild(t, p, storage).wait(t)
	succeeded(t, built)
	h.build(t, p, storage) // nothing to do

	receiver.mu.Lock()
	for name, least := range map[string]int{"build": 2, "plan": 2, "look up": 4, "stage from": 1, "stage install": 1, "stage setup": 1, "run": 3, "push": 3, "publish": 3} {
		if receiver.names[name] < least {
			t.Errorf("%d spans %q, want %d: %v", receiver.names[name], name, least, receiver.names)
		}
	}
	if strings.Contains(receiver.raw.String(), h.dir) {
		t.Error("a trace names a path of the host")
	}
	receiver.mu.Unlock()

	text := h.metrics(t)
	for _, want := range []string{
		`cairn_builds_total{outcome="succeeded"} 2`, `cairn_stages_total{result="built"} 2`, `cairn_stage_duration_seconds_count{stage="install"} 1`,
		"cairnd_engine_ready 1", "cairn_pushed_bytes_total ",
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
	if b, err := os.ReadFile(file); err != nil || !json.Valid(b) || !strings.Contains(string(b), `"result": "cached"`) {
		t.Errorf("the report file is %s, %v", b, err)
	}
	request := regexp.MustCompile(`(?m)^\{"level":"debug",.*"msg":"registry request","trace_id":"[0-9a-f]{32}","request_id":"[0-9a-f]{12}-[0-9]+"`)
	if n := len(request.FindAllString(built.stderr, -1)); int64(n) != built.report.Requests.Registry {
		t.Errorf("%d requests are logged, and %d reported", n, built.report.Requests.Registry)
	}
}

func TestTheVersionNamesItsParts(t *testing.T) {
	t.Parallel()
	out, err := exec.CommandContext(t.Context(), filepath.Join(shared.bin, "cairn"), "version", "--output", "json").Output()
	var v struct {
		Version, Go, Platform, Buildkit string
		RecipeFormat                    int
	}
	if err == nil {
		err = json.Unmarshal(out, &v)
	}
	if err != nil || v.Version == "" || v.Go == "" || v.Platform == "" || !strings.HasPrefix(v.Buildkit, "v0.") || v.RecipeFormat == 0 {
		t.Errorf("got %s, %v", out, err)
	}
}
