package engine_test

import (
	"archive/tar"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/engine"
)

// cairnd is the path of the daemon that the tests build.
var (
	cairnd string
	shared *daemon
)

func TestMain(m *testing.M) { os.Exit(testMain(m)) }

func testMain(m *testing.M) int {
	tmp, err := os.MkdirTemp("", "ce")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(tmp)
	cairnd = filepath.Join(tmp, "cairnd")
	if out, err := exec.Command("go", "build", "-o", cairnd, "../../cmd/cairnd").CombinedOutput(); err != nil {
		fmt.Fprintf(os.Stderr, "build cairnd: %v\n%s", err, out)
		return 1
	}
	if shared, err = startDaemon(filepath.Join(tmp, "d")); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer shared.stop()
	code := m.Run()
	if code == 0 {
		if err := goleak.Find(goleak.IgnoreTopFunction("go.opencensus.io/stats/view.(*worker).start")); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return code
}

// daemon is a cairnd that the tests have started.
type daemon struct {
	cmd *exec.Cmd
	dir string
}

func startDaemon(dir string) (*daemon, error) {
	r, w, err := os.Pipe()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	d := &daemon{dir: dir}
	d.cmd = exec.Command(cairnd, "serve", "--state", filepath.Join(dir, "s"), "--socket", d.socket(), "--idle-timeout", "0", "--ready-fd", "3")
	d.cmd.ExtraFiles = []*os.File{w}
	d.cmd.Stderr = os.Stderr
	d.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM} // also when a test panics
	err = d.cmd.Start()
	w.Close()
	if err != nil {
		return nil, err
	}
	if n, _ := r.Read(make([]byte, 1)); n != 1 {
		return nil, fmt.Errorf("cairnd ended: %w", d.cmd.Wait())
	}
	return d, nil
}

func (d *daemon) socket() string  { return filepath.Join(d.dir, "r", "c.sock") }
func (d *daemon) address() string { return "unix://" + d.socket() }

func (d *daemon) stop() {
	_ = d.cmd.Process.Signal(syscall.SIGTERM)
	_ = d.cmd.Wait()
}

