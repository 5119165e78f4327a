package source

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/cairnbuild/cairn/stages"
)

// testRepo is a git repository for a test.
type testRepo struct {
	t   testing.TB
	dir string
}

func newRepo(t testing.TB, initArgs ...string) *testRepo {
	t.Helper()
	r := &testRepo{t, t.TempDir()}
	r.git(append([]string{"init", "-q", "-b", "main"}, initArgs...)...)
	return r
}

func (r *testRepo) git(args ...string) string {
	r.t.Helper()
	cmd := exec.Command("git", append([]string{"-c", "core.fsync=none", "-c", "gc.auto=0"}, args...)...)
	cmd.Dir = r.dir
	cmd.Env = append(gitEnvironment(os.Environ()),
		"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org",
		"GIT_AUTHOR_DATE=2024-01-01T00:00:00Z", "GIT_COMMITTER_DATE=2024-01-01T00:00:00Z")
	out, err := cmd.CombinedOutput()
	if err != nil {
		r.t.Fatalf("git %s: %v\n%s", strings.Join(args, " "), err, out)
	}
	return strings.TrimSpace(string(out))
}

func (r *testRepo) write(name, content string) {
	r.t.Helper()
	p := filepath.Join(r.dir, name)
	must(r.t, os.MkdirAll(filepath.Dir(p), 0o755))
	must(r.t, os.WriteFile(p, []byte(content), 0o644))
}

func (r *testRepo) commit() { r.git("add", "-A"); r.git("commit", "-q", "-m", "x") }

func (r *testRepo) open() *Repository {
	r.t.Helper()
	repo, err := Open(r.t.Context(), r.dir)
	must(r.t, err)
	return repo
}

