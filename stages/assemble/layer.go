package assemble

import (
	"bufio"
	"context"
	"fmt"
	"io"

	"github.com/opencontainers/go-digest"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
	"golang.org/x/sync/errgroup"

	"github.com/cairnbuild/cairn/stages"
	"github.com/cairnbuild/cairn/stages/source"
)

// writers is how many source layers are written at once.
const writers = 4

// Scratchpad stores content whose digest is not known before it is written.
// It is used concurrently.
type Scratchpad interface {
	// WriteBlob calls write once and keeps what it writes, unless it fails. It
	// returns the blob's digest and size.
	WriteBlob(ctx context.Context, write func(io.Writer) error) (ocispec.Descriptor, error)
}

// SourceLayers writes the layers that hold a stage's files, at most most of them
// and never more than the image below leaves room for. A stage without files has none.
// Its errors are those of [Place], of the tree and of the scratchpad, and
// [ErrTooManyLayers].
func SourceLayers(ctx context.Context, tree Tree, pad Scratchpad, stage *stages.Stage, below *Image, most int) ([]Layer, error) {
	dirs, placed, err := Place(ctx, tree, stage, below)
	if err != nil || len(placed) == 0 {
		return nil, err
	}
	most = min(most, MaxLayers-len(below.layers))
	if most < 1 {
		return nil, fmt.Errorf("%w: the image below has %d of at most %d", ErrTooManyLayers, len(below.layers), MaxLayers)
	}
	files := make([]source.File, len(placed))
	for i, p := range placed {
		files[i] = p.File
	}
	sizes, err := tree.Sizes(ctx, files)
	if err != nil {
		return nil, fmt.Errorf("sizes of source files: %w", err)
	}
	buckets := source.Split(placed, sizes, most)
	layers := make([]Layer, len(buckets))
	g, ctx := errgroup.WithContext(ctx)
	g.SetLimit(writers)
	for i, bucket := range buckets {
		g.Go(func() error {
			some := pick(placed, bucket)
			l, err := writeLayer(ctx, pad, func(w io.Writer) error {
				return tree.WriteLayer(ctx, w, dirsAbove(dirs, some), some)
			})
			layers[i] = l
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return nil, fmt.Errorf("write source layer: %w", err)
	}
	return layers, nil
}

func pick(placed []source.Placed, indexes []int) []source.Placed {
	out := make([]source.Placed, len(indexes))
	for i, j := range indexes {
		out[i] = placed[j]
	}
	return out
}

// dirsAbove returns those of dirs that lead to the files of one layer. Each
// layer has its own: where one is missing, some engines make it up with an
// owner and mode of their own, over the one of the layer below.
func dirsAbove(dirs []source.Dir, placed []source.Placed) []source.Dir {
	above := make(map[string]bool)
	for _, p := range placed {
		for d := parentOf(p.Path); d != "" && !above[d]; d = parentOf(d) {
			above[d] = true
		}
	}
	var out []source.Dir
	for _, d := range dirs {
		if above[d.Path] {
			out = append(out, d)
		}
	}
	return out
}

// CommandLayer writes the layer that commands made, given as the uncompressed
// archive of an engine, in the form of [Normalize]. It returns nil when the
// commands changed nothing.
func CommandLayer(ctx context.Context, pad Scratchpad, raw io.Reader) (*Layer, error) {
	n := newNormalizer(contextReader{ctx, raw})
	if err := n.next(); err != nil {
		return nil, fmt.Errorf("read command layer: %w", err)
	}
	if n.pending == nil {
		return nil, nil
	}
	l, err := writeLayer(ctx, pad, n.writeTo)
	if err != nil {
		return nil, fmt.Errorf("write command layer: %w", err)
	}
	return &l, nil
}

// writeLayer stores the layer that write writes uncompressed.
func writeLayer(ctx context.Context, pad Scratchpad, write func(io.Writer) error) (Layer, error) {
	var l Layer
	d, err := pad.WriteBlob(ctx, func(w io.Writer) (err error) {
		l, err = pack(w, write)
		return err
	})
	if err != nil {
		return Layer{}, err
	}
	d.MediaType = ocispec.MediaTypeImageLayerGzip
	l.Descriptor = bare(d)
	return l, nil
}

// pack compresses a layer and reads along what it changes, so that it need not
// be read again.
func pack(to io.Writer, write func(io.Writer) error) (Layer, error) {
	z := source.Compress(to)
	diff := digest.Canonical.Digester()
	pr, pw := io.Pipe()
	var l Layer
	var g errgroup.Group
	g.Go(func() (err error) {
		l.changes, err = scan(pr)
		pr.CloseWithError(err)
		return err
	})
	w := bufio.NewWriterSize(io.MultiWriter(z, diff.Hash(), pw), 1<<16)
	err := write(w)
	if err == nil {
		err = w.Flush()
	}
	pw.CloseWithError(err)
	if scanErr := g.Wait(); err == nil {
		err = scanErr
	}
	// Closed in any case: a compressor may have goroutines.
	if closeErr := z.Close(); err == nil {
		err = closeErr
	}
	l.DiffID = diff.Digest()
	return l, err
}
