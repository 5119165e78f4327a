package e2e

import (
	"crypto/ed25519"
	"crypto/rand"
	"encoding/base64"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/crypto/ssh"
)

// planted are the secrets of a build, by the place that each was put in. Every one
// is a word of its own, so that what is found tells where it came from.
type planted map[string]string

func (p planted) list() []string {
	var out []string
	for _, s := range p {
		out = append(out, s, base64.StdEncoding.EncodeToString([]byte(s)))
	}
	return out
}

// absent fails the test where one of texts holds a secret.
func (p planted) absent(t *testing.T, texts map[string]string) {
	t.Helper()
	for where, text := range texts {
		for place, s := range p {
			if strings.Contains(text, s) {
				t.Errorf("the secret of the %s is in the %s", place, where)
			}
		}
	}
}

// The commands write all that they are given; the last one fails when it is told to.
const telling = `
-- cairn.yaml --
project: planted
configVersion: 1
---
image: app
from: @REGISTRY@/base/busybox:latest
git:
- {to: /src, includePaths: [code, fail], stageDependencies: {setup: [code, fail]}}
mount:
- {type: cache, to: /root/.cache}
- {type: secret, id: token, env: TOKEN}
- {type: secret, id: pair, to: /run/secrets/pair}
- {type: ssh}
shell:
  install:
  - echo "$TOKEN"; env; cat /run/secrets/pair; cat /run/secrets/pair >&2
  - test -S "$SSH_AUTH_SOCK"
  - printf '%s' "$TOKEN" | cut -c 1-8 | tr -d '\n'; printf '%s' "$TOKEN" | cut -c 9-
  - printf '%s' "$TOKEN" | sha256sum > /made
  setup: |
    echo "$TOKEN" >&2; cat /run/secrets/pair
    ! grep -q yes /src/fail
---
image: packed
dockerfile: Dockerfile
secrets: [token, pair]
-- Dockerfile --
FROM @REGISTRY@/base/busybox:latest
COPY code fail /src/
RUN --mount=type=secret,id=token,env=TOKEN --mount=type=secret,id=pair \
    echo "$TOKEN"; env; cat /run/secrets/pair; cat /run/secrets/pair >&2; \
    printf '%s' "$TOKEN" | sha256sum > /made; ! grep -q yes /src/fail
-- code --
code
-- fail --
no
`

// A secret in every place where a build may meet one is found nowhere afterwards.
func TestASecretPlantedAnywhereIsFoundNowhere(t *testing.T) {
	t.Parallel()
	r := newGuarded(t)
	p := newProject(t, telling, r.Registry)
	storage := storageOf(t, r.Registry, "")
	h := newHost(t, ownDaemon)
	h.login(t, r, password)
	files := t.TempDir()
	key := writeKey(t, filepath.Join(files, "key"))
	secrets := planted{
		"registry's password": password, "variable": "var-Fe3-NotAllowed", "secret in a variable": "tok-Xy7-in-variable",
		"first line of a file": "pair-user-Lk2", "second line of a file": "pair-pass-Wd9",
		"proxy's address": "proxy-Pz5-word", "git remote": "remote-Uj4-word", "SSH key": key,
	}
	writeSecret(t, filepath.Join(files, "pair"), "pair-user-Lk2\npair-pass-Wd9\n")
	git(t, "-C", p.dir, "remote", "add", "origin", "https://robot:"+secrets["git remote"]+"@git.example.com/shop.git")
	receiver, reports := newSpans(t), t.TempDir()
	h.env = []string{
		"OTEL_EXPORTER_OTLP_ENDPOINT=" + receiver.URL,
		"PLANTED=" + secrets["variable"], "TOKEN=" + secrets["secret in a variable"],
		"HTTP_PROXY=http://robot:" + secrets["proxy's address"] + "@127.0.0.1:9", "NO_PROXY=127.0.0.1",
	}
	c := newSpaced(t)
	given := []string{"--synchronization", c.ledger(""), "--secret", "id=token,env=TOKEN", "--secret", "id=pair,src=" + filepath.Join(files, "pair"), "--ssh", "default=" + filepath.Join(files, "key")}

	given = append(given, "--report-file", filepath.Join(reports, "report.json"))
	b := h.startBuild(t, p, storage, given...)
	arguments := watchArguments(b.done)
	res := b.wait(t)
	succeeded(t, res)
	texts := map[string]string{"report": res.stdout, "log": res.stderr, "arguments of processes": <-arguments}
	for _, ref := range []string{"app", "packed"} {
		if file(t, pull(t, res.report.ref(t, ref), r.opts...), "/made") == "" {
			t.Errorf("the commands of %s did not run", ref)
		}
	}
	searchFiles(t, secrets.list(), reports)
	p.change(t, "fail", "yes\n")
	packed := h.startBuild(t, p, storage, append([]string{"packed"}, given...)...).wait(t)
	if packed.code != 5 || !strings.Contains(packed.stderr, "***") {
		t.Errorf("the Dockerfile that shall fail ends with %d:\n%s", packed.code, packed.stderr)
	}
	texts["report of a Dockerfile's failure"], texts["log of a Dockerfile's failure"] = packed.stdout, packed.stderr
	failed := h.startBuild(t, p, storage, append([]string{"app"}, given...)...).wait(t)
	if failed.code != 5 || !strings.Contains(failed.stderr, "***") {
		t.Errorf("the commands that shall fail end with %d:\n%s", failed.code, failed.stderr)
	}
	texts["report of a failure"], texts["log of a failure"] = failed.stdout, failed.stderr
	if !strings.Contains(texts["log"], "***") {
		t.Errorf("nothing is masked in the output:\n%s", texts["log"])
	}
	texts["ledger"] = c.kubectl(t, "get", "configmaps,leases,events", "-o", "yaml")
	if !strings.Contains(texts["ledger"], "stage.") {
		t.Errorf("the ledger has no entries:\n%s", texts["ledger"])
	}
	receiver.mu.Lock()
	texts["trace"] = receiver.raw.String()
	receiver.mu.Unlock()
	if texts["trace"] == "" {
		t.Error("there is no trace")
	}
	secrets.absent(t, texts)
	searchFiles(t, secrets.list(), h.cache, h.state, reports)
	searchRepository(t, secrets.list(), storage, r.opts)
}

