package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/hack/runner"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/registry"
)

const (
	syncImages = 30
	syncBuilds = 100
	// craneSample is how many stages crane copies: one takes as long as another, and
	// all would take many times longer than all other measurements together.
	craneSample = 100
	// syncLayers of syncLayer bytes are the large sync.
	syncLayers = 8
	syncLayer  = 96 << 20
)

// syncStages copies 3,000 stages between two repositories of one registry, once
// more, and a few large layers from this host.
func syncStages(ctx context.Context, b *bench) ([]figure, error) {
	client, err := registry.NewClient(registry.Options{})
	if err != nil {
		return nil, err
	}
	defer client.Close()
	f := &fleet{images: syncImages, builds: syncBuilds, project: "fleet"}
	from, err := client.Open(b.registry.Address() + "/fleet/from")
	if err != nil {
		return nil, err
	}
	b.say("publish %d stages", syncImages*syncBuilds)
	if err := f.publish(ctx, from); err != nil {
		return nil, err
	}
	many, err := b.syncMany(ctx, f)
	if err != nil {
		return nil, err
	}
	large, err := b.syncLarge(ctx)
	return append(many, large...), err
}

// syncMinimum is how many requests no copy can do without, see docs/sync.md: both
// listings, both markers read and one put (with its blob, 3 requests), each manifest
// read and put, each blob mounted.
func (f *fleet) syncMinimum() int64 { return int64(2 + 2 + 3 + 2*f.manifests + f.blobs) }

func (b *bench) syncMany(ctx context.Context, f *fleet) ([]figure, error) {
	at := b.registry.Address() + "/fleet/"
	m := runner.Machine{Home: b.path("home"), Bin: filepath.Join(b.top, "bin")}
	if err := m.Make(); err != nil {
		return nil, err
	}
	var ours, again, theirs []time.Duration
	var requests, idle int64
	for i := range b.rounds {
		to := fmt.Sprintf("%sto-%d", at, i)
		took, n, err := b.sync(ctx, m, at+"from", to)
		if err != nil {
			return nil, err
		}
		ours, requests = append(ours, took), max(requests, n)
		if took, n, err = b.sync(ctx, m, at+"from", to); err != nil {
			return nil, err
		}
		again, idle = append(again, took), max(idle, n)
		crane, err := b.crane(ctx, f, at+"from", fmt.Sprintf("%scrane-%d", at, i))
		if err != nil {
			return nil, err
		}
		theirs = append(theirs, crane)
		b.say("round %d: cairn %.1f s, again %.2f s, crane %.0f s", i+1, ours[i].Seconds(), again[i].Seconds(), crane.Seconds())
	}
	ratio := median(theirs).Seconds() / median(ours).Seconds()
	least := f.syncMinimum()
	return []figure{
		exactly("stages and indexes", f.manifests, syncImages*syncBuilds+syncBuilds),
		seconds("cairn stages sync, one registry", median(ours), 0),
		seconds(fmt.Sprintf("crane copy, tag by tag (%d measured, times %d)", craneSample, f.manifests/craneSample), median(theirs), 0),
		{what: "faster than crane", got: fmt.Sprintf("%.1f ×", ratio), target: "≥ 5 ×", missed: ratio < 5},
		count(fmt.Sprintf("registry requests; the minimum is %d", least), requests, least*13/10),
		seconds("a second sync, nothing to do", median(again), 2*time.Second),
		count("registry requests of it", idle, 6),
	}, nil
}

// sync runs a sync and returns its time and the registry's count of its requests.
func (b *bench) sync(ctx context.Context, m runner.Machine, from, to string) (time.Duration, int64, error) {
	if err := b.registry.ResetLog(ctx); err != nil {
		return 0, 0, err
	}
	out, measure, err := m.Cairn(ctx, b.work, io.Discard, "stages", "sync", "--from", from, "--to", to, "--output", "json")
	if err != nil {
		return 0, 0, fmt.Errorf("%w: %s", err, out)
	}
	var report struct{ Skipped []json.RawMessage }
	if err := json.Unmarshal(out, &report); err != nil || len(report.Skipped) > 0 {
		return 0, 0, errors.Join(err, fmt.Errorf("%d names were skipped", len(report.Skipped)))
	}
	log, err := b.registry.AccessLog(ctx)
	var n int64
	for _, q := range log {
		if q.Path != "/v2/" {
			n++
		}
	}
	return measure.Wall, n, err
}

// crane copies a sample of the stages tag by tag and returns how long all take at that rate.
func (b *bench) crane(ctx context.Context, f *fleet, from, to string) (time.Duration, error) {
	program := filepath.Join(b.top, ".cache", "tools", "bin", "crane")
	began := time.Now()
	for i := range craneSample {
		tag := storage.StageTag(f.stage(i%f.images, i/f.images))
		if out, err := exec.CommandContext(ctx, program, "copy", "--insecure", from+":"+tag, to+":"+tag).CombinedOutput(); err != nil {
			return 0, fmt.Errorf("crane copy (hack/tools/install crane builds it): %w: %s", err, out)
		}
	}
	return time.Since(began) * time.Duration(f.manifests) / craneSample, nil
}

