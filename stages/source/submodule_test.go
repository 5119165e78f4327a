package source

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
)

// at returns a repository that is there already.
func (r *testRepo) at(path string) *testRepo { return &testRepo{r.t, filepath.Join(r.dir, path)} }

// addSubmodule adds another repository as a submodule and commits it.
func (r *testRepo) addSubmodule(other *testRepo, path string, args ...string) {
	r.t.Helper()
	r.git(slices.Concat([]string{"-c", "protocol.file.allow=always", "submodule", "--quiet", "add"}, args, []string{"file://" + other.dir, path})...)
	r.commit()
}

// clone makes a clone with its submodules.
func (r *testRepo) clone(args ...string) *testRepo {
	r.t.Helper()
	c := &testRepo{r.t, filepath.Join(r.t.TempDir(), "another place")}
	r.git(slices.Concat([]string{"-c", "protocol.file.allow=always", "clone", "--quiet"}, args, []string{"file://" + r.dir, c.dir})...)
	return c
}

// library is a repository with another one inside of it.
func library(t testing.TB) (lib, inner *testRepo) {
	inner, lib = newRepo(t), newRepo(t)
	inner.write("deep/x.c", "deep")
	inner.commit()
	lib.write("lib.go", "package lib\n")
	lib.write("docs/README", "read me")
	lib.commit()
	lib.addSubmodule(inner, "third party")
	return lib, inner
}

