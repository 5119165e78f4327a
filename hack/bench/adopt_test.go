package main

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/hack/runner"
)

func TestALineArrivesWhenItIsWhole(t *testing.T) {
	c := &lineClock{}
	for _, part := range []string{"app/install | wai", "ting: held\napp/install | adop", "ted\nrest"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("%d, %v", n, err)
		}
	}
	waiting, adopted := c.first("app/install | waiting"), c.first("app/install | adopted")
	if waiting.IsZero() || adopted.Before(waiting) || !c.first("rest").IsZero() || strings.Count(c.String(), "\n") != 2 {
		t.Errorf("waiting %s, adopted %s of:\n%s", waiting, adopted, c)
	}
}

func TestAnAdoptionCountsOnlyForWhoWaited(t *testing.T) {
	var report runner.Report
	if err := json.Unmarshal([]byte(`{"images": [{"name": "app", "stages": [{"name": "from"}, {"name": "install", "digest": "sha256:aa"}]}]}`), &report); err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1000, 0)
	clock := func(lines map[string]time.Duration) *lineClock {
		c := &lineClock{}
		for text, after := range lines {
			c.lines = append(c.lines, timedLine{"app/install | " + text, at.Add(after)})
		}
		return c
	}
	for _, tt := range []struct {
		name      string
		lines     map[string]time.Duration
		published map[string]time.Time
		want      []time.Duration
		fails     bool
	}{
		{"who waited", map[string]time.Duration{"waiting: held": -time.Second, "adopted from another runner": 30 * time.Millisecond},
			map[string]time.Time{"aa": at}, []time.Duration{30 * time.Millisecond}, false},
		{"who came later", map[string]time.Duration{"waiting: held": time.Second, "adopted from another runner": 2 * time.Second},
			map[string]time.Time{"aa": at}, nil, false},
		{"who never waited", nil, map[string]time.Time{"aa": at}, nil, false},
		{"who waited in vain", map[string]time.Duration{"waiting: held": -time.Second}, map[string]time.Time{"aa": at}, nil, true},
		{"a publication that was not seen", nil, nil, nil, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var late times
			err := addAdoptions(&late, report, tt.published, []*lineClock{clock(tt.lines)})
			if (err != nil) != tt.fails || !slices.Equal(late.all, tt.want) {
				t.Errorf("got %v and the error %v", late.all, err)
			}
		})
	}
}
