package build_test

import (
	"archive/tar"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/assemble"
	"github.com/cairnbuild/cairn/stages/build"
	"github.com/cairnbuild/cairn/stages/config"
	"github.com/cairnbuild/cairn/stages/plan"
	"github.com/cairnbuild/cairn/stages/source"
	"github.com/cairnbuild/cairn/storage"
	"github.com/cairnbuild/cairn/storage/local"
	"github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/storage/observed"
	"github.com/cairnbuild/cairn/synchronization"
	ledgermem "github.com/cairnbuild/cairn/synchronization/mem"
)

const (
	platform = stages.Platform("linux/amd64")
	baseName = "registry.test/base:1"
)

// sourceTree is a git repository made once for all tests, which only read it.
type sourceTree struct {
	repo *source.Repository
	// before and after are two commits that differ in one file.
	before, after *source.Tree
}

func newSourceTree(t testing.TB) sourceTree {
	t.Helper()
	dir := t.TempDir()
	git := func(args ...string) {
		cmd := exec.Command("git", args...)
		cmd.Dir = dir
		cmd.Env = append(os.Environ(), "GIT_CONFIG_GLOBAL=/dev/null", "GIT_CONFIG_SYSTEM=/dev/null",
			"GIT_AUTHOR_NAME=a", "GIT_AUTHOR_EMAIL=a@example.org", "GIT_COMMITTER_NAME=a", "GIT_COMMITTER_EMAIL=a@example.org")
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("git %v: %v\n%s", args, err, out)
		}
	}
	write := func(name, content string) {
		must(t, os.MkdirAll(filepath.Dir(filepath.Join(dir, name)), 0o755))
		must(t, os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644))
	}
	git("init", "-q", "-b", "main")
	write("src/main.go", "package main\n")
	write("src/go.mod", "module example.org/shop\n")
	git("add", "-A")
	git("commit", "-q", "-m", "one")
	write("src/main.go", "package main // changed\n")
	git("commit", "-q", "-a", "-m", "two")
	repo, err := source.Open(t.Context(), dir)
	must(t, err)
	before, err := repo.Commit(t.Context(), "HEAD~1")
	must(t, err)
	after, err := repo.Commit(t.Context(), "HEAD")
	must(t, err)
	return sourceTree{repo, before, after}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// world is what several runs share: the storage, the ledger's store, the base.
type world struct {
	t      testing.TB
	mem    *mem.Storage
	log    *publications
	ledger synchronization.Backend
	base   *mem.Storage
	bases  fixedBase
}

func newWorld(t testing.TB) *world {
	t.Helper()
	return newWorldOn(t, mem.Options{})
}

func newWorldOn(t testing.TB, o mem.Options) *world {
	t.Helper()
	o.Address = "registry.test/shop"
	m := mem.New(o)
	w := &world{
		t: t, mem: m, log: &publications{Storage: m, shown: map[string][]digest.Digest{}},
		ledger: ledgermem.New(time.Now), base: mem.New(mem.Options{Address: "registry.test/base"}),
	}
	w.bases = fixedBase(pushBase(t, w.base).String())
	return w
}

// fixedBase is a registry in which every base is the same manifest.
type fixedBase string

func (b fixedBase) ResolveBase(context.Context, string, stages.Platform) (string, error) {
	return string(b), nil
}

// pushBase makes a base image of one layer.
func pushBase(t testing.TB, s *mem.Storage) digest.Digest {
	t.Helper()
	ctx := t.Context()
	layer := archive(t, "etc/passwd", "root:x:0:0::/root:/bin/sh\n")
	cfg, err := json.Marshal(ocispec.Image{
		Platform: ocispec.Platform{OS: "linux", Architecture: "amd64"},
		RootFS:   ocispec.RootFS{Type: "layers", DiffIDs: []digest.Digest{digest.FromBytes(layer)}},
	})
	must(t, err)
	put := func(mediaType string, b []byte) ocispec.Descriptor {
		d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
		must(t, s.PushBlob(ctx, d, content(b)))
		return d
	}
	m, err := storage.NewManifest(ocispec.MediaTypeImageManifest, ocispec.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest,
		Config: put(ocispec.MediaTypeImageConfig, cfg),
		Layers: []ocispec.Descriptor{put(ocispec.MediaTypeImageLayer, layer)},
	})
	must(t, err)
	must(t, s.PushManifest(ctx, m))
	return m.Descriptor.Digest
}

func content(b []byte) storage.Content {
	return storage.ContentFunc(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(b)), nil })
}

