package arch

import (
	"flag"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

var update = flag.Bool("update", false, "write the linter's import rules from the table of rooms")

const root = "../.."

func tree(t *testing.T) []Package {
	t.Helper()
	list, err := List(t.Context(), root, "./...")
	if err != nil {
		t.Fatal(err)
	}
	return list
}

func report(t *testing.T, wrong []string) {
	t.Helper()
	for _, w := range wrong {
		t.Error(w)
	}
}

func TestRoomsImportOnlyWhatTheTableAllows(t *testing.T) { report(t, Imports(Rooms(), tree(t))) }
func TestPackageNamesSayWhatIsInside(t *testing.T)       { report(t, Names(tree(t))) }
func TestPackagesHaveComments(t *testing.T)              { report(t, Docs(tree(t))) }

func TestNoInitNoMutableVariablesShortMains(t *testing.T) {
	wrong, err := Syntax(tree(t))
	if err != nil {
		t.Fatal(err)
	}
	report(t, wrong)
}

func TestTheClientDoesNotLinkTheEngine(t *testing.T) {
	deps, err := List(t.Context(), root, "-deps", "./cmd/cairn")
	if err != nil {
		t.Fatal(err)
	}
	report(t, Links(deps, engineCode()))
}

// engineCode is what only cairnd may link: it multiplies the size of the
// client and ties it to Linux.
func engineCode() []string {
	return []string{
		"github.com/moby/buildkit/control", "github.com/moby/buildkit/executor/runcexecutor", "github.com/moby/buildkit/worker",
		"github.com/containerd/go-runc", "github.com/opencontainers/runc",
	}
}

func TestTheDaemonIsWhatLinksTheEngine(t *testing.T) {
	deps, err := List(t.Context(), root, "-deps", "./cmd/cairnd")
	if err != nil {
		t.Fatal(err)
	}
	if len(Links(deps, engineCode())) == 0 {
		t.Error("cairnd links no engine: the test that the client links none would not see a change of names")
	}
}

func TestFilesNameNoMachineAndNoTestSkips(t *testing.T) {
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	wrong, err := Text(dir, files)
	if err != nil {
		t.Fatal(err)
	}
	report(t, wrong)
}

// A folder at the top is found by its name before anything is read: there are these.
func TestCodeStandsInOneOfTheFoldersAtTheTop(t *testing.T) {
	dir, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	files, err := Files(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	folders := []string{"cmd", "stages", "storage", "synchronization", "lock", "cleanup", "deploy", "hack", "docs", ".ci"}
	seen := map[string]bool{}
	for _, f := range files {
		top, _, below := strings.Cut(filepath.ToSlash(f), "/")
		if below && !seen[top] && !slices.Contains(folders, top) {
			t.Errorf("%s is in a folder of its own at the top", f)
		}
		seen[top] = true
	}
	if !seen["stages"] {
		t.Error("no file of stages was seen: the paths are not what this test takes them for")
	}
}

const (
	rulesBegin = "        # begin: go test ./hack/arch -update\n"
	rulesEnd   = "        # end\n"
)

func TestTheLinterKnowsTheTable(t *testing.T) {
	path := filepath.Join(root, ".golangci.yml")
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(b), rulesBegin)
	got, after, ended := strings.Cut(rest, rulesEnd)
	if !ok || !ended {
		t.Fatalf("%s has lost the marks around the import rules", path)
	}
	want := Depguard(Rooms())
	if got == want {
		return
	}
	if !*update {
		t.Fatalf("%s differs from hack/arch/rooms.go: run go test ./hack/arch -update", path)
	}
	if err := os.WriteFile(path, []byte(before+rulesBegin+want+rulesEnd+after), 0o600); err != nil {
		t.Fatal(err)
	}
}

// The checks themselves, each on an example that must fail and one that must not.

func TestImportsFindsWhatTheTableForbids(t *testing.T) {
	tests := []struct {
		name, path, imports string
		wrong               bool
	}{
		{"a value library may be used by values", "stages", "github.com/opencontainers/go-digest", false},
		{"values use no client library", "stages", "github.com/google/go-containerregistry/pkg/name", true},
		{"values know nobody", "stages", Module + "/storage", true},
		{"config knows the values", "stages/config", Module + "/stages", false},
		{"config does not know the sources", "stages/config", Module + "/stages/source", true},
		{"a package below a room belongs to it", "stages/config/schema", Module + "/storage", true},
		{"a package below a room may be used by it", "stages/config", Module + "/stages/config/schema", false},
		{"the run sees all stages", "stages/build", Module + "/stages/assemble", false},
		{"the run names no implementation", "stages/build", Module + "/storage/registry", true},
		{"a storage implements the contract", "storage/local", Module + "/storage", false},
		{"a storage does not know its siblings", "storage/local", Module + "/storage/registry", true},
		{"locks use the standard library", "lock", "context", false},
		{"locks use nothing else", "lock", "go.uber.org/zap", true},
		{"locks do not know the ledger", "lock", Module + "/synchronization", true},
		{"a main package calls the command line", "cmd/cairn", Module + "/cmd/internal/cli", false},
		{"a main package calls nothing else", "cmd/cairn", Module + "/stages", true},
		{"wire names implementations", "cmd/internal/wire", Module + "/storage/registry", false},
		{"a package in no room is noticed", "stages/other", "fmt", true},
		{"a package at the top is noticed", "other", "fmt", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			wrong := Imports(Rooms(), []Package{{ImportPath: Module + "/" + tt.path, Imports: []string{tt.imports}}})
			if (len(wrong) > 0) != tt.wrong {
				t.Errorf("%s importing %s gives %q", tt.path, tt.imports, wrong)
			}
		})
	}
}

