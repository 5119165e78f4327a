package engine_test

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
)

// vault gives secrets; what it lacks is not given.
type vault map[string]string

func (v vault) Secret(_ context.Context, id string) ([]byte, error) {
	s, ok := v[id]
	switch {
	case !ok:
		return nil, engine.ErrNoSecret
	case s == "unreadable":
		return nil, errSealed
	}
	return []byte(s), nil
}

var errSealed = errors.New("the vault is sealed")

func dialWith(t testing.TB, o engine.Options) *engine.Engine {
	t.Helper()
	o.Now = time.Now
	e, err := engine.Dial(t.Context(), shared.address(), o)
	check(t, err)
	t.Cleanup(func() { check(t, e.Close()) })
	return e
}

// mounting is a job whose commands have mounts.
func mounting(t testing.TB, name string, mounts []stages.Mount, script ...string) *engine.Job {
	t.Helper()
	j := job(t, name, image(t, busybox(t), files{"root/kept": text("k")}), script...)
	j.Commands.Mounts = mounts
	j.CacheScope = key(t, "scope")
	return j
}

// output runs a job and returns what its commands wrote.
func output(t testing.TB, e *engine.Engine, j *engine.Job) ([]string, *layer) {
	t.Helper()
	var lines []string
	l := &layer{}
	_, err := e.Run(t.Context(), j, l.take, func(ev engine.Event) {
		if ev.Kind == engine.Log {
			lines = append(lines, string(ev.Line))
		}
	})
	check(t, err)
	return lines, l
}

// asked notes which secrets are wanted.
type asked struct {
	vault
	mu  sync.Mutex
	ids []string
}

func (a *asked) Secret(ctx context.Context, id string) ([]byte, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ids = append(a.ids, id)
	return a.vault.Secret(ctx, id)
}

// The engine looks for tokens by itself when it fetches from elsewhere.
func TestASecretThatNoMountNamesIsNotGiven(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	for _, named := range []bool{false, true} {
		given := &asked{vault: vault{"GIT_AUTH_TOKEN": "tok", "GIT_AUTH_HEADER": "tok"}}
		e := dialWith(t, engine.Options{Secrets: given})
		j := &engine.Job{Key: key(t, fmt.Sprint(named)), Name: "app", Platform: "linux/amd64", Dockerfile: &engine.Dockerfile{
			Recipe: &stages.Dockerfile{},
			Source: &stages.DockerfileSource{
				Path: "Dockerfile", Root: -1, BuildPlatform: "linux/amd64",
				Text: []byte("FROM scratch\nADD " + server.URL + "/x.git#" + strings.Repeat("1", 40) + " /x\n"),
			},
		}}
		if named {
			j.Dockerfile.Recipe.Secrets = []string{"GIT_AUTH_TOKEN"}
		}
		if _, err := e.Build(t.Context(), j, func(context.Context, int, io.Reader) error { return nil }, nil); err == nil {
			t.Error("what is not there was fetched")
		}
		given.mu.Lock()
		if got := slices.Contains(given.ids, "GIT_AUTH_TOKEN"); got != named || slices.Contains(given.ids, "GIT_AUTH_HEADER") {
			t.Errorf("named: %t; given are %q", named, given.ids)
		}
		given.mu.Unlock()
	}
}

func TestMountsAreSeenByCommandsAndLeaveNoTrace(t *testing.T) {
	t.Parallel()
	e := dialWith(t, engine.Options{Secrets: vault{"token": "tok"}})
	mounts := []stages.Mount{
		{Type: stages.MountCache, ID: "npm", Sharing: stages.SharingShared, To: "/root/.npm"},
		{Type: stages.MountCache, ID: "deep", Sharing: stages.SharingLocked, To: "/new/deep/cache"},
		{Type: stages.MountTmpfs, Size: 1 << 20, To: "/tmp/work"},
		{Type: stages.MountSecret, ID: "token", To: "/run/secrets/token"},
		{Type: stages.MountSecret, ID: "token", To: "/etc/token", Mode: "0444"},
		{Type: stages.MountSecret, ID: "token", Env: "TOKEN"},
	}
	lines, l := output(t, e, mounting(t, "first", mounts,
		`stat -c '%n %a %s' /run/secrets/token /etc/token`, `echo $TOKEN`, `df -k /tmp/work | tail -n 1 | awk '{print $2}'`,
		`echo x | tee /root/.npm/x /new/deep/cache/x > /tmp/work/x`))
	if got, want := strings.Join(lines, "|"), "/run/secrets/token 400 3|/etc/token 444 3|tok|1024"; got != want {
		t.Errorf("the commands wrote %q, want %q", got, want)
	}
	wantNames(t, l)

	lines, l = output(t, e, mounting(t, "second", mounts, `cat /root/.npm/x /new/deep/cache/x`, `ls /tmp/work`, `echo y > /root/y`))
	if strings.Join(lines, "|") != "x|x" {
		t.Errorf("the second stage finds %q in the caches and the tmpfs", lines)
	}
	wantNames(t, l, "root", "root/y")

	other := mounting(t, "other", mounts[:1], `ls -A /root/.npm`)
	other.CacheScope = "another project"
	if lines, _ = output(t, e, other); len(lines) > 0 {
		t.Errorf("the cache of another project holds %q", lines)
	}
}

