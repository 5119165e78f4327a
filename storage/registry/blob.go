package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/cairnbuild/cairn/storage"
)

// readBounded reads the body of an answer that must not be larger than limit bytes.
func readBounded(resp *http.Response, limit int64) ([]byte, error) {
	if resp.ContentLength > limit {
		return nil, tooLarge(limit)
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, limit+1))
	if err == nil && int64(len(body)) > limit {
		err = tooLarge(limit)
	}
	return body, err
}

func tooLarge(limit int64) error {
	return &fault{storage.ErrTooLarge, fmt.Sprintf("the answer has more than %d bytes", limit)}
}

// Blob implements [storage.Fetcher] with one GET, and one more each time that the
// connection breaks. ctx must live until the reader is closed.
func (s *Storage) Blob(ctx context.Context, d ocispec.Descriptor) (io.ReadCloser, error) {
	c := s.call("fetch blob", d.Digest.String(), http.MethodGet, "blobs/"+d.Digest.String(), actionPull)
	c.stream = true
	if err := d.Digest.Validate(); err != nil {
		return nil, c.fail(ctx, invalid("digest %q: %v", tidy(d.Digest.String()), err))
	}
	resp, err := s.host.do(ctx, c)
	if err != nil {
		return nil, err
	}
	b := &blob{ctx: ctx, host: s.host, call: c, size: d.Size, body: resp.Body, patience: s.host.patience()}
	return &named{ctx: ctx, op: c.operation, ReadCloser: storage.VerifyReader(b, d)}, nil
}

// named gives the errors of a reader their class.
type named struct {
	ctx context.Context // of the whole operation, which ends with Close
	op  operation
	io.ReadCloser
}

// Verifies implements [storage.Verifying].
func (n *named) Verifies(d ocispec.Descriptor) bool { return storage.Verifies(n.ReadCloser, d) }

func (n *named) Read(p []byte) (int, error) {
	c, err := n.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = n.op.fail(n.ctx, err)
	}
	return c, err
}

// blob reads a blob and goes on where a connection broke.
type blob struct {
	ctx  context.Context // of the whole operation, which ends with Close
	host *host
	call call
	size int64
	// body is nil after a failure.
	body io.ReadCloser
	pos  int64
	// patience begins anew after each progressStep bytes.
	patience *patience
	mark     int64
}

// progressStep is how many bytes must come for a further failure to count as the first.
const progressStep = 1 << 20

func (b *blob) Read(p []byte) (int, error) {
	for {
		err := b.resume()
		if err == nil {
			var n int
			n, err = b.body.Read(p)
			b.pos += int64(n)
			if err == nil || n > 0 {
				return n, nil
			}
			if b.pos >= b.size {
				return 0, io.EOF
			}
			b.interrupted()
		}
		if errors.Is(err, io.EOF) {
			err = io.ErrUnexpectedEOF
		}
		if errors.As(err, new(*storage.Error)) || !b.patience.again(b.ctx, b.call.operation, err) {
			return 0, err
		}
	}
}

func (b *blob) interrupted() {
	b.shut()
	if b.pos >= b.mark+progressStep {
		b.patience, b.mark = b.host.patience(), b.pos
	}
}

// resume makes sure that there is a body that goes on at pos.
func (b *blob) resume() error {
	if b.body != nil {
		return nil
	}
	c := b.call
	// The slot was given back when reading began; whoever reads may by now hold
	// another one, so that waiting here could be for ever.
	c.unlimited = true
	c.accept = []int{http.StatusRequestedRangeNotSatisfiable}
	if b.pos > 0 {
		c.header = withHeader("Range", fmt.Sprintf("bytes=%d-", b.pos))
	}
	resp, err := b.host.do(b.ctx, c)
	if err != nil {
		return err
	}
	if err := b.seek(resp); err != nil {
		discard(resp)
		return err
	}
	b.body = resp.Body
	return nil
}

// seek brings the body of resp to pos.
func (b *blob) seek(resp *http.Response) error {
	switch resp.StatusCode {
	case http.StatusRequestedRangeNotSatisfiable:
		return corrupt("the registry's blob ends before byte %d of %d", b.pos+1, b.size)
	case http.StatusPartialContent:
		if !strings.HasPrefix(resp.Header.Get("Content-Range"), fmt.Sprintf("bytes %d-", b.pos)) {
			return invalid("another range was sent than the one from byte %d", b.pos)
		}
		return nil
	default:
		// Ranges are optional for a registry: it has begun anew.
		_, err := io.CopyN(io.Discard, resp.Body, b.pos)
		return err
	}
}

func (b *blob) shut() {
	if b.body != nil {
		// The bytes are verified; an error of closing says nothing about them.
		_ = b.body.Close()
		b.body = nil
	}
}

// Close implements [io.Closer].
func (b *blob) Close() error {
	b.shut()
	return nil
}