// writeKey makes a private key and returns a line of it.
func writeKey(t *testing.T, path string) string {
	t.Helper()
	_, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	block, err := ssh.MarshalPrivateKey(private, "")
	if err != nil {
		t.Fatal(err)
	}
	text := string(pem.EncodeToMemory(block))
	writeSecret(t, path, text)
	return strings.Split(text, "\n")[3]
}

func writeSecret(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

// Where a login does not belong it is refused, and the refusal does not repeat it.
func TestALoginInAnAddressIsRefusedWithoutShowingIt(t *testing.T) {
	t.Parallel()
	const word = "login-Hb6-word"
	p := newProject(t, "-- cairn.yaml --\nproject: p\n---\nimage: a\nfrom: scratch\n", shared.registry)
	login := "robot:" + word + "@"
	for name, flags := range map[string][]string{
		"a storage":           {"--stages-storage", login + "registry.example.com/shop"},
		"a storage's URL":     {"--stages-storage", "https://" + login + "registry.example.com/shop"},
		"a secondary storage": {"--secondary-storage", login + "registry.example.com/shop"},
		"a ledger":            {"--synchronization", "https://" + login + "cluster.example.com"},
		"an engine":           {"--engine", "https://" + login + "engine.example.com"},
		"a secret":            {"--secret", word},
		"an agent":            {"--ssh", word + "/x"},
	} {
		h := newHost(t, 0)
		h.engine = ""
		res := h.run(t, p, append([]string{"build"}, flags...)...)
		if res.code != 2 {
			t.Errorf("%s: cairn ends with %d:\n%s", name, res.code, res.stderr)
		}
		planted{name: word}.absent(t, map[string]string{"output of " + name: res.stdout + res.stderr})
	}
	for name, text := range map[string]string{
		"a download":             "FROM scratch\nADD https://" + login + "files.example.com/x /\n",
		"a pinned download":      "FROM scratch\nADD --checksum=sha256:" + strings.Repeat("0", 64) + " https://" + login + "files.example.com/x /\n",
		"a repository to add":    "FROM scratch\nADD https://" + login + "git.example.com/x.git#main /\n",
		"a frontend":             "# syntax=" + login + "registry.example.com/front\nFROM scratch\n",
		"a base of a Dockerfile": "FROM " + login + "registry.example.com/base:1\n",
	} {
		p.write(t, "Dockerfile", text)
		p.change(t, "cairn.yaml", "project: p\n---\nimage: a\ndockerfile: Dockerfile\n")
		res := newHost(t, 0).run(t, p, "build")
		if res.code != 3 {
			t.Errorf("%s: cairn ends with %d:\n%s", name, res.code, res.stderr)
		}
		planted{name: word}.absent(t, map[string]string{"output of " + name: res.stdout + res.stderr})
	}
	for name, line := range map[string]string{
		"a base":             "from: " + login + "registry.example.com/base:1",
		"another repository": "from: scratch\ngit: [{url: 'https://" + login + "git.example.com/x.git', to: /x}]",
	} {
		p.change(t, "cairn.yaml", "project: p\n---\nimage: a\n"+line+"\n")
		res := newHost(t, 0).run(t, p, "build")
		if res.code != 3 {
			t.Errorf("%s: cairn ends with %d:\n%s", name, res.code, res.stderr)
		}
		planted{name: word}.absent(t, map[string]string{"output of " + name: res.stdout + res.stderr})
	}
}

// A build that lacks a secret ends before it makes anything, and says what to do.
func TestAMissingSecretIsToldWithTheFlagThatGivesIt(t *testing.T) {
	t.Parallel()
	p := newProject(t, telling, shared.registry)
	h := newHost(t, ownDaemon)
	storage := storageOf(t, shared.registry, "")
	res := h.startBuild(t, p, storage, "app", "--secret", "id=pair,src="+filepath.Join(p.dir, "code")).wait(t)
	message, hint := res.errorLines()
	if res.code != 2 || !strings.Contains(message, "stage setup") || !strings.Contains(message, `"token"`) || !strings.Contains(hint, "--secret id=token,") {
		t.Errorf("cairn ends with %d:\n%s", res.code, res.stderr)
	}
	if res.report.EngineStarted {
		t.Error("the engine was started")
	}
	for tag := range tagsOf(t, storage) {
		if tag != "cairn-project" {
			t.Errorf("%s was published", tag)
		}
	}
}
