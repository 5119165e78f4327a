package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil/promlint"
	"go.uber.org/zap"

	"github.com/cairnbuild/cairn/cmd/internal/daemonctl"
	"github.com/cairnbuild/cairn/cmd/internal/hostcache"
)

// served is the handler of a daemon whose engine has never been started.
func served(t *testing.T) (*daemon, *httptest.Server) {
	t.Helper()
	d := &daemon{config: Config{Version: "v1"}, usage: newUsage(time.Unix(1e9, 0)), engine: newSupervisor(nil, io.Discard, "", zap.NewNop())}
	var err error
	d.evictor, err = newEvictor(Config{Eviction: Eviction{Policy: hostcache.Policy{High: "80%", Low: "75%"}}, Log: zap.NewNop()}, d.engine)
	check(t, err)
	d.cleaner, err = newCleaner(Cleaning{}, zap.NewNop())
	check(t, err)
	d.metrics = newMetrics(d)
	s := httptest.NewServer(d.handler())
	t.Cleanup(s.Close)
	return d, s
}

func get(t *testing.T, url string) (int, string) {
	t.Helper()
	res, err := http.Get(url)
	check(t, err)
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	check(t, err)
	return res.StatusCode, string(body)
}

func post(t *testing.T, url string, v any) int {
	t.Helper()
	body, err := json.Marshal(v)
	check(t, err)
	res, err := http.Post(url, "application/json", bytes.NewReader(body))
	check(t, err)
	check(t, res.Body.Close())
	return res.StatusCode
}

func TestBuildsAreCounted(t *testing.T) {
	_, s := served(t)
	sum := daemonctl.BuildSummary{
		Outcome: daemonctl.OutcomeSucceeded, Seconds: 3, WaitSeconds: 1.5,
		Stages:      map[string]int{"cached": 4, "built": 1, "assembled": 1},
		Made:        []daemonctl.StageSummary{{Stage: "install", Seconds: 2}, {Stage: "from another version", Seconds: 1}},
		BytesPulled: 10, BytesPushed: 20, RegistryRequests: 7, LedgerRequests: 3,
	}
	for range 2 {
		if got := post(t, s.URL+daemonctl.BuildsPath, sum); got != http.StatusNoContent {
			t.Fatalf("status %d", got)
		}
	}
	_, text := get(t, s.URL+"/metrics")
	for _, want := range []string{
		`cairn_builds_total{outcome="succeeded"} 2`, `cairn_builds_total{outcome="failed"} 0`,
		`cairn_build_duration_seconds_sum 6`, `cairn_build_duration_seconds_count 2`,
		`cairn_stages_total{result="cached"} 8`, `cairn_stages_total{result="adopted"} 0`, `cairn_stages_total{result="built"} 2`,
		`cairn_stage_duration_seconds_sum{stage="install"} 4`, `cairn_stage_duration_seconds_count{stage="other"} 2`,
		`cairn_wait_seconds_total 3`, `cairn_pulled_bytes_total 20`, `cairn_pushed_bytes_total 40`,
		`cairn_registry_requests_total 14`, `cairn_ledger_requests_total 6`,
		`cairnd_build_info{version="v1"} 1`, `cairnd_engine_ready 0`, `cairnd_connections 0`, `cairnd_start_time_seconds 1e+09`,
		`go_goroutines `, `process_resident_memory_bytes `,
	} {
		if !strings.Contains(text, "\n"+want) {
			t.Errorf("the metrics lack %s", want)
		}
	}
}

func TestAccountsThatCannotBeAreRefused(t *testing.T) {
	_, s := served(t)
	ok := daemonctl.OutcomeFailed
	for name, v := range map[string]any{
		"no JSON object":     "x",
		"no outcome":         daemonctl.BuildSummary{},
		"an unknown outcome": daemonctl.BuildSummary{Outcome: "fine"},
		"a negative time":    daemonctl.BuildSummary{Outcome: ok, Seconds: -1},
		"negative bytes":     daemonctl.BuildSummary{Outcome: ok, BytesPulled: math.MinInt64},
		"an unknown result":  daemonctl.BuildSummary{Outcome: ok, Stages: map[string]int{"x": 1}},
		"a negative count":   daemonctl.BuildSummary{Outcome: ok, Stages: map[string]int{"built": -1}},
		"a negative stage":   daemonctl.BuildSummary{Outcome: ok, Made: []daemonctl.StageSummary{{Stage: "install", Seconds: -1}}},
		"too much":           strings.Repeat("x", maxSummary+1),
	} {
		if got := post(t, s.URL+daemonctl.BuildsPath, v); got != http.StatusBadRequest {
			t.Errorf("%s: status %d", name, got)
		}
	}
	if _, text := get(t, s.URL+"/metrics"); !strings.Contains(text, "cairn_build_duration_seconds_count 0") {
		t.Error("one of them was counted")
	}
}

