package switchover_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/storage"
	storagemem "github.com/cairnbuild/cairn/storage/mem"
	"github.com/cairnbuild/cairn/synchronization"
	"github.com/cairnbuild/cairn/synchronization/mem"
	"github.com/cairnbuild/cairn/synchronization/switchover"
)

// world is a project's old place and its new one.
type world struct {
	t        *testing.T
	old, new *place
}

// place is a storage with its ledger, as all processes reach them.
type place struct {
	name    string
	storage storage.Storage
	backend *mem.Backend
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return &world{t: t, old: newPlace("old"), new: newPlace("new")}
}

func newPlace(name string) *place {
	return &place{name: name, storage: storagemem.New(storagemem.Options{Address: name}), backend: mem.New(time.Now)}
}

// ledger opens a place's ledger as another process does.
func (w *world) ledger(p *place) *synchronization.Ledger {
	w.t.Helper()
	l, err := synchronization.Open(w.t.Context(), p.backend, "shop", synchronization.Options{
		Now: time.Now, Rand: rand.Reader, Holder: "a runner", TTL: 10 * time.Second,
	})
	w.must(err)
	w.t.Cleanup(l.Close)
	return l
}

func (w *world) side(p *place) switchover.Side {
	w.t.Helper()
	l := w.ledger(p)
	uid, err := l.UID(w.t.Context())
	w.must(err)
	return switchover.Side{
		Place:   synchronization.Place{Storage: p.name, Ledger: "ledger-of-" + p.name, UID: p.name + uid},
		Storage: p.storage, Ledger: l, Binding: p.storage.Address(),
	}
}

// options are those of a switch from one place to another.
func (w *world) options(from, to *place) switchover.Options {
	w.t.Helper()
	return switchover.Options{
		From: w.side(from), To: w.side(to), Copier: switchover.NewCopier(from.storage, to.storage, nil),
		Check: nothing, Mark: nothing, By: "an operator", Patience: time.Minute, Drain: time.Minute, Grace: time.Hour, Now: time.Now,
	}
}

func nothing(context.Context) error { return nil }

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) wantErr(err, want error) {
	w.t.Helper()
	if !errors.Is(err, want) {
		w.t.Fatalf("got error %v, want %v", err, want)
	}
}

// runner is a process that publishes at a place.
type runner struct {
	*synchronization.Session
	w *world
	p *place
}

func (w *world) runner(p *place) *runner {
	w.t.Helper()
	s, err := w.ledger(p).Join(w.t.Context())
	w.must(err)
	return &runner{s, w, p}
}

func (r *runner) close() {
	r.w.t.Helper()
	r.w.must(r.Close(r.w.t.Context()))
}

// decide brings a stage as far as its decision.
func (r *runner) decide(d stages.Digest, m storage.Manifest) (*synchronization.Claim, error) {
	ctx := r.w.t.Context()
	got, err := r.TryAcquire(ctx, []stages.Digest{d})
	if err != nil {
		return nil, err
	}
	c := got.Claims[d]
	if c == nil {
		return nil, fmt.Errorf("stage %s is held: %+v", d.Short(), got.Held[d])
	}
	r.w.must(r.p.storage.PushManifest(ctx, m))
	err = c.Decide(ctx, m.Descriptor.Digest)
	return c, err
}

// publish publishes a stage with content that says what.
func (r *runner) publish(d stages.Digest, what string) error {
	ctx := r.w.t.Context()
	m := r.w.image(r.p, what)
	c, err := r.decide(d, m)
	if err != nil {
		return err
	}
	r.w.must(r.p.storage.Publish(ctx, storage.StageTag(d), m))
	return c.Published(ctx)
}

// image pushes the parts of an image.
func (w *world) image(p *place, what string) storage.Manifest {
	w.t.Helper()
	layer, config := []byte("layer of "+what), []byte(`{"config":"`+what+`"}`)
	v := ocispec.Manifest{Versioned: specs.Versioned{SchemaVersion: 2}, MediaType: ocispec.MediaTypeImageManifest}
	v.Config = w.blob(p, ocispec.MediaTypeImageConfig, config)
	v.Layers = []ocispec.Descriptor{w.blob(p, ocispec.MediaTypeImageLayer, layer)}
	m, err := storage.NewManifest(v.MediaType, v)
	w.must(err)
	return m
}

func (w *world) blob(p *place, mediaType string, b []byte) ocispec.Descriptor {
	w.t.Helper()
	d := ocispec.Descriptor{MediaType: mediaType, Digest: digest.FromBytes(b), Size: int64(len(b))}
	w.must(p.storage.PushBlob(w.t.Context(), d, storage.ContentFunc(func() (io.ReadCloser, error) {
		return io.NopCloser(bytes.NewReader(b)), nil
	})))
	return d
}

// shows returns what a place's tag of a stage shows, "" for nothing.
func (w *world) shows(p *place, d stages.Digest) digest.Digest {
	w.t.Helper()
	found, err := p.storage.Resolve(w.t.Context(), storage.StageTag(d))
	if errors.Is(err, storage.ErrNotFound) {
		return ""
	}
	w.must(err)
	return found.Digest
}

func (w *world) stance(p *place) synchronization.Stance {
	w.t.Helper()
	s, err := w.ledger(p).Stance(w.t.Context())
	w.must(err)
	return s
}

func stage(n byte) stages.Digest { return stages.Digest{n, 1} }