func check(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

func dial(t testing.TB, d *daemon) *engine.Engine {
	t.Helper()
	e, err := engine.Dial(t.Context(), d.address(), engine.Options{Now: time.Now})
	check(t, err)
	t.Cleanup(func() { check(t, e.Close()) })
	return e
}

// key makes a key of its own for each run of the tests, so that caches do not blur them.
func key(t testing.TB, name string) string {
	return stages.DigestOf(fmt.Appendf(nil, "%s %s %d", t.Name(), name, os.Getpid())).String()
}

func commands(script ...string) *stages.Commands {
	return &stages.Commands{Interpreter: "sh", Script: script}
}

func job(t testing.TB, name string, parent *engine.Image, script ...string) *engine.Job {
	return &engine.Job{Key: key(t, name), Name: name, Platform: "linux/amd64", Parent: parent, Commands: commands(script...)}
}

type entry struct {
	*tar.Header
	data string
}

// layer collects what a run makes.
type layer struct {
	calls   int
	entries map[string]entry
}

func (l *layer) take(_ context.Context, r io.Reader) error {
	l.calls++
	l.entries = map[string]entry{}
	for tr := tar.NewReader(r); ; {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		b, err := io.ReadAll(tr)
		if err != nil {
			return err
		}
		l.entries[strings.TrimSuffix(h.Name, "/")] = entry{h, string(b)}
	}
}

// names returns what the layer holds, sorted.
func (l *layer) names() []string { return sortedKeys(l.entries) }

func run(t testing.TB, e *engine.Engine, j *engine.Job) (*layer, engine.Result) {
	t.Helper()
	l := &layer{}
	res, err := e.Run(t.Context(), j, l.take, nil)
	var exit *engine.ExitError
	if errors.As(err, &exit) {
		t.Logf("output: %q", exit.Output)
	}
	check(t, err)
	return l, res
}

func wantNames(t testing.TB, l *layer, want ...string) {
	t.Helper()
	if got := l.names(); !slices.Equal(got, want) {
		t.Errorf("the layer holds %q, want %q", got, want)
	}
}

// tree is a Tree in memory.
type tree files

func (tr tree) Walk(_ context.Context, fn func(engine.Entry) error) error {
	for _, p := range sortedKeys(tr) {
		f := tr[p]
		mode := fs.FileMode(f.mode)
		switch f.kind {
		case tar.TypeDir:
			mode |= fs.ModeDir
		case tar.TypeSymlink:
			mode |= fs.ModeSymlink
		}
		err := fn(engine.Entry{Path: p, Mode: mode, Link: f.link, Size: int64(len(f.data)), UID: f.uid, GID: f.gid})
		if err != nil {
			return err
		}
	}
	return nil
}

func (tr tree) Open(_ context.Context, path string) (io.ReadCloser, error) {
	f, ok := tr[strings.TrimPrefix(path, "/")]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(strings.NewReader(f.data)), nil
}

func TestCommandsGiveOneLayerAndTheParentIsNotSentBack(t *testing.T) {
	e := dial(t, shared)
	fs := busybox(t)
	fs["own"] = text(rand.Text()) // a layer that the engine has from no other test
	base := image(t, fs)
	j := job(t, "install", base, `echo "$GREETING $SOURCE_DATE_EPOCH" >/greeting`, `pwd >>/greeting`, `id -u >>/greeting`)
	j.Env = []string{"GREETING=hello", "PATH=/bin"}
	l, res := run(t, e, j)
	wantNames(t, l, "greeting")
	if got, want := l.entries["greeting"].data, "hello 1262304000\n/\n0\n"; got != want {
		t.Errorf("greeting is %q, want %q", got, want)
	}
	if res.Empty || res.Cached || len(res.Below) != 1 {
		t.Errorf("result is %+v", res)
	}
	if res.Layer.Size > 100<<10 {
		t.Errorf("%d bytes came for one small file", res.Layer.Size)
	}
	if n := base.Blobs.(*blobs).count(); n != 1 {
		t.Errorf("the base's one layer was opened %d times", n)
	}
}

func TestTheSameJobRunsOnce(t *testing.T) {
	base := image(t, busybox(t))
	make := func() *engine.Job {
		j := job(t, "install", base, "cat /proc/sys/kernel/random/uuid /src/a >/uuid")
		j.Files = tree{"src": dir(0o755), "src/a": text("a")}
		return j
	}
	first, res := run(t, dial(t, shared), make())
	again, res2 := run(t, dial(t, shared), make())
	if a, b := first.entries["uuid"].data, again.entries["uuid"].data; a != b {
		t.Errorf("the commands ran twice: %q, %q", a, b)
	}
	if res.Layer != res2.Layer || res.Cached || !res2.Cached {
		t.Errorf("results are %+v and %+v", res, res2)
	}
	other := make()
	other.Key = key(t, "other")
	third, _ := run(t, dial(t, shared), other)
	if third.entries["uuid"].data == first.entries["uuid"].data {
		t.Error("a job with another key got the result of the first")
	}
}

func TestFailureTellsCodeAndOutput(t *testing.T) {
	e := dial(t, shared)
	j := job(t, "backend/install", image(t, busybox(t)), "for i in $(seq 100); do echo line $i; done; echo oops >&2; sh -c 'exit 42'; echo not reached")
	_, err := e.Run(t.Context(), j, (&layer{}).take, nil)
	var exit *engine.ExitError
	if !errors.As(err, &exit) {
		t.Fatalf("error is %v", err)
	}
	if exit.Code != 42 || exit.Job != j || exit.Command != j.Commands.Script[0] {
		t.Errorf("error is %+v", exit)
	}
	if len(exit.Output) != 40 || !slices.Contains(exit.Output, "oops") || !slices.Contains(exit.Output, "line 100") {
		t.Errorf("the tail is %q", exit.Output)
	}
	j2 := job(t, "two", image(t, busybox(t)), "true", "exit 7")
	_, err = e.Run(t.Context(), j2, (&layer{}).take, nil)
	if !errors.As(err, &exit) || exit.Code != 7 || exit.Command != "" {
		t.Errorf("error is %v", err)
	}
}

func TestEventsComeInOrderLineByLine(t *testing.T) {
	e := dial(t, shared)
	var got []string
	_, err := e.Run(t.Context(), job(t, "x", image(t, busybox(t)), "echo one; printf two; echo >/f"), (&layer{}).take, func(ev engine.Event) {
		got = append(got, strings.TrimSpace(fmt.Sprintf("%s %s", ev.Kind, ev.Line)))
	})
	check(t, err)
	if want := []string{"started", "log one", "log two", "finished"}; !slices.Equal(got, want) {
		t.Errorf("events are %q, want %q", got, want)
	}
}

func TestFilesArePlacedWithTheTimeOfTheRun(t *testing.T) {
	e := dial(t, shared)
	j := job(t, "install", image(t, busybox(t)),
		"stat -c '%n %a %u:%g' /tmp /home /tmp/a /home/b /src /src/run /src-x >/stat",
		"readlink /src/link >/link",
		"cat /src/run /src/sub/deep >/cat",
		"find / -xdev -mtime -1 -name run >/new",
		`test /src/run -nt /bin/busybox`)
	j.Files = tree{
		"tmp": dir(0o755), "tmp/a": text("a"),
		"home":   dir(0o755),
		"home/b": {kind: tar.TypeReg, mode: 0o600, data: "b", uid: 7, gid: 8},
		"src":    {kind: tar.TypeDir, mode: 0o750, uid: 5, gid: 6}, "src-x": text("x"),
		"src/run": {kind: tar.TypeReg, mode: 0o755, data: "run\n"}, "src/link": link("../nowhere"),
		"src/sub": dir(0o755), "src/sub/deep": text("deep\n"),
	}
	l, res := run(t, e, j)
	want := "/tmp 1777 0:0\n/home 750 1000:1000\n/tmp/a 644 0:0\n/home/b 600 7:8\n/src 750 5:6\n/src/run 755 0:0\n/src-x 644 0:0\n"
	if got := l.entries["stat"].data; got != want {
		t.Errorf("stat says\n%swant\n%s", got, want)
	}
	if got := l.entries["link"].data + l.entries["cat"].data + l.entries["new"].data; got != "../nowhere\nrun\ndeep\n/src/run\n" {
		t.Errorf("contents are %q", got)
	}
	wantNames(t, l, "cat", "link", "new", "stat")
	if len(res.Below) != 2 {
		t.Errorf("below are %v, want the base and the files", res.Below)
	}
}

func TestAChainContinuesBeforeItsParentIsPublished(t *testing.T) {
	e := dial(t, shared)
	base := image(t, busybox(t))
	first := job(t, "install", base, "cat /proc/sys/kernel/random/uuid >/one", "cp /src/a /one-a")
	first.Files = tree{"src": dir(0o755), "src/a": text("a")}
	first.Env = []string{"LEAK=1"}
	second := &engine.Job{Key: key(t, "second"), Name: "setup", Platform: "linux/amd64", After: first,
		Commands: commands("cat /one >/two", `echo "leak:$LEAK" >>/two`)}
	l1, r1 := run(t, e, first)
	l2, r2 := run(t, e, second)
	if got, want := l2.entries["two"].data, l1.entries["one"].data+"leak:\n"; got != want {
		t.Errorf("the second stage saw %q, want %q", got, want)
	}
	wantNames(t, l2, "two")
	if want := append(slices.Clone(r1.Below), r1.Layer.Raw); !slices.Equal(r2.Below, want) {
		t.Errorf("below are %v, want %v", r2.Below, want)
	}
}

func TestAFailureOfTheJobBelowIsToldAsSuch(t *testing.T) {
	e := dial(t, shared)
	first := job(t, "install", image(t, busybox(t)), "exit 3")
	second := &engine.Job{Key: key(t, "second"), Name: "setup", Platform: "linux/amd64", After: first, Commands: commands("true")}
	_, err := e.Run(t.Context(), second, (&layer{}).take, nil)
	var exit *engine.ExitError
	if !errors.As(err, &exit) || exit.Job != first || exit.Code != 3 {
		t.Errorf("error is %v", err)
	}
}

func TestCopiesMakeOneLayer(t *testing.T) {
	e := dial(t, shared)
	source := image(t, files{
		"app": dir(0o755), "app/bin": text("binary"), "app/doc": dir(0o755), "app/doc/readme": text("r"),
		"app/doc/secret": text("s"), "etc": dir(0o755), "etc/conf": {kind: tar.TypeReg, mode: 0o600, data: "conf", uid: 3, gid: 4},
	})
	j := &engine.Job{Key: key(t, "import"), Name: "imports", Platform: "linux/amd64", Parent: image(t, busybox(t)), Copies: []engine.Copy{
		{From: source, Add: "/app", To: "/opt/app", Exclude: []string{"doc/secret"}, Chown: true, UID: 10, GID: 11},
		{From: source, Add: "/etc/conf", To: "/opt/conf"},
	}}
	l, res := run(t, e, j)
	wantNames(t, l, "opt", "opt/app", "opt/app/bin", "opt/app/doc", "opt/app/doc/readme", "opt/conf")
	if h := l.entries["opt/app/bin"]; h.Uid != 10 || h.Gid != 11 || h.data != "binary" {
		t.Errorf("opt/app/bin is %+v", h)
	}
	if h := l.entries["opt/conf"]; h.Uid != 3 || h.Gid != 4 || h.Mode != 0o600 {
		t.Errorf("opt/conf is %+v", h)
	}
	if len(res.Below) != 1 {
		t.Errorf("below are %v", res.Below)
	}
	made := job(t, "builder", image(t, busybox(t)), "mkdir /out && echo built >/out/app")
	from := &engine.Job{Key: key(t, "import2"), Name: "imports", Platform: "linux/amd64", Parent: image(t, busybox(t)),
		Copies: []engine.Copy{{FromJob: made, Add: "/out", To: "/out"}}}
	if l, _ := run(t, e, from); l.entries["out/app"].data != "built\n" {
		t.Errorf("the import from a job holds %q", l.names())
	}
}

func TestACopyOfWhatIsNotThereNamesThePath(t *testing.T) {
	e := dial(t, shared)
	from := image(t, files{"app": text("x")})
	there := engine.Copy{From: from, Add: "/app", To: "/a"}
	for name, c := range map[string]engine.Copy{
		"at the root":             {From: from, Add: "/nonexist", To: "/b"},
		"below what is not there": {From: from, Add: "/nope/deep", To: "/b"},
		"below a file":            {From: from, Add: "/app/x", To: "/b"},
		"with globs":              {From: from, Add: "/nope", To: "/b", Include: []string{"**/*.go"}},
		"with a \"strange\" name": {From: from, Add: "/a \"b\"", To: "/b"},
	} {
		t.Run(name, func(t *testing.T) {
			below := &engine.Job{Key: key(t, "import"), Name: "imports", Platform: "linux/amd64", Parent: image(t, busybox(t)), Copies: []engine.Copy{there, c}}
			above := &engine.Job{Key: key(t, "setup"), Name: "setup", Platform: "linux/amd64", After: below, Commands: commands("true")}
			for _, j := range []*engine.Job{below, above} {
				_, err := e.Run(t.Context(), j, (&layer{}).take, nil)
				var missing *engine.MissingPathError
				if !errors.As(err, &missing) || missing.Job != below || missing.Path != c.Add {
					t.Errorf("%s: error is %v", j.Name, err)
				}
			}
		})
	}
}

func TestCommandsThatChangeNothingGiveNoLayer(t *testing.T) {
	e := dial(t, shared)
	bare := files{"busybox": busybox(t)["bin/busybox"]}
	for name, base := range map[string]*engine.Image{"usual base": image(t, busybox(t)), "base without mount points": image(t, bare)} {
		j := job(t, name, base, "true")
		if name != "usual base" {
			j.Commands = &stages.Commands{Interpreter: "/busybox", Script: []string{"true"}}
			j.Commands.Interpreter = "/sh"
			j.Parent = image(t, files{"sh": bare["busybox"]})
		}
		l, res := run(t, e, j)
		if !res.Empty || l.calls != 0 {
			t.Errorf("%s: the layer holds %q, result %+v", name, l.names(), res)
		}
	}
}

func TestLongScriptsLeaveNoTrace(t *testing.T) {
	e := dial(t, shared)
	l, _ := run(t, e, job(t, "long", image(t, busybox(t)), strings.Repeat("true # 0123456789012345678901234567890123456789\n", 4000), "echo done >/done"))
	wantNames(t, l, "done")
}

func TestLayersKeepLinksAttributesAndDeletions(t *testing.T) {
	e := dial(t, shared)
	l, _ := run(t, e, job(t, "x", image(t, busybox(t), files{"gone": text("x"), "d": dir(0o755), "d/x": text("x")}),
		"echo a >/a; ln /a /b; ln -s a /c; rm /gone; mkfifo /p; mkdir -m 2755 /s; rm -r /d; mkdir /d"))
	for name, kind := range map[string]byte{"a": tar.TypeReg, "b": tar.TypeLink, "c": tar.TypeSymlink, ".wh.gone": tar.TypeReg, "p": tar.TypeFifo, "s": tar.TypeDir} {
		if h, ok := l.entries[name]; !ok || h.Typeflag != kind {
			t.Errorf("%s is %+v in %q", name, h.Header, l.names())
		}
	}
	if l.entries["s"].Mode&0o7777 != 0o2755 {
		t.Errorf("mode of s is %o", l.entries["s"].Mode)
	}
}

func TestJobsRunSideBySide(t *testing.T) {
	e := dial(t, shared)
	base := image(t, busybox(t))
	// Each waits for a sign of the other, through the network namespace that both share.
	l, err := net.Listen("tcp", "127.0.0.1:0")
	check(t, err)
	defer l.Close()
	both := make(chan struct{})
	go func() {
		defer close(both)
		var conns []net.Conn
		for range 2 {
			c, err := l.Accept()
			if err != nil {
				return
			}
			conns = append(conns, c)
		}
		for _, c := range conns {
			c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(l.Addr().String())
	check(t, err)
	var wg sync.WaitGroup
	for _, name := range []string{"one", "two"} {
		j := job(t, name, base, "nc 127.0.0.1 "+port+" </dev/null; echo "+name+" >/out")
		wg.Go(func() {
			l := &layer{}
			if _, err := e.Run(t.Context(), j, l.take, nil); err != nil || l.entries["out"].data != name+"\n" {
				t.Errorf("%s: %v, %q", name, err, l.names())
			}
		})
	}
	wg.Wait()
	<-both
}

func TestCancelledRunEndsAndTheEngineLives(t *testing.T) {
	e := dial(t, shared)
	base := image(t, busybox(t))
	ctx, cancel := context.WithCancelCause(t.Context())
	stop := errors.New("enough")
	began := time.Now()
	_, err := e.Run(ctx, job(t, "slow", base, "echo go; sleep 1000"), (&layer{}).take, func(ev engine.Event) {
		if ev.Kind == engine.Log {
			cancel(stop)
		}
	})
	if !errors.Is(err, stop) {
		t.Errorf("error is %v", err)
	}
	if d := time.Since(began); d > 10*time.Second {
		t.Errorf("it took %v to cancel", d)
	}
	run(t, e, job(t, "next", base, "echo >/next"))
}

func TestErrorOfTheLayerFunctionIsReturnedAsItIs(t *testing.T) {
	e := dial(t, shared)
	full := errors.New("storage is full")
	_, err := e.Run(t.Context(), job(t, "x", image(t, busybox(t)), "head -c 50000000 /dev/zero >/big"), func(_ context.Context, r io.Reader) error {
		_, err := io.CopyN(io.Discard, r, 1000)
		return errors.Join(full, err)
	}, nil)
	if !errors.Is(err, full) {
		t.Errorf("error is %v", err)
	}
}

func TestLostEngineIsToldAndTheNextOneWorks(t *testing.T) {
	d, err := startDaemon(t.TempDir())
	check(t, err)
	t.Cleanup(d.stop)
	base := image(t, busybox(t))
	e := dial(t, d)
	mark := fmt.Sprintf("sleep %d", 100000+os.Getpid())
	_, err = e.Run(t.Context(), job(t, "slow", base, "echo go; "+mark), (&layer{}).take, func(ev engine.Event) {
		if ev.Kind == engine.Log {
			check(t, syscall.Kill(enginePID(t, d), syscall.SIGKILL))
		}
	})
	if !errors.Is(err, engine.ErrEngineGone) {
		t.Errorf("error is %v", err)
	}
	if _, err := e.Run(t.Context(), job(t, "dead", base, "true"), (&layer{}).take, nil); !errors.Is(err, engine.ErrEngineGone) {
		t.Errorf("a run on a lost engine gives %v", err)
	}
	if out, err := exec.Command("pgrep", "-fx", mark).Output(); err == nil {
		t.Errorf("the engine is dead, its command is not: process %s", out)
	}
	l, _ := run(t, dial(t, d), job(t, "next", base, "echo >/next"))
	wantNames(t, l, "next")
}

// enginePID asks the daemon for the process of its engine.
func enginePID(t testing.TB, d *daemon) int {
	t.Helper()
	out, err := exec.Command(cairnd, "status", "--socket", d.socket()).Output()
	check(t, err)
	var pid int
	for line := range strings.Lines(string(out)) {
		if n, _ := fmt.Sscanf(strings.TrimSpace(line), `"enginePID": %d,`, &pid); n == 1 {
			return pid
		}
	}
	t.Fatalf("no engine in %s", out)
	return 0
}

func TestDialRefusesPlainTCPToOtherMachines(t *testing.T) {
	for _, address := range []string{"tcp://192.0.2.1:1234", "http://127.0.0.1", "tcp://example.com:1"} {
		if _, err := engine.Dial(t.Context(), address, engine.Options{Now: time.Now}); err == nil || errors.Is(err, engine.ErrEngineGone) {
			t.Errorf("%s: error is %v", address, err)
		}
	}
}

func TestAllOfManyDirectoriesArePlaced(t *testing.T) {
	e := dial(t, shared)
	many := tree{}
	for i := range 100 {
		d := fmt.Sprintf("app/d%d", i)
		many[d], many[d+"/f"] = dir(0o755), text(d)
	}
	j := job(t, "many", image(t, busybox(t)), "find /app -type f | wc -l >/count")
	j.Files = many
	if l, _ := run(t, e, j); l.entries["count"].data != "100\n" {
		t.Errorf("%s files are there", l.entries["count"].data)
	}
}

// newTree says of its directories that they are not in the image.
type newTree struct{ tree }

func (n newTree) Walk(ctx context.Context, fn func(engine.Entry) error) error {
	return n.tree.Walk(ctx, func(e engine.Entry) error {
		e.New = e.Mode.IsDir()
		return fn(e)
	})
}

func TestNewDirectoriesAreCopiedWholeAsTheyAre(t *testing.T) {
	e := dial(t, shared)
	j := job(t, "new", image(t, busybox(t)),
		"find /app | sort | xargs stat -c '%n %a %u:%g' >/stat", "cat /app/b/c/f /app/b-/f >/cat", "readlink /app/b/l >>/cat")
	j.Files = newTree{tree{
		"app":     {kind: tar.TypeDir, mode: 0o750, uid: 5, gid: 6},
		"app/b":   {kind: tar.TypeDir, mode: 0o700, uid: 7, gid: 8},
		"app/b/c": dir(0o755), "app/b/c/f": text("1"), "app/b/e": dir(0o755),
		"app/b-": dir(0o755), "app/b-/f": {kind: tar.TypeReg, mode: 0o600, data: "2", uid: 9, gid: 9},
		"app/b/l": link("c/f"),
	}}
	l, _ := run(t, e, j)
	want := "/app 750 5:6\n/app/b 700 7:8\n/app/b- 755 0:0\n/app/b-/f 600 9:9\n/app/b/c 755 0:0\n/app/b/c/f 644 0:0\n/app/b/e 755 0:0\n/app/b/l 777 0:0\n"
	if got := l.entries["stat"].data; got != want {
		t.Errorf("stat says\n%swant\n%s", got, want)
	}
	if got := l.entries["cat"].data; got != "12c/f\n" {
		t.Errorf("contents are %q", got)
	}
}

func TestBadJobsAreRefused(t *testing.T) {
	e := dial(t, shared)
	base := image(t, busybox(t))
	for name, j := range map[string]*engine.Job{
		"nothing to do":     {},
		"both kinds":        {Commands: commands("true"), Copies: []engine.Copy{{From: base}}},
		"two parents":       {Commands: commands("true"), Parent: base, After: job(t, "x", base, "true")},
		"copy from nowhere": {Copies: []engine.Copy{{Add: "/"}}},
		"manifest of another digest": {Platform: "linux/amd64", Commands: commands("true"),
			Parent: &engine.Image{Manifest: base.Manifest, Bytes: []byte("{}")}},
	} {
		if _, err := e.Run(t.Context(), j, (&layer{}).take, nil); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
