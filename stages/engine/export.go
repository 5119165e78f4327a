package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"

	contentapi "github.com/containerd/containerd/api/services/content/v1"
	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/plugins/services/content/contentserver"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/sirupsen/logrus"
	"google.golang.org/grpc"
)

// exportStore is the content store to which the engine exports one result as an
// image. It claims to have the layers below the result already, so that only new
// ones are sent, and hands those to take while they come: the last one, or all
// above a number that is known.
//
// The engine sends layers, config and manifest at the same time, the manifest
// last. Which layers are new is known from the config: layers made here
// are not compressed, so that their digest is their diff id. Requests to send a
// layer wait for the config. That cannot block the config: the engine asks for
// permission before it takes one of its slots for transfers.
type exportStore struct {
	refusingStore
	// take gets a new layer, the n-th of all from 0 on.
	take func(n int, raw io.Reader) error
	// below is how many layers are there already; -1 for all but the last one.
	below int

	configured chan struct{}
	writers    sync.WaitGroup
	mu         sync.Mutex
	closed     bool
	diffIDs    []digest.Digest
	taken      map[digest.Digest]Layer // Raw is set at the end
	err        error
}

func newExportStore(below int, take func(n int, raw io.Reader) error) *exportStore {
	return &exportStore{take: take, below: below, configured: make(chan struct{}), taken: map[digest.Digest]Layer{}}
}

// first is the index of the first new layer.
func (s *exportStore) first() int {
	if s.below < 0 {
		return len(s.diffIDs) - 1
	}
	return min(s.below, len(s.diffIDs))
}

// attachment offers the store to the engine by a session. The server behind it
// logs what goes wrong, which is reported here by other means: it gets a logger
// that says nothing.
type attachment struct{ store *exportStore }

// Register implements [session.Attachable].
func (a attachment) Register(s *grpc.Server) {
	contentapi.RegisterContentServer(s, quietServer{contentserver.New(a.store)})
}

type quietServer struct{ contentapi.ContentServer }

// Write implements [contentapi.ContentServer].
func (q quietServer) Write(s contentapi.Content_WriteServer) error {
	l := logrus.New()
	l.SetOutput(io.Discard)
	return q.ContentServer.Write(quietStream{s, log.WithLogger(s.Context(), logrus.NewEntry(l))})
}

type quietStream struct {
	contentapi.Content_WriteServer
	ctx context.Context
}

// Context implements [grpc.ServerStream].
func (q quietStream) Context() context.Context { return q.ctx }

// close waits for writers to end, after the session that they belong to has ended.
func (s *exportStore) close() {
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	s.writers.Wait()
}

// result returns the new layers in their order and the diff ids of those below.
func (s *exportStore) result() ([]Layer, []digest.Digest, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, nil, s.err
	}
	var layers []Layer
	for i := s.first(); i < len(s.diffIDs); i++ {
		l := s.taken[s.diffIDs[i]]
		if l.Raw == "" {
			return nil, nil, fmt.Errorf("the engine has not sent layer %d of %d", i+1, len(s.diffIDs))
		}
		layers = append(layers, l)
	}
	if s.diffIDs == nil {
		return nil, nil, errors.New("the engine has sent no config")
	}
	return layers, s.diffIDs[:s.first()], nil
}

// failure returns why the layer could not be taken, if so.
func (s *exportStore) failure() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Writer implements [content.Ingester].
func (s *exportStore) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	var o content.WriterOpts
	for _, opt := range opts {
		if err := opt(&o); err != nil {
			return nil, err
		}
	}
	// The reference is all that tells the kind of a blob; containerd documents its form.
	kind, _, _ := strings.Cut(o.Ref, "-")
	switch kind {
	case "config":
		return s.open(o, s.readConfig)
	case "manifest", "index":
		return s.open(o, discard)
	case "layer":
		return s.layerWriter(ctx, o)
	default:
		return nil, fmt.Errorf("blob %s of an unknown kind: %w", o.Ref, errdefs.ErrInvalidArgument)
	}
}

func discard(r io.Reader) error {
	_, err := io.Copy(io.Discard, r)
	return err
}

