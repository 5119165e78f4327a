package e2e

import (
	"archive/tar"
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/rogpeppe/go-internal/txtar"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// dockerfileCase is a project with one image, "app", that a Dockerfile makes.
type dockerfileCase struct {
	*project
	// flags are for cairn, options for buildctl.
	flags, options []string
}

// newDockerfileCase makes the project of testdata/dockerfiles/NAME.txtar. Its file
// "flags" has flags for cairn, "buildctl" options for buildctl, and
// "base.Dockerfile" an image that the others know as @BASE@.
func newDockerfileCase(t *testing.T, name string) *dockerfileCase {
	t.Helper()
	c := &dockerfileCase{project: emptyProject(t)}
	base := storageOf(t, shared.registry, "-base") + ":latest"
	config := "project: @NAME@\n---\nimage: app\ndockerfile: Dockerfile\n"
	for _, f := range txtar.Parse([]byte(readTestdata(t, "dockerfiles/"+name+".txtar"))).Files {
		text := strings.ReplaceAll(expand(t, string(f.Data), shared.registry), "@BASE@", base)
		switch f.Name {
		case "flags":
			c.flags = words(text)
		case "buildctl":
			c.options = words(text)
		case "cairn.yaml":
			config = text
		case "base.Dockerfile":
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
			buildctl(t, dir, base, nil)
		default:
			c.write(t, f.Name, text)
		}
	}
	c.write(t, "cairn.yaml", expand(t, config, shared.registry))
	if name == "archives" {
		c.write(t, "tree.tar", archiveOf(t, "d/one", "d/two"))
	}
	c.commit(t)
	return c
}

// words returns what stands on lines of a flag and its value.
func words(text string) []string {
	var out []string
	for line := range strings.Lines(text) {
		flag, value, _ := strings.Cut(strings.TrimSpace(line), " ")
		out = append(out, flag, value)
	}
	return out
}

// archiveOf returns a tar of files that hold their names.
func archiveOf(t *testing.T, names ...string) string {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, n := range names {
		if err := w.WriteHeader(&tar.Header{Name: n, Mode: 0o640, Uid: 5, Gid: 6, Size: int64(len(n))}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write([]byte(n)); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.String()
}

// secretEnv has the secrets that the cases name.
func secretEnv() []string { return []string{"E2E_TOKEN=elevenchars"} }

// buildctl has the pinned BuildKit build the Dockerfile of a directory and push it.
func buildctl(t *testing.T, dir, ref string, options []string) v1.Image {
	t.Helper()
	if err := tryBuildctl(t, dir, ref, options); err != nil {
		t.Fatal(err)
	}
	return pull(t, ref)
}

// tryBuildctl is buildctl for what may not be built.
func tryBuildctl(t *testing.T, dir, ref string, options []string) error {
	t.Helper()
	b, err := shared.yard()
	if err != nil {
		t.Fatal(err)
	}
	args := []string{"build", "--progress", "plain", "--no-cache", "--frontend", "dockerfile.v0"}
	if !slices.ContainsFunc(options, func(o string) bool { return strings.HasPrefix(o, "context=") || strings.HasPrefix(o, "filename=") }) {
		args = append(args, "--local", "context="+dir, "--local", "dockerfile="+dir)
	}
	cmd := b.Command(t.Context(), append(append(args, options...), "--output", "type=image,push=true,oci-mediatypes=true,name="+ref)...)
	cmd.Dir = dir
	cmd.Env = append(os.Environ(), secretEnv()...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("buildctl: %w: %s", err, out)
	}
	return nil
}

// onBuild returns the triggers of an image, which are no part of what a container gets.
func onBuild(t *testing.T, img v1.Image) []string {
	t.Helper()
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	return f.Config.OnBuild
}

func TestDockerfilesLikeBuildctl(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob(filepath.Join("testdata", "dockerfiles", "*.txtar"))
	if err != nil || len(files) < 12 {
		t.Fatalf("%d cases: %v", len(files), err)
	}
	for _, f := range files {
		name := strings.TrimSuffix(filepath.Base(f), ".txtar")
		t.Run(name, func(t *testing.T) {
			c := newDockerfileCase(t, name)
			h := newHost(t, 0).with(secretEnv())
			r := h.build(t, c.project, storageOf(t, shared.registry, ""), c.flags...)
			got, want := pull(t, r.ref(t, "app")), buildctl(t, c.dir, storageOf(t, shared.registry, "-yard")+":latest", c.options)
			for _, d := range diffTrees(readTree(t, got), readTree(t, want)) {
				t.Error(d)
			}
			if got, want := configOf(t, got), configOf(t, want); got != want {
				t.Errorf("the config is\n%s\nwant\n%s", got, want)
			}
			if got, want := onBuild(t, got), onBuild(t, want); !slices.Equal(got, want) {
				t.Errorf("the triggers are %q, want %q", got, want)
			}
			again := newHost(t, 1).with(secretEnv()).build(t, c.project, storageOf(t, shared.registry, "-again"), c.flags...)
			if got, want := again.ref(t, "app"), r.ref(t, "app"); after(got, "@") != after(want, "@") {
				t.Errorf("built again on another engine it is %s, before it was %s", got, want)
			}
		})
	}
}

// The base lies in the registry already: what a Dockerfile adds is all that moves up,
// and what it does not need for that does not come down.
func TestADockerfileOnALargeBaseMovesOnlyWhatItAdds(t *testing.T) {
	t.Parallel()
	const size, little = 48, 256 << 10 // MiB, and bytes
	const once = (size+1)<<20 + little
	big, err := testbed.Big(t.Context(), size)
	if err != nil {
		t.Fatal(err)
	}
	base := "base/" + repository(t)
	if _, err := shared.registry.Push(t.Context(), base, big); err != nil {
		t.Fatal(err)
	}
	p := newProject(t, "-- cairn.yaml --\nproject: @NAME@\n---\nimage: app\ndockerfile: Dockerfile\n"+
		"-- Dockerfile --\nFROM @REGISTRY@/"+base+"\nENV ONE=1\n", shared.registry)
	storage := storageOf(t, shared.registry, "")
	r := newHost(t, 0).build(t, p, storage)
	// The users and links of a base are looked up once, for whatever is put upon it.
	if r.BytesPushed > little || r.BytesPulled > once {
		t.Errorf("with config alone %d bytes were pushed and %d pulled", r.BytesPushed, r.BytesPulled)
	}
	p.change(t, "Dockerfile", expand(t, "FROM @REGISTRY@/"+base+"\nRUN ls /opt/big | wc -l > /files\n", shared.registry))
	r = newHost(t, 0).build(t, p, storage)
	if r.BytesPushed > little {
		t.Errorf("%d bytes were pushed", r.BytesPushed)
	}
	if r.BytesPulled > once {
		t.Errorf("%d bytes were pulled for a base of %d MiB", r.BytesPulled, size)
	}
	if got := file(t, pull(t, r.ref(t, "app")), "/files"); got != fmt.Sprintln(size) {
		t.Errorf("the commands saw %q files", got)
	}
	// A change goes on from what the engine has of the base.
	p.change(t, "Dockerfile", expand(t, "FROM @REGISTRY@/"+base+"\nRUN ls /opt/big | wc -l > /count\n", shared.registry))
	if r := newHost(t, 0).build(t, p, storage); r.BytesPushed > little || r.BytesPulled > little {
		t.Errorf("after a change %d bytes were pushed and %d pulled", r.BytesPushed, r.BytesPulled)
	}
}

func after(s, sep string) string {
	_, out, _ := strings.Cut(s, sep)
	return out
}

// A file whose content is not here must not come into an image as an empty one.
func TestADockerfileWhoseFilesAreNotHereIsNotBuilt(t *testing.T) {
	t.Parallel()
	p := newProject(t, `
-- cairn.yaml --
project: absent
---
image: app
dockerfile: Dockerfile
-- Dockerfile --
FROM scratch
COPY logo.bin /
-- .gitattributes --
*.bin filter=lfs
`, shared.registry)
	p.write(t, "logo.bin", lfsObject(t, t.TempDir(), media))
	p.commit(t)
	h, storage := newHost(t, 0), storageOf(t, shared.registry, "")
	res := h.run(t, p, "build", "--stages-storage", storage)
	message, hint := res.errorLines()
	if res.code != 4 || !strings.Contains(message, "logo.bin") || !strings.Contains(message, "not in the local Git LFS store") || !strings.Contains(hint, "git lfs pull") {
		t.Fatalf("code %d, %s\n%s", res.code, message, hint)
	}
	lfsObject(t, filepath.Join(p.dir, ".git"), media)
	a := h.build(t, p, storage)
	if got := file(t, pull(t, a.ref(t, "app")), "/logo.bin"); got != media {
		t.Errorf("the file holds %d bytes, want %d", len(got), len(media))
	}
}
