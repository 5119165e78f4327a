package e2e

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// readTestdata returns a file of testdata.
func readTestdata(t *testing.T, name string) string {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return string(b)
}

// dockerfile has the pinned BuildKit build a target of dir/Dockerfile and returns
// the result; more are arguments besides.
func dockerfile(t *testing.T, dir, target string, more ...string) v1.Image {
	t.Helper()
	b, err := shared.yard()
	if err != nil {
		t.Fatal(err)
	}
	ref := storageOf(t, shared.registry, "-yard-"+target)
	args := append([]string{"build", "--progress", "plain", "--frontend", "dockerfile.v0",
		"--local", "context=" + dir, "--local", "dockerfile=" + dir, "--opt", "target=" + target,
		"--output", "type=image,push=true,oci-mediatypes=true,name=" + ref + ":latest"}, more...)
	out, err := b.Command(t.Context(), args...).CombinedOutput()
	if err != nil {
		t.Fatalf("buildctl: %v: %s", err, out)
	}
	return pull(t, ref+":latest")
}

func TestImagesEqualThoseOfADockerfile(t *testing.T) {
	t.Parallel()
	t.Run("every kind of stage and file", func(t *testing.T) {
		p := newProject(t, readTestdata(t, "everything.txtar"), shared.registry)
		p.link(t, "run", "app/rest/link")
		compareImages(t, newHost(t, 0), p, "tools", "app")
	})
	t.Run("demo", func(t *testing.T) {
		root, err := testbed.Root()
		if err != nil {
			t.Fatal(err)
		}
		p := emptyProject(t)
		if err := os.CopyFS(p.dir, os.DirFS(filepath.Join(root, "hack", "samples", "demo"))); err != nil {
			t.Fatal(err)
		}
		p.write(t, "Dockerfile", expand(t, readTestdata(t, "demo.Dockerfile"), shared.registry))
		p.commit(t)
		h := newHost(t, 0)
		h.env = []string{"CAIRN_DEMO_REGISTRY=" + shared.registry.Address()}
		compareImages(t, h, p, "backend", "site", "tool")
	})
}

// compareImages builds a project and its Dockerfile and compares the images.
func compareImages(t *testing.T, h *host, p *project, images ...string) {
	t.Helper()
	r := h.build(t, p, storageOf(t, shared.registry, ""))
	succeeded(t, h.startBuild(t, p, ":local").wait(t))
	for _, image := range images {
		exported := filepath.Join(t.TempDir(), "layout")
		succeeded(t, h.run(t, p, "export", image, "--to", "oci:"+exported))
		if got := layoutDigest(t, exported); !strings.HasSuffix(r.ref(t, image), "@"+got) {
			t.Errorf("%s is exported from disk as %s, the registry has %s", image, got, r.ref(t, image))
		}
		got, want := pull(t, r.ref(t, image)), dockerfile(t, p.dir, image)
		for _, d := range diffTrees(readTree(t, got), readTree(t, want)) {
			t.Errorf("%s: %s", image, d)
		}
		if got, want := configOf(t, got), configOf(t, want); got != want {
			t.Errorf("%s has the config\n%s\nwant\n%s", image, got, want)
		}
	}
}

// dockerPath is what a Dockerfile gives an image that has no PATH.
const dockerPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// configOf returns what a container gets of an image's config, without what the
// two tools order or write down differently: for a PATH and a working directory
// that are not given, runtimes take the ones that a Dockerfile writes out, and
// ArgsEscaped is of Windows.
func configOf(t *testing.T, img v1.Image) string {
	t.Helper()
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	c := f.Config.DeepCopy()
	slices.Sort(c.Env)
	c.Env = slices.DeleteFunc(c.Env, func(kv string) bool { return kv == dockerPath })
	c.WorkingDir = strings.TrimSuffix(c.WorkingDir, "/")
	c.ArgsEscaped = false
	if len(c.Labels) == 0 {
		c.Labels = nil
	}
	b, err := json.MarshalIndent(map[string]any{"config": c, "os": f.OS, "architecture": f.Architecture}, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	return strings.TrimSpace(string(b))
}

// layoutDigest returns the digest of the one image in a layout.
func layoutDigest(t *testing.T, dir string) string {
	t.Helper()
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 1 {
		t.Fatalf("%s holds %d images", dir, len(m.Manifests))
	}
	return m.Manifests[0].Digest.String()
}
