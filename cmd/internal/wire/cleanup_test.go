package wire

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/cleanup"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/inventory"
	"github.com/cairnbuild/cairn/storage/mem"
)

// history is a project's repository.
type history struct {
	t   *testing.T
	dir string
}

func newHistory(t *testing.T) history {
	t.Helper()
	h := history{t, t.TempDir()}
	h.git("init", "-q", "-b", "main")
	return h
}

func (h history) git(args ...string) string {
	h.t.Helper()
	cmd := exec.CommandContext(h.t.Context(), "git", append([]string{"-c", "user.name=a", "-c", "user.email=a@example.org", "-c", "gc.auto=0"}, args...)...)
	cmd.Dir = h.dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		h.t.Fatalf("git %v: %v\n%s", args, err, out)
	}
	return strings.TrimSpace(string(out))
}

// commit commits a cairn.yaml, or removes it, and returns the commit.
func (h history) commit(yaml string) string {
	h.t.Helper()
	path := filepath.Join(h.dir, "cairn.yaml")
	err := os.WriteFile(path, []byte(yaml), 0o600)
	if yaml == "" {
		err = os.RemoveAll(path)
	}
	if err != nil {
		h.t.Fatal(err)
	}
	h.git("add", "-A")
	h.git("commit", "-q", "--allow-empty", "-m", "x")
	return h.git("rev-parse", "HEAD")
}

// noBases is asked for what names a digest alone.
type noBases struct{}

func (noBases) ResolveBase(context.Context, string, stages.Platform) (string, error) {
	return "sha256:" + strings.Repeat("a", 64), nil
}

func TestCommitsArePlannedByWhatTheyHold(t *testing.T) {
	h := newHistory(t)
	host := Host{Now: time.Now, Getenv: func(name string) string { return map[string]string{"RELEASE": "v1", "HOME": h.dir}[name] }}
	p := &commitPlanner{settings: Settings{Dir: h.dir, CacheDir: t.TempDir()}, host: host, project: "shop", bases: noBases{}}
	const base = "project: shop\n---\nimage: a\nfrom: scratch\n---\nimage: b\n"
	for name, c := range map[string]struct {
		yaml string
		// images that are planned, and those that are not: "*" is any.
		images, unplanned string
		why               string
	}{
		"all that is pinned":             {base + "from: scratch\n", "a b", "", ""},
		"a base by its digest":           {base + "from: debian@sha256:" + strings.Repeat("b", 64) + "\n", "a b", "", ""},
		"an image whose base is not":     {base + "from: debian:12\n", "a", "b", "base debian:12 for linux/amd64: it is not pinned by cairn.lock"},
		"what begins from such an image": {base + "from: debian:12\n---\nimage: c\nfromImage: b\n", "a", "b c", "not pinned"},
		"a repository that is not":       {base + "from: scratch\ngit: [{url: https://git.test/x.git, branch: main, to: /x}]\n", "a", "b", "not pinned"},
		"a file that is not there":       {base + "from: scratch\ngit: [{add: /nothing, to: /x}]\n", "a", "b", "no such path"},
		"a variable":                     {"project: shop\nenv: [RELEASE]\n---\nimage: a\nfrom: scratch\ndocker: {ENV: {R: '{{ env \"RELEASE\" }}'}}\n", "a", "*", "its templates read the variable RELEASE"},
		"a variable that nobody reads":   {"project: shop\nenv: [RELEASE]\n---\nimage: a\nfrom: scratch\n", "a", "", ""},
		"an error":                       {"project: shop\nunknown: 1\n---\nimage: a\nfrom: scratch\n", "", "*", "cairn.yaml:2:1: unknown key"},
		"no project":                     {"", "", "", ""},
		"another project":                {"project: other\n---\nimage: a\nfrom: scratch\n", "", "", ""},
	} {
		t.Run(name, func(t *testing.T) {
			got, err := p.Plan(t.Context(), h.commit(c.yaml))
			if err != nil {
				t.Fatal(err)
			}
			var images, unplanned []string
			for _, i := range got.Images {
				images = append(images, i.Name)
			}
			for _, u := range got.Unplanned {
				if u.Any {
					u.Name = "*"
				}
				unplanned = append(unplanned, u.Name)
				if !strings.Contains(u.Why, c.why) || strings.Contains(u.Why, "\n") {
					t.Errorf("why: %q", u.Why)
				}
			}
			if strings.Join(images, " ") != c.images || strings.Join(unplanned, " ") != c.unplanned {
				t.Errorf("planned %v, not planned %v", images, unplanned)
			}
		})
	}
	t.Run("a commit that is missing", func(t *testing.T) {
		got, err := p.Plan(t.Context(), strings.Repeat("1", 40))
		if err != nil || len(got.Unplanned) != 1 || !got.Unplanned[0].Any {
			t.Errorf("%v (%v)", got, err)
		}
	})
	t.Run("a run that was ended", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		if _, err := p.Plan(ctx, "HEAD"); !errors.Is(err, context.Canceled) {
			t.Errorf("err = %v", err)
		}
	})
}

