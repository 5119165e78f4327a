package source

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// cachedCommits lists a cache by what its names end with.
func cachedCommits(t *testing.T, dir string) map[string]CachedCommit {
	t.Helper()
	out := make(map[string]CachedCommit)
	for c, err := range CachedCommits(t.Context(), dir) {
		must(t, err)
		_, name, _ := strings.Cut(c.ID, "/")
		out[name] = c
	}
	return out
}

func evict(t *testing.T, dir string, c CachedCommit) {
	t.Helper()
	must(t, EvictCommit(dir, c.ID, c.Used))
}

func TestCommitsThatAreOpenAreNotEvicted(t *testing.T) {
	r, cache, first := elsewhere(t)
	remote, head := r.remote("refs/heads/main"), r.git("rev-parse", "HEAD")
	tree, err := cache.Commit(t.Context(), remote, head)
	must(t, err)
	other := &Remotes{Dir: cache.Dir, AllowFile: true, Now: cache.Now} // another process
	_, err = other.Commit(t.Context(), remote, first)
	must(t, err)
	must(t, other.Close())
	all := cachedCommits(t, cache.Dir)
	if len(all) != 2 || !all[head].Held || !all[first].Held || all[head].Size == 0 || all[head].Used.IsZero() {
		t.Fatalf("with the remote open there is %+v", all)
	}
	evict(t, cache.Dir, all[head])
	if b, err := tree.Read(t.Context(), "icons/a.svg"); err != nil || string(b) != "two" {
		t.Fatalf("what is open is evicted: %q, %v", b, err)
	}
	must(t, cache.Close())
	must(t, cache.Close()) // nothing is held twice
	all = cachedCommits(t, cache.Dir)
	if all[head].Held || all[first].Held {
		t.Errorf("after the end there is %+v", all)
	}
	evict(t, cache.Dir, all[head])
	evict(t, cache.Dir, all[head]) // it has gone already
	if left := cachedCommits(t, cache.Dir); len(left) != 1 || left[first].ID == "" {
		t.Errorf("after the eviction there is %+v", left)
	}
	// It is fetched again, and the one that stayed is not.
	must(t, os.Rename(r.dir, r.dir+"-away"))
	_, err = cache.Commit(t.Context(), remote, first)
	must(t, err)
	if _, err = cache.Commit(t.Context(), remote, head); !errors.Is(err, ErrRemote) {
		t.Errorf("what was evicted, without its remote: %v", err)
	}
	must(t, os.Rename(r.dir+"-away", r.dir))
	tree, err = cache.Commit(t.Context(), remote, head)
	must(t, err)
	if b, err := tree.Read(t.Context(), "icons/a.svg"); err != nil || string(b) != "two" {
		t.Errorf("what was fetched again holds %q, %v", b, err)
	}
	must(t, cache.Close())
}

func TestTheUseOfACommitIsWrittenDownOnceAnHour(t *testing.T) {
	r, cache, first := elsewhere(t)
	now := time.Now()
	cache.Now = func() time.Time { return now }
	use := func(ago time.Duration) time.Time {
		t.Helper()
		_, err := cache.Commit(t.Context(), r.remote("refs/heads/main"), first)
		must(t, err)
		c := cachedCommits(t, cache.Dir)[first]
		dir, then := filepath.Join(cache.Dir, filepath.FromSlash(c.ID)), now.Add(-ago)
		must(t, os.Chtimes(dir, then, then))
		_, err = cache.Commit(t.Context(), r.remote("refs/heads/main"), first)
		must(t, errors.Join(err, cache.Close()))
		return cachedCommits(t, cache.Dir)[first].Used
	}
	if used := use(50 * time.Minute); now.Sub(used) < 49*time.Minute {
		t.Error("it is written down each time")
	}
	used := use(2 * time.Hour)
	if now.Sub(used) > time.Minute {
		t.Error("it is never written down")
	}
	// Who saw it before does not evict it any more.
	c := cachedCommits(t, cache.Dir)[first]
	c.Used = now.Add(-2 * time.Hour)
	evict(t, cache.Dir, c)
	if len(cachedCommits(t, cache.Dir)) != 1 {
		t.Error("a commit that was used since goes")
	}
}

// What fetches and evictions that died have left goes like commits do, and is in
// nobody's way.
func TestWhatTheDeadHaveLeftIsEvicted(t *testing.T) {
	r, cache, first := elsewhere(t)
	_, err := cache.Commit(t.Context(), r.remote("refs/heads/main"), first)
	must(t, errors.Join(err, cache.Close()))
	home := filepath.Dir(filepath.Join(cache.Dir, cachedCommits(t, cache.Dir)[first].ID))
	left := []string{fetching + "1", fetching + "evicted-" + first}
	for _, name := range left {
		must(t, os.MkdirAll(filepath.Join(home, name, "objects"), 0o700))
		must(t, os.WriteFile(filepath.Join(home, name, "objects", "pack"), []byte("x"), 0o600))
	}
	all := cachedCommits(t, cache.Dir)
	if len(all) != 3 || all[left[0]].Size != 1 {
		t.Fatalf("there is %+v", all)
	}
	for _, name := range append([]string{first}, left...) { // the commit while another's remains are there
		evict(t, cache.Dir, all[name])
	}
	if all := cachedCommits(t, cache.Dir); len(all) != 0 {
		t.Errorf("%+v is left", all)
	}
}

func TestOnlyCommitsOfTheCacheAreEvicted(t *testing.T) {
	dir := t.TempDir()
	cache := filepath.Join(dir, "cache")
	must(t, os.MkdirAll(filepath.Join(cache, "home", "commit"), 0o700))
	must(t, os.MkdirAll(filepath.Join(dir, "victim", "x"), 0o700))
	for _, id := range []string{"", "home", "/home", "home/", "../victim", "../victim/x", "home/../../victim", "home/..", "home/a/b", `home/a\b`, "/etc/x"} {
		if err := EvictCommit(cache, id, time.Now()); err == nil {
			t.Errorf("%q is taken for a commit", id)
		}
	}
	var found []string
	must(t, filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err == nil && e.IsDir() {
			found = append(found, strings.TrimPrefix(path, dir))
		}
		return err
	}))
	if want := []string{"", "/cache", "/cache/home", "/cache/home/commit", "/victim", "/victim/x"}; !slices.Equal(found, want) {
		t.Errorf("there is %q", found)
	}
}

func TestACacheThatIsNotThereHasNoCommits(t *testing.T) {
	if all := cachedCommits(t, filepath.Join(t.TempDir(), "nosuch")); len(all) != 0 {
		t.Errorf("it has %+v", all)
	}
}
