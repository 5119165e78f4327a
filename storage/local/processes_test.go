//go:build linux

package local_test

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"

	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/storagetest"
)

// play is the life of another process: with rounds to do it publishes images and
// tells of each on standard output until it is done or killed, without any it stalls.
func play(role string) int {
	var dir, id string
	var rounds int
	if _, err := fmt.Sscan(role, &id, &rounds, &dir); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 2
	}
	do := work
	if rounds == 0 {
		do = stall
	}
	if err := do(context.Background(), dir, id, rounds); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	return 0
}

// stall writes half a blob, says so, and goes on when its standard input ends.
func stall(ctx context.Context, dir, id string, _ int) error {
	s, err := local.Open(ctx, dir)
	if err != nil {
		return err
	}
	_, err = s.WriteBlob(ctx, func(w io.Writer) error {
		if _, err := io.WriteString(w, "half of "+id); err != nil {
			return err
		}
		fmt.Println("written")
		_, err := io.Copy(w, os.Stdin)
		return err
	})
	return err
}

func work(ctx context.Context, dir, id string, rounds int) error {
	s, err := local.Open(ctx, dir)
	if err != nil {
		return err
	}
	for i := range rounds {
		// Every third image is one that all processes make.
		content := fmt.Appendf(nil, "%s of %s", strings.Repeat("x", 50_000), id)
		if i%3 == 0 {
			content = bytes.Repeat([]byte("shared "), 30_000)
		}
		content = fmt.Append(content, i)
		m, err := image(ctx, s, content)
		if err != nil {
			return err
		}
		tag := fmt.Sprintf("%s-%d", id, i)
		if err := s.Publish(ctx, tag, m); err != nil {
			return err
		}
		fmt.Printf("%s %s\n", tag, m.Descriptor.Digest)
		if err := disturb(ctx, s, dir, m, i); err != nil {
			return err
		}
	}
	return nil
}

// disturb does what others do beside publishing.
func disturb(ctx context.Context, s *local.Storage, dir string, m storage.Manifest, i int) error {
	if err := s.Publish(ctx, "fought-over", m); err != nil {
		return err
	}
	var err error
	switch i % 4 {
	case 0:
		err = s.WriteIndex(ctx)
	case 1:
		err = s.DeleteTag(ctx, "fought-over")
	case 2:
		_, err = local.Open(ctx, dir)
	case 3:
		_, err = s.Sweep(ctx, time.Now().Add(-time.Hour))
	}
	if errors.Is(err, storage.ErrNotFound) {
		return nil // another one deleted it first
	}
	return err
}

func process(t *testing.T, dir, id string, rounds int) *exec.Cmd {
	cmd := exec.CommandContext(t.Context(), os.Args[0])
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%s %d %s", roleVariable, id, rounds, dir))
	return cmd
}

// ledger is what processes said that they had published.
type ledger struct {
	mu   sync.Mutex
	said map[string]string
}

func (l *ledger) add(line string) {
	tag, d, _ := strings.Cut(line, " ")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.said[tag] = d
}

func TestSeveralProcessesShareALayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	l := ledger{said: map[string]string{}}
	var g errgroup.Group
	for i := range 6 {
		g.Go(func() error {
			cmd := process(t, dir, fmt.Sprint("p", i), 12)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			out, err := cmd.Output()
			if err != nil {
				return fmt.Errorf("%w: %s", err, stderr.String())
			}
			for line := range strings.Lines(string(out)) {
				l.add(strings.TrimSpace(line))
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		t.Fatal(err)
	}
	if len(l.said) != 6*12 {
		t.Errorf("%d publications, want %d", len(l.said), 6*12)
	}
	verifyLayout(t, dir, l.said)
}

func TestProcessesKilledAtAnyMomentLeaveAWholeLayout(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	l := ledger{said: map[string]string{}}
	random := rand.New(rand.NewPCG(1, 2))
	for generation := range 4 {
		var g errgroup.Group
		for i := range 5 {
			lines := random.IntN(6)
			spin := random.IntN(200_000)
			g.Go(func() error { return killAfter(t, dir, fmt.Sprintf("g%d-p%d", generation, i), lines, spin, &l) })
		}
		if err := g.Wait(); err != nil {
			t.Fatal(err)
		}
		verifyLayout(t, dir, l.said)
	}
}

// killAfter kills a process when it has told of n publications, a little later
// by as much as the spinning takes.
func killAfter(t *testing.T, dir, id string, n, spin int, l *ledger) error {
	cmd := process(t, dir, id, 1000)
	out, err := cmd.StdoutPipe()
	if err != nil {
		return err
	}
	if err := cmd.Start(); err != nil {
		return err
	}
	lines := bufio.NewScanner(out)
	for range n {
		if !lines.Scan() {
			break
		}
		l.add(lines.Text())
	}
	sum := digest.FromString(id)
	for range spin / 1000 {
		sum = digest.FromString(sum.String())
	}
	if err := cmd.Process.Kill(); err != nil {
		return err
	}
	// A line that was written before the end is a promise as well; the last may be torn.
	for lines.Scan() {
		if strings.Contains(lines.Text(), " sha256:") && len(lines.Text()) > len(" sha256:")+64 {
			l.add(lines.Text())
		}
	}
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		return fmt.Errorf("process %s ended by itself: %w", id, err)
	}
	return nil
}

func TestLeftoversAreRemovedWhenTheirWriterIsDeadAndNotBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "layout")
	s := openAt(t, dir)
	finish, killed := stalled(t, dir, "finished"), stalled(t, dir, "killed")
	openAt(t, dir)
	if n := len(list(t, s, "ingest")); n != 2 {
		t.Fatalf("%d files of two living writers are there", n)
	}
	if err := killed.cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	if err := killed.cmd.Wait(); err == nil {
		t.Fatal("the killed writer ended well")
	}
	openAt(t, dir)
	if n := len(list(t, s, "ingest")); n != 1 {
		t.Fatalf("%d files are there with one living writer", n)
	}
	if err := finish.input.Close(); err != nil {
		t.Fatal(err)
	}
	if err := finish.cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	want := []string{digest.FromString("half of finished").Encoded()}
	if got := list(t, s, "blobs/sha256"); len(got) != 1 || got[0] != want[0] {
		t.Errorf("blobs are %q, want %q", got, want)
	}
	verifyLayout(t, dir, nil)
}

