package e2e

import (
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// twoPlatforms is a project of an image for two platforms.
func twoPlatforms(t *testing.T, commands string) *project {
	t.Helper()
	index, err := testbed.Platforms(t.Context(), "linux/arm64")
	if err != nil {
		t.Fatal(err)
	}
	base, err := shared.registry.PushIndex(t.Context(), "base/"+repository(t), index)
	if err != nil {
		t.Fatal(err)
	}
	return newProject(t, strings.NewReplacer("BASE", base, "COMMANDS", commands).Replace(`
-- cairn.yaml --
project: platforms
platform: [linux/amd64, linux/arm64]
---
image: app
from: BASE
git:
- {add: /src, to: /src}
COMMANDS
-- src/a --
a
`), shared.registry)
}

// pullFor returns what a machine of a platform gets of a reference to an index.
func pullFor(t *testing.T, ref, architecture string) v1.Image {
	t.Helper()
	r, err := name.ParseReference(ref)
	if err != nil {
		t.Fatal(err)
	}
	img, err := remote.Image(r, remote.WithContext(t.Context()), remote.WithPlatform(v1.Platform{OS: "linux", Architecture: architecture}))
	if err != nil {
		t.Fatal(err)
	}
	return img
}

// isFor fails the test when the image behind an index is for another platform.
func isFor(t *testing.T, img v1.Image, architecture string) {
	t.Helper()
	f, err := img.ConfigFile()
	if err != nil {
		t.Fatal(err)
	}
	if f.Architecture != architecture {
		t.Errorf("the image for %s says that it is for %s", architecture, f.Architecture)
	}
}

func TestPlatformsWithoutCommandsNeedNoEngine(t *testing.T) {
	t.Parallel()
	p := twoPlatforms(t, "docker: {WORKDIR: /src}")
	h := newHost(t, 0)
	h.engine = "unix:///nowhere"
	r := h.build(t, p, storageOf(t, shared.registry, ""))
	if r.EngineStarted || len(r.Indexes) != 1 {
		t.Fatalf("engine started: %v, indexes %v", r.EngineStarted, r.Indexes)
	}
	for _, architecture := range []string{"amd64", "arm64"} {
		img := pullFor(t, r.Indexes[0].Ref, architecture)
		isFor(t, img, architecture)
		if got := file(t, img, "/src/a"); got != "a\n" {
			t.Errorf("%s: the file is %q", architecture, got)
		}
	}
}

// The engine that is declared for linux/arm64 is a real one that is told so; what
// it runs are the programs of this machine.
func TestForeignPlatformsRunOnTheEngineDeclaredForThem(t *testing.T) {
	t.Parallel()
	p := twoPlatforms(t, "shell: {install: ['@COUNT@/ran', 'cat /src/a > /made']}\n")
	h, storage := newHost(t, 0), storageOf(t, shared.registry, "")

	failed := h.startBuild(t, p, storage).wait(t)
	message, hint := failed.errorLines()
	if failed.code != 8 || !strings.HasPrefix(message, "image app (linux/arm64), stage install: ") || !strings.Contains(message, "no commands of linux/arm64") ||
		!strings.Contains(hint, "--engine linux/arm64=ADDRESS") {
		t.Errorf("without an engine it ends with %d: %s (%s)", failed.code, message, hint)
	}
	if n := shared.counter.count(counted(t, "ran")); n != 0 {
		t.Errorf("commands ran %d times before the error", n)
	}

	b := testbed.NewBuildkitd(t, testbed.BuildkitdOptions{Platforms: []string{"linux/arm64"}, TLS: true})
	h.env = append(h.env, "CAIRN_ENGINE="+h.engine+",linux/arm64="+b.TLSAddress())
	h.engine = ""
	r := h.build(t, p, storage)
	if n := shared.counter.count(counted(t, "ran")); n != 2 {
		t.Errorf("commands ran %d times for two platforms", n)
	}
	if got := b.Command(t.Context(), "du"); !usesCache(t, got) {
		t.Error("the engine for linux/arm64 has done nothing")
	}
	isFor(t, pullFor(t, r.Indexes[0].Ref, "arm64"), "arm64")
	if got := file(t, pullFor(t, r.Indexes[0].Ref, "arm64"), "/made"); got != "a\n" {
		t.Errorf("the commands made %q", got)
	}
	if again := newHost(t, 0).build(t, p, storage); again.count("built", "assembled") > 0 || again.EngineStarted || again.Indexes[0].Ref != r.Indexes[0].Ref {
		t.Errorf("a build of nothing new: %+v", again)
	}
	exportPlatforms(t, h, p, storage)
}

// usesCache reports whether an engine has anything in its cache.
func usesCache(t *testing.T, du *exec.Cmd) bool {
	t.Helper()
	out, err := du.CombinedOutput()
	if err != nil {
		t.Fatalf("buildctl du: %v: %s", err, out)
	}
	return !strings.Contains(string(out), "Total:\t\t0B")
}

// exportPlatforms takes all platforms into a layout, and one of them.
func exportPlatforms(t *testing.T, h *host, p *project, storage string) {
	t.Helper()
	for platform, want := range map[string]int{"": 2, "linux/arm64": 1} {
		dir := filepath.Join(t.TempDir(), "layout")
		succeeded(t, h.run(t, p, "export", "--stages-storage", storage, "--to", "oci:"+dir, "--platform", platform))
		path, err := layout.FromPath(dir)
		if err != nil {
			t.Fatal(err)
		}
		index, err := path.ImageIndex()
		if err != nil {
			t.Fatal(err)
		}
		if got := countImages(t, index); got != want {
			t.Errorf("platform %q: the layout holds %d images", platform, got)
		}
	}
	if r := h.run(t, p, "export", "--stages-storage", storage, "--to", "tar:"+filepath.Join(t.TempDir(), "x.tar")); r.code != 2 {
		t.Errorf("an archive of two platforms ends with %d: %s", r.code, r.stderr)
	}
}

func countImages(t *testing.T, index v1.ImageIndex) int {
	t.Helper()
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, d := range m.Manifests {
		if !d.MediaType.IsIndex() {
			n++
			continue
		}
		below, err := index.ImageIndex(d.Digest)
		if err != nil {
			t.Fatal(err)
		}
		n += countImages(t, below)
	}
	return n
}

// oneCommand is a project that needs an engine.
func oneCommand(t *testing.T) *project {
	t.Helper()
	return newProject(t, oneCommandOf, shared.registry)
}

const oneCommandOf = `
-- cairn.yaml --
project: engines
---
image: app
from: @REGISTRY@/base/busybox
shell: {install: ['echo @NAME@ > /made', 'id -u >> /made']}
`

// docker stands in for the program of that name: it runs buildctl beside a real
// BuildKit where that would run it in a container.
func docker(t *testing.T, b *testbed.Buildkitd) string {
	t.Helper()
	dir := t.TempDir()
	script := fmt.Sprintf("#!/bin/sh\n[ \"$*\" = 'exec -i builder buildctl dial-stdio' ] || { echo \"Error: No such container: $3\" >&2; exit 1; }\nexec %s --addr %s dial-stdio\n",
		b.Buildctl(), b.Address())
	if err := os.WriteFile(filepath.Join(dir, "docker"), []byte(script), 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// oldTLS returns the address of a server that speaks TLS 1.1 at best, with the
// certificate of an engine.
func oldTLS(t *testing.T, b *testbed.Buildkitd) string {
	t.Helper()
	u, err := url.Parse(b.TLSAddress())
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Dir(u.Query().Get("ca"))
	cert, err := tls.LoadX509KeyPair(filepath.Join(dir, "server.crt"), filepath.Join(dir, "server.key"))
	if err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(http.NotFoundHandler())
	s.TLS = &tls.Config{Certificates: []tls.Certificate{cert}, MinVersion: tls.VersionTLS10, MaxVersion: tls.VersionTLS11} // what must not be spoken
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func TestEnginesAreReachedByTLSAndThroughContainers(t *testing.T) {
	t.Parallel()
	b := testbed.NewBuildkitd(t, testbed.BuildkitdOptions{TLS: true})
	path := "PATH=" + docker(t, b) + ":" + os.Getenv("PATH")
	p := oneCommand(t)
	plain, _, _ := strings.Cut(b.TLSAddress(), "?")
	for name, c := range map[string]struct {
		address string
		want    string // of the error; "" where the build succeeds
	}{
		"TLS":                          {b.TLSAddress(), ""},
		"TLS with another name":        {b.TLSAddress() + "&servername=other.example.com", "not other.example.com"},
		"TLS with the wrong authority": {strings.Replace(b.TLSAddress(), "ca.crt", "client.crt", 1), "certificate signed by unknown authority"},
		"TLS with the wrong files":     {strings.Replace(b.TLSAddress(), "client.crt", "server.crt", 1), "private key does not match"},
		"plain to a TLS engine":        {plain, "does not answer"},
		"TLS 1.1":                      {strings.Replace(b.TLSAddress(), strings.TrimPrefix(plain, "tcp://"), oldTLS(t, b), 1), "protocol version not supported"},
		"a container":                  {"docker-container://builder", ""},
		"no such container":            {"docker-container://other", "docker-container://other does not answer"},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHost(t, 0)
			h.engine, h.env = c.address, []string{path}
			r := h.startBuild(t, p, storageOf(t, shared.registry, "")).wait(t)
			message, _ := r.errorLines()
			if c.want == "" {
				succeeded(t, r)
			} else if r.code != 8 || !strings.Contains(message, c.want) {
				t.Errorf("it ends with %d: %s", r.code, message)
			}
		})
	}
}

// kubeconfig writes the file that leads to a server.
func kubeconfig(t *testing.T, server string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "kubeconfig")
	text := fmt.Sprintf(`{"apiVersion": "v1", "kind": "Config", "current-context": "c",
"clusters": [{"name": "c", "cluster": {"server": %q}}], "users": [{"name": "u", "user": {}}],
"contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}]}`, server)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// The API server is a stand-in that speaks its protocols; behind it is a real
// BuildKit, which a whole build goes to.
func TestAnEngineInAPodIsReachedThroughTheAPIServer(t *testing.T) {
	t.Parallel()
	b := testbed.NewBuildkitd(t, testbed.BuildkitdOptions{})
	p := oneCommand(t)
	dial := []string{b.Buildctl(), "--addr", b.Address(), "dial-stdio"}
	for name, c := range map[string]struct {
		opts testbed.PodOptions
		want string // of the error; "" where the build succeeds
	}{
		"by WebSocket":   {testbed.PodOptions{Run: dial}, ""},
		"by SPDY":        {testbed.PodOptions{Run: dial, OnlySPDY: true}, ""},
		"forbidden":      {testbed.PodOptions{}, "kube-pod://ci/builder"},
		"without engine": {testbed.PodOptions{Run: []string{b.Buildctl(), "--addr", "unix:///nowhere", "dial-stdio"}}, "pod ci/builder"},
	} {
		t.Run(name, func(t *testing.T) {
			pod := testbed.NewPod(t, c.opts)
			h := newHost(t, 0)
			h.engine = "kube-pod://ci/builder?container=buildkitd&kubeconfig=" + kubeconfig(t, pod.URL())
			r := h.startBuild(t, p, storageOf(t, shared.registry, "")).wait(t)
			if c.want == "" {
				if got := file(t, pull(t, succeeded(t, r).ref(t, "app")), "/made"); !strings.HasSuffix(got, "\n0\n") {
					t.Errorf("the commands made %q", got)
				}
			} else if message, hint := r.errorLines(); r.code != 8 || !strings.Contains(message, c.want) || hint == "" {
				t.Errorf("it ends with %d: %s (%s)", r.code, message, hint)
			}
			asked := pod.Asked()
			if len(asked) == 0 || !strings.Contains(asked[0], "/namespaces/ci/pods/builder/exec?command=buildctl&command=dial-stdio&container=buildkitd&") {
				t.Errorf("asked for %q", asked)
			}
		})
	}
}