func TestFilesOfSubmodulesStandAtTheirPaths(t *testing.T) {
	lib, _ := library(t)
	r := newRepo(t)
	r.write("main.go", "package main\n")
	r.write("lib-x", "between the name and what is below it")
	r.commit()
	r.addSubmodule(lib, "lib", "--name", "a name")
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
	want := []string{".gitmodules", "lib-x", "lib/.gitmodules", "lib/docs/README", "lib/lib.go", "lib/third party/deep/x.c", "main.go"}
	tree := r.tree()
	if got := paths(t, tree, everything()); !slices.Equal(got, want) {
		t.Fatalf("files %q, want %q", got, want)
	}
	for path, content := range map[string]string{"lib/third party/deep/x.c": "deep", "lib/docs/README": "read me", "main.go": "package main\n"} {
		if b, err := tree.Read(t.Context(), path); err != nil || string(b) != content {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	deps := map[stages.Kind][]string{stages.KindInstall: {"lib/**/*.go"}, stages.KindSetup: {"**/x.c"}}
	for _, tt := range []struct {
		name string
		m    stages.Mapping
		kind stages.Kind
		want []string
	}{
		{"stageDependencies cross into a submodule", stages.Mapping{Add: "."}, stages.KindInstall, []string{"lib/lib.go"}},
		{"and into one inside of it", stages.Mapping{Add: "."}, stages.KindSetup, []string{"lib/third party/deep/x.c"}},
		{"add names a directory inside of a submodule", stages.Mapping{Add: "lib/third party/deep"}, stages.KindSetup, []string{"x.c"}},
		{"excluded paths cross too", stages.Mapping{Add: ".", ExcludePaths: []string{"lib/third party", "**/README", "**/.gitmodules"}}, stages.KindSource, []string{"lib-x", "main.go"}},
		{"included ones as well", stages.Mapping{Add: ".", IncludePaths: []string{"lib/docs"}}, stages.KindSource, []string{"lib/docs/README"}},
	} {
		tt.m.To, tt.m.StageDependencies = "/app", deps
		sel := stages.Selection{Mapping: &tt.m, Kind: tt.kind, Stages: []stages.Kind{stages.KindInstall, stages.KindSetup}}
		if got := paths(t, tree, sel); !slices.Equal(got, tt.want) {
			t.Errorf("%s: %q, want %q", tt.name, got, tt.want)
		}
	}
}

func TestIdentityWithSubmodulesIsTheSameEverywhere(t *testing.T) {
	lib, _ := library(t)
	r := newRepo(t)
	r.write("services/shop/main.go", "package main\n")
	r.commit()
	r.addSubmodule(lib, "services/shop/lib")
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
	project := r.at("services/shop")
	want := identity(t, project.tree(), everything())
	_, n, err := project.tree().Identity(everything())
	if must(t, err); n != 5 {
		t.Errorf("%d files", n)
	}
	lib.git("-C", lib.dir, "commit", "-q", "--allow-empty", "-m", "so that it is not the tip")
	full := r.clone("--recurse-submodules")
	shallow := r.clone("--recurse-submodules", "--depth", "1", "--shallow-submodules", "--no-single-branch")
	for name, c := range map[string]*testRepo{"clone": full, "shallow clone": shallow} {
		p := c.at("services/shop")
		if got := identity(t, p.tree(), everything()); got != want {
			t.Errorf("%s: identity %s, want %s", name, got, want)
		}
		work, err := p.open().WorkTree(t.Context())
		must(t, err)
		if got := identity(t, work, everything()); got != want {
			t.Errorf("work tree of a %s: identity %s, want %s: %q", name, got, want, paths(t, work, everything()))
		}
	}
	// What counts are the files at their paths, not the commit or how they came.
	full.at("services/shop/lib").git("commit", "-q", "--allow-empty", "-m", "another commit with equal files")
	full.git("commit", "-q", "-a", "-m", "moved")
	if got := identity(t, full.at("services/shop").tree(), everything()); got != want {
		t.Errorf("a submodule moved to a commit with equal files: identity %s, want %s", got, want)
	}
	// One that is checked out no more is still in the git directory.
	full.git("submodule", "--quiet", "deinit", "--force", "--all")
	for name, tree := range map[string]func() (*Tree, error){
		"commit":    func() (*Tree, error) { return full.at("services/shop").open().Commit(t.Context(), "HEAD") },
		"work tree": func() (*Tree, error) { return full.at("services/shop").open().WorkTree(t.Context()) },
	} {
		tree, err := tree()
		must(t, err)
		if got := identity(t, tree, everything()); got != want {
			t.Errorf("%s without a checkout: identity %s, want %s", name, got, want)
		}
	}
}

func TestTheWorkTreeOfASubmoduleIsTakenAsItIs(t *testing.T) {
	lib, _ := library(t)
	r := newRepo(t)
	r.write("main.go", "package main\n")
	r.commit()
	r.addSubmodule(lib, "lib")
	r.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init", "--recursive")
	r.write("lib/lib.go", "changed")
	r.write("lib/new", "new")
	r.write("lib/third party/deep/x.c", "changed too")
	must(t, os.Remove(filepath.Join(r.dir, "lib/docs/README")))
	work, err := r.open().WorkTree(t.Context())
	must(t, err)
	want := []string{".gitmodules", "lib/.gitmodules", "lib/lib.go", "lib/new", "lib/third party/deep/x.c", "main.go"}
	if got := paths(t, work, everything()); !slices.Equal(got, want) {
		t.Errorf("files %q, want %q", got, want)
	}
	for path, content := range map[string]string{"lib/lib.go": "changed", "lib/new": "new", "lib/third party/deep/x.c": "changed too"} {
		if b, err := work.Read(t.Context(), path); err != nil || string(b) != content {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	r.at("lib/third party").commit()
	r.at("lib").commit()
	r.commit()
	if identity(t, work, everything()) != identity(t, r.tree(), everything()) {
		t.Error("what git commits is something else")
	}
}

func TestASubmoduleThatIsNotHereSaysWhatToDo(t *testing.T) {
	lib, _ := library(t)
	r := newRepo(t)
	r.write("main.go", "package main\n")
	r.commit()
	r.addSubmodule(lib, "vendor/lib")
	failure := func(tree *Tree, add string) *Error {
		t.Helper()
		_, _, err := tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: add, To: "/"}, Whole: true})
		var e *Error
		if !errors.Is(err, ErrSubmodule) || !errors.As(err, &e) {
			t.Fatalf("want an unavailable submodule: %v", err)
		}
		return e
	}
	t.Run("not initialised", func(t *testing.T) {
		tree := r.clone().tree()
		for _, add := range []string{".", "vendor", "vendor/lib", "vendor/lib/docs"} {
			e := failure(tree, add)
			if !strings.Contains(e.Error(), `"vendor/lib"`) || !strings.Contains(e.Hint, "git submodule update --init --recursive vendor/lib") {
				t.Errorf("add %s: %v (%s)", add, e, e.Hint)
			}
		}
		if _, n, err := tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: ".", To: "/", ExcludePaths: []string{"vendor"}}, Whole: true}); err != nil || n != 2 {
			t.Errorf("excluded: %d files, %v", n, err)
		}
	})
	t.Run("initialised without what is inside of it", func(t *testing.T) {
		c := r.clone()
		c.git("-c", "protocol.file.allow=always", "submodule", "--quiet", "update", "--init")
		e := failure(c.tree(), ".")
		if !strings.Contains(e.Error(), "vendor/lib/third party") || !strings.Contains(e.Hint, "--recursive vendor/lib;") {
			t.Errorf("%v (%s)", e, e.Hint)
		}
	})
	t.Run("its commit was not fetched", func(t *testing.T) {
		c := r.clone("--recurse-submodules")
		at := c.git("rev-parse", "HEAD:vendor/lib")
		c.git("update-index", "--cacheinfo", "160000,"+strings.Repeat("1", len(at))+",vendor/lib")
		c.git("commit", "-q", "-m", "a commit that nobody has")
		e := failure(c.tree(), ".")
		if !strings.Contains(e.Error(), "is missing in the clone") || !strings.Contains(e.Hint, "git submodule update") {
			t.Errorf("%v (%s)", e, e.Hint)
		}
	})
	t.Run("a link without .gitmodules", func(t *testing.T) {
		c := r.clone()
		c.git("rm", "-q", ".gitmodules")
		c.git("commit", "-q", "-m", "x")
		if e := failure(c.tree(), "."); !strings.Contains(e.Error(), "no .gitmodules of the commit names it") {
			t.Error(e)
		}
	})
	t.Run("a bare clone", func(t *testing.T) {
		failure(r.clone("--bare").tree(), ".")
	})
}