func TestSecretsAreMaskedInOutput(t *testing.T) {
	t.Parallel()
	const long = "pwd-8fE+/=long"
	e := dialWith(t, engine.Options{
		Secrets: vault{"one": long, "two": "first line\nsecond line\n", "short": "abc"},
		Proxy:   engine.Proxy{HTTP: "http://user:p%40ss-word@127.0.0.1:9"},
	})
	mounts := []stages.Mount{
		{Type: stages.MountSecret, ID: "one", Env: "ONE", To: "/one"}, {Type: stages.MountSecret, ID: "two", To: "/two"},
		{Type: stages.MountSecret, ID: "short", Env: "SHORT"},
	}
	j := mounting(t, "fails", mounts,
		`cat /one /two; echo`, `echo "<$ONE> $SHORT $http_proxy p@ss-word"`,
		`head -c 65530 /dev/zero | tr '\0' a`, `echo "$ONE"`, `echo "$ONE" >&2`, `exit 3`)
	var seen strings.Builder
	_, err := e.Run(t.Context(), j, (&layer{}).take, func(ev engine.Event) { seen.WriteString(string(ev.Line) + "\n") })
	var exit *engine.ExitError
	if !errors.As(err, &exit) {
		t.Fatal(err)
	}
	for where, text := range map[string]string{"events": seen.String(), "tail": strings.Join(exit.Output, "\n"), "error": err.Error()} {
		for _, s := range []string{long, long[:6], long[6:], "first line", "second line", "p@ss-word", "p%40ss-word"} {
			if strings.Contains(text, s) {
				t.Errorf("%q is in the %s", s, where)
			}
		}
	}
	if !strings.Contains(seen.String(), "<***> abc http://user:***@127.0.0.1:9 ***\n") {
		t.Errorf("the output is\n%.300s", seen.String())
	}
}

func TestASecretThatCannotBeReadIsTold(t *testing.T) {
	t.Parallel()
	e := dialWith(t, engine.Options{Secrets: vault{"bad": "unreadable", "big": strings.Repeat("x", engine.MaxSecret+1)}})
	for id, want := range map[string]string{"none": "no such secret", "bad": errSealed.Error(), "big": "at most 512000"} {
		j := mounting(t, id, []stages.Mount{{Type: stages.MountSecret, ID: id, Env: "X"}}, "true")
		_, err := e.Run(t.Context(), j, (&layer{}).take, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), id) {
			t.Errorf("secret %s: %v, want %q", id, err, want)
		}
	}
}

func TestAnAgentIsReachedThroughTheSocket(t *testing.T) {
	t.Parallel()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	check(t, err)
	block, err := ssh.MarshalPrivateKey(private, "")
	check(t, err)
	path := filepath.Join(t.TempDir(), "key")
	check(t, os.WriteFile(path, pem.EncodeToMemory(block), 0o600))
	agents, err := engine.NewAgents([]engine.Agent{{ID: "default", Paths: []string{path}}})
	check(t, err)
	e := dialWith(t, engine.Options{Agents: agents})
	for name, to := range map[string]string{"usual": "", "chosen": "/root/agent.sock"} {
		// Ask for the identities: SSH_AGENTC_REQUEST_IDENTITIES is answered by 12.
		j := mounting(t, name, []stages.Mount{{Type: stages.MountSSH, ID: "default", To: to}},
			`test -S "$SSH_AUTH_SOCK"`, `echo "$SSH_AUTH_SOCK"`)
		lines, l := output(t, e, j)
		if len(lines) != 1 || to != "" && lines[0] != to {
			t.Errorf("%s: the socket is %q, want %q", name, lines, to)
		}
		wantNames(t, l)
	}
	j := mounting(t, "unknown", []stages.Mount{{Type: stages.MountSSH, ID: "deploy"}}, "true")
	if _, err := e.Run(t.Context(), j, (&layer{}).take, nil); err == nil || !strings.Contains(err.Error(), "deploy") {
		t.Errorf("an agent that is not given: %v", err)
	}
}
