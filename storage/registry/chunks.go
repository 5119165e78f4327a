package registry

import (
	"context"
	"fmt"
	"io"
	"net/http"
)

// Sizes of the pieces of a chunked upload, in bytes. Proxies that limit a
// request's size allow 100 MB and more where they are meant for images at all.
const (
	chunkSize = 16 << 20
	maxChunk  = 1 << 30
)

// sendChunks sends the blob by PATCH requests and an empty PUT.
func (u *upload) sendChunks(ctx context.Context, attempt int) error {
	src := &chunkSource{open: u.open}
	defer src.close()
	step := max(u.s.host.chunk, u.minChunk)
	for from := int64(0); from < u.d.Size; from += step {
		n := min(step, u.d.Size-from)
		if err := u.sendChunk(ctx, src, from, n, attempt); err != nil {
			return err
		}
	}
	return u.done(u.s.host.try(ctx, u.call(http.MethodPut, u.closing()), attempt))
}

func (u *upload) sendChunk(ctx context.Context, src *chunkSource, from, n int64, attempt int) error {
	c := u.call(http.MethodPatch, u.session)
	c.header = http.Header{
		"Content-Type":  {"application/octet-stream"},
		"Content-Range": {fmt.Sprintf("%d-%d", from, from+n-1)},
	}
	c.body = payload{open: func() (io.ReadCloser, error) { return src.at(from, n) }, size: n}
	resp, err := u.s.host.try(ctx, c, attempt)
	if err != nil {
		return err
	}
	discard(resp)
	return u.moved(resp)
}

// chunkSource reads a content from beginning to end in chunks, and opens it anew
// only when one has to be sent again.
type chunkSource struct {
	open func() (io.ReadCloser, error)
	r    io.ReadCloser
	pos  int64
}

// at returns the n bytes from the offset on. Only the last reader returned may be used.
func (s *chunkSource) at(from, n int64) (io.ReadCloser, error) {
	if s.r == nil || s.pos != from {
		s.close()
		r, err := s.open()
		if err != nil {
			return nil, err
		}
		s.r, s.pos = r, 0
		if _, err := io.CopyN(io.Discard, r, from); err != nil {
			return nil, err
		}
		s.pos = from
	}
	return io.NopCloser(&chunk{s, n}), nil
}

func (s *chunkSource) close() {
	if s.r != nil {
		// What was read of it has been verified.
		_ = s.r.Close()
		s.r = nil
	}
}

type chunk struct {
	s    *chunkSource
	left int64
}

func (c *chunk) Read(p []byte) (int, error) {
	if c.left == 0 {
		return 0, io.EOF
	}
	n, err := c.s.r.Read(p[:min(int64(len(p)), c.left)])
	c.s.pos += int64(n)
	c.left -= int64(n)
	return n, err
}