func archive(t testing.TB, name, content string) []byte {
	t.Helper()
	b, err := tarOf(name, content)
	must(t, err)
	return b
}

func tarOf(name, content string) ([]byte, error) {
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	err := w.WriteHeader(&tar.Header{Name: name, Mode: 0o644, Size: int64(len(content)), Typeflag: tar.TypeReg, ModTime: time.Unix(1, 0)})
	if err == nil {
		_, err = w.Write([]byte(content))
	}
	err = errors.Join(err, w.Close())
	return b.Bytes(), err
}

// publications records what every tag ever showed.
type publications struct {
	storage.Storage
	mu    sync.Mutex
	shown map[string][]digest.Digest
}

// Publish implements [storage.Publisher].
func (p *publications) Publish(ctx context.Context, tag string, m storage.Manifest) error {
	err := p.Storage.Publish(ctx, tag, m)
	if err == nil {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.shown[tag] = append(p.shown[tag], m.Descriptor.Digest)
	}
	return err
}

// moved returns the stage tags that showed more than one manifest.
func (p *publications) moved() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var out []string
	for tag, ds := range p.shown {
		for _, d := range ds {
			if d != ds[0] && len(tag) == 64 {
				out = append(out, fmt.Sprintf("%s showed %v", tag, ds))
				break
			}
		}
	}
	return out
}

// whole checks that all that a tag names is there.
func (w *world) whole() {
	w.t.Helper()
	for tag, err := range w.mem.Tags(w.t.Context()) {
		must(w.t, err)
		m, err := w.mem.Manifest(w.t.Context(), tag)
		must(w.t, err)
		manifests, blobs, err := m.References()
		must(w.t, err)
		for _, d := range manifests {
			if _, err := w.mem.Resolve(w.t.Context(), d.Digest.String()); err != nil {
				w.t.Errorf("tag %s: manifest %s: %v", tag, d.Digest, err)
			}
		}
		for _, d := range blobs {
			if ok, err := w.mem.HasBlob(w.t.Context(), d); err != nil || !ok {
				w.t.Errorf("tag %s: blob %s is missing (%v)", tag, d.Digest, err)
			}
		}
	}
}

// sound checks what must hold whatever happened.
func (w *world) sound() {
	w.t.Helper()
	w.whole()
	for _, m := range w.log.moved() {
		w.t.Error(m)
	}
}

// host is one machine with its cache and its engine.
type host struct {
	w       *world
	storage storage.Storage
	ledger  synchronization.Backend
	engine  *fakeEngine
	pad     build.Pad
	events  recorder

	totals observed.Totals
	opened struct{ pad, ledger, engine, base atomic.Int64 }
	adjust func(*build.Options)
}

func (w *world) host() *host {
	return &host{w: w, storage: w.log, ledger: w.ledger, engine: newFakeEngine(), pad: memPad{mem.New(mem.Options{})}}
}

// onDisk gives the host a real cache, which costs the tests' time.
func (h *host) onDisk() {
	h.w.t.Helper()
	pad, err := local.Open(h.w.t.Context(), h.w.t.TempDir())
	must(h.w.t, err)
	h.pad = pad
}

// memPad is a cache in memory.
type memPad struct{ *mem.Storage }

// WriteBlob implements [assemble.Scratchpad].
func (p memPad) WriteBlob(ctx context.Context, write func(io.Writer) error) (ocispec.Descriptor, error) {
	var b bytes.Buffer
	if err := write(&b); err != nil {
		return ocispec.Descriptor{}, err
	}
	d := ocispec.Descriptor{Digest: digest.FromBytes(b.Bytes()), Size: int64(b.Len())}
	return d, p.PushBlob(ctx, d, content(b.Bytes()))
}

type recorder struct {
	mu     sync.Mutex
	events []build.Event
	on     func(build.Event)
}

// Observe implements [build.Observer].
func (r *recorder) Observe(e build.Event) {
	r.mu.Lock()
	r.events = append(r.events, e)
	on := r.on
	r.mu.Unlock()
	if on != nil {
		on(e)
	}
}

func (r *recorder) phases(stage string) []build.Phase {
	r.mu.Lock()
	defer r.mu.Unlock()
	var out []build.Phase
	for _, e := range r.events {
		if e.Stage.Name() == stage && e.Phase != "" {
			out = append(out, e.Phase)
		}
	}
	return out
}

func (h *host) openLedger(ctx context.Context, project string) (*synchronization.Ledger, error) {
	return synchronization.Open(ctx, h.ledger, project, synchronization.Options{Now: time.Now, Rand: rand.Reader, Holder: "a host"})
}

