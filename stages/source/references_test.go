package source

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
)

// origin makes a repository with branches and tags, and three commits on main.
func withReferences(t *testing.T) *testRepo {
	r := newRepo(t)
	for i := range 3 {
		r.write("f", fmt.Sprint(i))
		r.commit()
	}
	r.git("branch", "feature/$(id)", "HEAD~1")
	r.git("tag", "light", "HEAD~2")
	r.git("tag", "-a", "-m", "x", "v1", "HEAD~1")
	r.git("tag", "-a", "-m", "x", "nested", "v1")
	r.git("tag", "tree", "HEAD^{tree}")
	r.git("config", "uploadpack.allowFilter", "true")
	return r
}

func clone(t *testing.T, of *testRepo, args ...string) *testRepo {
	t.Helper()
	c := &testRepo{t, t.TempDir()}
	c.git(append(append([]string{"clone", "-q"}, args...), "file://"+of.dir, ".")...)
	return c
}

func words(all []Reference) []string {
	var out []string
	for _, r := range all {
		out = append(out, fmt.Sprintf("%s tag=%v %s", r.Name, r.Tag, r.Commit))
	}
	slices.Sort(out)
	return out
}

func TestReferencesOfTheRemoteAreFetchedIntoAShallowClone(t *testing.T) {
	up := withReferences(t)
	c := clone(t, up, "--depth=1")
	repo := c.open()
	if name, err := repo.Remote(t.Context()); err != nil || name != "origin" {
		t.Fatal(name, err)
	}
	mine := c.git("for-each-ref", "refs/heads", "refs/tags", "refs/remotes")
	must(t, repo.FetchReferences(t.Context(), "origin"))
	got, err := repo.Fetched(t.Context())
	must(t, err)
	id := func(rev string) string { return up.git("rev-parse", rev) }
	want := []string{
		"feature/$(id) tag=false " + id("HEAD~1"), "light tag=true " + id("HEAD~2"), "main tag=false " + id("HEAD"),
		"nested tag=true " + id("HEAD~1"), "v1 tag=true " + id("HEAD~1"),
	}
	if !slices.Equal(words(got), want) {
		t.Errorf("got  %q\nwant %q", words(got), want)
	}
	if shallow, err := repo.Shallow(t.Context()); err != nil || shallow {
		t.Errorf("still shallow (%v)", err)
	}
	if after := c.git("for-each-ref", "refs/heads", "refs/tags", "refs/remotes"); after != mine {
		t.Errorf("the user's references changed from\n%s\nto\n%s", mine, after)
	}
	history, err := repo.History(t.Context(), id("HEAD"), 10)
	if err != nil || len(history) != 3 || history[0].At.Year() != 2024 {
		t.Errorf("history %v (%v)", history, err)
	}
	// A file of an old commit comes when it is needed.
	tree, err := repo.Commit(t.Context(), id("HEAD~2"))
	must(t, err)
	if b, err := tree.Read(t.Context(), "f"); err != nil || string(b) != "0" {
		t.Errorf("file %q (%v)", b, err)
	}
	up.git("branch", "-D", "feature/$(id)")
	must(t, repo.FetchReferences(t.Context(), "origin"))
	if got, err = repo.Fetched(t.Context()); err != nil || len(got) != 4 {
		t.Errorf("a branch that is gone: %q (%v)", words(got), err)
	}
}

func TestARemoteThatDoesNotAnswerIsNoHistory(t *testing.T) {
	c := clone(t, withReferences(t), "--depth=1")
	c.git("remote", "set-url", "origin", "file:///nowhere/at/all")
	repo := c.open()
	err := repo.FetchReferences(t.Context(), "origin")
	if !errors.Is(err, ErrRemote) || !strings.Contains(err.Error(), "fetch from the remote origin") {
		t.Errorf("err = %v", err)
	}
	history, err := repo.History(t.Context(), c.git("rev-parse", "HEAD"), 10)
	if err != nil || len(history) != 1 {
		t.Errorf("a shallow history is %v (%v)", history, err)
	}
	if _, err := repo.History(t.Context(), strings.Repeat("0", 40), 10); !errors.Is(err, ErrHistory) {
		t.Errorf("a commit that is missing: %v", err)
	}
}

func TestReferencesAreTakenAsTheyAre(t *testing.T) {
	up := withReferences(t)
	own, err := up.open().Tracked(t.Context(), "")
	if err != nil || len(own) != 5 {
		t.Errorf("of a repository without a remote: %q (%v)", words(own), err)
	}
	if name, err := up.open().Remote(t.Context()); err != nil || name != "" {
		t.Errorf("remote %q (%v)", name, err)
	}
	c := clone(t, up)
	tracked, err := c.open().Tracked(t.Context(), "origin")
	if err != nil || len(tracked) != 5 {
		t.Errorf("of a clone: %q (%v)", words(tracked), err)
	}
	c.git("remote", "rename", "origin", "a")
	c.git("remote", "add", "b", "file:///nowhere")
	if _, err := c.open().Remote(t.Context()); !errors.Is(err, ErrGit) {
		t.Errorf("of two remotes: %v", err)
	}
}
