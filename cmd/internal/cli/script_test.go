package cli

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/rogpeppe/go-internal/testscript"

	"github.com/cairnbuild/cairn/hack/testbed"
)

// TestScripts runs cairn as a person would, against real servers. Its own
// commands besides those of testscript:
//
//	git-init [DIR]        make a repository of the files in DIR and commit them
//	git-commit            commit the work tree
//	engine                have builds use the engine that scripts share
//	registry              set REGISTRY to a registry with the base busybox, and
//	                      BASE to that base
//	registry-auth         set PRIVATE to a registry that asks for a password
//	base-for PLATFORM     push a base for PLATFORM as $REGISTRY/base/other:latest
//	fill FILE             replace $REGISTRY and $BASE in a file
//	json PATH VALUE       compare a value of the JSON on the last standard output
//	schema FILE           check it against a schema of docs
//	one-error             the last standard error tells one error, with a hint
//	interrupt REGEXP CMD… run CMD, send it SIGINT when its standard error matches,
//	                      and expect the exit code 130
//	code N CMD…           run CMD and expect the exit code N
//	many-files DIR N      make N small files
//	lose-layer REPO TAG   have $REGISTRY lose the uppermost layer of REPO:TAG, the
//	                      tag of "@FILE" being in FILE
//	spoil-layer REPO TAG  have $REGISTRY change a byte of it
//	retag REPO TAG NEW    have a tag of $REGISTRY/REPO name what another names
func TestScripts(t *testing.T) {
	s := &scripts{ctx: t.Context()}
	testscript.Run(t, testscript.Params{
		Dir:                 filepath.Join("testdata", "script"),
		Setup:               s.setup,
		RequireExplicitExec: true,
		RequireUniqueNames:  true,
		UpdateScripts:       *update,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"git-init": s.gitInit, "git-commit": s.gitCommit, "engine": s.engine, "registry": s.registry,
			"registry-auth": s.registryAuth, "base-for": s.baseFor, "fill": s.fill, "json": s.json, "schema": s.schema,
			"one-error": s.oneError, "interrupt": s.interrupt, "code": s.code, "many-files": s.manyFiles, "retag": s.retag,
			"lose-layer": s.loseLayer, "spoil-layer": s.spoilLayer,
		},
	})
}

type scripts struct{ ctx context.Context }

// setup gives a script a home of its own; nothing of the caller's settings comes in.
func (s *scripts) setup(env *testscript.Env) error {
	bin, err := shared.daemonDir(s.ctx)
	if err != nil {
		return err
	}
	state, err := os.MkdirTemp("", "cairn-s-")
	if err != nil {
		return err
	}
	env.Defer(func() {
		if err := endDaemon(context.Background(), state); err != nil {
			env.T().Log(err)
		}
		if err := os.RemoveAll(state); err != nil {
			env.T().Log(err)
		}
	})
	home := filepath.Join(state, "home") // not in the work tree of the script's repository
	for name, value := range map[string]string{
		"HOME": home, "DOCKER_CONFIG": filepath.Join(home, ".docker"), "GIT_CONFIG_GLOBAL": os.DevNull, "GIT_CONFIG_NOSYSTEM": "1",
		"GIT_AUTHOR_NAME": "a", "GIT_AUTHOR_EMAIL": "a@localhost", "GIT_COMMITTER_NAME": "a", "GIT_COMMITTER_EMAIL": "a@localhost",
		"CAIRN_STATE_DIR": state, "CAIRN_CACHE_DIR": filepath.Join(home, "cache"), "NO_COLOR": "1", "TMPDIR": env.WorkDir,
	} {
		env.Setenv(name, value)
	}
	env.Setenv("PATH", bin+string(os.PathListSeparator)+env.Getenv("PATH"))
	return os.MkdirAll(home, 0o700)
}

func (s *scripts) git(ts *testscript.TestScript, args ...string) {
	ts.Check(ts.Exec("git", append([]string{"-c", "gc.auto=0", "-c", "commit.gpgsign=false"}, args...)...))
}

func (s *scripts) gitInit(ts *testscript.TestScript, _ bool, args []string) {
	if len(args) > 0 {
		ts.Check(ts.Chdir(args[0]))
	}
	s.git(ts, "init", "--quiet", "--initial-branch=main")
	s.gitCommit(ts, false, nil)
}

func (s *scripts) gitCommit(ts *testscript.TestScript, _ bool, _ []string) {
	s.git(ts, "add", "--all", ".")
	s.git(ts, "commit", "--quiet", "--message", "change")
}

func (s *scripts) engine(ts *testscript.TestScript, _ bool, _ []string) {
	address, err := shared.engineAddress(s.ctx)
	ts.Check(err)
	ts.Setenv("CAIRN_ENGINE", address)
}

