package testbed

import (
	"context"
	"errors"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/layout"
)

func TestParseAccess(t *testing.T) {
	tests := []struct {
		name, line string
		want       Request
		mark       string
		ok         bool
	}{
		{"a read", `127.0.0.1 - - [21/Nov/2026:19:40:00 +0000] "GET /v2/a/manifests/t HTTP/1.1" 200 12 "" "x"`, Request{"GET", "/v2/a/manifests/t", 200, 12}, "", true},
		{"a query is cut off", `127.0.0.1 - bob [21/Nov/2026:19:40:00 +0000] "PUT /v2/a/blobs/uploads/1?_state=x&digest=y HTTP/2.0" 201 0 "" "x"`, Request{"PUT", "/v2/a/blobs/uploads/1", 201, 0}, "", true},
		{"a mark is told apart", `127.0.0.1 - - [21/Nov/2026:19:40:00 +0000] "GET /v2/?testbed-mark=7 HTTP/1.1" 401 87 "" "x"`, Request{"GET", "/v2/", 401, 87}, "7", true},
		{"other output is no request", `time="2026-11-21" level=error msg="GET /v2/"`, Request{}, "", false},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			got, mark, ok := parseAccess(tt.line)
			if got != tt.want || mark != tt.mark || ok != tt.ok {
				t.Errorf("got %v %q %v, want %v %q %v", got, mark, ok, tt.want, tt.mark, tt.ok)
			}
		})
	}
}

func TestRegistryKeepsBasesOverACrashAndLogsEveryRequest(t *testing.T) {
	r := NewRegistry(t, RegistryOptions{})
	ref, err := r.PushBase(t.Context(), "busybox")
	if err != nil {
		t.Fatal(err)
	}
	if want := r.Address() + "/base/busybox:latest"; ref != want {
		t.Errorf("the base is at %s, want %s", ref, want)
	}
	stored, err := r.StoredBytes()
	if err != nil || stored < 500_000 {
		t.Errorf("%d bytes are stored (%v), want the base's layer", stored, err)
	}
	if err := r.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := r.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	if err := r.ResetLog(t.Context()); err != nil {
		t.Fatal(err)
	}
	get(t, r, "/v2/base/busybox/manifests/latest", http.StatusOK)
	get(t, r, "/v2/base/busybox/manifests/none", http.StatusNotFound)
	log, err := r.AccessLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	var got []int
	for _, q := range log {
		got = append(got, q.Status)
	}
	if !slices.Equal(got, []int{200, 404}) {
		t.Errorf("the log says %v, want one 200 and one 404", log)
	}
	if err := r.GarbageCollect(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestRegistryWithTLSAndUsersRefusesStrangers(t *testing.T) {
	r := NewRegistry(t, RegistryOptions{TLS: true, Users: map[string]string{"alice": "secret"}})
	get(t, r, "/v2/", http.StatusUnauthorized)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+"/v2/", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.SetBasicAuth("alice", "secret")
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Errorf("alice gets %s", resp.Status)
	}
	if _, err := r.Pool(); err != nil {
		t.Error(err)
	}
}

func TestBasesAreTheSameEveryTime(t *testing.T) {
	for _, what := range []string{"busybox", "toolchain", "big-3"} {
		t.Run(what, func(t *testing.T) {
			var digests [2]string
			for i := range digests {
				img, err := Base(t.Context(), what)
				if err != nil {
					t.Fatal(err)
				}
				d, err := img.Digest()
				if err != nil {
					t.Fatal(err)
				}
				digests[i] = d.String()
			}
			if digests[0] != digests[1] {
				t.Errorf("made twice it is %s and %s", digests[0], digests[1])
			}
		})
	}
	if _, err := Base(t.Context(), "windows"); err == nil {
		t.Error("an unknown base is made")
	}
}

func TestToolchainCompilesWithMake(t *testing.T) {
	root, err := busyboxRoot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := addToolchain(t.Context(), root); err != nil {
		t.Fatal(err)
	}
	root.file("src/hello.c", 0o644, []byte("#include <stdio.h>\nint main(void) { puts(\"hello\"); return 0; }\n"))
	root.file("src/Makefile", 0o644, []byte("hello: hello.o\n\t$(CC) -o $@ hello.o\n"))
	dir := t.TempDir()
	archive, err := root.tar()
	if err != nil {
		t.Fatal(err)
	}
	untar := exec.CommandContext(t.Context(), "tar", "-x", "-C", dir)
	untar.Stdin = strings.NewReader(string(archive))
	if out, err := untar.CombinedOutput(); err != nil {
		t.Fatalf("unpack: %v: %s", err, out)
	}
	// A user namespace of its own makes this work without root as well.
	run := exec.CommandContext(t.Context(), "unshare", "--map-root-user", "--root", dir, "/bin/sh", "-c", "cd /src && make && ./hello")
	run.Env = []string{"PATH=/usr/bin:/bin"}
	out, err := run.CombinedOutput()
	if err != nil || !strings.HasSuffix(string(out), "hello\n") {
		t.Errorf("make: %v: %s", err, out)
	}
}

func TestWriteLayoutAddsImagesByName(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	img, err := Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, ref := range []string{"one", "two"} {
		if err := WriteLayout(dir, ref, img); err != nil {
			t.Fatal(err)
		}
	}
	index, err := layout.ImageIndexFromPath(dir)
	if err != nil {
		t.Fatal(err)
	}
	m, err := index.IndexManifest()
	if err != nil {
		t.Fatal(err)
	}
	if len(m.Manifests) != 2 {
		t.Errorf("the layout holds %d images, want 2", len(m.Manifests))
	}
}

func TestAMissingProgramIsAnErrorThatSaysWhatToRun(t *testing.T) {
	t.Setenv("PATH", t.TempDir())
	_, err := StartRegistry(t.Context(), RegistryOptions{})
	if !errors.Is(err, ErrMissing) || !strings.Contains(err.Error(), "run hack/setup") {
		t.Errorf("got %v", err)
	}
}

func TestAServerThatEndsAtOnceIsReportedWithItsWords(t *testing.T) {
	p, err := startProcess(exec.CommandContext(t.Context(), "sh", "-c", "echo no luck >&2; exit 1"), io.Discard)
	if err != nil {
		t.Fatal(err)
	}
	err = p.await(t.Context(), func(context.Context) error { return os.ErrNotExist })
	if err == nil || !strings.Contains(err.Error(), "no luck") {
		t.Errorf("got %v", err)
	}
}

func TestBuildkitdBuildsOnABase(t *testing.T) {
	r := NewRegistry(t, RegistryOptions{})
	base, err := r.PushBase(t.Context(), "busybox")
	if err != nil {
		t.Fatal(err)
	}
	b := NewBuildkitd(t, BuildkitdOptions{Insecure: []string{r.Address()}})
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "Dockerfile"), []byte("FROM "+base+"\nRUN echo built > /built\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	target := r.Address() + "/result:latest"
	out, err := b.Command(t.Context(), "build", "--frontend", "dockerfile.v0", "--local", "context="+dir, "--local", "dockerfile="+dir,
		"--output", "type=image,push=true,name="+target).CombinedOutput()
	if err != nil {
		t.Fatalf("buildctl: %v: %s", err, out)
	}
	get(t, r, "/v2/result/manifests/latest", http.StatusOK)
}

func get(t *testing.T, r *Registry, path string, want int) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, r.URL()+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Accept", "application/vnd.oci.image.manifest.v1+json")
	resp, err := r.Client().Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != want {
		t.Errorf("GET %s: %s, want %d", path, resp.Status, want)
	}
}
