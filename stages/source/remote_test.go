package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/cairnbuild/cairn/stages"
)

// elsewhere is another repository with a branch, tags and two commits, and a cache.
func elsewhere(t testing.TB) (*testRepo, *Remotes, string) {
	r := newRepo(t)
	r.write("icons/a.svg", "one")
	r.commit()
	first := r.git("rev-parse", "HEAD")
	r.git("tag", "light")
	r.git("tag", "-a", "-m", "annotated", "v1")
	r.write("icons/a.svg", "two")
	r.write("icons/b.svg", "b")
	r.commit()
	r.git("branch", "feature/x", first)
	// Names of which another one is the end.
	r.git("update-ref", "refs/heads/refs/heads/main", first)
	return r, &Remotes{Dir: filepath.Join(t.TempDir(), "cache"), AllowFile: true, Now: func() time.Time { return fixedTime(0) }}, first
}

func (r *testRepo) remote(ref string) stages.Remote {
	return stages.Remote{URL: "file://" + r.dir, Ref: ref}
}

func TestRefsOfARemoteAreResolved(t *testing.T) {
	r, cache, first := elsewhere(t)
	head := r.git("rev-parse", "HEAD")
	for ref, want := range map[string]string{
		"HEAD": head, "refs/heads/main": head, "refs/heads/feature/x": first, "refs/tags/v1": first, "refs/tags/light": first, first: first,
	} {
		if got, err := cache.Resolve(t.Context(), r.remote(ref)); err != nil || got != want {
			t.Errorf("%s is %s, %v, want %s", ref, got, err, want)
		}
	}
	_, err := cache.Resolve(t.Context(), r.remote("refs/heads/nosuch"))
	var e *Error
	if !errors.Is(err, ErrUnknownRevision) || !errors.As(err, &e) || !strings.Contains(err.Error(), "it has no branch nosuch") || e.Hint == "" {
		t.Errorf("a branch that is not there: %v", err)
	}
}

func TestACommitOfARemoteIsFetchedOnce(t *testing.T) {
	for _, version := range []string{"2", "0"} { // with 0, a server serves no ids that no ref leads to
		t.Run("protocol version "+version, func(t *testing.T) {
			t.Setenv("GIT_CONFIG_COUNT", "1")
			t.Setenv("GIT_CONFIG_KEY_0", "protocol.version")
			t.Setenv("GIT_CONFIG_VALUE_0", version)
			r, cache, first := elsewhere(t)
			head := r.git("rev-parse", "HEAD")
			want := identity(t, r.tree(), everything())
			for _, commit := range []struct{ ref, id, content string }{
				{"refs/heads/main", head, "two"}, {"refs/tags/v1", first, "one"}, {first, first, "one"}, {"refs/heads/main", first, "one"},
			} {
				tree, err := cache.Commit(t.Context(), r.remote(commit.ref), commit.id)
				must(t, err)
				if b, err := tree.Read(t.Context(), "icons/a.svg"); err != nil || string(b) != commit.content {
					t.Errorf("%s at %s holds %q, %v", commit.ref, commit.id, b, err)
				}
			}
			remote := r.remote("refs/heads/main")
			must(t, os.RemoveAll(r.dir)) // it vanishes
			tree, err := cache.Commit(t.Context(), remote, head)
			must(t, err)
			if got := identity(t, tree, everything()); got != want {
				t.Errorf("identity %s, want %s: it must not tell where files come from", got, want)
			}
			err = filepath.WalkDir(cache.Dir, func(path string, d fs.DirEntry, err error) error {
				if strings.HasPrefix(d.Name(), fetching) {
					t.Errorf("%s is left over", path)
				}
				return err
			})
			must(t, err)
		})
	}
}

func TestSeveralProcessesFetchOneCommit(t *testing.T) {
	r, cache, _ := elsewhere(t)
	head := r.git("rev-parse", "HEAD")
	var wg sync.WaitGroup
	for range 6 {
		wg.Go(func() {
			other := Remotes{Dir: cache.Dir, AllowFile: true, Now: cache.Now}
			tree, err := other.Commit(t.Context(), r.remote("refs/heads/main"), head)
			if err != nil {
				t.Error(err)
				return
			}
			if b, err := tree.Read(t.Context(), "icons/a.svg"); err != nil || string(b) != "two" {
				t.Errorf("it holds %q, %v", b, err)
			}
		})
	}
	wg.Wait()
}