// .gitmodules comes with the commit: nothing that it says leads out of the
// git directory.
func TestHostileSubmodulesAreContained(t *testing.T) {
	secret := newRepo(t)
	secret.write("secret", "of another project")
	secret.commit()
	link := secret.git("rev-parse", "HEAD")
	bare := filepath.Join(t.TempDir(), "bare")
	secret.git("clone", "-q", "--bare", ".", bare)
	hostile := func(gitmodules string) *testRepo {
		r := newRepo(t)
		r.write(".gitmodules", gitmodules)
		r.git("add", "-A")
		r.git("update-index", "--add", "--cacheinfo", "160000,"+link+",sub")
		r.git("commit", "-q", "-m", "x")
		return r
	}
	refused := func(t *testing.T, r *testRepo) {
		t.Helper()
		trees := []func() (*Tree, error){
			func() (*Tree, error) { return r.open().Commit(t.Context(), "HEAD") },
			func() (*Tree, error) { return r.open().WorkTree(t.Context()) },
		}
		for _, open := range trees {
			tree, err := open()
			must(t, err)
			_, _, err = tree.Identity(stages.Selection{Mapping: &stages.Mapping{Add: "sub", To: "/"}, Whole: true})
			if !errors.Is(err, ErrSubmodule) && !errors.Is(err, ErrNoSuchPath) {
				t.Errorf("%s: %v", tree.ID(), err)
			}
		}
	}
	for _, name := range []string{"../../bare", "a/../../../" + filepath.Base(bare), bare, "..", ".", "a//b", `..\\x`} {
		r := hostile("[submodule \"" + name + "\"]\n\tpath = sub\n\turl = --upload-pack=touch /tmp/x\n")
		must(t, os.Symlink(bare, filepath.Join(r.dir, "bare")))
		t.Run("the name "+name, func(t *testing.T) { refused(t, r) })
	}
	plain := "[submodule \"x\"]\n\tpath = sub\n\turl = ./x\n"
	t.Run("a symbolic link in the git directory", func(t *testing.T) {
		r := hostile(plain)
		must(t, os.MkdirAll(filepath.Join(r.dir, ".git/modules"), 0o755))
		must(t, os.Symlink(bare, filepath.Join(r.dir, ".git/modules/x")))
		refused(t, r)
	})
	t.Run("a symbolic link in the work tree", func(t *testing.T) {
		r := hostile(plain)
		must(t, os.Symlink(secret.dir, filepath.Join(r.dir, "sub")))
		refused(t, r)
	})
	t.Run("a file .git that leads elsewhere", func(t *testing.T) {
		r := hostile(plain)
		for _, target := range []string{bare, "../.git/modules/../../../" + filepath.Base(filepath.Dir(bare)) + "/bare", secret.dir + "/.git"} {
			r.write("sub/.git", "gitdir: "+target+"\n")
			refused(t, r)
		}
	})
	t.Run("a malformed .gitmodules", func(t *testing.T) { refused(t, hostile("[submodule \"x\npath = \x00")) })
}
