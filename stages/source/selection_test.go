package source

import (
	"errors"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/bmatcuk/doublestar/v4"
	"pgregory.net/rapid"

	"github.com/cairnbuild/cairn/stages"
)

// memoryTree is a tree of those paths, whose contents do not exist.
func memoryTree(t testing.TB, paths ...string) *Tree {
	t.Helper()
	paths = slices.Clone(paths)
	slices.Sort(paths)
	b := newBuilder(20)
	for i, p := range slices.Compact(paths) {
		mode := ModeRegular
		if strings.HasSuffix(p, ".submodule") {
			mode = ModeSubmodule
		}
		must(t, b.add(p, mode, fmt.Appendf(nil, "%020d", i)))
	}
	return newTree(nil, "memory", b.finish())
}

func TestSelectionsOfAMapping(t *testing.T) {
	tree := memoryTree(t, "go.mod", "go.sum", "cmd/a/main.go", "cmd/a/main_test.go", "cmd/b/main.go", "web/index.html", "web/img/x.png", "Dockerfile")
	all := []stages.Kind{stages.KindBeforeInstall, stages.KindInstall, stages.KindSetup}
	deps := map[stages.Kind][]string{
		stages.KindInstall: {"go.mod", "go.sum"},
		stages.KindSetup:   {"**/*.go", "go.*"},
	}
	tests := []struct {
		name string
		m    stages.Mapping
		kind stages.Kind
		// late are later mappings as "add to".
		late  [][2]string
		whole bool
		want  []string
	}{
		{name: "the first stage that declares a file places it", m: stages.Mapping{Add: "."}, kind: stages.KindInstall, want: []string{"go.mod", "go.sum"}},
		{name: "a file that an earlier stage declares is not placed again", m: stages.Mapping{Add: "."}, kind: stages.KindSetup, want: []string{"cmd/a/main.go", "cmd/a/main_test.go", "cmd/b/main.go"}},
		{name: "the source stage places what none declares", m: stages.Mapping{Add: "."}, kind: stages.KindSource, want: []string{"Dockerfile", "web/img/x.png", "web/index.html"}},
		{name: "a stage that declares nothing places nothing", m: stages.Mapping{Add: "."}, kind: stages.KindBeforeInstall, want: nil},
		{name: "whole places everything", m: stages.Mapping{Add: "cmd"}, kind: stages.KindInstall, whole: true, want: []string{"a/main.go", "a/main_test.go", "b/main.go"}},
		{name: "a single file has no path below its target", m: stages.Mapping{Add: "cmd/b/main.go", To: "/app/m.go"}, kind: stages.KindSetup, want: []string{""}},
		{name: "globs see the base name of a single file", m: stages.Mapping{Add: "cmd/b/main.go", To: "/m", ExcludePaths: []string{"*.go"}}, kind: stages.KindSetup, want: nil},
		{name: "included and excluded globs are relative to the directory", m: stages.Mapping{Add: "cmd", IncludePaths: []string{"a"}, ExcludePaths: []string{"**/*_test.go"}}, kind: stages.KindSetup, want: []string{"a/main.go"}},
		{name: "a later mapping of a directory hides its files", m: stages.Mapping{Add: ".", To: "/app"}, kind: stages.KindSource, late: [][2]string{{"web", "/app/web"}}, want: []string{"Dockerfile"}},
		{name: "a later file hides a whole directory", m: stages.Mapping{Add: ".", To: "/app"}, kind: stages.KindSource, late: [][2]string{{"go.mod", "/app/web"}}, want: []string{"Dockerfile"}},
		{name: "a later file below hides a file", m: stages.Mapping{Add: ".", To: "/app"}, kind: stages.KindSource, late: [][2]string{{"web", "/app/Dockerfile"}}, want: []string{"web/img/x.png", "web/index.html"}},
		{name: "a later mapping above hides what it gives", m: stages.Mapping{Add: "web", To: "/app/web", ExcludePaths: nil}, kind: stages.KindSource, late: [][2]string{{".", "/app"}}, want: nil},
		{name: "a later mapping to the root hides what it gives", m: stages.Mapping{Add: "web", To: "/cmd"}, kind: stages.KindSource, late: [][2]string{{".", "/"}}, want: []string{"img/x.png", "index.html"}},
		{name: "a later mapping elsewhere hides nothing", m: stages.Mapping{Add: "web", To: "/app"}, kind: stages.KindSource, late: [][2]string{{".", "/application"}}, want: []string{"img/x.png", "index.html"}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m := tt.m
			m.StageDependencies = deps
			if m.To == "" {
				m.To = "/app"
			}
			sel := stages.Selection{Mapping: &m, Kind: tt.kind, Stages: all, Whole: tt.whole}
			for _, l := range tt.late {
				sel.Later = append(sel.Later, &stages.Mapping{Add: l[0], To: l[1]})
			}
			if got := paths(t, tree, sel); !slices.Equal(got, tt.want) {
				t.Errorf("%q, want %q", got, tt.want)
			}
		})
	}
}