func (r *testRepo) tree() *Tree {
	r.t.Helper()
	tree, err := r.open().Commit(r.t.Context(), "HEAD")
	must(r.t, err)
	return tree
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func everything() stages.Selection {
	return stages.Selection{Mapping: &stages.Mapping{Add: ".", To: "/app"}, Kind: stages.KindSource, Whole: true}
}

func identity(t testing.TB, tree *Tree, sel stages.Selection) stages.Digest {
	t.Helper()
	id, _, err := tree.Identity(sel)
	must(t, err)
	return id
}

func paths(t testing.TB, tree *Tree, sel stages.Selection) []string {
	t.Helper()
	files, err := tree.Files(sel)
	must(t, err)
	_, n, err := tree.Identity(sel)
	must(t, err)
	if n != len(files) {
		t.Errorf("Identity counts %d files, Files lists %d", n, len(files))
	}
	out := []string{}
	for _, f := range files {
		out = append(out, f.Path)
	}
	return out
}

// oddRepo has each kind of file and names that are hard to read from a listing.
func oddRepo(t testing.TB, initArgs ...string) *testRepo {
	r := newRepo(t, initArgs...)
	r.write("run.sh", "#!/bin/sh\n")
	must(t, os.Chmod(filepath.Join(r.dir, "run.sh"), 0o755))
	must(t, os.Symlink("../elsewhere", filepath.Join(r.dir, "link")))
	for _, name := range []string{"a\nb", "tab\there", `quo"te`, "back\\slash", "bad\xff\xfeutf8", "a.b", "a/b", "a-b", "ü"} {
		r.write(name, "content of "+name)
	}
	r.commit()
	return r
}

func TestTreeHoldsEveryKindOfFileAndName(t *testing.T) {
	for _, format := range []string{"sha1", "sha256"} {
		t.Run(format, func(t *testing.T) {
			r := oddRepo(t, "--object-format="+format)
			tree := r.tree()
			files, err := tree.Files(everything())
			must(t, err)
			want := []string{"a\nb", "a-b", "a.b", "a/b", "back\\slash", "bad\xff\xfeutf8", "link", `quo"te`, "run.sh", "tab\there", "ü"}
			var got []string
			for _, f := range files {
				got = append(got, f.Path)
			}
			if !slices.Equal(got, want) {
				t.Errorf("paths %q, want %q", got, want)
			}
			modes := map[string]Mode{}
			contents := map[string]string{}
			must(t, tree.Contents(t.Context(), files, func(f File, size int64, rd io.Reader) error {
				b, err := io.ReadAll(rd)
				contents[f.Path], modes[f.Path] = string(b), f.Mode
				if int64(len(b)) != size {
					t.Errorf("%q: %d bytes, size %d", f.Path, len(b), size)
				}
				return err
			}))
			if modes["run.sh"] != ModeExecutable || modes["link"] != ModeSymlink || modes["a/b"] != ModeRegular {
				t.Errorf("modes %v", modes)
			}
			if contents["link"] != "../elsewhere" || contents["bad\xff\xfeutf8"] != "content of bad\xff\xfeutf8" {
				t.Errorf("contents %q", contents)
			}
			sizes, err := tree.Sizes(t.Context(), files)
			must(t, err)
			if i := slices.Index(want, "link"); sizes[i] != int64(len("../elsewhere")) {
				t.Errorf("sizes %v", sizes)
			}
		})
	}
}

func TestIdentityIsTheSameEverywhere(t *testing.T) {
	r := oddRepo(t)
	want := identity(t, r.tree(), everything())
	if got := want.Hex()[:16]; got != goldenIdentity {
		t.Errorf("identity %s, want %s: every published stage would be built anew", got, goldenIdentity)
	}
	clone := func(args ...string) *testRepo {
		c := &testRepo{t, filepath.Join(t.TempDir(), "clone")}
		r.git(append(append([]string{"clone", "-q"}, args...), "file://"+r.dir, c.dir)...)
		return c
	}
	r.git("commit", "-q", "--allow-empty", "-m", "another")
	shallow, detached, bare := clone("--depth", "1"), clone(), clone("--bare")
	detached.git("checkout", "-q", "--detach", "HEAD~1")
	must(t, os.Chmod(filepath.Join(detached.dir, "a.b"), 0o600))
	must(t, os.Chtimes(filepath.Join(detached.dir, "a.b"), fixedTime(1), fixedTime(2)))
	for name, c := range map[string]*testRepo{"shallow clone": shallow, "detached head": detached, "bare": bare} {
		if got := identity(t, c.tree(), everything()); got != want {
			t.Errorf("%s: identity %s, want %s", name, got, want)
		}
	}
	for name, c := range map[string]*testRepo{"work tree": r, "work tree with other modes and times": detached} {
		tree, err := c.open().WorkTree(t.Context())
		must(t, err)
		if got := identity(t, tree, everything()); got != want {
			t.Errorf("%s: identity %s, want %s", name, got, want)
		}
		if onDisk := tree.files.origins[0].onDisk; len(onDisk) > 0 {
			t.Errorf("%s: a clean work tree reads %v from disk", name, onDisk)
		}
	}
	if changes, err := bare.open().Dirty(t.Context()); err != nil || changes != nil {
		t.Errorf("a bare repository is dirty: %v, %v", changes, err)
	}
	if _, err := bare.open().WorkTree(t.Context()); !errors.Is(err, ErrNoWorkTree) {
		t.Errorf("work tree of a bare repository: %v", err)
	}
	_, err := shallow.open().Commit(t.Context(), r.git("rev-parse", "HEAD~1"))
	var e *Error
	if !errors.Is(err, ErrUnknownRevision) || !errors.As(err, &e) || !strings.Contains(e.Hint, "git fetch --depth 1") {
		t.Errorf("a commit that was not fetched: %v", err)
	}
}

func TestProjectInASubdirectorySeesItsOwnFiles(t *testing.T) {
	r := newRepo(t)
	r.write("services/shop/cairn.yaml", "project: shop\n")
	r.write("services/shop/src/main.go", "package main\n")
	r.write("services/shopping/x", "")
	r.write("README", "")
	r.commit()
	sub := &testRepo{t, filepath.Join(r.dir, "services/shop")}
	tree := sub.tree()
	if got := paths(t, tree, everything()); !slices.Equal(got, []string{"cairn.yaml", "src/main.go"}) {
		t.Errorf("files %q", got)
	}
	b, err := tree.Read(t.Context(), "cairn.yaml")
	must(t, err)
	if string(b) != "project: shop\n" {
		t.Errorf("cairn.yaml holds %q", b)
	}
	work, err := sub.open().WorkTree(t.Context())
	must(t, err)
	if identity(t, work, everything()) != identity(t, tree, everything()) {
		t.Error("the work tree has another identity")
	}
	sub.write("new.txt", "")
	r.write("outside", "")
	changes, err := sub.open().Dirty(t.Context())
	must(t, err)
	if !slices.Equal(changes, []Change{{"new.txt", ChangeUntracked}}) {
		t.Errorf("changes %v", changes)
	}
	other := &testRepo{t, filepath.Join(r.dir, "services/new")}
	other.write("f", "")
	if _, err := other.open().Commit(t.Context(), "HEAD"); !errors.Is(err, ErrNotCommitted) {
		t.Errorf("a directory that was not committed: %v", err)
	}
}

// As git checks out on Windows: links are files with their targets, and no file
// is executable.
func TestModesThatADiskCannotKeepAreThoseOfTheIndex(t *testing.T) {
	r := oddRepo(t)
	r.git("config", "core.symlinks", "false")
	r.git("config", "core.filemode", "false")
	must(t, os.Remove(filepath.Join(r.dir, "link")))
	r.write("link", "../elsewhere")
	must(t, os.Chmod(filepath.Join(r.dir, "run.sh"), 0o644))
	work, err := r.open().WorkTree(t.Context())
	must(t, err)
	if got, want := identity(t, work, everything()), identity(t, r.tree(), everything()); got != want {
		t.Errorf("the work tree has the identity %s, its commit %s", got, want)
	}
	r.write("link", "another target")
	r.write("run.sh", "#!/bin/sh\ntrue\n")
	work, err = r.open().WorkTree(t.Context())
	must(t, err)
	files, err := work.Files(everything())
	must(t, err)
	r.commit()
	if got, want := identity(t, work, everything()), identity(t, r.tree(), everything()); got != want {
		t.Errorf("after a change it has the identity %s, a commit of it %s", got, want)
	}
	for _, f := range files {
		if f.Path == "link" && f.Mode != ModeSymlink || f.Path == "run.sh" && f.Mode != ModeExecutable {
			t.Errorf("%s has the mode %o", f.Path, f.Mode)
		}
	}
}

func TestWorkTreeTakesWhatIsOnDisk(t *testing.T) {
	r := oddRepo(t)
	r.write(".gitignore", "*.log\n")
	r.write("gone", "")
	r.write("dir/inner", "")
	r.commit()
	before := r.tree()
	r.write("a.b", "new content")
	r.write("untracked", "fresh")
	r.write("x.log", "ignored")
	r.write("staged", "staged")
	r.git("add", "staged")
	must(t, os.Remove(filepath.Join(r.dir, "gone")))
	must(t, os.RemoveAll(filepath.Join(r.dir, "dir")))
	must(t, os.Symlink("/etc", filepath.Join(r.dir, "dir")))
	must(t, os.Chmod(filepath.Join(r.dir, "a-b"), 0o755))
	changes, err := r.open().Dirty(t.Context())
	must(t, err)
	got := map[string]ChangeKind{}
	for _, c := range changes {
		got[c.Path] = c.Kind
	}
	want := map[string]ChangeKind{
		"a.b": ChangeModified, "a-b": ChangeModified, "untracked": ChangeUntracked, "staged": ChangeAdded,
		"gone": ChangeDeleted, "dir/inner": ChangeDeleted, "dir": ChangeUntracked,
	}
	if fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("changes %v, want %v", got, want)
	}
	tree, err := r.open().WorkTree(t.Context())
	must(t, err)
	if identity(t, tree, everything()) == identity(t, before, everything()) {
		t.Error("the identity did not change")
	}
	for path, content := range map[string]string{"a.b": "new content", "untracked": "fresh", "staged": "staged", "a/b": "content of a/b"} {
		if b, err := tree.Read(t.Context(), path); err != nil || string(b) != content {
			t.Errorf("%s holds %q, %v", path, b, err)
		}
	}
	r.git("add", "-A")
	r.git("commit", "-q", "-m", "all of it")
	if identity(t, tree, everything()) != identity(t, r.tree(), everything()) {
		t.Errorf("what git commits is something else: %q, %q", paths(t, tree, everything()), paths(t, r.tree(), everything()))
	}
	r.write("untracked", "other")
	if _, err := tree.Read(t.Context(), "untracked"); !errors.Is(err, ErrChanged) {
		t.Errorf("a file that changed after it was listed: %v", err)
	}
}