func TestNamesAndDocsFindTheNamelessAndTheSilent(t *testing.T) {
	bad := []Package{{ImportPath: Module + "/stages/util", GoFiles: []string{"a.go"}}}
	good := []Package{{ImportPath: Module + "/stages/plan", GoFiles: []string{"a.go"}, Doc: "Package plan plans."}}
	if len(Names(bad)) != 1 || len(Docs(bad)) != 1 {
		t.Errorf("of a package util without a comment: %q %q", Names(bad), Docs(bad))
	}
	if len(Names(good)) != 0 || len(Docs(good)) != 0 {
		t.Errorf("of a good package: %q %q", Names(good), Docs(good))
	}
}

func TestLinksFindsAPackageBelowAForbiddenOne(t *testing.T) {
	deps := []Package{{ImportPath: "github.com/moby/buildkit/worker/runc"}, {ImportPath: "github.com/moby/buildkit/workers"}}
	if got := Links(deps, []string{"github.com/moby/buildkit/worker"}); len(got) != 1 {
		t.Errorf("got %q, want the first only", got)
	}
}

func TestSyntaxFindsWhatItForbids(t *testing.T) {
	tests := []struct {
		name, code string
		wrong      int
	}{
		{"an init function", "package a\nfunc init() {}", 1},
		{"a method named init is none", "package a\ntype t int\nfunc (t) init() {}", 0},
		{"a map", "package a\nvar m = map[string]int{}", 1},
		{"two variables without values", "package a\nvar x, y int", 2},
		{"a logger", "package a\nvar log = zap.NewNop()", 1},
		{"sentinel errors and regular expressions", "package a\nvar (\n\tErrX = errors.New(\"x\")\n\tre = regexp.MustCompile(`x`)\n)", 0},
		{"a sentinel error under another name", "package a\nvar ErrX = b.ErrX", 0},
		{"a setting of another package", "package a\nvar x = b.Default", 1},
		{"an interface check", "package a\nvar _ I = (*T)(nil)", 0},
		{"an embedded file", "package a\n//go:embed x\nvar x string", 0},
		{"the version of a program", "package main\nvar version string\nfunc main() {}", 0},
		{"a version elsewhere", "package a\nvar version string", 1},
		{"a long main", "package main\nfunc main() {" + strings.Repeat("\n", 40) + "}", 1},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			files := token.NewFileSet()
			file, err := parser.ParseFile(files, "a.go", tt.code, parser.ParseComments)
			if err != nil {
				t.Fatal(err)
			}
			if got := syntaxOf(files, file); len(got) != tt.wrong {
				t.Errorf("got %q, want %d", got, tt.wrong)
			}
		})
	}
}

func TestTextFindsMachinesAndSkips(t *testing.T) {
	tests := []struct {
		name, file, line string
		wrong            bool
	}{
		{"the checkout's own place", "a.go", "open /srv/checkout/b", true},
		{"somebody's home", "a.md", "see /Users/alice/x", true},
		{"a home inside of an image", "a.md", "see /home/app/x", false},
		{"a test that skips", "a_test.go", "\tt.Skip(\"no docker\")", true},
		{"a word like it in code", "a.go", "scanner.Skip(1)", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := textOf("/srv/checkout", tt.file, []byte(tt.line)); (got != "") != tt.wrong {
				t.Errorf("got %q", got)
			}
		})
	}
}