func TestWhatIsWrongWithARemoteIsSaid(t *testing.T) {
	r, cache, _ := elsewhere(t)
	gone := r.remote("refs/heads/main")
	t.Setenv("GIT_CONFIG_COUNT", "1")
	t.Setenv("GIT_CONFIG_KEY_0", "url.https://somebody:sekret@127.0.0.1:1/.insteadOf")
	t.Setenv("GIT_CONFIG_VALUE_0", "https://example.com/")
	nobody := strings.Repeat("1", 40)
	strict := Remotes{Dir: cache.Dir, AllowFile: false, Now: cache.Now}
	mark := filepath.Join(t.TempDir(), "ran")
	for _, tt := range []struct {
		name   string
		cache  *Remotes
		remote stages.Remote
		commit string
		want   error
		says   string
	}{
		{"a pinned commit that is gone", cache, gone, nobody, ErrUnknownRevision, "the commit " + nobody + " is not there (any more)"},
		{"a named commit that is gone", cache, r.remote(nobody), nobody, ErrUnknownRevision, "the commit " + nobody + " is not there"},
		{"a remote that cannot be reached", cache, stages.Remote{URL: "https://example.com/x.git", Ref: "HEAD"}, nobody, ErrRemote, "https://example.com/x.git"},
		{"no repository", cache, stages.Remote{URL: "file:///nonexistent/x", Ref: "HEAD"}, nobody, ErrRemote, "file:///nonexistent/x"},
		{"a repository of this machine", &strict, gone, nobody, ErrRemoteRefused, "of this machine"},
		{"a transport that runs programs", cache, stages.Remote{URL: "ext::touch " + mark, Ref: "HEAD"}, nobody, ErrRemoteRefused, "want https://"},
		{"an option", cache, stages.Remote{URL: "--upload-pack=touch " + mark, Ref: "HEAD"}, nobody, ErrRemoteRefused, "want https://"},
		{"a line break", cache, stages.Remote{URL: "https://example.com/x\n--upload-pack=x", Ref: "HEAD"}, nobody, ErrRemoteRefused, "want https://"},
		{"a ref that is an option", cache, stages.Remote{URL: gone.URL, Ref: "--upload-pack=touch " + mark}, nobody, ErrRemoteRefused, "no name of a branch"},
		{"a login", cache, stages.Remote{URL: "https://a:sekret@example.com/x", Ref: "HEAD"}, nobody, ErrRemoteRefused, "holds a login"},
		{"a commit that is a path", cache, gone, "../../x", ErrUnknownRevision, "no full id"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			check := func(err error) {
				t.Helper()
				var e *Error
				if !errors.Is(err, tt.want) || !errors.As(err, &e) || !strings.Contains(err.Error(), tt.says) {
					t.Fatalf("got %v, want %v with %q", err, tt.want, tt.says)
				}
				if strings.Contains(err.Error()+e.Hint, "sekret") {
					t.Errorf("the login is shown: %v", err)
				}
			}
			_, err := tt.cache.Commit(t.Context(), tt.remote, tt.commit)
			check(err)
			if errors.Is(tt.want, ErrUnknownRevision) || tt.remote.Commit() != "" {
				return
			}
			_, err = tt.cache.Resolve(t.Context(), tt.remote)
			check(err)
		})
	}
	if _, err := os.Stat(mark); err == nil {
		t.Error("a program ran")
	}
}

// A remote's own submodules and files of Git LFS are not fetched; who selects them
// is told so.
func TestWhatARemoteDoesNotGiveIsNamed(t *testing.T) {
	r, cache, first := elsewhere(t)
	r.write(".gitattributes", "*.bin filter=lfs\n")
	r.write("a.bin", string(pointerTo("x").encode()))
	r.git("add", "-A")
	r.git("update-index", "--add", "--cacheinfo", "160000,"+first+",sub")
	r.git("commit", "-q", "-m", "x")
	tree, err := cache.Commit(t.Context(), r.remote("HEAD"), r.git("rev-parse", "HEAD"))
	must(t, err)
	var e *Error
	if _, _, err := tree.Identity(everything()); !errors.Is(err, ErrSubmodule) || !errors.As(err, &e) || !strings.Contains(e.Hint, "a git mapping of its own") {
		t.Errorf("a submodule: %v", err)
	}
	if _, err := tree.Read(t.Context(), "a.bin"); !errors.Is(err, ErrLFSMissing) || !errors.As(err, &e) || !strings.Contains(e.Hint, "not fetched from other repositories") {
		t.Errorf("a file of Git LFS: %v", err)
	}
}

func TestAMappingOfARemoteJoinsThoseOfTheProject(t *testing.T) {
	r, cache, _ := elsewhere(t)
	remote := r.remote("refs/heads/main")
	files, err := cache.Commit(t.Context(), remote, r.git("rev-parse", "HEAD"))
	must(t, err)
	own := newRepo(t)
	own.write("icons/a.svg", "own")
	own.write("icons/c.svg", "own")
	own.commit()
	tree := own.tree()
	mine, theirs := &stages.Mapping{Add: "icons", To: "/icons"}, &stages.Mapping{Remote: remote, Add: "icons", To: "/icons"}
	sel := func(m *stages.Mapping, later ...*stages.Mapping) stages.Selection {
		return stages.Selection{Mapping: m, Kind: stages.KindSource, Whole: true, Later: later}
	}
	if _, _, err := tree.Identity(sel(theirs)); !errors.Is(err, ErrRemote) {
		t.Errorf("before it was read: %v", err)
	}
	tree = own.tree()
	tree.Attach(remote, files)
	for _, tt := range []struct {
		sel  stages.Selection
		want []string
	}{
		{sel(mine, theirs), []string{"c.svg"}}, {sel(theirs), []string{"a.svg", "b.svg"}},
		{sel(theirs, mine), []string{"b.svg"}}, {sel(mine), []string{"a.svg", "c.svg"}},
	} {
		if got := paths(t, tree, tt.sel); !slices.Equal(got, tt.want) {
			t.Errorf("files %q, want %q", got, tt.want)
		}
	}
	// Files of both are read together, in the order of a layer.
	a, err := tree.Files(sel(mine, theirs))
	must(t, err)
	b, err := tree.Files(sel(theirs))
	must(t, err)
	sizes, err := tree.Sizes(t.Context(), []File{b[0], a[0], b[1]})
	if must(t, err); !slices.Equal(sizes, []int64{3, 3, 1}) {
		t.Errorf("sizes %v", sizes)
	}
}