func TestSelectionErrorsNameWhatThereIs(t *testing.T) {
	tree := memoryTree(t, "src/app/main.go", "src/lib.submodule", "README")
	_, _, err := tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: "src/ap", To: "/app"}, Whole: true})
	if !errors.Is(err, ErrNoSuchPath) || !strings.Contains(err.Error(), `"src", which holds "app/", "lib.submodule"`) {
		t.Errorf("no such path: %v", err)
	}
	for add, exclude := range map[string][]string{"src": nil, "src/lib.submodule": nil, "src/lib.submodule/x": nil, ".": {"src/app"}} {
		_, _, err := tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: add, To: "/", ExcludePaths: exclude}, Whole: true})
		if !errors.Is(err, ErrSubmodule) {
			t.Errorf("add %s: %v", add, err)
		}
	}
	if _, n, err := tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: ".", To: "/", ExcludePaths: []string{"src/lib.submodule"}}, Whole: true}); err != nil || n != 2 {
		t.Errorf("excluded submodule: %d files, %v", n, err)
	}
	for _, glob := range []string{"a[", "{a", "../x", "\xff", strings.Repeat("{a,b}", 20)} {
		if _, _, err := tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: ".", To: "/", IncludePaths: []string{glob}}, Whole: true}); !errors.Is(err, ErrPattern) {
			t.Errorf("glob %q: %v", glob, err)
		}
	}
}

// referenceMatch is the meaning of a glob in a mapping, slowly.
func referenceMatch(glob, name string) bool {
	for p := name; p != "." && p != "/"; p = path.Dir(p) {
		if doublestar.MatchUnvalidated(glob, p) {
			return true
		}
	}
	return false
}

// targets is the meaning of a mapping, slowly: path in the tree by target.
func targets(tree *Tree, m *stages.Mapping) map[string]string {
	out := map[string]string{}
	tree, err := tree.of(m)
	if err != nil {
		panic(err)
	}
	any := func(globs []string, rel string) bool {
		return slices.ContainsFunc(globs, func(g string) bool { return referenceMatch(g, rel) })
	}
	for i := range tree.files.len() {
		p := tree.files.path(i)
		rel, target := p, path.Join(m.To, p)
		switch {
		case p == m.Add:
			rel, target = path.Base(p), m.To
		case m.Add != ".":
			var ok bool
			if rel, ok = strings.CutPrefix(p, m.Add+"/"); !ok {
				continue
			}
			target = path.Join(m.To, rel)
		}
		if (len(m.IncludePaths) == 0 || any(m.IncludePaths, rel)) && !any(m.ExcludePaths, rel) {
			out[target] = p
		}
	}
	return out
}

