package e2e

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/cairnbuild/cairn/hack/testbed"
)

const (
	user     = "robot"
	password = "zV9-correct-horse-Qm3"
)

// guarded is a registry with TLS by an authority of its own and one user.
type guarded struct {
	*testbed.Registry
	opts []remote.Option
}

func newGuarded(t *testing.T) guarded {
	t.Helper()
	r := testbed.NewRegistry(t, testbed.RegistryOptions{TLS: true, Users: map[string]string{user: password}})
	auth := remote.WithAuth(&authn.Basic{Username: user, Password: password})
	img, err := testbed.Busybox(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := r.Push(t.Context(), "base/busybox", img, auth); err != nil {
		t.Fatal(err)
	}
	return guarded{r, []remote.Option{auth, remote.WithTransport(r.Client().Transport.(*http.Transport))}}
}

// login writes the configuration that "docker login" leaves.
func (h *host) login(t *testing.T, r guarded, secret string) {
	t.Helper()
	dir := filepath.Join(h.home, ".docker")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	auth := base64.StdEncoding.EncodeToString([]byte(user + ":" + secret))
	config := fmt.Sprintf(`{"auths": {%q: {"auth": %q}}}`, r.Address(), auth)
	if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(config), 0o600); err != nil {
		t.Fatal(err)
	}
	h.flags = []string{"--registry-ca", r.CAFile(), "--log-level", "debug"}
}

func TestAGuardedRegistryIsUsedAndItsPasswordStaysSecret(t *testing.T) {
	t.Parallel()
	r := newGuarded(t)
	p := newProject(t, strings.ReplaceAll(counting, "@VERSION@", ""), r.Registry)
	storage := storageOf(t, r.Registry, "")
	h := newHost(t, ownDaemon)
	h.login(t, r, password)

	b := h.startBuild(t, p, storage)
	arguments := watchArguments(b.done)
	res := b.wait(t)
	succeeded(t, res)
	secrets := []string{password, base64.StdEncoding.EncodeToString([]byte(user + ":" + password))}
	for what, text := range map[string]string{"standard output": res.stdout, "standard error": res.stderr, "arguments of processes": <-arguments} {
		for _, s := range secrets {
			if strings.Contains(text, s) {
				t.Errorf("the password is in the %s", what)
			}
		}
	}
	searchFiles(t, secrets, h.cache, h.state)
	searchRepository(t, secrets, storage, r.opts)
	checkRepository(t, storage, r.opts...)
}

func TestAWrongPasswordIsTold(t *testing.T) {
	t.Parallel()
	r := newGuarded(t)
	p := newProject(t, slow, r.Registry)
	h := newHost(t, 0)
	h.login(t, r, "wrong-"+password)
	res := h.startBuild(t, p, storageOf(t, r.Registry, "")).wait(t)
	_, hint := res.errorLines()
	if res.code != 6 || !strings.Contains(hint, "log in") {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	if strings.Contains(res.stdout+res.stderr, password) {
		t.Error("the password is in what cairn says")
	}
}

func TestAnUnknownAuthorityIsTold(t *testing.T) {
	t.Parallel()
	r := newGuarded(t)
	h := newHost(t, 0)
	h.login(t, r, password)
	h.flags = nil
	res := h.startBuild(t, newProject(t, slow, r.Registry), storageOf(t, r.Registry, "")).wait(t)
	message, hint := res.errorLines()
	if res.code != 6 || !strings.Contains(message, "certificate") || !strings.Contains(hint, "--registry-ca") {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
}

// watchArguments collects the arguments of all processes until done is closed.
func watchArguments(done <-chan struct{}) <-chan string {
	out := make(chan string, 1)
	go func() {
		tick := time.NewTicker(10 * time.Millisecond)
		defer tick.Stop()
		seen := map[string]bool{}
		for {
			all, _ := filepath.Glob("/proc/[0-9]*/cmdline") // the pattern is right
			for _, path := range all {
				if b, err := os.ReadFile(path); err == nil { // else it has ended
					seen[string(b)] = true
				}
			}
			select {
			case <-tick.C:
			case <-done:
				var b strings.Builder
				for s := range seen {
					b.WriteString(s + "\n")
				}
				out <- b.String()
				return
			}
		}
	}()
	return out
}

// searchFiles fails the test where a file below the directories holds one of secrets.
func searchFiles(t *testing.T, secrets []string, dirs ...string) {
	t.Helper()
	files := 0
	for _, dir := range dirs {
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if errors.Is(err, fs.ErrNotExist) {
				return nil // the engine is still about its work
			}
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			b, err := os.ReadFile(path)
			if errors.Is(err, fs.ErrNotExist) {
				return nil
			}
			if err != nil {
				return err
			}
			files++
			search(t, secrets, path, b)
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if files == 0 {
		t.Errorf("%v hold no files", dirs)
	}
}

// search looks into what is compressed, too.
func search(t *testing.T, secrets []string, where string, b []byte) {
	t.Helper()
	if r, err := gzip.NewReader(bytes.NewReader(b)); err == nil {
		plain, err := io.ReadAll(r)
		if err != nil {
			t.Fatalf("%s: %v", where, err)
		}
		search(t, secrets, where, plain)
	}
	for _, s := range secrets {
		if bytes.Contains(b, []byte(s)) {
			t.Errorf("the password is in %s", where)
		}
	}
}

// searchRepository fails the test where a manifest, config or layer holds one of secrets.
func searchRepository(t *testing.T, secrets []string, repo string, opts []remote.Option) {
	t.Helper()
	open := remoteOpener(t, repo, opts...)
	tags := tagsOf(t, repo, opts...)
	if len(tags) == 0 {
		t.Fatal("nothing was published")
	}
	for tag, raw := range tags {
		search(t, secrets, tag, raw)
		var m manifest
		decode(t, raw, &m)
		blobs := m.Layers
		if m.Config != nil {
			blobs = append(blobs, *m.Config)
		}
		for _, d := range blobs {
			b, err := open(d.Digest, false)
			if err != nil {
				t.Fatal(err)
			}
			search(t, secrets, d.Digest.String(), b)
		}
	}
}
