package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/testbed"
)

func TestFiguresKnowTheirTargets(t *testing.T) {
	tests := []struct {
		name   string
		figure figure
		got    string
		missed bool
	}{
		{"a time within its limit", seconds("x", 100*time.Millisecond, 150*time.Millisecond), "0.100 s", false},
		{"a time over its limit", seconds("x", 151*time.Millisecond, 150*time.Millisecond), "0.151 s", true},
		{"a time without a limit", seconds("x", time.Hour, 0), "3600.000 s", false},
		{"as many requests as allowed", count("x", 14, 14), "14", false},
		{"one request more", count("x", 15, 14), "15", true},
		{"what must be the same is not", exactly("x", int64(2), int64(1)), "2", true},
		{"fast enough", faster(time.Second, 50*time.Second, 50), "50.0 ×", false},
		{"not fast enough", faster(time.Second, 49*time.Second, 50), "49.0 ×", true},
		{"a little slower than allowed", slower("x", 130*time.Second, 100*time.Second, 1.25), "1.30 ×", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if tt.figure.got != tt.got || tt.figure.missed != tt.missed {
				t.Errorf("%s %s missed=%v, want %s missed=%v", tt.figure.got, tt.figure.target, tt.figure.missed, tt.got, tt.missed)
			}
		})
	}
}

func TestMedianIsTheMiddleOneWhateverTheOrder(t *testing.T) {
	if got := median([]int64{9, 1, 5, 2, 100}); got != 5 {
		t.Errorf("got %d", got)
	}
}

func TestOptionsRefuseUnknownCases(t *testing.T) {
	if o, err := parse([]string{"-case", "noop", "-case", "plan", "-rounds", "1"}); err != nil || !slices.Equal(o.cases, []string{"noop", "plan"}) {
		t.Errorf("got %v %v", o, err)
	}
	for _, args := range [][]string{{"-case", "all"}, {"-rounds", "0"}, {"noop"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q is accepted", args)
		}
	}
}

func TestThePageHoldsEveryFigure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	if err := write(t.Context(), path, 5, []result{{cases()[0], []figure{count("registry requests", 2, 1)}}}); err != nil {
		t.Fatal(err)
	}
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"## Nothing has changed: 100 images of 10 stages", ", 5 rounds, ", "| registry requests | 2 | ≤ 1 | MISSED |"} {
		if !strings.Contains(string(b), want) {
			t.Errorf("%q is not in the page:\n%s", want, b)
		}
	}
}

func TestARunOfSomeCasesReplacesTheirSectionsOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	all := cases()
	for _, results := range [][]result{
		{{all[2], []figure{exactly("third", 1, 1)}}, {all[0], []figure{exactly("first", 1, 1)}}},
		{{all[2], []figure{exactly("third again", 1, 1)}}},
	} {
		if err := write(t.Context(), path, 1, results); err != nil {
			t.Fatal(err)
		}
	}
	p, err := readPage(path)
	if err != nil {
		t.Fatal(err)
	}
	if len(p.sections) != 2 || !strings.Contains(p.sections[all[0].title], "| first | 1 | 1 | ok |") ||
		!strings.Contains(p.sections[all[2].title], "| third again | 1 |") || strings.Contains(p.sections[all[2].title], "| third | 1") {
		t.Errorf("got %q", p.sections)
	}
	if text := p.String(); strings.Index(text, all[0].title) > strings.Index(text, all[2].title) {
		t.Errorf("sections are not in the order of cases:\n%s", text)
	}
}

// The comparison would be worth nothing if the yardstick rebuilt what its cache holds.
func TestTheYardstickFindsItsCacheOnAFreshDaemon(t *testing.T) {
	b, err := newBench(t.Context(), 1)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := b.close(); err != nil {
			t.Error(err)
		}
	})
	base, err := b.registry.PushBase(t.Context(), "busybox")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(dir+"/Dockerfile", []byte("FROM "+base+"\nRUN sleep 2\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	yard := yardBuild{dir: dir, file: "Dockerfile", image: "yard/image", export: true}
	first, err := b.yardOnce(t.Context(), yard)
	if err != nil {
		t.Fatal(err)
	}
	again, err := b.yardOnce(t.Context(), yard)
	if err != nil {
		t.Fatal(err)
	}
	if first < 2*time.Second || again > first-time.Second {
		t.Errorf("the first build took %s, the one with its cache %s", first, again)
	}
	log, err := b.registry.AccessLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if !slices.ContainsFunc(log, func(q testbed.Request) bool {
		return strings.HasSuffix(q.Path, "/manifests/cache") && q.Method == "PUT"
	}) {
		t.Error("the cache was never exported")
	}
}