// syncLarge copies large layers from a layout, beside plain uploads of the same files.
func (b *bench) syncLarge(ctx context.Context) ([]figure, error) {
	dir := b.path("layout")
	s, err := local.Open(ctx, dir)
	if err != nil {
		return nil, err
	}
	layers, err := largeStage(ctx, s)
	if err != nil {
		return nil, err
	}
	m := runner.Machine{Home: b.path("home"), Bin: filepath.Join(b.top, "bin")}
	if err := m.Make(); err != nil {
		return nil, err
	}
	var ours, theirs []time.Duration
	for i := range b.rounds {
		sides := []func() error{
			func() error {
				took, err := b.uploadAll(ctx, s, layers, fmt.Sprintf("large/plain-%d", i))
				theirs = append(theirs, took)
				return err
			},
			func() error {
				took, _, err := b.sync(ctx, m, "oci:"+dir, fmt.Sprintf("%s/large/to-%d", b.registry.Address(), i))
				ours = append(ours, took)
				return err
			},
		}
		if i%2 == 1 { // neither is always the one that finds what the other left to be written
			slices.Reverse(sides)
		}
		for _, side := range sides {
			if err := errors.Join(flush(ctx), side()); err != nil {
				return nil, err
			}
		}
		b.say("round %d: %d MiB in %.2f s, plain uploads %.2f s", i+1, syncLayers*syncLayer>>20, ours[i].Seconds(), theirs[i].Seconds())
	}
	share := 100 * median(theirs).Seconds() / median(ours).Seconds()
	return []figure{
		seconds(fmt.Sprintf("cairn stages sync of %d layers of %d MiB from this host", syncLayers, syncLayer>>20), median(ours), 0),
		seconds("plain parallel uploads of the same files", median(theirs), 0),
		{what: "throughput beside that", got: fmt.Sprintf("%.0f %%", share), target: "≥ 70 %", missed: share < 70},
	}, nil
}

// flush waits until everything is on disk that was written before.
func flush(ctx context.Context) error { return exec.CommandContext(ctx, "sync").Run() }

// largeStage publishes a stage of large layers.
func largeStage(ctx context.Context, s *local.Storage) ([]ocispec.Descriptor, error) {
	f := &fleet{project: "large"}
	v := ocispec.Manifest{MediaType: ocispec.MediaTypeImageManifest}
	v.SchemaVersion = 2
	var err error
	if v.Config, err = f.blob(ctx, s, ocispec.MediaTypeImageConfig, 1<<10, "config"); err != nil {
		return nil, err
	}
	for i := range syncLayers {
		d, err := f.blob(ctx, s, ocispec.MediaTypeImageLayer, syncLayer, "layer", i)
		if err != nil {
			return nil, err
		}
		v.Layers = append(v.Layers, d)
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, v)
	if err != nil {
		return nil, err
	}
	if err := s.Publish(ctx, storage.StageTag(f.stage(0, 0)), m); err != nil {
		return nil, err
	}
	return v.Layers, storage.WriteMarker(ctx, s, storage.Marker{Project: "large"})
}

// uploadAll sends files as a program would that does nothing else: all at once, by a
// POST and a PUT each, nothing verified on this side.
func (b *bench) uploadAll(ctx context.Context, s *local.Storage, layers []ocispec.Descriptor, repository string) (time.Duration, error) {
	began := time.Now()
	g, ctx := errgroup.WithContext(ctx)
	for _, d := range layers {
		g.Go(func() error { return b.upload(ctx, s.Path(d.Digest), d.Digest, d.Size, repository) })
	}
	err := g.Wait()
	return time.Since(began), err
}

func (b *bench) upload(ctx context.Context, path string, d digest.Digest, size int64, repository string) error {
	client := b.registry.Client()
	post, err := http.NewRequestWithContext(ctx, http.MethodPost, b.registry.URL()+"/v2/"+repository+"/blobs/uploads/", nil)
	if err != nil {
		return err
	}
	resp, err := client.Do(post)
	if err != nil {
		return err
	}
	resp.Body.Close() // only its header matters
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close() // it was only read
	location := resp.Header.Get("Location")
	separator := "?"
	if strings.Contains(location, "?") {
		separator = "&"
	}
	put, err := http.NewRequestWithContext(ctx, http.MethodPut, location+separator+"digest="+d.String(), f)
	if err != nil {
		return err
	}
	put.ContentLength = size
	if resp, err = client.Do(put); err != nil {
		return err
	}
	resp.Body.Close() // only its status matters
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("upload of %s: %s", d, resp.Status)
	}
	return nil
}
