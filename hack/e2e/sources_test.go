package e2e

import (
	"crypto/sha256"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// gitIn runs git in a directory and returns what it says.
func gitIn(t *testing.T, dir string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "git", append([]string{"-c", "protocol.file.allow=always", "-c", "gc.auto=0"}, args...)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL="+os.DevNull, "GIT_CONFIG_NOSYSTEM=1",
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@localhost", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@localhost")
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("git %s: %v: %s", args[0], err, out)
	}
	return strings.TrimSpace(string(out))
}

// lfsObject puts a content into the Git LFS store of a git directory and returns
// its pointer.
func lfsObject(t *testing.T, gitDir, content string) string {
	t.Helper()
	oid := fmt.Sprintf("%x", sha256.Sum256([]byte(content)))
	dir := filepath.Join(gitDir, "lfs", "objects", oid[:2], oid[2:4])
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, oid), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("version https://git-lfs.github.com/spec/v1\noid sha256:%s\nsize %d\n", oid, len(content))
}

// media is what the files of Git LFS hold; it does not fit into one write.
var media = strings.Repeat("the content of a large file\n", 40_000)

// mixed is a project with a submodule, one inside of it and files of Git LFS in
// both, some of which a command needs, some of which come last.
func mixed(t *testing.T) *project {
	t.Helper()
	inner, lib := emptyProject(t), emptyProject(t)
	inner.change(t, "deep.txt", "from deep inside\n")
	lib.write(t, ".gitattributes", "*.bin filter=lfs\n")
	lib.write(t, "logo.bin", lfsObject(t, t.TempDir(), media))
	lib.change(t, "lib.txt", "library\n")
	gitIn(t, lib.dir, "submodule", "--quiet", "add", "file://"+inner.dir, "inner")
	lib.commit(t)

	p := newProject(t, `
-- cairn.yaml --
project: mixed
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- to: /app
  excludePaths: [cairn.yaml, cairn.lock]
  stageDependencies:
    setup: ["lib/inner/**", assets/used.bin]
shell:
  setup: cat /app/lib/inner/deep.txt /app/assets/used.bin > /result && ! test -e /app/lib/lib.txt
-- .gitattributes --
assets/** filter=lfs
assets/*.txt -filter
-- assets/plain.txt --
not of Git LFS
`, shared.registry)
	p.write(t, "assets/used.bin", lfsObject(t, filepath.Join(p.dir, ".git"), "used by a command\n"))
	p.write(t, "assets/last.bin", lfsObject(t, filepath.Join(p.dir, ".git"), media))
	gitIn(t, p.dir, "submodule", "--quiet", "add", "--name", "a library", "file://"+lib.dir, "lib")
	gitIn(t, p.dir, "submodule", "--quiet", "update", "--init", "--recursive")
	lfsObject(t, filepath.Join(p.dir, ".git", "modules", "a library"), media)
	succeeded(t, newHost(t, 0).run(t, p, "lock"))
	p.commit(t)
	return p
}

