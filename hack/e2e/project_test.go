package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/rogpeppe/go-internal/txtar"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/hack/testbed"
)

// project is a git repository with a cairn.yaml.
type project struct {
	runner.Repository
	dir string
}

// newProject makes a repository of the files in an archive, in which @REGISTRY@ is
// the registry of the bases, @COUNT@ the command that counts and @NAME@ a word
// that no other test has. Files that begin with "#!" are executable.
func newProject(t *testing.T, archive string, r *testbed.Registry) *project {
	t.Helper()
	p := emptyProject(t)
	for _, f := range txtar.Parse([]byte(archive)).Files {
		p.write(t, f.Name, expand(t, string(f.Data), r))
	}
	p.commit(t)
	return p
}

func emptyProject(t *testing.T) *project {
	t.Helper()
	r, err := runner.NewRepository(t.Context(), filepath.Join(t.TempDir(), "project"))
	if err != nil {
		t.Fatal(err)
	}
	return &project{Repository: r, dir: r.Dir}
}

func expand(t *testing.T, s string, r *testbed.Registry) string {
	t.Helper()
	return strings.NewReplacer(
		"@REGISTRY@", r.Address(), "@NAME@", repository(t),
		"@COUNT@", "wget -q -O /dev/null "+shared.counter.URL()+"/"+repository(t),
	).Replace(s)
}

// repository turns a test's name into that of a repository, another one each time
// that the test is run.
func repository(t *testing.T) string {
	t.Helper()
	return strings.ToLower(strings.NewReplacer("/", "-", "_", "-").Replace(t.Name())) + "-" + shared.serials.of(t)
}

// serials number the runs of tests.
type serials struct {
	mu  sync.Mutex
	all map[*testing.T]int
}

func (s *serials) of(t *testing.T) string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all == nil {
		s.all = make(map[*testing.T]int)
	}
	n, ok := s.all[t]
	if !ok {
		n = len(s.all)
		s.all[t] = n
	}
	return strconv.Itoa(n)
}

// storageOf returns the address of a stages storage of the test's own.
func storageOf(t *testing.T, r *testbed.Registry, suffix string) string {
	t.Helper()
	return r.Address() + "/" + repository(t) + suffix
}

// counted is the name under which the test's own commands count.
func counted(t *testing.T, what string) string { return repository(t) + "/" + what }

func (p *project) write(t *testing.T, name, content string) {
	t.Helper()
	if err := p.Write(name, []byte(content)); err != nil {
		t.Fatal(err)
	}
	if strings.HasPrefix(content, "#!") {
		if err := os.Chmod(filepath.Join(p.dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
}

// link makes a symbolic link and commits it.
func (p *project) link(t *testing.T, target, name string) {
	t.Helper()
	if err := os.Symlink(target, filepath.Join(p.dir, name)); err != nil {
		t.Fatal(err)
	}
	p.commit(t)
}

func (p *project) commit(t *testing.T) {
	t.Helper()
	if err := p.Commit(t.Context(), "Change"); err != nil {
		t.Fatal(err)
	}
}

// change writes a file and commits it.
func (p *project) change(t *testing.T, name, content string) {
	t.Helper()
	p.write(t, name, content)
	p.commit(t)
}

// git runs git without the user's own settings.
func git(t *testing.T, args ...string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", args...)
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("git %s: %v: %s", args[0], err, out)
	}
}