func (s *exportStore) readConfig(r io.Reader) error {
	var c ocispec.Image
	if err := json.NewDecoder(r).Decode(&c); err != nil {
		return fmt.Errorf("config of the result: %w", err)
	}
	if len(c.RootFS.DiffIDs) == 0 {
		return fmt.Errorf("the result has no layer: %w", errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.diffIDs == nil {
		s.diffIDs = c.RootFS.DiffIDs
		close(s.configured)
	}
	return nil
}

func (s *exportStore) layerWriter(ctx context.Context, o content.WriterOpts) (content.Writer, error) {
	select {
	case <-s.configured:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	n, err := s.claim(o.Desc)
	if err != nil {
		return nil, err
	}
	return s.open(o, func(r io.Reader) error { return s.takeLayer(n, o.Desc, r) })
}

// claim decides whether the layer is to be sent, and returns its index.
func (s *exportStore) claim(d ocispec.Descriptor) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := slices.Index(s.diffIDs[s.first():], d.Digest)
	if n < 0 {
		return 0, fmt.Errorf("layer %s: %w", d.Digest, errdefs.ErrAlreadyExists)
	}
	if _, again := s.taken[d.Digest]; again {
		return 0, fmt.Errorf("layer %s is sent twice: %w", d.Digest, errdefs.ErrFailedPrecondition)
	}
	s.taken[d.Digest] = Layer{}
	return s.first() + n, nil
}

// open begins a writer, unless nobody waits for it any more.
func (s *exportStore) open(o content.WriterOpts, consume func(io.Reader) error) (content.Writer, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return nil, fmt.Errorf("blob %s comes too late: %w", o.Ref, errdefs.ErrFailedPrecondition)
	}
	s.writers.Add(1)
	return newBlobWriter(o, func(r io.Reader) error {
		defer s.writers.Done()
		return consume(r)
	}), nil
}

func (s *exportStore) takeLayer(n int, d ocispec.Descriptor, r io.Reader) error {
	err := s.take(n, r)
	if err == nil {
		err = discard(r) // what follows the end of the archive belongs to the digest
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err != nil {
		s.err = err
		return err
	}
	s.taken[d.Digest] = Layer{Raw: d.Digest, Size: d.Size}
	return nil
}

// blobWriter turns writes into a stream that consume reads in a goroutine of its
// own. The stream has an end only when the whole blob has the expected digest.
type blobWriter struct {
	opts   content.WriterOpts
	pipe   *io.PipeWriter
	done   chan struct{}
	err    error // of consume; readable when done is closed
	hash   digest.Digester
	offset int64
}

func newBlobWriter(o content.WriterOpts, consume func(io.Reader) error) *blobWriter {
	r, pipe := io.Pipe()
	w := &blobWriter{opts: o, pipe: pipe, done: make(chan struct{}), hash: digest.Canonical.Digester()}
	go func() {
		defer close(w.done)
		w.err = consume(r)
		if w.err != nil {
			_ = r.CloseWithError(w.err) // always nil
			return
		}
		_ = r.Close() // always nil
	}()
	return w
}

// Write implements [io.Writer].
func (w *blobWriter) Write(p []byte) (int, error) {
	_, _ = w.hash.Hash().Write(p) // never fails
	n, err := w.pipe.Write(p)
	w.offset += int64(n)
	return n, err
}

// Commit implements [content.Writer].
func (w *blobWriter) Commit(_ context.Context, size int64, expected digest.Digest, _ ...content.Opt) error {
	var err error
	switch {
	case size > 0 && size != w.offset:
		err = fmt.Errorf("blob %s has %d bytes, %d came: %w", w.opts.Ref, size, w.offset, errdefs.ErrFailedPrecondition)
	case expected != "" && expected != w.Digest():
		err = fmt.Errorf("blob %s has the digest %s: %w", w.opts.Ref, w.Digest(), errdefs.ErrFailedPrecondition)
	}
	_ = w.pipe.CloseWithError(err) // always nil
	<-w.done
	if err != nil {
		return err
	}
	return w.err
}

// Close implements [io.Closer]. A blob that was not committed is cut off.
func (w *blobWriter) Close() error {
	_ = w.pipe.CloseWithError(io.ErrUnexpectedEOF) // always nil, and without effect after Commit
	<-w.done
	return nil
}

// Digest implements [content.Writer].
func (w *blobWriter) Digest() digest.Digest { return w.hash.Digest() }

// Status implements [content.Writer].
func (w *blobWriter) Status() (content.Status, error) {
	return content.Status{Ref: w.opts.Ref, Offset: w.offset, Total: w.opts.Desc.Size, Expected: w.opts.Desc.Digest}, nil
}

// Truncate implements [content.Writer]: what was handed on cannot be taken back.
func (w *blobWriter) Truncate(size int64) error {
	if size == w.offset {
		return nil
	}
	return fmt.Errorf("blob %s cannot be sent again: %w", w.opts.Ref, errdefs.ErrNotImplemented)
}