func TestGitRunsNothingThatTheRepositoryNames(t *testing.T) {
	r := newRepo(t)
	mark := filepath.Join(t.TempDir(), "ran")
	r.write(".gitattributes", "* filter=evil\n")
	r.write("f", "x")
	r.commit()
	script := "touch '" + mark + "'; cat"
	r.git("config", "filter.evil.clean", script)
	r.git("config", "filter.evil.smudge", script)
	r.git("config", "filter.evil.required", "true")
	r.git("config", "core.fsmonitor", script)
	r.write("f", "y")
	repo := r.open()
	tree, err := repo.WorkTree(t.Context())
	must(t, err)
	_, err = repo.Dirty(t.Context())
	must(t, err)
	_, err = repo.Commit(t.Context(), "HEAD")
	must(t, err)
	if b, err := tree.Read(t.Context(), "f"); err != nil || string(b) != "y" {
		t.Errorf("f holds %q, %v", b, err)
	}
	if _, err := os.Stat(mark); !errors.Is(err, fs.ErrNotExist) {
		t.Error("a program of the repository ran")
	}
}

func TestErrorsSayWhatIsWrong(t *testing.T) {
	open := func(dir string) error { _, err := Open(t.Context(), dir); return err }
	plain := t.TempDir()
	if err := open(plain); !errors.Is(err, ErrNotRepository) {
		t.Errorf("no repository: %v", err)
	}
	if err := open(filepath.Join(plain, "missing")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	empty := newRepo(t)
	if _, err := empty.open().Commit(t.Context(), "HEAD"); !errors.Is(err, ErrNoCommits) {
		t.Errorf("no commit: %v", err)
	}
	empty.git("commit", "-q", "--allow-empty", "-m", "x")
	if _, n, err := empty.tree().Identity(everything()); err != nil || n != 0 {
		t.Errorf("an empty tree: %d files, %v", n, err)
	}
	for _, rev := range []string{"nosuch", "--all", "", strings.Repeat("ab", 20)} {
		if _, err := empty.open().Commit(t.Context(), rev); !errors.Is(err, ErrUnknownRevision) {
			t.Errorf("revision %q: %v", rev, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := Open(ctx, empty.dir); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
	t.Run("git is missing", func(t *testing.T) {
		t.Setenv("PATH", plain)
		if err := open(empty.dir); !errors.Is(err, ErrGitMissing) {
			t.Error(err)
		}
	})
	t.Run("git is too old", func(t *testing.T) {
		must(t, os.WriteFile(filepath.Join(plain, "git"), []byte("#!/bin/sh\necho git version 2.20.1\n"), 0o755))
		t.Setenv("PATH", plain+":"+os.Getenv("PATH"))
		if err := open(empty.dir); !errors.Is(err, ErrGitTooOld) {
			t.Error(err)
		}
	})
}

func TestRepositoryOfAnotherUserIsRefused(t *testing.T) {
	r := oddRepo(t)
	uid := os.Geteuid()
	if uid == 0 {
		must(t, os.Lchown(r.dir, 12345, 12345))
		must(t, os.Lchown(filepath.Join(r.dir, ".git"), 12345, 12345))
		t.Setenv("SUDO_UID", "")
		t.Setenv("GIT_CONFIG_GLOBAL", os.DevNull)
		_, err := Open(t.Context(), r.dir)
		var e *Error
		if !errors.Is(err, ErrUnsafe) || !errors.As(err, &e) || !strings.Contains(e.Hint, "safe.directory") {
			t.Errorf("owned by another user: %v", err)
		}
		config := filepath.Join(t.TempDir(), "config")
		must(t, os.WriteFile(config, []byte("[safe]\n\tdirectory = "+r.dir+"\n"), 0o600))
		t.Setenv("GIT_CONFIG_GLOBAL", config)
		r.tree()
		return
	}
	// Only root can give files away: here the check itself is what can be seen.
	if !ownedByOther("/") || ownedByOther(r.dir) {
		t.Error("ownership is not seen")
	}
}

func TestCorruptObjectsAreNamed(t *testing.T) {
	damage := func(r *testRepo, rev string, content []byte) {
		id := r.git("rev-parse", rev)
		p := filepath.Join(r.dir, ".git/objects", id[:2], id[2:])
		must(t, os.Remove(p))
		if content != nil {
			must(t, os.WriteFile(p, content, 0o444))
		}
	}
	for name, content := range map[string][]byte{"missing": nil, "garbage": []byte("garbage")} {
		t.Run(name, func(t *testing.T) {
			r := oddRepo(t)
			tree := r.tree()
			damage(r, "HEAD:a.b", content)
			if _, err := tree.Read(t.Context(), "a.b"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("blob: %v", err)
			}
			files, err := tree.Files(everything())
			must(t, err)
			if _, err := tree.Sizes(t.Context(), files); !errors.Is(err, ErrCorrupt) {
				t.Errorf("sizes: %v", err)
			}
			damage(r, "HEAD:a", content)
			if _, err := r.open().Commit(t.Context(), "HEAD"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("tree: %v", err)
			}
			damage(r, "HEAD", content)
			if _, err := r.open().Commit(t.Context(), "HEAD"); !errors.Is(err, ErrCorrupt) {
				t.Errorf("commit: %v", err)
			}
		})
	}
}

func TestReadAndGlob(t *testing.T) {
	r := oddRepo(t)
	r.write(".gitattributes", "pointer filter=lfs\n")
	r.write("pointer", lfsPointer+"\noid sha256:00\nsize 1\n")
	r.write("conf/a.yaml", "")
	r.write("conf/sub/b.yaml", "")
	r.commit()
	tree := r.tree()
	for path, want := range map[string]error{"nosuch": fs.ErrNotExist, "a": ErrNotRegular, "link": ErrNotRegular, "pointer": ErrLFSPointer} {
		if _, err := tree.Read(t.Context(), path); !errors.Is(err, want) {
			t.Errorf("read %s: %v, want %v", path, err, want)
		}
	}
	for pattern, want := range map[string][]string{
		"conf/*.yaml": {"conf/a.yaml"}, "conf/**/*.yaml": {"conf/a.yaml", "conf/sub/b.yaml"}, "conf": nil, "run.sh": {"run.sh"}, "nosuch/*": nil,
	} {
		if got, err := tree.Glob(t.Context(), pattern); err != nil || !slices.Equal(got, want) {
			t.Errorf("glob %s: %q, %v, want %q", pattern, got, err, want)
		}
	}
	if _, err := tree.Glob(t.Context(), "a["); !errors.Is(err, ErrPattern) {
		t.Errorf("malformed glob: %v", err)
	}
}

// fastImport makes a commit of n empty-ish files quickly.
func fastImport(t testing.TB, n int, path func(i int) string) *testRepo {
	r := newRepo(t)
	var b bytes.Buffer
	b.WriteString("blob\nmark :1\ndata 1\nx\nblob\nmark :2\ndata 1\ny\n")
	b.WriteString("commit refs/heads/main\ncommitter a <a@example.org> 1700000000 +0000\ndata 1\nx\n")
	for i := range n {
		fmt.Fprintf(&b, "M 100644 :%d %s\n", 1+i%2, path(i))
	}
	cmd := exec.Command("git", "fast-import", "--quiet")
	cmd.Dir, cmd.Stdin = r.dir, &b
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("fast-import: %v\n%s", err, out)
	}
	return r
}

func TestALargeTreeIsListed(t *testing.T) {
	const n = 100_000
	r := fastImport(t, n, func(i int) string { return fmt.Sprintf("services/svc-%03d/src/package%02d/file%d.go", i%100, i%37, i) })
	tree := r.tree()
	sel := everything()
	_, files, err := tree.Identity(sel)
	must(t, err)
	if files != n {
		t.Errorf("%d files, want %d", files, n)
	}
	list, err := tree.Files(sel)
	must(t, err)
	h, count := sha256.New(), 0
	must(t, tree.Contents(t.Context(), list, func(f File, size int64, rd io.Reader) error {
		count++
		_, err := io.Copy(h, rd)
		return err
	}))
	if count != n {
		t.Errorf("%d contents, want %d", count, n)
	}
}
