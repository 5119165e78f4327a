package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/history"
)

func TestAPatchIsReadForWhatItTestsAndWrites(t *testing.T) {
	body := `[{"op":"test","path":"/data/ledger","value":"x"},{"op":"test","path":"/data/stage.a","value":null},
		{"op":"test","path":"/data/stage.b","value":"old"},{"op":"add","path":"/data/stage.a","value":"new"},
		{"op":"remove","path":"/data/stage.b"},{"op":"add","path":"/metadata/managedFields","value":[{}]},
		{"op":"replace","path":"/data/a~1b~0c","value":"v"}]`
	want := []history.Change{{Key: "stage.a", New: "new"}, {Key: "stage.b", Old: "old"}, {Key: "a/b~c", New: "v"}}
	if got := changesOf([]byte(body)); !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	if got := changesOf([]byte("{")); got != nil {
		t.Errorf("nonsense is read as %v", got)
	}
}

func TestTheSameSeedPlansTheSameHarm(t *testing.T) {
	if a, b := plan(5, faulty()), plan(5, faulty()); !reflect.DeepEqual(a, b) || len(a) != 9 {
		t.Errorf("planned are %v and %v", a, b)
	}
	if reflect.DeepEqual(plan(5, faulty()), plan(6, faulty())) {
		t.Error("another seed plans the same")
	}
	if a, b := plan(5, cleaned(10)), plan(5, cleaned(10)); !reflect.DeepEqual(a, b) || len(a) != 37 {
		t.Errorf("with cleaners, planned are %v and %v", a, b)
	}
	a, b := newDice(3, 4), newDice(3, 4)
	seen := map[fate]int{}
	for range 100_000 {
		x := a.throw(troubled(), true)
		if y := b.throw(troubled(), true); x != y {
			t.Fatalf("the same dice show %d and %d", x, y)
		}
		seen[x]++
	}
	if n := seen[dropped] + seen[delayed]; n < 800 || n > 1200 {
		t.Errorf("%d of 100000 answers are lost or late, want 1 %%", n)
	}
	for _, f := range []fate{lost, failed, late} {
		if seen[f] == 0 {
			t.Errorf("fate %d never comes", f)
		}
	}
}

func TestTasksAreWaitedForWhileMoreCome(t *testing.T) {
	var all tasks
	gate, over := make(chan struct{}), false
	all.run(func() {
		<-gate
		all.run(func() { over = true })
	})
	close(gate)
	all.wait()
	if !over {
		t.Error("what a task began was not waited for")
	}
	all.wait()
}

// registryFront returns a front before a registry that counts what it stores.
func registryFront(t *testing.T, p rates) (*front, *httptest.Server, func() int) {
	t.Helper()
	stored := make(chan struct{}, 100)
	registry := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		stored <- struct{}{}
		w.WriteHeader(http.StatusCreated)
	}))
	t.Cleanup(registry.Close)
	target, err := url.Parse(registry.URL)
	if err != nil {
		t.Fatal(err)
	}
	f := &front{
		runner: "a", repository: "p", record: newRecorder(history.History{}), dice: newDice(1, 1), rates: p,
		weather: &weather{}, registry: upstream{url: target, transport: http.DefaultTransport},
	}
	proxy := httptest.NewServer(http.HandlerFunc(f.serveRegistry))
	t.Cleanup(proxy.Close)
	return f, proxy, func() int { return len(stored) }
}

func TestASpoiltTagIsRecordedAsTheRegistryAndTheRunnerSawIt(t *testing.T) {
	tests := []struct {
		name     string
		rates    rates
		answered bool
		stored   int
		seen     bool
	}{
		{"nothing goes wrong", rates{}, true, 1, true},
		{"the request is lost", rates{lose: 1}, false, 0, false},
		{"the answer is lost", rates{drop: 1}, false, 1, false},
		{"the answer is another", rates{fail: 1}, true, 1, false},
		{"the request is late", rates{late: 1}, false, 1, false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			f, proxy, stored := registryFront(t, tt.rates)
			f.dice = newDice(9, 9) // whose first delay is short
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			req, err := http.NewRequestWithContext(ctx, http.MethodPut, proxy.URL+"/v2/p/manifests/tag", strings.NewReader("body"))
			if err != nil {
				t.Fatal(err)
			}
			resp, err := (&http.Client{Transport: &http.Transport{DisableKeepAlives: true}}).Do(req)
			if err == nil {
				resp.Body.Close()
			}
			f.weather.pending.wait()
			if (err == nil) != tt.answered || stored() != tt.stored {
				t.Errorf("answered: %v, stored %d times; want %v and %d", err == nil, stored(), tt.answered, tt.stored)
			}
			events := f.record.history().Events
			if len(events) != tt.stored {
				t.Fatalf("recorded are %v", events)
			}
			if tt.stored == 1 && (events[0].Seen != tt.seen || events[0].Status != 201 || events[0].Tag != "tag" || events[0].Digest != digestOf([]byte("body"))) {
				t.Errorf("recorded is %v", events[0])
			}
		})
	}
}

func TestWhatRunnersDeleteIsRecorded(t *testing.T) {
	one := digestOf([]byte("body"))
	f, proxy, _ := registryFront(t, rates{})
	for _, ref := range []string{"tag", one} {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodDelete, proxy.URL+"/v2/p/manifests/"+ref, http.NoBody)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := http.DefaultClient.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		resp.Body.Close()
	}
	f.weather.pending.wait()
	events := f.record.history().Events
	if len(events) != 2 || events[0].Kind != history.Delete || events[0].Tag != "tag" || events[1].Kind != history.Delete || events[1].Digest != one {
		t.Errorf("recorded are %v", events)
	}
}
