package hostcache

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gofrs/flock"
	"github.com/moby/buildkit/client"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/cleanup/host"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

// passAs is the environment variable that has the test program make a pass over a cache.
const passAs = "CAIRN_TEST_PASS"

func TestMain(m *testing.M) {
	if cache := os.Getenv(passAs); cache != "" {
		_, err := evictAll(context.Background(), Host{Cache: cache, Now: time.Now})
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// policy returns rules without a minimum age.
func policy(t testing.TB, high, low string) host.Rules {
	t.Helper()
	r, err := Policy{High: high, Low: low}.Rules()
	check(t, err)
	r.Now = time.Now()
	return r
}

// evictAll makes a pass that everything that may go falls to.
func evictAll(ctx context.Context, h Host) (host.Result, error) {
	r, err := Policy{High: "1", Low: "1"}.Rules()
	if err != nil {
		return host.Result{}, err
	}
	r.Now = h.Now()
	volumes, err := h.Volumes(ctx)
	if err != nil || len(volumes) != 1 {
		return host.Result{}, errors.Join(err, fmt.Errorf("%d volumes", len(volumes)))
	}
	return volumes[0].Pass(ctx, r, PassOptions{})
}

func only(t *testing.T, h Host) Place {
	t.Helper()
	volumes, err := h.Volumes(t.Context())
	check(t, err)
	if len(volumes) != 1 {
		t.Fatalf("%d volumes", len(volumes))
	}
	return volumes[0]
}

// noise is content that no file system makes smaller.
func noise(r *rand.ChaCha8, size int) []byte {
	b := make([]byte, size)
	_, _ = r.Read(b) // it never fails
	return b
}

// publish stores a stage of these layers under a name of 64 digits.
func publish(t testing.TB, s *local.Storage, number int, layers ...[]byte) string {
	t.Helper()
	ctx := t.Context()
	config := fmt.Appendf(nil, `{"architecture":"amd64","os":"linux","number":%d}`, number)
	v := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	v.Config = storagetest.Layer(config)
	v.Config.MediaType = ocispec.MediaTypeImageConfig
	check(t, s.PushBlob(ctx, v.Config, storagetest.Content(config)))
	for _, b := range layers {
		d := storagetest.Layer(b)
		check(t, s.PushBlob(ctx, d, storagetest.Content(b)))
		v.Layers = append(v.Layers, d)
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	check(t, err)
	tag := fmt.Sprintf("%064x", number)
	check(t, s.Publish(ctx, tag, m))
	return tag
}

// age has everything below dir look as if it was last used so long ago.
func age(t testing.TB, dir string, by time.Duration) {
	t.Helper()
	then := time.Now().Add(-by)
	check(t, filepath.WalkDir(dir, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		return os.Chtimes(path, then, then)
	}))
}

// commit puts what looks like a commit of another repository into a cache.
func commit(t testing.TB, cache string, number int, content []byte) string {
	t.Helper()
	dir := filepath.Join(cache, GitDir, fmt.Sprintf("%024x", number%3), fmt.Sprintf("%040x", number))
	for _, d := range []string{"objects", "refs"} {
		check(t, os.MkdirAll(filepath.Join(dir, d), 0o700))
	}
	check(t, os.WriteFile(filepath.Join(dir, "HEAD"), []byte("ref: refs/heads/main\n"), 0o600))
	check(t, os.WriteFile(filepath.Join(dir, "objects", "pack"), content, 0o600))
	return dir
}

// volume mounts an ext4 of so many MiB that lies in a file.
func volume(t *testing.T, mib int64) string {
	t.Helper()
	dir := t.TempDir()
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "volume")
	check(t, os.WriteFile(image, nil, 0o600))
	check(t, errors.Join(os.Truncate(image, mib<<20), os.Mkdir(at, 0o700)))
	for _, args := range [][]string{{"mkfs.ext4", "-q", image}, {"mount", "-o", "loop", image, at}} {
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", at).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return at
}

// records is an engine that has a file for each of its records.
type records struct {
	dir   string
	all   []*client.UsageInfo
	asked []string // what was pruned, by filter
}

func (r *records) DiskUsage(context.Context, ...client.DiskUsageOption) ([]*client.UsageInfo, error) {
	return r.all, nil
}

func (r *records) Prune(_ context.Context, gone chan client.UsageInfo, opts ...client.PruneOption) error {
	var info client.PruneInfo
	for _, o := range opts {
		o.SetPruneOption(&info)
	}
	for _, f := range info.Filter {
		r.asked = append(r.asked, f)
		id := strings.TrimPrefix(f, "id==")
		if err := os.Remove(filepath.Join(r.dir, id)); err != nil {
			return err
		}
		gone <- client.UsageInfo{ID: id}
	}
	return nil
}

func (r *records) add(t *testing.T, id string, content []byte, used time.Time) {
	t.Helper()
	check(t, os.WriteFile(filepath.Join(r.dir, id), content, 0o600))
	r.all = append(r.all, &client.UsageInfo{ID: id, Size: int64(len(content)), LastUsedAt: &used})
}

// fullHost is a volume with local state of all kinds on it, the oldest first: it is
// filled to 95 %, a stage at a time.
func fullHost(t *testing.T, at string) (Host, *records) {
	t.Helper()
	random := rand.NewChaCha8([32]byte{1})
	h := Host{Cache: filepath.Join(at, "cache"), State: filepath.Join(at, "state"), Now: time.Now}
	engine := &records{dir: filepath.Join(h.State, "engine")}
	h.Records = func(context.Context) (Records, error) { return engine, nil }
	check(t, os.MkdirAll(engine.dir, 0o700))
	var layouts []*local.Storage
	for _, dir := range []string{StagesDir + "/shop", StagesDir + "/site", FetchedDir + "/shop-0"} {
		s, err := local.Open(t.Context(), filepath.Join(h.Cache, dir))
		check(t, err)
		layouts = append(layouts, s)
	}
	shared := noise(random, 1<<20)
	used, first := map[string]time.Time{}, time.Now().Add(-5*time.Hour)
	for n := 0; ; n++ {
		v, err := Measure(at)
		check(t, err)
		if v.Share() >= 0.95 {
			age(t, h.Cache, 6*time.Hour)
			for path, at := range used {
				check(t, os.Chtimes(path, at, at))
			}
			return h, engine
		}
		content, at := noise(random, 1<<20), first.Add(time.Duration(n)*time.Minute)
		switch n % 5 {
		case 0, 1:
			tag := publish(t, layouts[n%2], n, shared, content)
			used[filepath.Join(layouts[n%2].Dir(), "tags", tag)] = at
		case 2:
			d := storagetest.Layer(content)
			check(t, layouts[2].PushBlob(t.Context(), d, storagetest.Content(content)))
			used[layouts[2].Path(d.Digest)] = at
		case 3:
			used[commit(t, h.Cache, n, content)] = at
		default:
			engine.add(t, fmt.Sprint("record", n), content, at)
		}
	}
}

func TestAVolumeThatIsNearlyFullComesDownToTheLowMarkInOnePass(t *testing.T) {
	at := volume(t, 192)
	h, engine := fullHost(t, at)
	before, err := Measure(at)
	check(t, err)
	r, err := only(t, h).Pass(t.Context(), policy(t, "80%", "75%"), PassOptions{})
	check(t, err)
	after, err := Measure(at)
	check(t, err)
	if !r.Met() || after.Share() > 0.75 || r.After != after {
		t.Fatalf("it ends with %d of %d bytes used, and says %d", after.Used, after.Total, r.After.Used)
	}
	if gained := before.Used - after.Used; r.Freed() != gained {
		t.Errorf("it says that %d bytes were freed, the volume gained %d", r.Freed(), gained)
	}
	if after.Share() < 0.70 {
		t.Errorf("it went down to %.1f %%", 100*after.Share())
	}
	kinds := map[string]bool{}
	for _, v := range r.Evicted {
		kind, _, _ := strings.Cut(v.Store, "/")
		kinds[kind] = true
	}
	for i := 1; i < len(r.Evicted); i++ {
		if r.Evicted[i].Used.Before(r.Evicted[i-1].Used) {
			t.Errorf("%v goes after %v", r.Evicted[i], r.Evicted[i-1])
		}
	}
	for _, kind := range []string{StagesDir, FetchedDir, GitDir, "engine"} {
		if !kinds[kind] {
			t.Errorf("nothing of %s went: %v", kind, kinds)
		}
	}
	if len(engine.asked) == 0 || !strings.HasPrefix(engine.asked[0], "id==record") {
		t.Errorf("the engine was asked for %v", engine.asked)
	}
	sound(t, h.Cache)
}

func TestAVolumeThatOthersFillIsToldOf(t *testing.T) {
	at := volume(t, 128)
	random := rand.NewChaCha8([32]byte{2})
	check(t, os.WriteFile(filepath.Join(at, "theirs"), noise(random, 80<<20), 0o600))
	h, _ := fullHost(t, at)
	s, err := local.Open(t.Context(), filepath.Join(h.Cache, StagesDir, "shop"))
	check(t, err)
	hold := s.Hold()
	_, err = hold.Manifest(t.Context(), fmt.Sprintf("%064x", 0))
	check(t, err)
	r, err := only(t, h).Pass(t.Context(), policy(t, "80%", "60%"), PassOptions{})
	check(t, err)
	if r.Met() || r.Foreign < 80<<20 || r.Foreign > 90<<20 || len(r.Evicted) == 0 {
		t.Errorf("%d evicted, %d bytes are said to be of others", len(r.Evicted), r.Foreign)
	}
	if len(r.Blocked) != 1 || r.Blocked[0].Reason != heldByRun || r.Blocked[0].Bytes < 2<<20 {
		t.Errorf("blocked are %+v", r.Blocked)
	}
	if told := Blocked(r); !strings.Contains(told, heldByRun) || !strings.Contains(told, "not Cairn's") {
		t.Errorf("it is told as %q", told)
	}
	if _, err := hold.Manifest(t.Context(), fmt.Sprintf("%064x", 0)); err != nil {
		t.Errorf("what a build holds is gone: %v", err)
	}
	check(t, hold.Close(t.Context(), time.Now()))
}

// sound checks that whatever has a name in a cache is whole.
func sound(t testing.TB, cache string) (names int) {
	t.Helper()
	ctx := t.Context()
	layouts, err := filepath.Glob(filepath.Join(cache, "*", "*", ocispec.ImageLayoutFile))
	check(t, err)
	for _, l := range layouts {
		s, err := local.Open(ctx, filepath.Dir(l))
		check(t, err)
		for tag, err := range s.Tags(ctx) {
			check(t, err)
			names++
			m, err := s.Manifest(ctx, tag)
			check(t, err)
			_, blobs, err := m.References()
			check(t, err)
			for _, b := range blobs {
				if _, err := storage.ReadBlob(ctx, s, b, 1<<30); err != nil {
					t.Errorf("%s: %v", tag, err)
				}
			}
		}
	}
	commits, err := filepath.Glob(filepath.Join(cache, GitDir, "*", strings.Repeat("?", 40)))
	check(t, err)
	for _, dir := range commits {
		names++
		if _, err := os.Stat(filepath.Join(dir, "HEAD")); err != nil {
			t.Errorf("a commit is cut up: %v", err)
		}
		if b, err := os.ReadFile(filepath.Join(dir, "objects", "pack")); err != nil || len(b) != 4<<10 && len(b) != 1<<20 {
			t.Errorf("a commit is cut up: %d bytes, %v", len(b), err)
		}
	}
	return names
}

func TestAPassThatIsKilledLeavesASoundCache(t *testing.T) {
	random := rand.NewChaCha8([32]byte{3})
	chance := rand.New(random)
	inTheMiddle := 0
	for round := range 20 {
		cache := t.TempDir()
		s, err := local.Open(t.Context(), filepath.Join(cache, StagesDir, "shop"))
		check(t, err)
		shared := noise(random, 4<<10)
		const stages = 40
		for n := range stages {
			publish(t, s, n, shared, noise(random, 4<<10))
			commit(t, cache, n, noise(random, 4<<10))
		}
		age(t, cache, 2*time.Hour)
		began := sound(t, cache)
		cmd := exec.CommandContext(t.Context(), os.Args[0])
		cmd.Env = append(os.Environ(), passAs+"="+cache)
		var stderr bytes.Buffer
		cmd.Stderr = &stderr
		check(t, cmd.Start())
		left := chance.IntN(2 * stages)
		tick := time.NewTicker(100 * time.Microsecond)
		deadline := time.After(30 * time.Second)
		for entries(t, cache) > left {
			select {
			case <-tick.C:
			case <-deadline:
				t.Fatalf("the pass does not come on: %s", stderr.String())
			}
		}
		tick.Stop()
		_ = cmd.Process.Kill() // it may be through
		_ = cmd.Wait()         // as it was told
		if stderr.Len() > 0 {
			t.Fatalf("the pass fails: %s", stderr.String())
		}
		if n := sound(t, cache); n > 0 && n < began {
			inTheMiddle++
		}
		// What the dead one has left behind goes with the next pass.
		age(t, cache, 2*time.Hour)
		r, err := evictAll(t.Context(), Host{Cache: cache, Now: time.Now})
		check(t, err)
		if n := sound(t, cache); n != 0 {
			t.Errorf("round %d: %d names are left of %d: %+v", round, n, began, r.Blocked)
		}
		if left := content(t, cache); len(left) > 0 {
			t.Errorf("round %d: %v are left", round, left)
		}
	}
	if inTheMiddle < 5 {
		t.Errorf("only %d of 20 were killed in the middle", inTheMiddle)
	}
}

// entries counts names without reading what they lead to.
func entries(t testing.TB, cache string) int {
	t.Helper()
	tags, err := filepath.Glob(filepath.Join(cache, StagesDir, "shop", "tags", "*"))
	check(t, err)
	commits, err := filepath.Glob(filepath.Join(cache, GitDir, "*", strings.Repeat("?", 40)))
	check(t, err)
	return len(tags) + len(commits)
}

// content lists blobs and parts of repositories.
func content(t testing.TB, cache string) []string {
	t.Helper()
	blobs, err := filepath.Glob(filepath.Join(cache, StagesDir, "shop", "blobs", "sha256", "*"))
	check(t, err)
	repositories, err := filepath.Glob(filepath.Join(cache, GitDir, "*", "*", "*"))
	check(t, err)
	return append(blobs, repositories...)
}

func TestOneProcessEvictsAtATime(t *testing.T) {
	h := Host{Cache: t.TempDir(), Now: time.Now}
	other := flock.New(filepath.Join(h.Cache, passLock))
	ok, err := other.TryLock()
	if !ok || err != nil {
		t.Fatal(ok, err)
	}
	place, rules := only(t, h), policy(t, "80%", "75%")
	if _, err := place.Pass(t.Context(), rules, PassOptions{}); !errors.Is(err, ErrBusy) {
		t.Errorf("beside another pass: %v", err)
	}
	if _, err := place.Pass(t.Context(), rules, PassOptions{Wait: 10 * time.Millisecond}); !errors.Is(err, ErrBusy) {
		t.Errorf("after the wait: %v", err)
	}
	if _, err := place.Pass(t.Context(), rules, PassOptions{DryRun: true}); err != nil {
		t.Errorf("a dry run: %v", err)
	}
	waited := ""
	_, err = place.Pass(t.Context(), rules, PassOptions{Wait: time.Minute, Waiting: func(path string) {
		waited = path
		if err := other.Close(); err != nil {
			t.Error(err)
		}
	}})
	if err != nil || waited != filepath.Join(h.Cache, passLock) {
		t.Errorf("waited for %q: %v", waited, err)
	}
}

// The order of use is on disk: whoever comes anew knows it.
func TestUseSurvivesRestarts(t *testing.T) {
	cache := t.TempDir()
	s, err := local.Open(t.Context(), filepath.Join(cache, StagesDir, "shop"))
	check(t, err)
	old, older := publish(t, s, 1, []byte("one")), publish(t, s, 2, []byte("two"))
	kept := commit(t, cache, 3, []byte("three"))
	age(t, cache, 3*time.Hour)
	hold := s.Hold()
	_, err = hold.Manifest(t.Context(), older)
	check(t, errors.Join(err, hold.Close(t.Context(), time.Now())))
	then := time.Now().Add(-2 * time.Hour)
	check(t, os.Chtimes(kept, then, then))
	r, err := only(t, Host{Cache: cache, Now: time.Now}).Pass(t.Context(), policy(t, "1", "1"), PassOptions{DryRun: true})
	check(t, err)
	var order []string
	for _, v := range r.Evict {
		order = append(order, v.Store+" "+v.ID)
	}
	want := []string{"stages/shop " + old, GitDir + " " + filepath.Base(filepath.Dir(kept)) + "/" + filepath.Base(kept), "stages/shop " + older}
	if fmt.Sprint(order) != fmt.Sprint(want) {
		t.Errorf("they go as %v, want %v", order, want)
	}
}

func TestPoliciesOfVariables(t *testing.T) {
	for given, want := range map[string]string{
		"":                     "80% 75% 1h0m0s",
		"CAIRN_HIGH=200GiB":    "200GiB 75% 1h0m0s",
		"CAIRN_LOW=5%":         "80% 5% 1h0m0s",
		"CAIRN_MIN_AGE=2m":     "80% 75% 2m0s",
		"CAIRN_MIN_AGE=long":   "",
		"CAIRN_HIGH=101%":      "",
		"CAIRN_MIN_AGE=-2m":    "",
		"CAIRN_LOW=everything": "",
	} {
		p, err := PolicyOf(func(name string) string {
			v, _ := strings.CutPrefix(given, name+"=")
			if v == given {
				return ""
			}
			return v
		})
		if got := fmt.Sprint(p.High, " ", p.Low, " ", p.MinAge); err == nil && got != want || err != nil && want != "" {
			t.Errorf("%q gives %s, %v", given, got, err)
		}
	}
}