func FuzzAccounts(f *testing.F) {
	f.Add([]byte(`{"outcome":"failed","seconds":1,"stages":{"built":1},"made":[{"stage":"install","seconds":1}]}`))
	f.Add([]byte(`{"outcome":"succeeded","bytesPulled":-1}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		var s daemonctl.BuildSummary
		if json.Unmarshal(body, &s) == nil {
			newBuildMetrics().count(s) // must not panic
		}
	})
}

// names are those of the metrics that a scrape shows.
var names = regexp.MustCompile(`(?m)^# TYPE (cairnd?_\S+) `)

func TestMetricsAreNamedWellAndDocumented(t *testing.T) {
	_, s := served(t)
	post(t, s.URL+daemonctl.BuildsPath, daemonctl.BuildSummary{Outcome: daemonctl.OutcomeFailed, Made: []daemonctl.StageSummary{{Stage: "install"}}})
	_, text := get(t, s.URL+"/metrics")
	problems, err := promlint.New(strings.NewReader(text)).Lint()
	check(t, err)
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	page, err := os.ReadFile("../../../docs/observability.md")
	check(t, err)
	found := names.FindAllStringSubmatch(text, -1)
	if len(found) < 15 {
		t.Errorf("found %d metrics", len(found))
	}
	for _, m := range found {
		if !strings.Contains(string(page), "`"+m[1]) {
			t.Errorf("docs/observability.md lacks %s", m[1])
		}
	}
}

func TestOnlyLoopbackServesMetrics(t *testing.T) {
	for address, ok := range map[string]bool{
		"127.0.0.1:0": true, "localhost:0": true, "[::ffff:127.0.0.1]:0": true,
		"0.0.0.0:0": false, ":0": false, "[::]:0": false, "192.0.2.1:0": false, "example.com:0": false, "127.0.0.1": false,
	} {
		l, err := MetricsServer{Address: address}.listen(t.Context())
		if (err == nil) != ok {
			t.Errorf("%s: got error %v", address, err)
		}
		if l != nil {
			check(t, l.Close())
		}
	}
	l, err := MetricsServer{Address: "0.0.0.0:0", Open: true}.listen(t.Context())
	check(t, err)
	check(t, l.Close())
}

func TestARealDaemonIsScraped(t *testing.T) {
	p := paths(t)
	address := freeAddress(t)
	check(t, os.MkdirAll(p.State, 0o700))
	log, err := os.Create(filepath.Join(filepath.Dir(p.State), "log"))
	check(t, err)
	defer log.Close()
	cmd := exec.Command(cairnd, "serve", "--state", p.State, "--socket", p.Socket, "--metrics-address", address, "--log-format", "json", "--idle-timeout", "0")
	cmd.Stdout, cmd.Stderr = log, log
	check(t, cmd.Start())
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	t.Cleanup(func() {
		check(t, cmd.Process.Signal(syscall.SIGTERM))
		check(t, <-ended)
	})
	eventually(t, "the daemon is ready", func() bool {
		s, err := daemonctl.Ask(context.Background(), p)
		return err == nil && s.Ready
	})
	check(t, daemonctl.Tell(t.Context(), p, daemonctl.BuildSummary{Outcome: daemonctl.OutcomeSucceeded, Stages: map[string]int{"built": 2}}))
	status, text := get(t, "http://"+address+"/metrics")
	if status != http.StatusOK || !strings.Contains(text, `cairn_stages_total{result="built"} 2`) || !strings.Contains(text, "cairnd_engine_ready 1") {
		t.Errorf("status %d\n%s", status, text)
	}
	if status := post(t, "http://"+address+daemonctl.BuildsPath, daemonctl.BuildSummary{Outcome: daemonctl.OutcomeFailed}); status != http.StatusNotFound {
		t.Errorf("over TCP an account of a build gets status %d", status)
	}
	if status, _ := get(t, "http://"+address+daemonctl.StatusPath); status != http.StatusNotFound {
		t.Errorf("over TCP the status gets status %d", status)
	}
}

func freeAddress(t *testing.T) string {
	t.Helper()
	l, err := MetricsServer{Address: "127.0.0.1:0"}.listen(t.Context())
	check(t, err)
	defer l.Close()
	return l.Addr().String()
}
