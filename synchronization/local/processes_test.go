package local_test

import (
	"bufio"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/local"
)

// These tests run real processes: the test binary starts itself with runnerDir
// set, and then is a runner instead.
const (
	runnerDir    = "CAIRN_TEST_RUNNER_DIR"
	runnerStages = "CAIRN_TEST_RUNNER_STAGES"
	runnerHolds  = "CAIRN_TEST_RUNNER_HOLDS"
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(runnerDir); dir != "" {
		if err := beRunner(context.Background(), dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(0)
	}
	os.Exit(m.Run())
}

// processOptions have a TTL that no test lives to see, so that whoever is found
// dead is found by its lock.
func processOptions() synchronization.Options {
	return synchronization.Options{
		Now: time.Now, Rand: rand.Reader, TTL: time.Hour, LookEvery: 50 * time.Millisecond,
		Holder: fmt.Sprintf("process %d", os.Getpid()),
	}
}

// join joins the ledger in dir.
func join(ctx context.Context, dir string) (*synchronization.Session, func() error, error) {
	b, err := local.Open(ctx, filepath.Join(dir, "ledger"), local.Options{Now: time.Now, Rand: rand.Reader})
	if err != nil {
		return nil, nil, err
	}
	l, err := synchronization.Open(ctx, b, "processes", processOptions())
	if err != nil {
		return nil, nil, errors.Join(err, b.Close())
	}
	s, err := l.Join(ctx)
	if err != nil {
		l.Close()
		return nil, nil, errors.Join(err, b.Close())
	}
	return s, func() error {
		err := s.Close(ctx)
		l.Close()
		return errors.Join(err, b.Close())
	}, nil
}

// beRunner publishes all stages, or holds the first until its input ends.
func beRunner(ctx context.Context, dir string) (err error) {
	count, err := strconv.Atoi(os.Getenv(runnerStages))
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	s, leave, err := join(ctx, dir)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, leave()) }()
	if os.Getenv(runnerHolds) != "" {
		return holdOne(ctx, s)
	}
	fmt.Println("ready")
	for i := range count {
		if err := publish(ctx, s, dir, stages.DigestOf([]byte{byte(i)})); err != nil {
			return err
		}
	}
	return nil
}

func holdOne(ctx context.Context, s *synchronization.Session) error {
	got, err := s.TryAcquire(ctx, []stages.Digest{stages.DigestOf(nil)})
	if err != nil || len(got.Claims) != 1 {
		return fmt.Errorf("got %v, %w", got.Held, err)
	}
	fmt.Println("ready")
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

// publish brings a stage to its end: its tag is a file that is made once.
func publish(ctx context.Context, s *synchronization.Session, dir string, d stages.Digest) error {
	for {
		got, err := s.TryAcquire(ctx, []stages.Digest{d})
		if err != nil {
			return err
		}
		c := got.Claims[d]
		switch {
		case c == nil && got.Held[d].Entry.State == synchronization.Published:
			return nil
		case c == nil:
			err = s.Wait(ctx, []stages.Digest{d}, func(synchronization.Holder) {})
		case c.Entry().State == synchronization.Building:
			err = c.Decide(ctx, digest.FromString(fmt.Sprintf("%s of %s", d, s.ID())))
		default:
			err = tag(ctx, c, dir)
		}
		if err != nil {
			return err
		}
	}
}

// tag writes down each write of a tag.
func tag(ctx context.Context, c *synchronization.Claim, dir string) error {
	_, cancel, err := c.Guard(ctx)
	if err != nil {
		return err
	}
	defer cancel()
	f, err := os.OpenFile(filepath.Join(dir, c.Digest().Hex()), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	_, err = fmt.Fprintln(f, c.Entry().Manifest)
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	return c.Published(ctx)
}

// runner starts a runner and waits until it is ready.
func runner(t *testing.T, dir string, env ...string) (*exec.Cmd, io.Closer) {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), exe)
	cmd.Env = append(append(os.Environ(), runnerDir+"="+dir), env...)
	cmd.Stderr = os.Stderr
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
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the runner says %q, %v", line, err)
	}
	return cmd, in
}

func TestKilledProcessesLeaveOneManifestPerStage(t *testing.T) {
	const count = 12
	dir := t.TempDir()
	env := runnerStages + "=" + strconv.Itoa(count)
	for range 6 {
		cmd, _ := runner(t, dir, env)
		time.AfterFunc(15*time.Millisecond, func() { _ = cmd.Process.Kill() })
		_ = cmd.Wait() // killed somewhere on its way
	}
	var last []*exec.Cmd
	for range 3 {
		cmd, _ := runner(t, dir, env)
		last = append(last, cmd)
	}
	for _, cmd := range last {
		if err := cmd.Wait(); err != nil {
			t.Error(err)
		}
	}
	for i := range count {
		d := stages.DigestOf([]byte{byte(i)})
		raw, err := os.ReadFile(filepath.Join(dir, d.Hex()))
		if err != nil {
			t.Error(err)
			continue
		}
		lines := strings.Fields(string(raw))
		for _, m := range lines {
			if m != lines[0] {
				t.Errorf("stage %s was tagged %v", d.Short(), lines)
			}
		}
	}
}

func TestAKilledProcessIsDeadAtOnce(t *testing.T) {
	dir := t.TempDir()
	cmd, _ := runner(t, dir, runnerStages+"=1", runnerHolds+"=1")
	s, leave, err := join(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := leave(); err != nil {
			t.Error(err)
		}
	}()
	d := stages.DigestOf(nil)
	got, err := s.TryAcquire(t.Context(), []stages.Digest{d})
	if err != nil || got.Held[d].Name != fmt.Sprintf("process %d", cmd.Process.Pid) {
		t.Fatalf("got %+v, error %v, while the stage is held", got, err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	var killed time.Time
	err = s.Wait(ctx, []stages.Digest{d}, func(synchronization.Holder) {
		killed = time.Now()
		if err := cmd.Process.Kill(); err != nil {
			t.Error(err)
		}
	})
	if took := time.Since(killed); err != nil || took > 5*time.Second {
		t.Fatalf("learned of the death after %s, error %v", took, err)
	}
	_ = cmd.Wait()
	got, err = s.TryAcquire(t.Context(), []stages.Digest{d})
	if err != nil || got.Claims[d] == nil {
		t.Fatalf("got %+v, error %v, after the death", got, err)
	}
}