func (s *scripts) registry(ts *testscript.TestScript, _ bool, _ []string) {
	address, err := shared.registryAddress(s.ctx)
	ts.Check(err)
	ts.Setenv("REGISTRY", address)
	ts.Setenv("BASE", address+"/base/busybox:latest")
}

func (s *scripts) registryAuth(ts *testscript.TestScript, _ bool, _ []string) {
	r, err := testbed.StartRegistry(s.ctx, testbed.RegistryOptions{Users: map[string]string{"ci": "hunter2"}})
	ts.Check(err)
	ts.Defer(func() { ts.Check(r.Stop()) })
	ts.Setenv("PRIVATE", r.Address())
}

func (s *scripts) baseFor(ts *testscript.TestScript, _ bool, args []string) {
	_, err := shared.registryAddress(s.ctx)
	ts.Check(err)
	p, err := v1.ParsePlatform(args[0])
	ts.Check(err)
	img, err := mutate.ConfigFile(empty.Image, &v1.ConfigFile{OS: p.OS, Architecture: p.Architecture})
	ts.Check(err)
	_, err = shared.registry.Push(s.ctx, "base/other", img)
	ts.Check(err)
}

func (s *scripts) fill(ts *testscript.TestScript, _ bool, args []string) {
	for _, name := range args {
		text := os.Expand(ts.ReadFile(name), func(v string) string {
			if v == "REGISTRY" || v == "BASE" {
				return ts.Getenv(v)
			}
			return "$" + v
		})
		ts.Check(os.WriteFile(ts.MkAbs(name), []byte(text), 0o644))
	}
}

// json looks up a value by its path: keys, and numbers for elements of lists.
func (s *scripts) json(ts *testscript.TestScript, neg bool, args []string) {
	var doc any
	d := json.NewDecoder(strings.NewReader(ts.ReadFile("stdout")))
	ts.Check(d.Decode(&doc))
	if d.More() {
		ts.Fatalf("there is more than one document")
	}
	for key := range strings.SplitSeq(args[0], ".") {
		switch v := doc.(type) {
		case map[string]any:
			doc = v[key]
		case []any:
			i, err := strconv.Atoi(key)
			ts.Check(err)
			if i >= len(v) {
				ts.Fatalf("%s has %d elements", args[0], len(v))
			}
			doc = v[i]
		default:
			ts.Fatalf("%s: nothing below %v", args[0], doc)
		}
	}
	got := fmt.Sprint(doc)
	re, err := regexp.Compile("(?s)^(?:" + args[1] + ")$")
	ts.Check(err)
	if re.MatchString(got) == neg {
		ts.Fatalf("%s is %s", args[0], got)
	}
}

func (s *scripts) schema(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(validate(filepath.Join(root, "docs", args[0]), []byte(ts.ReadFile("stdout"))))
}

// oneError checks what every failure looks like: one line that says what and
// where, at least one hint, and nothing of the program's inside.
func (s *scripts) oneError(ts *testscript.TestScript, _ bool, _ []string) {
	text := ts.ReadFile("stderr")
	if n := strings.Count("\n"+text, "\nerror: "); n != 1 {
		ts.Fatalf("%d errors instead of one:\n%s", n, text)
	}
	if !strings.Contains(text, "hint: ") {
		ts.Fatalf("no hint:\n%s", text)
	}
	for _, inside := range []string{"goroutine ", "panic", ".go:", "%!", "<nil>", "hunter2", "0xc0"} {
		if strings.Contains(text, inside) {
			ts.Fatalf("%q is shown:\n%s", inside, text)
		}
	}
}

// command is a command of the script that is to be looked at while it runs.
func (s *scripts) command(ts *testscript.TestScript, args []string) *exec.Cmd {
	path, err := exec.LookPath(args[0])
	if err != nil { // as the script has it
		for _, dir := range filepath.SplitList(ts.Getenv("PATH")) {
			if p := filepath.Join(dir, args[0]); isFile(p) {
				path = p
			}
		}
	}
	cmd := exec.CommandContext(s.ctx, path, args[1:]...)
	cmd.Args[0] = args[0] // by which the test program knows what it is
	cmd.Dir = ts.MkAbs(".")
	for _, name := range scriptVariables() {
		cmd.Env = append(cmd.Env, name+"="+ts.Getenv(name))
	}
	return cmd
}

func isFile(path string) bool {
	st, err := os.Stat(path)
	return err == nil && st.Mode().IsRegular()
}

// scriptVariables are those that commands of scripts depend on.
func scriptVariables() []string {
	return []string{
		"PATH", "HOME", "TMPDIR", "DOCKER_CONFIG", "GIT_CONFIG_GLOBAL", "GIT_CONFIG_NOSYSTEM", "NO_COLOR",
		"CAIRN_STATE_DIR", "CAIRN_CACHE_DIR", "CAIRN_ENGINE", "CAIRN_STAGES_STORAGE", "CAIRN_SYNCHRONIZATION", "CAIRN_OUTPUT", "CAIRN_PARALLEL",
		"KUBECONFIG",
	}
}