func TestTheKeepListIsRead(t *testing.T) {
	digest := "sha256:" + strings.Repeat("0a", 32)
	d, err := stages.ParseDigest(digest)
	if err != nil {
		t.Fatal(err)
	}
	for line, want := range map[string]cleanup.Mention{
		"registry.test:5000/shop@" + digest:    {Digest: d},
		"registry.test:5000/shop:v1@" + digest: {Digest: d},
		digest + " # by its digest":            {Digest: d},
		"registry.test:5000/shop:v1":           {Tag: "v1"},
		"  v1  ":                               {Tag: "v1"},
		"registry.test/shop:build-" + d.Hex():  {Tag: "build-" + d.Hex()},
		"registry.test:5000/shop":              {},
		"shop@sha256:abc":                      {},
		"two words":                            {},
	} {
		path := filepath.Join(t.TempDir(), "keep")
		if err := os.WriteFile(path, []byte("# comment\n\n"+line+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		got, err := readKeepList(path)
		var setting *SettingError
		if want == (cleanup.Mention{}) {
			if !errors.As(err, &setting) || !strings.Contains(err.Error(), "keep:3: ") {
				t.Errorf("%q: %v (%v)", line, got, err)
			}
			continue
		}
		want.Where = path + ":3"
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%q is %v (%v)", line, got, err)
		}
	}
	if _, err := readKeepList(filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("a list that is not there is taken for empty")
	}
}

const sampleKubeconfig = `apiVersion: v1
kind: Config
clusters:
- {name: one, cluster: {server: "https://one.test"}}
- {name: broken, cluster: {server: "https://two.test", certificate-authority: /nowhere/ca.crt}}
users: [{name: me, user: {token: x}}]
contexts:
- {name: a, context: {cluster: one, user: me}}
- {name: a-elsewhere, context: {cluster: one, user: me, namespace: shop}}
- {name: b, context: {cluster: broken, user: me}}
`

func TestClustersAreThoseOfTheContexts(t *testing.T) {
	path := filepath.Join(t.TempDir(), "config")
	if err := os.WriteFile(path, []byte(sampleKubeconfig), 0o600); err != nil {
		t.Fatal(err)
	}
	host := func(kubeconfig string) Host {
		return Host{Getenv: func(name string) string { return map[string]string{"KUBECONFIG": kubeconfig}[name] }}
	}
	all, unread, err := host(path).clusters(nil)
	if err != nil || len(all) != 1 || all[0].Name != "a" || len(unread) != 1 || unread[0].Cluster != "b" {
		t.Errorf("all contexts: %v, unread %v (%v)", all, unread, err)
	}
	all, unread, err = host(path).clusters([]string{"a-elsewhere"})
	if err != nil || len(all) != 1 || all[0].Name != "a-elsewhere" || len(unread) != 0 {
		t.Errorf("one context: %v, unread %v (%v)", all, unread, err)
	}
	var setting *SettingError
	if _, _, err = host(path).clusters([]string{"c"}); !errors.As(err, &setting) {
		t.Errorf("a context that is not there: %v", err)
	}
	all, unread, err = host(filepath.Join(t.TempDir(), "none")).clusters(nil)
	if err != nil || len(all) != 0 || len(unread) != 1 {
		t.Errorf("no kubeconfig: %v, unread %v (%v)", all, unread, err)
	}
	if err := os.WriteFile(path, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, unread, err = host(path).clusters(nil); err != nil || len(unread) != 1 {
		t.Errorf("a kubeconfig that is none: unread %v (%v)", unread, err)
	}
}

func TestACommitWithItsConfigurationElsewhereMayHaveBuiltAnything(t *testing.T) {
	h := newHistory(t)
	host := Host{Now: time.Now, Getenv: func(string) string { return "" }}
	at := func(dir string) *commitPlanner {
		return &commitPlanner{settings: Settings{Dir: dir, CacheDir: t.TempDir()}, host: host, project: "shop", bases: noBases{}}
	}
	inRoot := h.commit("project: shop\n---\nimage: a\nfrom: scratch\n")
	sub := filepath.Join(h.dir, "services", "shop")
	if err := os.MkdirAll(sub, 0o700); err != nil {
		t.Fatal(err)
	}
	h.git("mv", "cairn.yaml", "services/shop/cairn.yaml")
	h.git("commit", "-q", "-m", "move")
	inSub := h.git("rev-parse", "HEAD")
	h.git("mv", "services/shop/cairn.yaml", "services/shop/other.yaml")
	h.git("commit", "-q", "-m", "leave")
	none := h.git("rev-parse", "HEAD")
	for name, c := range map[string]struct {
		dir, commit, path string
	}{
		"it was in a directory":                 {h.dir, inSub, "services/shop/cairn.yaml"},
		"it was in the root":                    {sub, inRoot, "cairn.yaml"},
		"it is nowhere":                         {h.dir, none, ""},
		"it is nowhere below the directory too": {sub, none, ""},
	} {
		got, err := at(c.dir).Plan(t.Context(), c.commit)
		switch {
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case c.path == "":
			if !got.Bare || len(got.Unplanned) > 0 {
				t.Errorf("%s: %+v", name, got)
			}
		case got.Bare || len(got.Unplanned) != 1 || !got.Unplanned[0].Any || !strings.Contains(got.Unplanned[0].Why, strconv.Quote(c.path)):
			t.Errorf("%s: %+v", name, got)
		}
	}
}

func TestANameThatWasPublishedAnewIsNoticedBeforeItGoes(t *testing.T) {
	s := mem.New(mem.Options{})
	publish := func(tag, text string) digest.Digest {
		b := []byte(`{"schemaVersion":2,"mediaType":"` + ocispec.MediaTypeImageIndex + `","manifests":[],"annotations":{"a":"` + text + `"}}`)
		d := ocispec.Descriptor{MediaType: ocispec.MediaTypeImageIndex, Digest: digest.FromBytes(b), Size: int64(len(b))}
		if err := s.Publish(t.Context(), tag, storage.Manifest{Descriptor: d, Bytes: b}); err != nil {
			t.Fatal(err)
		}
		return d.Digest
	}
	root := stages.DigestOf([]byte("a build"))
	was := publish(storage.BuildTag(root), "first")
	c := &Cleanup{stages: s}
	c.Remove = []cleanup.Removal{
		{Kind: inventory.KindBuild, Digest: root, Manifest: was},
		{Kind: inventory.KindStage, Digest: stages.DigestOf([]byte("gone")), Manifest: was},
	}
	if moved, err := c.moved(t.Context()); moved || err != nil {
		t.Errorf("before it: %v (%v)", moved, err)
	}
	publish(storage.BuildTag(root), "second")
	if moved, err := c.moved(t.Context()); !moved || err != nil {
		t.Errorf("after it: %v (%v)", moved, err)
	}
}
