package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/hack/testbed"
	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/registry"
)

// carried are the stages of the test of killed syncs: each has a shared layer and
// one of its own, large enough that a kill meets blobs on their way.
const (
	carried     = 10
	carriedSize = 400 << 10
)

func TestAKilledSyncGoesOnAndSendsNothingTwice(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir := filepath.Join(t.TempDir(), "layout")
	blobs := carriedStages(t, dir)
	began := time.Now()
	if out, err := syncCommand(t, dir, r.Address()+"/whole").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	took := time.Since(began)
	killed := 0
	for round := range 20 {
		target := fmt.Sprintf("%s/killed-%d", r.Address(), round)
		if err := r.ResetLog(t.Context()); err != nil {
			t.Fatal(err)
		}
		cmd := syncCommand(t, dir, target)
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		kill := time.AfterFunc(time.Duration(rand.Int64N(int64(took))), func() { _ = cmd.Process.Kill() }) // it may have ended
		if cmd.Wait() != nil {
			killed++
		}
		kill.Stop()
		settled(t, r)
		if out, err := syncCommand(t, dir, target).CombinedOutput(); err != nil {
			t.Fatalf("round %d: %v\n%s", round, err, out)
		}
		wholeCopy(t, target, carried)
		if n := arrivedBlobs(t, r); n != blobs {
			t.Errorf("round %d: %d blobs were sent whole, and there are %d", round, n, blobs)
		}
	}
	if killed < 5 {
		t.Errorf("only %d of 20 syncs were under way when they were to be killed", killed)
	}
}

func TestAReadOnlyLayoutIsASource(t *testing.T) {
	t.Parallel()
	r := newRegistry(t)
	dir := filepath.Join(t.TempDir(), "layout")
	carriedStages(t, dir)
	mount := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	mount("mount", "--bind", dir, dir)
	t.Cleanup(func() {
		if out, err := exec.CommandContext(context.WithoutCancel(t.Context()), "umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	mount("mount", "-o", "remount,bind,ro", dir)
	if out, err := syncCommand(t, dir, r.Address()+"/carried").CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	wholeCopy(t, r.Address()+"/carried", carried)
}

// syncCommand runs a sync on a machine without any state.
func syncCommand(t *testing.T, dir, target string) *exec.Cmd {
	t.Helper()
	home := t.TempDir()
	cmd := exec.CommandContext(t.Context(), filepath.Join(shared.bin, "cairn"),
		"stages", "sync", "--from", "oci:"+dir, "--to", target, "--dir", home, "--cache-dir", filepath.Join(home, "cache"))
	cmd.Env = []string{"HOME=" + home, "PATH=/usr/bin:/bin"}
	return cmd
}

// settled waits until the registry has dealt with what a killed client had sent.
func settled(t *testing.T, r *testbed.Registry) {
	t.Helper()
	last := -1
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	for ticks := time.NewTicker(200 * time.Millisecond); ; {
		select {
		case <-ctx.Done():
			t.Fatal("the registry does not come to rest")
		case <-ticks.C:
		}
		n := r.Answered()
		if n == last {
			ticks.Stop()
			return
		}
		last = n
	}
}

// arrivedBlobs counts the uploads that the registry has accepted since its log was reset.
func arrivedBlobs(t *testing.T, r *testbed.Registry) int {
	t.Helper()
	log, err := r.AccessLog(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	n := 0
	for _, q := range log {
		if q.Method == "PUT" && strings.Contains(q.Path, "/blobs/uploads/") && q.Status == 201 {
			n++
		}
	}
	return n
}

// carriedStages makes a layout with stages and returns how many blobs a copy of it has.
func carriedStages(t *testing.T, dir string) int {
	t.Helper()
	s, err := local.Open(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	push := func(mediaType string, size int, key string) ocispec.Descriptor {
		b := make([]byte, size)
		rand.NewChaCha8(sha256.Sum256([]byte(key))).Read(b) // never fails
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(size)}
		err := s.PushBlob(t.Context(), d, storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil }))
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	base := push(ocispec.MediaTypeImageLayer, 4*carriedSize, "base")
	for i := range carried {
		key := fmt.Sprint(i)
		m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
			Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
			Config: push(ocispec.MediaTypeImageConfig, 100, "config "+key),
			Layers: []ocispec.Descriptor{base, push(ocispec.MediaTypeImageLayer, carriedSize, "own "+key)},
		})
		if err == nil {
			err = s.Publish(t.Context(), storage.StageTag(stages.DigestOf([]byte(key))), m)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := storage.WriteMarker(t.Context(), s, storage.Marker{Project: "carried"}); err != nil {
		t.Fatal(err)
	}
	return 1 + 2*carried + 1 // the marker has one of its own
}

// wholeCopy reads everything of a repository, verified.
func wholeCopy(t *testing.T, address string, want int) {
	t.Helper()
	client, err := registry.NewClient(registry.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	s, err := client.Open(address)
	if err != nil {
		t.Fatal(err)
	}
	found := 0
	for tag, err := range s.Tags(t.Context()) {
		if err != nil {
			t.Fatal(err)
		}
		m, err := s.Manifest(t.Context(), tag)
		if err != nil {
			t.Fatal(err)
		}
		if _, blobs, err := m.References(); err != nil || !readable(t, s, blobs) {
			t.Errorf("%s: not whole (%v)", tag, err)
		}
		if storage.IsStageTag(tag) {
			found++
		}
	}
	if found != want {
		t.Errorf("%s has %d stages, want %d", address, found, want)
	}
}

func readable(t *testing.T, s storage.Fetcher, blobs []ocispec.Descriptor) bool {
	t.Helper()
	for _, d := range blobs {
		r, err := s.Blob(t.Context(), d)
		if err == nil {
			_, err = io.Copy(io.Discard, r)
			err = errors.Join(err, r.Close())
		}
		if err != nil {
			t.Log(err)
			return false
		}
	}
	return true
}