func TestSelectionsAgreeWithASlowReference(t *testing.T) {
	files := []string{"a", "b/a", "b/b", "b/c/a", "b.x", "b-x", "c/a/b", "c/a.x", "c/b/a", "c/b/b", "d/a/a/a", "d/b.x/a", "d/b.x0"}
	tree := memoryTree(t, files...)
	remote := stages.Remote{URL: "git@example.com:x", Ref: "HEAD"}
	tree.Attach(remote, memoryTree(t, files[3:]...))
	adds := []string{".", "a", "b", "b/c", "b/c/a", "c", "c/a", "d", "d/b.x", "b.x"}
	tos := []string{"/", "/a", "/b", "/b/c", "/b/c/a", "/c/a", "/d"}
	globs := []string{"a", "b", "*", "**", "**/a", "*.x", "**/*.x", "b/**", "b/*", "a/**/*", "b/c", "{a,c}/b", "?", "**/b/**", "c/a/b", "b/**/a"}
	mapping := rapid.Custom(func(t *rapid.T) *stages.Mapping {
		some := rapid.SliceOfN(rapid.SampledFrom(globs), 0, 2)
		m := &stages.Mapping{
			Add: rapid.SampledFrom(adds).Draw(t, "add"), To: rapid.SampledFrom(tos).Draw(t, "to"),
			IncludePaths: some.Draw(t, "include"), ExcludePaths: some.Draw(t, "exclude"),
			StageDependencies: map[stages.Kind][]string{stages.KindInstall: some.Draw(t, "install"), stages.KindSetup: some.Draw(t, "setup")},
		}
		if m.Add != "a" && m.Add != "b" && m.Add != "b/c" && rapid.Bool().Draw(t, "remote") {
			m.Remote = remote
		}
		return m
	})
	rapid.Check(t, func(t *rapid.T) {
		m, later := mapping.Draw(t, "mapping"), rapid.SliceOfN(mapping, 0, 4).Draw(t, "later")
		want := targets(tree, m)
		for _, l := range later {
			for theirs := range targets(tree, l) {
				maps.DeleteFunc(want, func(ours, _ string) bool {
					return ours == theirs || strings.HasPrefix(ours, strings.TrimSuffix(theirs, "/")+"/") || strings.HasPrefix(theirs, strings.TrimSuffix(ours, "/")+"/")
				})
			}
		}
		got := map[string]int{}
		for _, k := range []stages.Kind{stages.KindInstall, stages.KindSetup, stages.KindSource} {
			files, err := tree.Files(stages.Selection{Mapping: m, Kind: k, Stages: []stages.Kind{stages.KindInstall, stages.KindSetup}, Later: later})
			if err != nil {
				t.Fatal(err)
			}
			for _, f := range files {
				got[path.Join(m.To, f.Path)]++
				rel := f.Path
				if rel == "" {
					rel = path.Base(m.Add)
				}
				declares := func(k stages.Kind) bool {
					return slices.ContainsFunc(m.StageDependencies[k], func(g string) bool { return referenceMatch(g, rel) })
				}
				first := stages.KindSource
				if declares(stages.KindInstall) {
					first = stages.KindInstall
				} else if declares(stages.KindSetup) {
					first = stages.KindSetup
				}
				if first != k {
					t.Errorf("%s places %q, want %s", k, f.Path, first)
				}
			}
		}
		if len(got) != len(want) {
			t.Fatalf("targets %v, want %v", got, want)
		}
		for target, n := range got {
			if _, ok := want[target]; !ok || n != 1 {
				t.Fatalf("targets %v, want %v", got, want)
			}
		}
	})
}

func TestIdentityDependsOnWhatIsPlacedAlone(t *testing.T) {
	tree := memoryTree(t, "a/x", "a/y", "b/z")
	sel := func(m stages.Mapping) stages.Selection { return stages.Selection{Mapping: &m, Whole: true} }
	base := identity(t, tree, sel(stages.Mapping{Add: "a", To: "/app"}))
	for name, m := range map[string]stages.Mapping{
		"another target":           {Add: "a", To: "/srv"},
		"a glob that takes all":    {Add: "a", To: "/app", IncludePaths: []string{"*"}},
		"a glob that excludes non": {Add: "a", To: "/app", ExcludePaths: []string{"*.md"}},
	} {
		if identity(t, tree, sel(m)) != base {
			t.Errorf("%s changes the identity", name)
		}
	}
	if identity(t, tree, sel(stages.Mapping{Add: "a", To: "/app", ExcludePaths: []string{"y"}})) == base {
		t.Error("a file less does not change the identity")
	}
}