func TestSubmodulesAndLFSAreBuiltAsGitChecksThemOut(t *testing.T) {
	// Not parallel: the umask belongs to the process.
	p := mixed(t)
	storage := storageOf(t, shared.registry, "")
	a := newHost(t, 0).build(t, p, storage)
	img := pull(t, a.ref(t, "app"))
	for path, want := range map[string]string{
		"/result": "from deep inside\nused by a command\n", "/app/assets/last.bin": media, "/app/assets/plain.txt": "not of Git LFS\n",
		"/app/lib/logo.bin": media, "/app/lib/lib.txt": "library\n", "/app/lib/inner/deep.txt": "from deep inside\n",
	} {
		if got := file(t, img, path); got != want {
			t.Errorf("%s holds %d bytes %.60q, want %d", path, len(got), got, len(want))
		}
	}

	t.Run("the same from a shallow clone elsewhere", func(t *testing.T) {
		old := syscall.Umask(0o077)
		defer syscall.Umask(old)
		clone := filepath.Join(t.TempDir(), "another", "name")
		gitIn(t, "/", "clone", "--quiet", "--depth", "1", "--recurse-submodules", "--shallow-submodules", "file://"+p.dir, clone)
		lfsObject(t, filepath.Join(clone, ".git"), "used by a command\n")
		lfsObject(t, filepath.Join(clone, ".git"), media)
		lfsObject(t, filepath.Join(clone, ".git", "modules", "a library"), media)
		h := newHost(t, 1)
		h.env = []string{"TZ=Asia/Kathmandu"}
		compareStages(t, a, h.build(t, &project{dir: clone}, storageOf(t, shared.registry, "-b")))
	})
	t.Run("the same from the work tree", func(t *testing.T) {
		p.write(t, "assets/used.bin", "used by a command\n")
		p.write(t, "assets/last.bin", media)
		p.write(t, "lib/logo.bin", media)
		r := newHost(t, 0).build(t, p, storage, "--dev")
		if r.Root != a.Root || r.count("cached") == 0 || r.count("built", "assembled") > 0 {
			t.Errorf("--dev gives the root %s, want %s: %v", r.Root, a.Root, r.results())
		}
		gitIn(t, p.dir, "checkout", "--quiet", ".")
		gitIn(t, filepath.Join(p.dir, "lib"), "checkout", "--quiet", ".")
	})
	t.Run("what the clone lacks is named with the line of the mapping", func(t *testing.T) {
		bare := filepath.Join(t.TempDir(), "clone")
		gitIn(t, "/", "clone", "--quiet", "file://"+p.dir, bare)
		r := newHost(t, 0).run(t, &project{dir: bare}, "plan", "--offline")
		message, hint := r.errorLines()
		if r.code != 4 || !strings.HasPrefix(message, `cairn.yaml:6: image "app": add "lib": the submodule's files are not available`) || !strings.Contains(hint, "git submodule update --init --recursive lib") {
			t.Errorf("code %d, %s\n%s", r.code, message, hint)
		}
		gitIn(t, bare, "submodule", "--quiet", "update", "--init", "--recursive")
		// A plan needs no contents of Git LFS, a build does.
		succeeded(t, newHost(t, 0).run(t, &project{dir: bare}, "plan", "--offline"))
		r = newHost(t, 0).run(t, &project{dir: bare}, "build", "--stages-storage", storageOf(t, shared.registry, "-c"))
		message, hint = r.errorLines()
		if r.code == 0 || !strings.Contains(message, `"assets/`) || !strings.Contains(message, "not in the local Git LFS store") || !strings.Contains(hint, "git lfs pull") {
			t.Errorf("code %d, %s\n%s", r.code, message, hint)
		}
	})
}

// A library that moves, or vanishes, changes nothing for who has it pinned; who has
// not is warned.
func TestFilesOfAnotherRepositoryStayWhatTheyArePinnedTo(t *testing.T) {
	t.Parallel()
	lib := emptyProject(t)
	lib.change(t, "icons/a.svg", "first\n")
	p := newProject(t, `
-- cairn.yaml --
project: pinned
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- to: /app
  includePaths: [main.txt]
- url: file://`+lib.dir+`
  add: /icons
  to: /app/icons
  stageDependencies:
    setup: a.svg
shell:
  setup: cp /app/icons/a.svg /result
-- main.txt --
main
`, shared.registry)
	h := newHost(t, 0)
	h.env = []string{"CAIRN_ALLOW_FILE_URLS=true"}
	succeeded(t, h.run(t, p, "lock"))
	p.commit(t)
	lib.change(t, "icons/a.svg", "second\n")
	storage := storageOf(t, shared.registry, "")
	first := h.build(t, p, storage)
	if got := file(t, pull(t, first.ref(t, "app")), "/result"); got != "first\n" {
		t.Errorf("the result is %q", got)
	}
	gone := lib.dir + "-gone"
	if err := os.Rename(lib.dir, gone); err != nil {
		t.Fatal(err)
	}
	again := h.build(t, p, storage)
	if again.Root != first.Root || again.EngineStarted || again.Requests.Registry != 1 {
		t.Errorf("the second build gives root %s after %s with %d requests", again.Root, first.Root, again.Requests.Registry)
	}
	r := newHost(t, 1).with(h.env).run(t, p, "build", "--stages-storage", storage)
	if message, hint := r.errorLines(); r.code != 4 || !strings.HasPrefix(message, "cairn.yaml:8: ") || !strings.Contains(message, "the other repository does not answer") || hint == "" {
		t.Errorf("on a host that never had it: code %d, %s\n%s", r.code, message, hint)
	}
	if err := os.Rename(gone, lib.dir); err != nil {
		t.Fatal(err)
	}
	succeeded(t, h.run(t, p, "lock", "--update"))
	p.commit(t)
	next := h.build(t, p, storage)
	if got := file(t, pull(t, next.ref(t, "app")), "/result"); got != "second\n" {
		t.Errorf("after cairn lock --update the result is %q", got)
	}
}