// run builds a plan on the host.
func (h *host) run(ctx context.Context, p *stages.Plan, files build.Files) (*build.Report, error) {
	var ledgers []*synchronization.Ledger
	defer func() {
		for _, l := range ledgers {
			l.Close()
		}
	}()
	h.totals = observed.Totals{}
	began := time.Now()
	o := build.Options{
		Plan: p, Files: files, Storage: observed.New(h.storage, &h.totals),
		Pad: func(context.Context) (build.Pad, error) {
			h.opened.pad.Add(1)
			return h.pad, nil
		},
		Base: func(context.Context, string) (storage.Storage, error) {
			h.opened.base.Add(1)
			return h.w.base, nil
		},
		Ledger: func(ctx context.Context) (*synchronization.Ledger, error) {
			h.opened.ledger.Add(1)
			l, err := h.openLedger(ctx, p.Project)
			if err == nil {
				ledgers = append(ledgers, l)
			}
			return l, err
		},
		Engine: func(context.Context, stages.Platform) (build.Engine, error) {
			h.opened.engine.Add(1)
			return h.engine.next(), nil
		},
		Counts: func() build.Counts {
			c := h.totals.Sum()
			return build.Counts{RegistryRequests: c.Requests, BytesPulled: c.Pulled, BytesPushed: c.Pushed}
		},
		Now: time.Now, Began: began, Parallel: 2, Observer: &h.events,
	}
	if h.adjust != nil {
		h.adjust(&o)
	}
	return build.Run(ctx, o)
}

// planOf plans images of a project called shop.
func (w *world) planOf(files plan.Files, names []string, images ...config.Image) *stages.Plan {
	w.t.Helper()
	for i := range images {
		img := &images[i]
		if img.Platforms == nil {
			img.Platforms = []stages.Platform{platform}
		}
		if img.From == "" && img.FromImage == "" {
			img.From = baseName
		}
		if img.Interpreter == "" {
			img.Interpreter = "sh"
		}
	}
	p, err := plan.Make(w.t.Context(), plan.Input{
		Project: &config.Project{Name: "shop", Images: images}, Files: files, Bases: w.bases, Images: names,
	})
	must(w.t, err)
	return p
}

// commands is the shell of an image with a section for each kind.
func commands(kinds ...stages.Kind) map[stages.Kind]config.Section {
	out := map[stages.Kind]config.Section{}
	for _, k := range kinds {
		out[k] = config.Section{Commands: []string{"make " + string(k)}}
	}
	return out
}

// noSources are the files of a project without any.
type noSources struct{}

func (noSources) Identity(stages.Selection) (stages.Digest, int, error) {
	return stages.Digest{}, 0, nil
}

// results are the report's stages with their results, "image/stage=result".
func results(rep *build.Report) string {
	var out []string
	for _, img := range rep.Images {
		for _, s := range img.Stages {
			out = append(out, fmt.Sprintf("%s/%s=%s", img.Name, s.Name, s.Result))
		}
	}
	return strings.Join(out, " ")
}

// manifests are the manifests of all stages that the storage names.
func (w *world) manifests(p *stages.Plan) map[stages.Digest]digest.Digest {
	w.t.Helper()
	out := map[stages.Digest]digest.Digest{}
	for _, img := range p.Images {
		for _, s := range img.Stages {
			desc, err := w.mem.Resolve(w.t.Context(), storage.StageTag(s.Digest))
			if err != nil {
				w.t.Errorf("stage %s of %s: %v", s.Name(), img.Name, err)
			}
			out[s.Digest] = desc.Digest
		}
	}
	return out
}

// load returns the published image of a stage.
func (w *world) load(s *stages.Stage) *assemble.Image {
	w.t.Helper()
	m, err := w.mem.Manifest(w.t.Context(), storage.StageTag(s.Digest))
	must(w.t, err)
	img, err := assemble.Load(w.t.Context(), w.mem, m)
	must(w.t, err)
	return img
}

// keptManifest returns the manifest of a result that waits in a cache.
func keptManifest(t testing.TB, pad build.Pad, s *stages.Stage) storage.Manifest {
	t.Helper()
	artifact, err := pad.Manifest(t.Context(), "kept-"+s.Digest.Hex())
	must(t, err)
	v, err := artifact.Image()
	must(t, err)
	b, err := storage.ReadBlob(t.Context(), pad, v.Layers[0], storage.MaxManifest)
	must(t, err)
	d := v.Layers[0]
	d.MediaType = ocispec.MediaTypeImageManifest
	return storage.Manifest{Descriptor: d, Bytes: b}
}