func TestATreeIsSafeForConcurrentUse(t *testing.T) {
	tree := memoryTree(t, "a/x", "a/y", "b/z")
	var wg sync.WaitGroup
	for i := range 32 {
		wg.Go(func() {
			m := &stages.Mapping{Add: ".", To: "/", StageDependencies: map[stages.Kind][]string{stages.KindSetup: {fmt.Sprintf("a/%c", 'x'+i%2)}}}
			for _, k := range []stages.Kind{stages.KindSetup, stages.KindSource} {
				if _, n, err := tree.Identity(stages.Selection{Mapping: m, Kind: k, Stages: []stages.Kind{stages.KindSetup}}); err != nil || n == 0 {
					t.Errorf("%d files, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
}

func FuzzGlob(f *testing.F) {
	for _, p := range []string{"**/*.go", "a/**", "*", "**", "*.x", "**/a/b", "{a,b}/c", "[a-c]/**/d", `\*`, "a//b", "**/**", "./a/", "**/*/a", "a/**/*", "**/*a*", "**//a", "0/**/**", "*b***/**", `0\/**`, "*\ufffd"} {
		f.Add(p, "a/b/c.go")
		f.Add(p, "b/a/b/x.x/y")
	}
	f.Fuzz(func(t *testing.T, pattern, name string) {
		m, err := compileGlob(pattern)
		// U+FFFD is also what the reference takes a byte that is not UTF-8 for.
		if err != nil || checkPath(name) != nil || strings.Contains(pattern, "\ufffd") || len(pattern) > 100 || len(name) > 100 {
			return
		}
		p := trimGlob(pattern)
		want := p == "" || p == "." || referenceMatch(p, name)
		v := memoryTree(t, name).all()
		if got := m.matchAll(v).count() == 1; got != want {
			t.Errorf("%q on %q: %v, want %v (%+v)", pattern, name, got, want, m)
		}
	})
}

func FuzzParseTree(f *testing.F) {
	f.Add([]byte("100644 blob 0123456789012345678901234567890123456789\ta\x00120000 blob 0123456789012345678901234567890123456789\tb/c\n\x00"))
	f.Add([]byte("160000 commit 0123456789012345678901234567890123456789\tsub\x00"))
	f.Add([]byte("100644 blob 0123456789012345678901234567890123456789\t../a\x00"))
	f.Fuzz(func(t *testing.T, b []byte) {
		l, err := parseTree(strings.NewReader(string(b)), 20)
		if err != nil {
			if !errors.Is(err, ErrCorrupt) {
				t.Errorf("error without a class: %v", err)
			}
			return
		}
		var again strings.Builder
		for i := range l.len() {
			kind := "blob"
			if l.modes[i] == ModeSubmodule {
				kind = "commit"
			}
			fmt.Fprintf(&again, "%s %s %x\t%s\x00", l.modes[i], kind, l.id(i), l.path(i))
			if i > 0 && l.path(i-1) >= l.path(i) {
				t.Errorf("%q stands before %q", l.path(i-1), l.path(i))
			}
		}
		if !strings.EqualFold(again.String(), string(b)) {
			t.Errorf("%q became %q", b, again.String())
		}
	})
}

func TestHostileTreesAreRefused(t *testing.T) {
	const id = "0123456789012345678901234567890123456789"
	for name, in := range map[string]string{
		"a path that leaves":   "100644 blob " + id + "\ta/../../b\x00",
		"an absolute path":     "100644 blob " + id + "\t/etc/passwd\x00",
		"paths out of order":   "100644 blob " + id + "\tb\x00100644 blob " + id + "\ta\x00",
		"a path twice":         "100644 blob " + id + "\ta\x00100644 blob " + id + "\ta\x00",
		"an unknown mode":      "100000 blob " + id + "\ta\x00",
		"a short id":           "100644 blob 0123\ta\x00",
		"an end in the middle": "100644 blob " + id + "\ta",
		"a very long path":     "100644 blob " + id + "\t" + strings.Repeat("a", maxEntry) + "\x00",
	} {
		if _, err := parseTree(strings.NewReader(in), 20); !errors.Is(err, ErrCorrupt) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