type writer struct {
	cmd   *exec.Cmd
	input io.Closer
}

// stalled starts a process and returns when it has written half a blob.
func stalled(t *testing.T, dir, id string) writer {
	t.Helper()
	cmd := process(t, dir, id, 0)
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil {
		t.Fatalf("%q, %v", line, err)
	}
	return writer{cmd, in}
}

// verifyLayout checks that everything that was said is there, that every name
// leads to a whole image, that no blob is torn and that nothing was left behind.
func verifyLayout(t *testing.T, dir string, said map[string]string) {
	t.Helper()
	s := openAt(t, dir)
	if left := list(t, s, "ingest"); len(left) > 0 {
		t.Errorf("leftovers of dead writers: %q", left)
	}
	for tag, want := range said {
		d, err := s.Resolve(t.Context(), tag)
		if err != nil {
			t.Errorf("published and lost: %v", err)
		} else if d.Digest.String() != want {
			t.Errorf("%s names %s, want %s", tag, d.Digest, want)
		}
	}
	for _, tag := range tags(t, s) {
		verifyImage(t, s, tag)
	}
	verifyBlobs(t, s)
	if err := s.WriteIndex(t.Context()); err != nil {
		t.Error(err)
	}
}

func verifyBlobs(t *testing.T, s *local.Storage) {
	t.Helper()
	for _, name := range list(t, s, "blobs/sha256") {
		b, err := os.ReadFile(filepath.Join(s.Dir(), "blobs/sha256", name))
		if err != nil {
			t.Error(err)
		} else if got := digest.FromBytes(b).Encoded(); got != name {
			t.Errorf("blob %s has the bytes of %s", name, got)
		}
	}
}

// inNamespace runs the test that is running again, in a process that may mount:
// in a mount namespace of its own, and a user namespace where it is not root.
func inNamespace(t *testing.T) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), mountVariable+"=yes")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if os.Getuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{HostID: os.Getgid(), Size: 1}}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

const mountVariable = "CAIRN_TEST_LOCAL_MOUNT"

func TestAFullDeviceIsReportedAndHarmless(t *testing.T) {
	if os.Getenv(mountVariable) == "" {
		inNamespace(t)
		return
	}
	dir := t.TempDir()
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=2m"); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, 0)
	s := openAt(t, filepath.Join(dir, "layout"))
	said := map[string]string{}
	err := fill(t.Context(), s, said)
	var typed *storage.Error
	if !errors.Is(err, storage.ErrFull) || !errors.As(err, &typed) {
		t.Fatalf("a full device: %v", err)
	}
	if len(said) < 5 {
		t.Errorf("only %d images fitted", len(said))
	}
	_, err = s.WriteBlob(t.Context(), func(w io.Writer) error {
		_, err := io.CopyN(w, rand.NewChaCha8([32]byte{}), 3<<20)
		return err
	})
	if !errors.Is(err, storage.ErrFull) {
		t.Errorf("stream to a full device: %v", err)
	}
	if err := s.DeleteTag(t.Context(), "t0"); err != nil {
		t.Fatal(err)
	}
	delete(said, "t0")
	if swept, err := s.Sweep(t.Context(), time.Now().Add(time.Hour)); err != nil || swept.Blobs < 3 {
		t.Fatalf("sweep of a full device: %+v, %v", swept, err)
	}
	verifyLayout(t, s.Dir(), said)
}

// fill publishes images until it fails.
func fill(ctx context.Context, s *local.Storage, said map[string]string) error {
	for i := range 1000 {
		m, err := image(ctx, s, bytes.Repeat(fmt.Append(nil, i, " "), 50_000))
		if err != nil {
			return err
		}
		tag := fmt.Sprint("t", i)
		if err := s.Publish(ctx, tag, m); err != nil {
			return err
		}
		said[tag] = m.Descriptor.Digest.String()
	}
	return nil
}

func TestALayoutThatMayNotBeWrittenIsDenied(t *testing.T) {
	if os.Getenv(mountVariable) == "" {
		inNamespace(t)
		return
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		t.Fatal(err)
	}
	s := open(t)
	publish(t, s, "a", "content")
	if err := unix.Mount(s.Dir(), s.Dir(), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(s.Dir(), 0)
	if err := unix.Mount("", s.Dir(), "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	s = openAt(t, s.Dir())
	verifyImage(t, s, "a")
	b := []byte("new")
	if err := s.PushBlob(t.Context(), storagetest.Layer(b), storagetest.Content(b)); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("push: %v", err)
	}
	if err := s.DeleteTag(t.Context(), "a"); !errors.Is(err, storage.ErrDenied) {
		t.Errorf("delete a tag: %v", err)
	}
}
