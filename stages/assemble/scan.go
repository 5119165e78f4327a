package assemble

import (
	"archive/tar"
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/storage"
)

// scanners is how many layers are read at once: enough to hide the latency of
// a registry, few enough to leave the machine to the build.
const scanners = 4

// zstdWindow bounds the memory that reading a zstd layer takes, in bytes.
const zstdWindow = 128 << 20

// scanLayers reads the layers of an image once, several at a time, and returns
// its tables. The memory it takes grows with the number of names, not with the
// size of the layers. Layers whose content is not what diffs says are corrupt.
func scanLayers(ctx context.Context, f storage.Fetcher, layers []ocispec.Descriptor, diffs []digest.Digest) (*Tables, error) {
	found := make([]*changes, len(layers))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(scanners)
	for i, l := range layers {
		g.Go(func() error {
			c, err := scanLayer(ctx, f, l, diffs[i])
			if err != nil {
				return fmt.Errorf("read layer %s: %w", l.Digest, err)
			}
			found[i] = c
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return nil, err
	}
	t := emptyTables()
	for _, c := range found {
		t = t.apply(c)
	}
	return t, nil
}

func scanLayer(ctx context.Context, f storage.Fetcher, l ocispec.Descriptor, diff digest.Digest) (*changes, error) {
	blob, err := f.Blob(ctx, l)
	if err != nil {
		return nil, err
	}
	defer blob.Close()
	in := bufio.NewReaderSize(contextReader{ctx, blob}, 1<<16)
	raw, err := decompress(in)
	if err != nil {
		return nil, err
	}
	defer raw.Close()
	v := diff.Verifier()
	c, err := scan(io.TeeReader(raw, v))
	if err != nil {
		return nil, err
	}
	// The storage compares the digest when the end has been read.
	if _, err := io.Copy(io.Discard, in); err != nil {
		return nil, err
	}
	if !v.Verified() {
		return nil, fmt.Errorf("%w: it does not unpack to %s", storage.ErrCorrupt, diff)
	}
	return c, nil
}

// contextReader ends a long read when its context does.
type contextReader struct {
	ctx context.Context
	r   io.Reader
}

func (r contextReader) Read(p []byte) (int, error) {
	if err := context.Cause(r.ctx); err != nil {
		return 0, err
	}
	return r.r.Read(p)
}

// decompress goes by the content and not by the media type, as engines do:
// there are images that confuse the two.
func decompress(in *bufio.Reader) (io.ReadCloser, error) {
	magic, err := in.Peek(4)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	switch {
	case bytes.HasPrefix(magic, []byte{0x1f, 0x8b}):
		return gzip.NewReader(in)
	case bytes.Equal(magic, []byte{0x28, 0xb5, 0x2f, 0xfd}):
		d, err := zstd.NewReader(in, zstd.WithDecoderConcurrency(1), zstd.WithDecoderMaxWindow(zstdWindow))
		if err != nil {
			return nil, err
		}
		return d.IOReadCloser(), nil
	default:
		return io.NopCloser(in), nil
	}
}

// scan reads an uncompressed layer to its end and returns what it changes.
func scan(r io.Reader) (*changes, error) {
	c := newChanges()
	tr := tar.NewReader(r)
	for {
		h, err := tr.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, tarError(err)
		}
		if err := c.entry(h, tr); err != nil {
			return nil, err
		}
	}
	_, err := io.Copy(io.Discard, r)
	return c, err
}

// tarError tells a damaged archive from a failing source.
func tarError(err error) error {
	if errors.Is(err, tar.ErrHeader) || errors.Is(err, tar.ErrFieldTooLong) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: %w", ErrLayer, err)
	}
	return err
}

func (c *changes) entry(h *tar.Header, content io.Reader) error {
	if h.Typeflag == tar.TypeXGlobalHeader {
		return nil
	}
	p, err := contain(h.Name)
	if err != nil || p == "" {
		return err
	}
	if isWhiteout(p) {
		return c.remove(p)
	}
	switch h.Typeflag {
	case tar.TypeDir:
		return c.put(p, newDir())
	case tar.TypeSymlink:
		if len(h.Linkname) > maxPath {
			return fmt.Errorf("%w: a link target of %d bytes", ErrLayer, len(h.Linkname))
		}
		return c.put(p, &node{kind: kindLink, target: strings.Clone(h.Linkname)})
	case tar.TypeLink:
		return c.hardlink(p, h.Linkname)
	}
	return c.file(p, h, content)
}

// hardlink records another name of an earlier entry, which may be a symbolic link.
func (c *changes) hardlink(p, to string) error {
	to, err := contain(to)
	if err != nil {
		return err
	}
	c.forget(p)
	if n := c.root.find(to); n != nil && n.kind == kindLink {
		return c.put(p, n)
	}
	return c.put(p, c.files)
}

func (c *changes) file(p string, h *tar.Header, content io.Reader) (err error) {
	c.forget(p)
	if h.Typeflag == tar.TypeReg {
		switch p {
		case passwdPath:
			c.users, err = readAccounts(content, h.Size)
		case groupPath:
			c.groups, err = readAccounts(content, h.Size)
		}
	}
	if err != nil {
		return tarError(err)
	}
	return c.put(p, c.files)
}

// forget drops what an earlier entry of the same path said.
func (c *changes) forget(p string) {
	switch p {
	case passwdPath:
		c.users = nil
	case groupPath:
		c.groups = nil
	}
}