func (s *scripts) code(ts *testscript.TestScript, _ bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	cmd := s.command(ts, args[1:])
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	s.ended(ts, cmd.Run(), want, &out, &errs)
}

// ended makes what a command wrote the last output of the script.
func (s *scripts) ended(ts *testscript.TestScript, err error, want int, out, errs *bytes.Buffer) {
	ts.Logf("[stdout]\n%s[stderr]\n%s", out, errs)
	ts.Check(os.WriteFile(ts.MkAbs(".out"), out.Bytes(), 0o600))
	ts.Check(os.WriteFile(ts.MkAbs(".err"), errs.Bytes(), 0o600))
	var exit *exec.ExitError
	got := 0
	if ok := asExit(err, &exit); ok {
		got = exit.ExitCode()
	} else {
		ts.Check(err)
	}
	if got != want {
		ts.Fatalf("exit code %d, want %d", got, want)
	}
	// Scripts look at stdout and stderr, which only commands of testscript set.
	ts.Check(ts.Exec("sh", "-c", "cat .out; cat .err >&2; rm .out .err"))
}

func asExit(err error, to **exec.ExitError) bool {
	e, ok := err.(*exec.ExitError) //nolint:errorlint // what Run returns
	*to = e
	return ok
}

// watched tells when what is written to it matches.
type watched struct {
	all  bytes.Buffer
	re   *regexp.Regexp
	seen chan struct{}
}

func (w *watched) Write(b []byte) (int, error) {
	n, err := w.all.Write(b)
	select {
	case <-w.seen:
	default:
		if w.re.Match(w.all.Bytes()) {
			close(w.seen)
		}
	}
	return n, err
}

func (s *scripts) interrupt(ts *testscript.TestScript, _ bool, args []string) {
	cmd := s.command(ts, args[1:])
	var out bytes.Buffer
	errs := &watched{re: regexp.MustCompile(args[0]), seen: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &out, errs
	ts.Check(cmd.Start())
	done := make(chan error, 1)
	go func() { done <- cmd.Wait() }()
	select {
	case <-errs.seen:
		ts.Check(cmd.Process.Signal(syscall.SIGINT))
	case err := <-done:
		s.ended(ts, err, exitInterrupted, &out, &errs.all)
		return
	case <-time.After(time.Minute):
		ts.Check(cmd.Process.Kill())
	}
	s.ended(ts, <-done, exitInterrupted, &out, &errs.all)
}

func (s *scripts) manyFiles(ts *testscript.TestScript, _ bool, args []string) {
	n, err := strconv.Atoi(args[1])
	ts.Check(err)
	for i := range n {
		dir := filepath.Join(ts.MkAbs(args[0]), strconv.Itoa(i%100))
		ts.Check(os.MkdirAll(dir, 0o755))
		ts.Check(os.WriteFile(filepath.Join(dir, strconv.Itoa(i)), []byte(strconv.Itoa(i)), 0o644))
	}
}

func (s *scripts) retag(ts *testscript.TestScript, _ bool, args []string) {
	repo := ts.Getenv("REGISTRY") + "/" + args[0]
	from, err := name.NewTag(repo+":"+args[1], name.Insecure)
	ts.Check(err)
	to, err := name.NewTag(repo+":"+args[2], name.Insecure)
	ts.Check(err)
	d, err := remote.Get(from)
	ts.Check(err)
	ts.Check(remote.Tag(to, d))
}

func (s *scripts) loseLayer(ts *testscript.TestScript, _ bool, args []string) {
	ts.Check(os.Remove(s.layerFile(ts, args[0], args[1])))
}

func (s *scripts) spoilLayer(ts *testscript.TestScript, _ bool, args []string) {
	path := s.layerFile(ts, args[0], args[1])
	b, err := os.ReadFile(path)
	ts.Check(err)
	b[len(b)/2] ^= 1
	ts.Check(os.WriteFile(path, b, 0o600))
}

// layerFile returns where the registry keeps the uppermost layer of an image.
func (s *scripts) layerFile(ts *testscript.TestScript, repo, tag string) string {
	if file, ok := strings.CutPrefix(tag, "@"); ok {
		tag = strings.TrimSpace(ts.ReadFile(file))
	}
	ref, err := name.NewTag(ts.Getenv("REGISTRY")+"/"+repo+":"+tag, name.Insecure)
	ts.Check(err)
	img, err := remote.Image(ref)
	ts.Check(err)
	m, err := img.Manifest()
	ts.Check(err)
	return shared.registry.BlobFile(m.Layers[len(m.Layers)-1].Digest.String())
}
