package daemon

import (
	"context"
	"errors"

	"github.com/containerd/containerd/v2/core/content"
)

// fromStart is a content store that receives a blob anew when it has only a part
// of it. BuildKit would go on behind the part, but reads what comes from a
// client's session from the beginning only ("unsupported offset"): one client
// that ends in the middle of a layer would stop all later builds on that layer.
type fromStart struct{ content.Store }

// Writer implements [content.Ingester].
func (s fromStart) Writer(ctx context.Context, opts ...content.WriterOpt) (content.Writer, error) {
	w, err := s.Store.Writer(ctx, opts...)
	if err != nil {
		return nil, err
	}
	status, err := w.Status()
	if err == nil && status.Offset > 0 {
		err = w.Truncate(0)
	}
	if err != nil {
		return nil, errors.Join(err, w.Close())
	}
	return w, nil
}
