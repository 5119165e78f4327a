package e2e

import (
	"maps"
	"slices"
	"strings"
	"testing"
)

// grouped is an image of several groups with a build stage, all of which count.
const grouped = `
-- cairn.yaml --
project: grouped
---
image: app
dockerfile: Dockerfile
-- Dockerfile --
FROM @REGISTRY@/base/busybox:latest AS tool
RUN @COUNT@/tool; echo tool > /tool

FROM @REGISTRY@/base/busybox:latest
WORKDIR /app
COPY lock .
RUN @COUNT@/first; cat lock > first; date +%N > /once
COPY src src
COPY --from=tool /tool .
RUN @COUNT@/second; cat src/* tool first > second
LABEL of=nothing
CMD ["one"]
-- lock --
1
-- src/a --
a
`

// counts returns how often each of the groups of grouped has run.
func counts(t *testing.T) map[string]int {
	t.Helper()
	out := map[string]int{}
	for _, what := range []string{"tool", "first", "second"} {
		out[what] = shared.counter.count(counted(t, what))
	}
	return out
}

// Each host has an engine of its own, so that only the storage knows what was built.
func TestAnyRunnerGoesOnFromTheLastStoredGroup(t *testing.T) {
	t.Parallel()
	p, storage := newProject(t, grouped, shared.registry), storageOf(t, shared.registry, "")
	h := newHost(t, 0)
	first := h.build(t, p, storage)
	text := expand(t, grouped[strings.Index(grouped, "FROM"):strings.Index(grouped, "-- lock")], shared.registry)
	steps := []struct {
		name, file, content string
		want                map[string]int
		engine              bool
		second              string
	}{
		{"a file that the last group takes", "src/a", "b\n", map[string]int{"tool": 1, "first": 1, "second": 2}, true, "b\ntool\n1\n"},
		{"a label", "Dockerfile", strings.ReplaceAll(text, "of=nothing", "of=something"), map[string]int{"tool": 1, "first": 1, "second": 2}, false, "b\ntool\n1\n"},
		{"the other stage", "Dockerfile", strings.ReplaceAll(text, "echo tool", "echo tool2"), map[string]int{"tool": 2, "first": 1, "second": 3}, true, "b\ntool2\n1\n"},
		{"a file that an early group takes", "lock", "2\n", map[string]int{"tool": 2, "first": 2, "second": 4}, true, "b\ntool2\n2\n"},
	}
	for i, s := range steps {
		p.change(t, s.file, s.content)
		r := newHost(t, (i+1)%2).build(t, p, storage)
		if got := counts(t); !maps.Equal(got, s.want) {
			t.Errorf("%s: the groups ran %v times, want %v", s.name, got, s.want)
		}
		if r.EngineStarted != s.engine {
			t.Errorf("%s: an engine was used: %t", s.name, r.EngineStarted)
		}
		img := pull(t, r.ref(t, "app"))
		if got := file(t, img, "/app/second"); got != s.second {
			t.Errorf("%s: the result is %q, want %q", s.name, got, s.second)
		}
		if i < 3 && file(t, img, "/once") != file(t, pull(t, first.ref(t, "app")), "/once") {
			t.Errorf("%s: what the first group made is another", s.name)
		}
	}
	checkRepository(t, storage)
}

func TestTwoBuildsAtOnceRunEachGroupOnce(t *testing.T) {
	t.Parallel()
	p, storage := newProject(t, grouped, shared.registry), storageOf(t, shared.registry, "")
	h := newHost(t, 0)
	first, second := h.startBuild(t, p, storage), h.on(1).startBuild(t, p, storage)
	a, b := succeeded(t, first.wait(t)), succeeded(t, second.wait(t))
	if a.ref(t, "app") != b.ref(t, "app") {
		t.Errorf("the image is %s and %s", a.ref(t, "app"), b.ref(t, "app"))
	}
	if got, want := counts(t), map[string]int{"tool": 1, "first": 1, "second": 1}; !maps.Equal(got, want) {
		t.Errorf("the groups ran %v times", got)
	}
	checkRepository(t, storage)
}

// A group that goes on from the storage must not take its new files for older than
// what a cache mount holds, nor what came from below for younger or older than it is.
func TestProductsInACacheAreNotTakenForNewer(t *testing.T) {
	t.Parallel()
	const text = `
-- cairn.yaml --
project: cached
---
image: app
dockerfile: Dockerfile
-- make.sh --
for f in early late gen; do
  if [ ! -e obj/$f ] || [ $f -nt obj/$f ]; then cat $f > obj/$f; fi
done
cat obj/* > /product
-- Dockerfile --
FROM @REGISTRY@/base/busybox:latest AS gen
COPY seed /
RUN cat /seed > /gen

FROM @REGISTRY@/base/busybox:latest
WORKDIR /src
COPY early make.sh ./
RUN cp early /copied
COPY late .
COPY --from=gen /gen .
RUN --mount=type=cache,target=/src/obj sh make.sh # VERSION
-- early --
early 1
-- late --
late 1
-- seed --
gen 1
`
	p, storage := newProject(t, text, shared.registry), storageOf(t, shared.registry, "")
	run := expand(t, text[strings.Index(text, "FROM"):strings.Index(text, "-- early")], shared.registry)
	h := newHost(t, 0)
	now := map[string]string{"early": "early 1\n", "late": "late 1\n", "seed": "gen 1\n"}
	check := func(what string) {
		t.Helper()
		got := file(t, pull(t, h.build(t, p, storage).ref(t, "app")), "/product")
		if want := now["early"] + now["seed"] + now["late"]; got != want {
			t.Errorf("%s: the product is %q, want %q", what, got, want)
		}
	}
	check("at first")
	for _, name := range slices.Sorted(maps.Keys(now)) {
		old := now[name]
		now[name] = strings.Replace(old, "1", "2", 1)
		p.change(t, name, now[name])
		check(name + " changed")
		// Back to files that the storage has, with commands that it has not.
		now[name] = old
		p.change(t, name, old)
		p.change(t, "Dockerfile", strings.ReplaceAll(run, "VERSION", "back to "+name))
		check(name + " changed back")
	}
}
